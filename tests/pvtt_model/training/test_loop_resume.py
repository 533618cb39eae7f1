"""A training that was stopped and resumed in a fresh process is, to the last bit, the one left alone. DeepSpeed, one process, no Ray."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from pvtt_model.training.trained_tensors import part_of, parts_of

SCRIPT = Path(__file__).with_name("train_jobs.py")
Records = list[dict[str, float]]


def run_jobs(folder: Path, jobs: list[dict[str, Any]]) -> dict[str, Records]:
    """The records of each job; see train_jobs.py. Fails with the job's traceback, but for a job called 'refused...'."""
    done = subprocess.run([sys.executable, str(SCRIPT), str(folder), json.dumps(jobs)], capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stderr[-3000:]
    found = {}
    for job in jobs:
        result = json.loads((folder / f"{job['name']}.json").read_text())
        refused = job["name"].startswith("refused")
        assert refused == ("error" in result), f"job {job['name']}:\n{result.get('error')}\n{done.stderr[-1000:]}"
        found[job["name"]] = result.get("records", [])
    return found


#: What is trained, and on which kind of backbone: each choice of the one and of the other at least once, with those of the slow suite.
PARTS = {"vace": (["lora", "vace"], "nano-s", None), "all": (["all"], "nano-i2v", None)}
MORE_PARTS = {"lora": (["lora"], "nano-t2v-a14b", "low"), "high": (["lora", "adapter"], "nano-i2v-a14b", "high")}
MORE_PARTS |= {"t2v": (["lora", "adapter", "all"], "nano-t2v", None), "adapter": (["adapter"], "nano-ti2v", None)}


def parts_jobs(parts: dict[str, tuple[list[str], str, str | None]]) -> list[dict[str, Any]]:
    """Of each choice one job of 2 steps, and one that goes on from its state after 1."""
    jobs = []
    for name, (trained, *backbone) in parts.items():
        overrides = {"stages.*.train.trained": trained, "stages.*.train.checkpoint_every_steps": 1, "stages.*.parallel.grad_accum": 1}
        overrides["stages.*.reference.vace_blocks"] = False
        full = {"name": name, "steps": 2, "resume": None, "overrides": overrides, "backbone": backbone}
        jobs += [full, full | {"name": f"{name}-again", "resume": name, "resume_at": 1}]
    return jobs


def holds_what_it_trains(folder: Path, found: dict[str, Records], parts: dict[str, tuple[list[str], str, str | None]]) -> None:
    """Each choice learns, resumes to the same bits, and saves what it trains and nothing else."""
    for name, (trained, backbone, _) in parts.items():
        wanted = parts_of(trained) - (set() if backbone == "nano-s" else {"vace"})  # the other kinds have no VACE blocks
        assert len(found[name]) == 2 and all(math.isfinite(r["loss"]) and r["grad_norm"] > 0 for r in found[name]), name
        assert facts(found[f"{name}-again"]) == facts(found[name]), name
        for file in ("trained.safetensors", "rank0.safetensors"):
            assert (folder / f"{name}-again" / "step2" / file).read_bytes() == (folder / name / "step2" / file).read_bytes(), name
        first, last = (load_file(folder / name / f"step{step}" / "trained.safetensors") for step in (1, 2))
        assert {part_of(n) for n in last} == wanted, name
        assert all(any(not torch.equal(first[n], last[n]) for n in last if part_of(n) == part) for part in wanted), name


def pair(name: str, **overrides: Any) -> list[dict[str, Any]]:
    """One job of 6 steps, and one that goes on from its state after 3."""
    full = {"name": name, "steps": 6, "resume": None, "overrides": {f"stages.*.{k.replace('__', '.')}": v for k, v in overrides.items()}}
    return [full, full | {"name": f"{name}-again", "resume": name}]


def facts(records: Records) -> list[tuple[Any, ...]]:
    """All but the speed, floats to the last bit."""
    return [(r["step"], r["loss"].hex(), float(r["grad_norm"]).hex(), r["lr"]) for r in records]


def skipping(zero_stage: int) -> list[dict[str, Any]]:
    """With a clip that makes the loss NaN wherever it is seen; every step a checkpoint."""
    settings = {"parallel__zero_stage": zero_stage, "parallel__micro_batch": 1, "train__on_bad_loss": "skip", "train__checkpoint_every_steps": 1}
    return [job | {"spoilt": True} for job in pair(f"skips{zero_stage}", **settings)]


STOPS = {"name": "refused-spoilt", "steps": 6, "resume": None, "overrides": {}, "spoilt": True}


def skips_without_a_trace(folder: Path, found: dict[str, Records], name: str) -> None:
    """A skipped step leaves every bit of weights and moments, is recorded, and is skipped again after a resume."""
    records = found[name]
    skipped = [r["step"] for r in records if r.get("skipped")]
    assert skipped and len(skipped) < len(records)
    assert all(math.isnan(r["loss"]) and r["grad_norm"] == -1 and not any(key.startswith("level") for key in r) for r in records if r.get("skipped"))
    for step in range(1, len(records)):
        for file in ("trained.safetensors", "rank0.safetensors"):
            before, after = ((folder / name / f"step{s}" / file).read_bytes() for s in (step, step + 1))
            assert (before == after) == (step in skipped), (step, file)
    assert facts(found[f"{name}-again"]) == facts(records)
    assert [r.get("skipped") for r in found[f"{name}-again"]] == [r.get("skipped") for r in records]
    assert (folder / name / "step6" / "rank0.safetensors").read_bytes() == (folder / f"{name}-again" / "step6" / "rank0.safetensors").read_bytes()


@pytest.fixture(scope="module")
def undisturbed_and_resumed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Records]]:
    folder = tmp_path_factory.mktemp("jobs")
    other_layout = {"name": "layout", "steps": 6, "resume": "stage2", "overrides": {"stages.*.parallel.zero_stage": 0}}
    other_lora = {"name": "refused", "steps": 6, "resume": "stage2", "overrides": {"stages.*.lora.rank": 8, "stages.*.lora.alpha": 8}}
    two_sizes = [job | {"buckets": True} for job in pair("buckets", parallel__zero_stage=2)]
    jobs = [*pair("stage2", parallel__zero_stage=2), other_layout, other_lora, *two_sizes, *parts_jobs(PARTS), *skipping(2), STOPS]
    jobs += [pair(f"bfloat16-{s}", parallel__zero_stage=s, parallel__precision="bfloat16")[0] | {"steps": 1} for s in (0, 2)]
    return folder, run_jobs(folder, jobs)


