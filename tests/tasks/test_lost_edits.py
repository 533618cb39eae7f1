"""Edits that the store has lost are missing in the report, also where they were scored before."""

from __future__ import annotations

from pathlib import Path

import pytest

from infra.artifact_store import ArtifactStore, Derived
from infra.store import ObjectMissing
from pvtt_model.recipes import NANO
from tasks.score_edits import _accounted
from tasks.score_work import ScoreUnit


def test_an_edit_that_was_scored_and_then_lost_is_missing(tmp_path: Path) -> None:
    store = ArtifactStore.open(tmp_path / "store")
    units = []
    for n in range(3):
        (tmp_path / "row").write_text(f"edit {n}")
        edit = store.pool(tmp_path / "row", f"clip{n}.parquet")
        said = {"clip_key": f"clip{n}", "reference_key": "mug"}
        units.append(ScoreUnit(store.store.uri, f"{n:020x}", NANO, 0, edit, said, None))
    scored = [Derived(kind="reports", key=unit.key, files=(), summary={"status": "done"}, created="", commit_id="") for unit in units]
    (tmp_path / "store" / units[1].edit.key).unlink()
    records = _accounted(store, units, ["clip1.parquet"], [scored[0], scored[2]])
    assert [record.summary["status"] for record in records] == ["done", "missing", "done"]
    assert units[1].edit.key in records[1].summary["reason"] and records[1].summary["clip_key"] == "clip1"
    with pytest.raises(ObjectMissing, match="a worker could not find 2 edits that are in"):
        _accounted(store, units, [unit.edit.name for unit in units], [])
    for unit in (units[0], units[2]):
        (tmp_path / "store" / unit.edit.key).unlink()
    with pytest.raises(ObjectMissing, match="all 3 edits are gone"):
        _accounted(store, units, [unit.edit.name for unit in units], [])
