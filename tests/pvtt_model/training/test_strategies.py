"""DDP, FSDP2 and a plain process: two gloo processes learn what one does, resume to the same bits, and as another number of workers too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from pvtt_model.recipes import recipe_by_name
from pvtt_model.training.ema import decay_at
from tests.pvtt_model.training.test_loop_resume import Records, facts, run_jobs

#: Of the losses and gradient norms of strategies in float32, relative: sums in another order. Seen: 2e-7 over 4 steps.
TOLERANCE = 1e-5
WHOLE = ("trained.safetensors", "ema.safetensors")


def job(name: str, resume: str | None = None, workers: int = 2, **settings: Any) -> dict[str, Any]:
    """A job of 2 micro-batches a step, over as many workers; of 2 steps; it resumes after the first."""
    parallel = {"num_workers": 2, "micro_batch": 1, "grad_accum": 1, **({"run_workers": workers} if workers != 2 else {}), **settings}
    overrides = {f"stages.*.parallel.{key}": value for key, value in parallel.items()}
    overrides |= {"stages.*.train.checkpoint_every_steps": 1, "stages.*.train.ema_decay": 0.15, "stages.*.reference.vace_blocks": False}
    return {"name": name, "steps": 2, "resume": resume, "resume_at": 1, "workers": workers, "overrides": overrides}


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Records]]:
    folder = tmp_path_factory.mktemp("strategies")
    jobs = [
        job("one", strategy="one", num_workers=1, grad_accum=2) | {"workers": 1},
        job("ddp", strategy="ddp"),
        job("ddp-again", "ddp", strategy="ddp"),
        job("fsdp2", strategy="fsdp2"),
        job("fsdp2-again", "fsdp2", strategy="fsdp2"),
        job("fewer", "fsdp2", workers=1, strategy="fsdp2"),
        job("more", "one", strategy="fsdp2"),
    ]
    return folder, run_jobs(folder, jobs)


def test_they_learn_the_same(learned):
    found = learned[1]
    for name in ("ddp", "fsdp2"):
        for key in ("loss", "grad_norm"):
            assert [r[key] for r in found[name]] == pytest.approx([r[key] for r in found["one"]], rel=TOLERANCE), name


@pytest.mark.parametrize("name", ["ddp", "fsdp2"])
def test_resumed_by_as_many_workers_to_the_same_bits(learned, name):
    folder, found = learned
    assert facts(found[f"{name}-again"]) == facts(found[name]) and len(found[name]) == 2
    files = sorted(p.name for p in (folder / name / "step2").iterdir())
    assert files == sorted([*WHOLE, "rank0.safetensors", "rank1.safetensors", "state.json"])
    for file in set(files) - {"state.json"}:
        assert (folder / f"{name}-again" / "step2" / file).read_bytes() == (folder / name / "step2" / file).read_bytes(), file


@pytest.mark.parametrize(("name", "of"), [("fewer", "fsdp2"), ("more", "one")])
def test_resumed_by_another_number_within_the_tolerance(learned, name, of):
    """`fewer`: one worker of FSDP2 by run_workers, two micro-batches each, from what two wrote. `more`: two from the plain process' file."""
    folder, found = learned
    assert found[name][:1] == found[of][:1], "the records of before"
    assert [r["workers"] for r in found[name]] == ([2, 1] if name == "fewer" else [1, 2])
    for key in ("loss", "grad_norm"):
        assert found[name][1][key] == pytest.approx(found[of][1][key], rel=TOLERANCE)
    for file in WHOLE:
        undisturbed, resumed = (load_file(folder / job / "step2" / file) for job in (of, name))
        assert resumed.keys() == undisturbed.keys()
        # AdamW's first steps are of the size of lr in every number, however small its gradient
        assert all(torch.allclose(resumed[key], undisturbed[key], rtol=1e-4, atol=2e-5) for key in resumed), file


@pytest.mark.parametrize("name", ["one", "ddp", "fsdp2"])
def test_the_average_follows_the_values(learned, name):
    """average += (1 - d) (value - average), to the last bit, from the files of two neighbouring steps."""
    before, after = (load_file(learned[0] / name / f"step{step}" / "ema.safetensors") for step in (1, 2))
    values = load_file(learned[0] / name / "step2" / "trained.safetensors")
    for key, value in values.items():
        assert torch.equal(after[key], before[key].lerp(value, 1 - decay_at(1, 0.15))), key
    assert any(not torch.equal(after[key], value) for key, value in values.items())


def test_the_average_is_warmed_up():
    assert [decay_at(step, 0.9) for step in (0, 8, 79, 80, 10_000)] == [0.1, 0.5, 80 / 89, 0.9, 0.9]


def test_sums_and_settings_of_another_number_of_workers():
    parallel = recipe_by_name("nano", {"stages.*.parallel.num_workers": 4, "stages.*.parallel.grad_accum": 3}).stages[0].parallel
    fewer = parallel.model_copy(update={"run_workers": 6})
    assert (fewer.as_run().num_workers, fewer.as_run().grad_accum, fewer.as_run().run_workers) == (6, 2, None)
    assert fewer.as_run().global_batch == parallel.global_batch and fewer.identity() == parallel.identity(), "the same artifact"
    assert parallel.as_run() == parallel


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"run_workers": 5}, r"a step has 2 micro-batches \(2 workers x 1 accumulated\). Set it to one of \[1, 2\]"),
        ({"strategy": "one"}, "'one' is one process, and there are 2 workers. Take ddp, fsdp2 or deepspeed"),
        ({"strategy": "fsdp2", "offload_params": True}, "offload_params is DeepSpeed's, and parallel.strategy is 'fsdp2'"),
    ],
)
def test_refused_settings(settings, said):
    with pytest.raises(ValueError, match=said):
        recipe_by_name("nano", {f"stages.*.parallel.{key}": value for key, value in settings.items()})


def test_an_average_to_release_has_to_be_kept():
    with pytest.raises(ValueError, match="train.release_ema is set, and train.ema_decay is none"):
        recipe_by_name("nano", {"stages.*.train.release_ema": True})