def test_resumed_records_are_bit_equal(undisturbed_and_resumed):
    folder, found = undisturbed_and_resumed
    assert facts(found["stage2-again"]) == facts(found["stage2"])
    assert [r["step"] for r in found["stage2"]] == list(range(6))
    assert not (folder / "stage2-again" / "step3").exists(), "the resumed job began at step 3"


def test_resumed_weights_and_moments_are_bit_equal(undisturbed_and_resumed):
    folder, _ = undisturbed_and_resumed
    names = {p.name for p in (folder / "stage2" / "step6").iterdir()}
    assert names == {"trained.safetensors", "state.json", "rank0.safetensors"}
    for name in ("trained.safetensors", "rank0.safetensors"):
        assert (folder / "stage2-again" / "step6" / name).read_bytes() == (folder / "stage2" / "step6" / name).read_bytes()


def test_a_training_on_two_sizes_resumes_to_the_same_bits(undisturbed_and_resumed):
    folder, found = undisturbed_and_resumed
    assert facts(found["buckets-again"]) == facts(found["buckets"]) and len(found["buckets"]) == 6
    for name in ("trained.safetensors", "rank0.safetensors"):
        assert (folder / "buckets-again" / "step6" / name).read_bytes() == (folder / "buckets" / "step6" / name).read_bytes()


