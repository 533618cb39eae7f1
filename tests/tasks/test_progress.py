"""What progress says."""

from __future__ import annotations

from types import SimpleNamespace
from uuid import uuid4

import pytest

import tasks.ui as ui
from pvtt_model.artifacts import StoredFile
from pvtt_model.recipes import recipe_by_name
from tasks.clip_table import _refused
from tasks.shard_work import Unit
from tasks.ui import pace


@pytest.mark.parametrize(
    ("seconds", "done", "left", "said"),
    [
        (4.0, 10, 100, "2.5/s, 40 s left"),
        (0.0, 0, 5, ""),
        (9.0, 0, 5, ""),
        (10.0, 20, 0, "2/s"),
        (600.0, 10, 20, "1/min, 20 min left"),
        (10.0, 1, 1000, "0.1/s, 2.8 h left"),
    ],
)
def test_pace(seconds: float, done: float, left: float, said: str) -> None:
    assert pace(seconds, done, left) == said


def test_refused_rows_are_counted_at_every_step() -> None:
    assert _refused(SimpleNamespace(summary={"clips": [{"clip_key": "a"}], "refusals": [{"kind": "x"}, {"kind": "y"}]})) == 2
    assert _refused(SimpleNamespace(summary={"masks": [{"usable": True}, {"usable": False}, {"usable": False}]})) == 2
    assert _refused(SimpleNamespace(summary={})) == 0


def test_progress_counts_clips_and_says_how_fast(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    logged: list[tuple[object, ...]] = []
    clock = iter([0.0, 0.0, 2.0, 4.0])
    monkeypatch.setattr(ui, "create_progress_artifact", lambda **_: uuid4())
    monkeypatch.setattr(ui, "update_progress_artifact", lambda _, percent, description: said.append(f"{percent:g} {description}"))
    monkeypatch.setattr(ui, "get_run_logger", lambda: SimpleNamespace(info=lambda *given: logged.append(given)))
    monkeypatch.setattr(ui.time, "monotonic", lambda: next(clock))
    progress = ui.Progress("progress-masks", "extracting masks", "clips")
    progress.at(100, 200)
    progress.at(150, 200, "(3 refused)")
    progress.at(200, 200)
    assert said == [
        "75 extracting masks: 150 of 200 clips 25/s, 2 s left (3 refused)",
        "100 extracting masks: 200 of 200 clips 25/s",
    ]
    assert logged == [("%s: %g of %g%s %s", "extracting masks", 200, 200, " clips", "25/s")]


def test_a_unit_knows_its_clips() -> None:
    shard = StoredFile(name="s.parquet", key="pool/ab/s.parquet", bytes=1, sha256="a" * 64, rows=17)
    recipe = recipe_by_name("nano")
    assert Unit("store", "masks", "k", 0, recipe, (shard,)).clips == 17
    assert Unit("store", "conditions", "k", 0, recipe).clips == 1  # the empty prompt
