"""Checkpoints inside a running training: real once committed, and only while whole. On a local folder and on S3 (moto)."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from infra.step_checkpoints import StepCheckpoints
from infra.store import ObjectStore
from pvtt_model.artifacts import plan_artifact

PLANNED = plan_artifact("checkpoints", {"a": 1})
NAMES = ["rank0.safetensors", "state.json"]


@pytest.fixture
def checkpoints(store: ObjectStore) -> StepCheckpoints:
    return StepCheckpoints(store, PLANNED)


def files(folder: Path, text: str, names: list[str] = NAMES) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).write_text(f"{name} {text}")
    return folder


def write(checkpoints: StepCheckpoints, tmp_path: Path, step: int, text: str = "") -> None:
    checkpoints.commit(step, checkpoints.upload(step, files(tmp_path / f"made{step}{text}", f"{step}{text}")))


def keys(checkpoints: StepCheckpoints) -> list[str]:
    return [info.key.removeprefix(checkpoints.prefix) for info in checkpoints.store.list(checkpoints.prefix)]


def test_half_an_upload_does_not_count(checkpoints, tmp_path):
    assert checkpoints.steps() == [] and checkpoints.fetch_last(tmp_path / "got", NAMES) is None
    write(checkpoints, tmp_path, 4)
    stored = checkpoints.upload(8, files(tmp_path / "eight", "8"))
    assert checkpoints.steps() == [4], "the commit is written last"
    assert checkpoints.fetch_last(tmp_path / "got", NAMES)[0] == 4
    checkpoints.commit(8, stored)
    assert checkpoints.steps() == [4, 8]
    step, folder = checkpoints.fetch_last(tmp_path / "got", NAMES)
    assert step == 8 and {p.name: p.read_text() for p in folder.iterdir()} == {n: f"{n} 8" for n in NAMES}


def test_files_of_all_ranks_make_one_checkpoint(checkpoints, tmp_path):
    one = checkpoints.upload(2, files(tmp_path / "r0", "2"))
    two = checkpoints.upload(2, files(tmp_path / "r1", "2", ["rank1.safetensors"]))
    checkpoints.commit(2, [*one, *two])
    step, folder = checkpoints.fetch_last(tmp_path / "got", ["rank1.safetensors", "state.json"])
    assert step == 2 and sorted(p.name for p in folder.iterdir()) == ["rank1.safetensors", "state.json"], "each rank fetches its own only"


@pytest.mark.parametrize("damage", ["flipped", "gone", "commit"])
def test_a_damaged_newest_is_refused_and_the_one_before_used(checkpoints, tmp_path, caplog, damage):
    write(checkpoints, tmp_path, 4)
    write(checkpoints, tmp_path, 8)
    if damage == "flipped":
        checkpoints.store.put_bytes(f"{checkpoints.prefix}000008/state.json", b"state.json 9")
    elif damage == "gone":
        checkpoints.store.delete([f"{checkpoints.prefix}000008/state.json"])
    else:
        checkpoints.store.put_bytes(f"{checkpoints.prefix}000008/commit.json", b'{"step": 8, "fil')
    with caplog.at_level(logging.WARNING):
        step, folder = checkpoints.fetch_last(tmp_path / "got", NAMES)
    assert step == 4 and (folder / "state.json").read_text() == "state.json 4"
    assert "step checkpoint 8 is refused" in caplog.text


def test_a_checkpoint_of_fewer_workers_is_refused(checkpoints, tmp_path, caplog):
    write(checkpoints, tmp_path, 4)
    assert checkpoints.fetch_last(tmp_path / "got", [*NAMES, "rank1.safetensors"]) is None
    assert "written by another number of workers" in caplog.text


def test_a_damaged_checkpoint_made_again_counts(checkpoints, tmp_path):
    """Its state.json holds timings, so that the second making has other bytes than the first."""
    write(checkpoints, tmp_path, 4)
    write(checkpoints, tmp_path, 8, " at first")
    checkpoints.store.put_bytes(f"{checkpoints.prefix}000008/state.json", b"damaged")
    assert checkpoints.fetch_last(tmp_path / "got", NAMES)[0] == 4
    write(checkpoints, tmp_path, 8, " again")
    step, folder = checkpoints.fetch_last(tmp_path / "more", NAMES)
    assert step == 8 and (folder / "state.json").read_text() == "state.json 8 again"


def test_at_most(checkpoints, tmp_path):
    for step in (4, 8, 12):
        write(checkpoints, tmp_path, step)
    assert checkpoints.fetch_last(tmp_path / "got", NAMES, at_most=8)[0] == 8
    assert checkpoints.fetch_last(tmp_path / "got", NAMES, at_most=7)[0] == 4
    assert checkpoints.fetch_last(tmp_path / "got", NAMES, at_most=3) is None


def test_prune_keeps_the_newest(checkpoints, tmp_path):
    for step in (2, 10, 4, 1000000):
        write(checkpoints, tmp_path, step)
    assert checkpoints.steps() == [2, 4, 10, 1000000], "by number, past six digits too"
    checkpoints.prune(2)
    assert checkpoints.steps() == [10, 1000000]
    assert not [k for k in keys(checkpoints) if k.startswith(("000002/", "000004/"))], "nothing of them is left"
    checkpoints.prune(5)
    assert checkpoints.steps() == [10, 1000000]


def test_other_artifacts_are_not_seen(checkpoints, tmp_path):
    other = StepCheckpoints(checkpoints.store, plan_artifact("checkpoints", {"a": 2}))
    write(other, tmp_path, 4)
    assert checkpoints.steps() == [] and other.steps() == [4]


def test_pinned_ones_and_the_best_stay(checkpoints, tmp_path):
    for step in (2, 4, 6, 8):
        checkpoints.commit(step, checkpoints.upload(step, files(tmp_path / f"made{step}", str(step))), pinned=step == 2)
    checkpoints.prune(1, also=[4])
    assert checkpoints.steps() == [2, 4, 8]
    checkpoints.prune(1)
    assert checkpoints.steps() == [2, 8], "once another is the best, the one before goes"


def test_the_first_of_a_list_that_is_whole(checkpoints, tmp_path, caplog):
    for step in (2, 4, 6):
        write(checkpoints, tmp_path, step)
    assert checkpoints.fetch_first(tmp_path / "got", NAMES, [9, 4, 6])[0] == 4, "not committed: passed over"
    checkpoints.store.put_bytes(f"{checkpoints.prefix}000004/state.json", b"state.json 9")
    with caplog.at_level(logging.WARNING):
        assert checkpoints.fetch_first(tmp_path / "more", NAMES, [4, 6])[0] == 6
    assert "step checkpoint 4 is refused" in caplog.text and "trying the next best" in caplog.text
    assert checkpoints.fetch_first(tmp_path / "none", NAMES, []) is None
