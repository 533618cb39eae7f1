"""DeepSpeed with EMA, and its offloads to the CPU and to a disk, over two gloo processes; and epochs' ends that are kept. Slow."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from pvtt_model.recipes import recipe_by_name
from pvtt_model.training.ema import decay_at
from tests.pvtt_model.training.test_loop_resume import Records, facts, run_jobs
from tests.pvtt_model.training.test_strategies import TOLERANCE, WHOLE, job

pytestmark = pytest.mark.slow
PLACES = {
    "zero2": {"zero_stage": 2},
    "zero2-cpu": {"zero_stage": 2, "offload_optimizer": True},
    "zero3-cpu": {"zero_stage": 3, "offload_optimizer": True, "offload_params": True},
}
#: 5 clips, 2 a step: steps 3 and 5 (from 1) see an epoch's last clip; no other checkpoint is due before step 6.
EPOCHS: dict[str, Any] = {"stages.*.train.checkpoint_every_steps": 100, "stages.*.train.keep_every_epoch": True}


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Records]]:
    folder = tmp_path_factory.mktemp("offload")
    jobs = [job("one", strategy="one", num_workers=1, grad_accum=2) | {"workers": 1}]
    for name, settings in PLACES.items():
        jobs += [job(name, **settings), job(f"{name}-again", name, **settings)]
    epochs = job("epochs", strategy="one", num_workers=1, grad_accum=2) | {"workers": 1, "steps": 6}
    epochs["overrides"] |= EPOCHS
    return folder, run_jobs(folder, [*jobs, epochs])


@pytest.mark.parametrize("name", PLACES)
def test_learns_the_same_and_resumes_to_the_same_bits(learned, name):
    folder, found = learned
    for key in ("loss", "grad_norm"):
        assert [r[key] for r in found[name]] == pytest.approx([r[key] for r in found["one"]], rel=TOLERANCE)
    assert facts(found[f"{name}-again"]) == facts(found[name]) and len(found[name]) == 2
    for file in (*WHOLE, "rank0.safetensors", "rank1.safetensors"):
        assert (folder / f"{name}-again" / "step2" / file).read_bytes() == (folder / name / "step2" / file).read_bytes(), file


@pytest.mark.parametrize("name", PLACES)
def test_the_average_follows_the_values(learned, name):
    before, after = (load_file(learned[0] / name / f"step{step}" / "ema.safetensors") for step in (1, 2))
    values = load_file(learned[0] / name / "step2" / "trained.safetensors")
    assert all(torch.equal(after[key], before[key].lerp(value, 1 - decay_at(1, 0.15))) for key, value in values.items())


@pytest.fixture(scope="module")
def on_disk(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Records]]:
    """LoRA of rank 128: DeepSpeed leaves states below a megabyte in memory. The first start on a machine compiles its reads, 5 minutes and more."""
    from deepspeed.ops.op_builder import AsyncIOBuilder

    if not AsyncIOBuilder().is_compatible():
        pytest.skip("no libaio here, which DeepSpeed's NVMe offload is made with (Debian: libaio-dev)")
    folder = tmp_path_factory.mktemp("disk")
    everything = {"zero_stage": 3, "offload_optimizer": True, "offload_params": True, "offload_folder": str(folder / "swapped")}
    jobs = [
        job("one", strategy="one", num_workers=1, grad_accum=2) | {"workers": 1},
        job("disk", **everything),
        job("disk-again", "disk", **everything),
    ]
    for one in jobs:
        one["overrides"] |= {"stages.*.train.ema_decay": None, "stages.*.lora.rank": 128}
    return folder, run_jobs(folder, jobs)


def test_states_on_a_disk_learn_the_same_and_resume_to_the_same_bits(on_disk):
    folder, found = on_disk
    swapped = {path.name.split("-")[0] for path in (folder / "swapped").rglob("*.swp")}
    assert {"exp_avg", "exp_avg_sq"} <= swapped
    for key in ("loss", "grad_norm"):
        assert [r[key] for r in found["disk"]] == pytest.approx([r[key] for r in found["one"]], rel=TOLERANCE)
    assert facts(found["disk-again"]) == facts(found["disk"])
    for file in ("trained.safetensors", "rank0.safetensors", "rank1.safetensors"):
        assert (folder / "disk-again" / "step2" / file).read_bytes() == (folder / "disk" / "step2" / file).read_bytes(), file


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"parallel.offload_folder": "/nvme"}, "only ZeRO-3 moves them to a disk"),
        (
            {"parallel.offload_folder": "/nvme", "parallel.offload_optimizer": True, "parallel.zero_stage": 3, "train.ema_decay": 0.9},
            "Set ema_decay=null, or offload_folder=null",
        ),
    ],
)
def test_refused(settings, said):
    with pytest.raises(ValueError, match=said):
        recipe_by_name("nano", {f"stages.*.{key}": value for key, value in settings.items()})


def test_epochs_ends_are_saved(learned):
    states = sorted((learned[0] / "epochs").glob("step*/state.json"))
    assert [json.loads(path.read_text())["step"] for path in states] == [3, 5, 6]