def test_a_step_that_is_not_finite_is_skipped_or_stops(undisturbed_and_resumed):
    folder, found = undisturbed_and_resumed
    skips_without_a_trace(folder, found, "skips2")
    error = json.loads((folder / "refused-spoilt.json").read_text())["error"]
    assert "FloatingPointError: loss is nan in step 0 on clips" in error and "'clip2'" in error


@pytest.mark.slow
@pytest.mark.parametrize("zero_stage", [0, 1, 3])
def test_skipped_steps_at_every_stage(tmp_path, zero_stage):
    skips_without_a_trace(tmp_path, run_jobs(tmp_path, skipping(zero_stage)), f"skips{zero_stage}")


@pytest.mark.slow
def test_skipped_steps_of_two_workers_in_bfloat16(tmp_path):
    """One rank's loss is NaN, and both skip."""
    jobs = [job | {"workers": 2} for job in skipping(2)]
    for job in jobs:
        job["overrides"] |= {"stages.*.parallel.num_workers": 2, "stages.*.parallel.precision": "bfloat16", "stages.*.parallel.grad_accum": 1}
    skips_without_a_trace(tmp_path, run_jobs(tmp_path, jobs), "skips2")


def test_trained_parts_on_two_kinds_of_backbone(undisturbed_and_resumed):
    holds_what_it_trains(*undisturbed_and_resumed, PARTS)


@pytest.mark.slow
def test_more_parts_kinds_and_both_experts(tmp_path):
    holds_what_it_trains(tmp_path, run_jobs(tmp_path, parts_jobs(MORE_PARTS)), MORE_PARTS)


def test_records_say_what_happened(undisturbed_and_resumed):
    records = undisturbed_and_resumed[1]["stage2"]
    assert [r["lr"] for r in records] == [0.00025, 0.0005, 0.00075, 0.001, 0.001, 0.001], "a warm-up of 4 steps"
    assert all(math.isfinite(r["loss"]) and r["loss"] > 0 and r["grad_norm"] > 0 and r["samples_per_s"] > 0 for r in records)
    state = json.loads((undisturbed_and_resumed[0] / "stage2" / "step3" / "state.json").read_text())
    assert state["step"] == 3 and facts(state["records"]) == facts(records[:3])


@pytest.mark.slow
def test_every_zero_stage_resumes_and_learns_the_same(tmp_path):
    jobs = [job for stage in range(4) for job in pair(f"stage{stage}", parallel__zero_stage=stage)]
    found = run_jobs(tmp_path, jobs)
    for stage in range(4):
        assert facts(found[f"stage{stage}-again"]) == facts(found[f"stage{stage}"]), f"ZeRO-{stage}"
        for key in ("loss", "grad_norm"):
            assert [r[key] for r in found[f"stage{stage}"]] == pytest.approx([r[key] for r in found["stage2"]], rel=1e-5), f"ZeRO-{stage}"


def test_in_bfloat16_the_first_update_is_the_same_with_zero_and_without(undisturbed_and_resumed):
    """Without ZeRO, DeepSpeed has AdamW take a step before the first: its first update would be 0.74 of what it is to be."""
    without, sharded = (load_file(undisturbed_and_resumed[0] / f"bfloat16-{s}" / "step1" / "rank0.safetensors") for s in (0, 2))
    assert without.keys() == sharded.keys()
    moved = [name for name in without if "lora_B" in name and not name.endswith(("exp_avg", "exp_avg_sq"))]
    assert moved, sorted(without)[:5]
    for name in moved:  # they start at 0, so they are the update
        torch.testing.assert_close(without[name], sharded[name], rtol=1e-3, atol=1e-9, msg=name)


@pytest.mark.slow
@pytest.mark.parametrize("stage", [0, 2, 3])
def test_bfloat16_resumes(tmp_path, stage):
    found = run_jobs(tmp_path, pair("bf16", parallel__zero_stage=stage, parallel__precision="bfloat16"))
    assert facts(found["bf16-again"]) == facts(found["bf16"])


