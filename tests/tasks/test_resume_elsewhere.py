"""A step checkpoint written by another number of workers is found and fetched whole by those there are now."""

from __future__ import annotations

from pathlib import Path

import pytest

from infra.step_checkpoints import StepCheckpoints
from infra.store.local import LocalStore
from pvtt_model.artifacts import Planned, plan_artifact
from pvtt_model.recipes import recipe_by_name
from tasks.train_worker import _files_to_resume, _resume

PLANNED: Planned = plan_artifact("checkpoints", {"a": 1}, ())


@pytest.fixture
def written(tmp_path) -> StepCheckpoints:
    """Two workers' checkpoints of steps 10 and 20, of which that of 20 lacks rank 0's file."""
    checkpoints = StepCheckpoints(LocalStore(tmp_path / "store"), PLANNED)
    for step, names in ((10, ("trained", "state", "ema", "rank0", "rank1")), (20, ("trained", "state", "ema", "rank1"))):
        folder = tmp_path / f"files{step}"
        folder.mkdir()
        for name in names:
            (folder / (f"{name}.json" if name == "state" else f"{name}.safetensors")).write_bytes(f"{name} {step}".encode())
        checkpoints.commit(step, checkpoints.upload(step, folder))
    return checkpoints


@pytest.mark.parametrize(
    ("settings", "rank", "ranks"),
    [
        ({"zero_stage": 2}, 1, ["rank1"]),
        ({"zero_stage": 2, "run_workers": 1}, 0, ["rank0", "rank1"]),
        ({"zero_stage": 2, "run_workers": 4}, 3, ["rank0", "rank1"]),
        ({"strategy": "ddp"}, 1, ["rank0", "rank1"]),
    ],
)
def test_what_is_fetched(written: StepCheckpoints, tmp_path: Path, settings, rank, ranks):
    overrides = {f"stages.*.parallel.{key}": value for key, value in ({"grad_accum": 2} | settings).items()}
    stage = recipe_by_name("nano", overrides | {"stages.*.train.ema_decay": 0.9}).stages[0]
    stage = stage.model_copy(update={"parallel": stage.parallel.as_run()})
    resume = _resume(written, tmp_path / "work", lambda there: _files_to_resume(stage, rank, there))
    assert resume is not None and resume.step == 10, "the newest is refused, which lacks a rank's file"
    assert sorted(p.stem for p in resume.folder.iterdir()) == sorted(["trained", "state", "ema", *ranks])
