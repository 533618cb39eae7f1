"""The driver's side: records as the board has them become event files, each step once, whatever was started again."""

from __future__ import annotations

import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from pvtt_model.recipes import recipe_by_name
from tasks import train_seen
from tasks.train_pairs import sample_pairs, validation_clips
from tasks.train_seen import Seen, board_folder

RECIPE = recipe_by_name("nano")
STAGE = RECIPE.stages[0]


@pytest.fixture
def seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    shown: list[str] = []
    notes: list[str] = []
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setattr(train_seen, "get_run_logger", lambda: logging.getLogger("seen"))
    monkeypatch.setattr(train_seen, "Progress", lambda *_: SimpleNamespace(at=lambda done, total, note: notes.append(f"{done:g} of {total}: {note}")))
    monkeypatch.setattr(train_seen, "show_markdown", lambda key, text, description: shown.append(f"{key}: {description}"))
    where = SimpleNamespace(home=tmp_path)

    def start(records: list[Any]) -> Seen:
        return Seen(SimpleNamespace(), SimpleNamespace(version="abc"), RECIPE, STAGE, where, records)

    return SimpleNamespace(start=start, shown=shown, notes=notes, folder=board_folder(where, "abc", RECIPE, STAGE))


def record(step: int, loss: float, **more: float) -> dict[str, float]:
    return {"step": step, "loss": loss, "samples_per_s": 4.0, "at_s": 1e9 + step, "lr": 0.1, "grad_norm": 1.0, **more}


def tail(start: str, first_step: int, *records: dict[str, float]) -> dict[str, Any]:
    return {"tail": {"start": start, "first_step": first_step, "records": list(records)}, "checkpoint": 2}


def read(folder: Path, tag: str) -> list[tuple[int, float]]:
    found = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    found.Reload()
    return [(event.step, event.value) for event in found.Scalars(tag)]


def test_workers_that_start_again_repeat_no_step(seen):
    driver = seen.start([])
    driver.look(tail("a", 0, *(record(i, float(i)) for i in range(5))))
    driver.look(tail("a", 0, *(record(i, float(i)) for i in range(3, 5)), record(5, 5.0, validation=0.5)))
    driver.look(tail("b", 2, *(record(i, 10.0 + i) for i in range(2, 5))))
    driver.close()
    assert read(seen.folder, "loss/total") == [(0, 0.0), (1, 1.0), (2, 12.0), (3, 13.0), (4, 14.0)]
    assert driver.validated == -1 and len(driver.records) == 5
    assert seen.notes[1] == "6 of 200: loss 5.0000, 4.0 samples/s, validation 0.5000, checkpoint at 2"


def test_a_record_whose_validation_comes_later_is_shown_once(seen):
    driver = seen.start([])
    driver.look(tail("a", 0, record(0, 1.0), record(1, 2.0)))
    driver.look(tail("a", 0, record(0, 1.0), record(1, 2.0, validation=0.25)))
    driver.look(tail("a", 0, record(0, 1.0), record(1, 2.0, validation=0.25)))
    driver.close()
    assert read(seen.folder, "loss/total") == [(0, 1.0), (1, 2.0)] and read(seen.folder, "validation/loss") == [(1, 0.25)]
    assert seen.shown == ["training-verify: validation 0.2500"]


def test_a_driver_that_starts_again_goes_on(seen, tmp_path):
    first = seen.start([])
    first.look(tail("a", 0, *(record(i, float(i)) for i in range(6))))
    first.close()
    again = seen.start([record(i, float(i)) for i in range(4)])
    again.look(tail("b", 4, record(4, 4.5)))
    again.close()
    assert read(seen.folder, "loss/total") == [(0, 0.0), (1, 1.0), (2, 2.0), (3, 3.0), (4, 4.5)]


def test_elsewhere_the_steps_before_are_written_first(seen):
    driver = seen.start([record(i, float(i)) for i in range(3)])
    driver.look(tail("b", 3, record(3, 3.0)))
    driver.close()
    assert read(seen.folder, "loss/total") == [(i, float(i)) for i in range(4)]


def clips(*splits: str) -> dict[str, Any]:
    facts = [{"split": s, "held_out": s != "train", "product_id": f"p{i}"} for i, s in enumerate(splits)]
    return {f"c{i}": (SimpleNamespace(clip_key=f"c{i}"), fact) for i, fact in enumerate(facts)}


def test_validation_clips_are_of_their_split_alone(monkeypatch, caplog):
    monkeypatch.setattr("tasks.train_pairs.get_run_logger", lambda: logging.getLogger("seen"))
    few = STAGE.model_copy(update={"train": STAGE.train.model_copy(update={"validate_clips": 2})})
    usable = clips("validation", "train", "eval", "validation", "validation")
    assert [place.clip_key for place, _ in validation_clips(usable, few)] == ["c0", "c3"]
    with caplog.at_level(logging.WARNING):
        assert validation_clips(clips("train", "eval"), few) == []
    assert "no usable clip is of the split 'validation'" in caplog.text
    assert [(a.clip_key, b.clip_key) for a, b in sample_pairs(usable, few)] == [("c0", "c3"), ("c3", "c0")], "with each other's products"