@pytest.mark.slow
def test_gradients_are_clipped_at_every_stage(tmp_path):
    """A norm far above the limit: AdamW hardly sees the scale, so the moments are asked."""
    jobs = [pair(f"stage{s}", parallel__zero_stage=s, optim__grad_clip=1e-3, train__steps=3)[0] | {"steps": 3} for s in (0, 2)]
    found = run_jobs(tmp_path, jobs)
    norms = {}
    for stage in (0, 2):
        rank = load_file(tmp_path / f"stage{stage}" / "step3" / "rank0.safetensors")
        norms[stage] = math.sqrt(sum(float(t.square().sum()) for n, t in rank.items() if n.endswith("exp_avg")))
        assert all(r["grad_norm"] > 0.01 for r in found[f"stage{stage}"]), "the norm is told before clipping"
        assert 0 < norms[stage] < 1e-3
    assert norms[0] == pytest.approx(norms[2], rel=1e-4)


def test_another_layout_goes_on(undisturbed_and_resumed):
    """The state is kept by the parameters' names: what ZeRO-2 wrote as one flat partition, ZeRO-0 takes as parameters."""
    found = undisturbed_and_resumed[1]
    for key in ("loss", "grad_norm"):
        assert [r[key] for r in found["layout"]] == pytest.approx([r[key] for r in found["stage2"]], rel=1e-5)


def test_another_rank_is_refused(undisturbed_and_resumed):
    error = json.loads((undisturbed_and_resumed[0] / "refused.json").read_text())["error"]
    assert "ValueError" in error and "The checkpoint was made with other reference or LoRA settings" in error


#: Of each injection its space; the data of train_jobs.py hold what every one reads.
SPACES = {"ip_adapter": "words", "ip_adapter_plus": "words", "dual_path": "own", "reference_net": "own"}
STORED = {"conditions.class_tokens": True, "latents.references": "white"}
STORED |= {"conditions.clip_encoder": {"architecture": "nano-openclip", "weights": "nano:clip"}}


@pytest.mark.slow
@pytest.mark.parametrize("injection", list(SPACES))
def test_two_workers_that_cut_the_weights_with_checkpointing_learn_as_under_zero_2_without(tmp_path, injection):
    """Over gloo, with LoRA, ZeRO-3 and FSDP2: the combination that is known to break (a shape [N] against [0])."""

    def job(name: str, checkpointing: bool, **parallel: Any) -> dict[str, Any]:
        stage: dict[str, Any] = {"reference.injection": injection, "reference.space": SPACES[injection], "parallel.num_workers": 2}
        stage |= {"parallel.micro_batch": 1, "parallel.gradient_checkpointing": checkpointing}
        stage |= {f"parallel.{key}": value for key, value in parallel.items()}
        stage |= {} if SPACES[injection] == "words" else {"objective.words_weight": 0.0}
        overrides = STORED | {f"stages.*.{name}": value for name, value in stage.items()}
        return {"name": name, "steps": 6, "resume": None, "workers": 2, "overrides": overrides}

    cut = [job("three", True, zero_stage=3), job("fsdp2", True, strategy="fsdp2"), job("fsdp2-plain", False, strategy="fsdp2")]
    found = run_jobs(tmp_path, [job("two", False, zero_stage=2), *cut])
    names = load_file(tmp_path / "two" / "step6" / "trained.safetensors").keys()
    for name in ("three", "fsdp2", "fsdp2-plain"):
        assert len(found[name]) == 6
        for key in ("loss", "grad_norm"):
            assert [r[key] for r in found[name]] == pytest.approx([r[key] for r in found["two"]], rel=1e-4), name
        first, last = (load_file(tmp_path / name / step / "trained.safetensors") for step in ("step3", "step6"))
        assert first.keys() == last.keys() == names
        assert any(not torch.equal(first[n], last[n]) for n in first if ".lora_" not in n), "the adapter learns"
