"""Validation asks the same of every stage, shares it between ranks, and leaves no trace in what is trained."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file

from pvtt_model.recipes import recipe_by_name
from pvtt_model.reference.features import PictureFeatures
from pvtt_model.training import kept_samples
from pvtt_model.training.samples import Place, Sample
from pvtt_model.training.validation import Validation, at_rest, is_due

SCRIPT = Path(__file__).with_name("train_jobs.py")
STAGE = recipe_by_name("nano").stages[0]
CLIPS = 5


class Nought:
    """An engine that answers nought, so that a draw's loss is the mean of (noise - x0)^2; it counts its passes and keeps the levels."""

    device = torch.device("cpu")

    def __init__(self) -> None:
        self.levels: list[float] = []
        self.passes = 0
        self.teacher = torch.nn.Dropout()
        self.teacher.kind, self.teacher.reads_image, self.teacher.resampled_BND = "vace", False, None

    def forward(self, noisy: torch.Tensor, sigma: torch.Tensor, *_: Any) -> torch.Tensor:
        assert not self.teacher.training and not torch.is_grad_enabled()
        self.passes += 1
        self.levels += sigma.tolist()
        return torch.zeros_like(noisy)


@pytest.fixture
def ask(monkeypatch):
    """ask(micro_batch=.., seed=.., sizes=..): the loss and the engine that was asked; clips of random latents, the last two of another size."""

    def read(place: Place, injection: str) -> Sample:
        g = torch.Generator().manual_seed(place.row)
        height = 2 if place.bucket == (16, 16) else 4
        z = torch.randn(16, 1, height, 2, generator=g)
        return Sample(z, torch.zeros(1, 96, 1, height, 2), torch.zeros(2, 4), (PictureFeatures(torch.zeros(3, 4)),), torch.zeros(0, 4))

    monkeypatch.setattr(kept_samples, "read_sample", read)

    def asked(micro_batch: int = 2, seed: int = 1, **objective: Any) -> tuple[dict[str, float], Nought]:
        stage = STAGE.model_copy(
            update={
                "parallel": STAGE.parallel.model_copy(update={"micro_batch": micro_batch}),
                "train": STAGE.train.model_copy(update={"seed": seed}),
                "objective": STAGE.objective.model_copy(update=objective),
            }
        )
        places = [Place(f"clip{i}", None, None, i, (16, 16) if i < 3 else (16, 32)) for i in range(CLIPS)]
        engine = Nought()
        return Validation(places, "ip_adapter_plus").loss(stage, engine, torch.zeros(1, 4), 4), engine

    return asked


def test_each_clip_is_asked_once_in_every_tenth(ask):
    found, engine = ask()
    assert sorted(int(level * 10) for level in engine.levels) == sorted(list(range(10)) * CLIPS)
    assert found["validation"] == pytest.approx(sum(found[f"validation_level{i}"] for i in range(10)) / 10)
    assert found["validation"] == pytest.approx(2.0, rel=0.1), "noise of variance 1 less data of variance 1"
    assert engine.teacher.training, "and back to training"


def test_stages_of_other_batches_seeds_and_objectives_are_asked_the_same(ask):
    found = ask()[0]
    other = ask(5, seed=7, mask_weight=3.0, text_dropout=0.9, reference_dropout=0.9, shift=9.0, words_weight=0.0, weighting="min_snr")[0]
    assert other == pytest.approx(found, rel=1e-6)
    assert ask()[0] == found


def test_ranks_share_the_questions_and_make_as_many_passes(ask, monkeypatch):
    whole = ask()[0]
    sums: list[torch.Tensor] = []
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "get_world_size", lambda: 3)
    monkeypatch.setattr(dist, "all_reduce", lambda t: sums.append(t.clone()))
    passes = []
    for rank in range(3):
        monkeypatch.setattr(dist, "get_rank", lambda rank=rank: rank)
        passes.append(ask()[1].passes)
    assert passes == [10, 10, 10], "30 questions: two of the first bucket and one of the second in each tenth"
    total = sum(sums)
    assert float(total[0].sum() / total[1].sum()) == pytest.approx(whole["validation"])
    assert total[1].tolist() == [CLIPS] * 10


def test_a_rank_without_a_question_makes_a_pass_that_does_not_count(ask, monkeypatch):
    sums: list[torch.Tensor] = []
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "get_world_size", lambda: 4)
    monkeypatch.setattr(dist, "all_reduce", lambda t: sums.append(t.clone()))
    passes = []
    for rank in range(4):
        monkeypatch.setattr(dist, "get_rank", lambda rank=rank: rank)
        passes.append(ask()[1].passes)
    assert passes == [8, 8, 8, 8] and sum(sums)[1].tolist() == [CLIPS] * 10


def test_an_expert_is_asked_in_its_own_levels():
    backbone = STAGE.backbone.model_copy(update={"architecture": "nano-t2v-a14b", "expert": "high"})
    stage = STAGE.model_copy(update={"backbone": backbone})
    found = Validation([Place("a", None, None, 0)], "ip_adapter_plus").questions(stage)
    assert [q.level for q in found] == [8, 9], "its boundary is 0.875"


def test_no_clips_is_refused():
    with pytest.raises(ValueError, match="validation has no clips. Mark some with the split 'validation'"):
        Validation([], "ip_adapter_plus")


def test_when_it_is_due():
    assert [s for s in range(1, 13) if is_due(s, 5, 12)] == [5, 10, 12]
    assert [s for s in range(1, 13) if is_due(s, 5)] == [5, 10]
    assert not any(is_due(s, 0, 12) for s in range(1, 13)), "0 is never"


def test_at_rest_leaves_random_numbers_and_mode_as_they_were():
    model = torch.nn.Dropout()
    state = torch.get_rng_state()
    with pytest.raises(RuntimeError), at_rest(model, torch.device("cpu")):
        torch.manual_seed(3)
        assert not model.training and not torch.is_grad_enabled()
        raise RuntimeError
    assert model.training and torch.is_grad_enabled() and torch.equal(torch.get_rng_state(), state)


def run_jobs(folder: Path, jobs: list[dict[str, Any]]) -> SimpleNamespace:
    """The records of each job by name."""
    done = subprocess.run([sys.executable, str(SCRIPT), str(folder), json.dumps(jobs)], capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]
    found = {job["name"]: json.loads((folder / f"{job['name']}.json").read_text()) for job in jobs}
    assert not any("error" in result for result in found.values()), found
    return SimpleNamespace(**{name: result["records"] for name, result in found.items()})


def job(name: str, validate: bool, resume: str | None = None, workers: int = 1, **more: Any) -> dict[str, Any]:
    overrides = {"stages.*.train.validate_every_steps": 2, "stages.*.train.sample_every_steps": 1 if validate else 0}
    overrides |= {f"stages.*.{key.replace('__', '.')}": value for key, value in more.items()} | {"stages.*.parallel.num_workers": workers}
    return {"name": name, "steps": 6, "resume": resume, "overrides": overrides, "validate": validate, "workers": workers}


def same_training(folder: Path, one: str, other: str, ranks: int = 1) -> None:
    for file in ("trained.safetensors", *(f"rank{rank}.safetensors" for rank in range(ranks))):
        assert (folder / one / "step6" / file).read_bytes() == (folder / other / "step6" / file).read_bytes(), file


def test_validated_and_sampled_a_training_has_the_same_bits(tmp_path):
    found = run_jobs(tmp_path, [job("plain", False), job("seen", True), job("again", True, resume="seen")])
    same_training(tmp_path, "plain", "seen")
    same_training(tmp_path, "seen", "again")
    assert [r["loss"].hex() for r in found.plain] == [r["loss"].hex() for r in found.seen]
    validations = [r.get("validation") for r in found.seen]
    assert [v is not None for v in validations] == [False, True] * 3
    assert [r.get("validation") for r in found.again] == validations, "to the last bit, those of before the stop too"
    assert not any("validation" in r for r in found.plain)
    recorded = json.loads((tmp_path / "seen" / "step6" / "state.json").read_text())["records"]
    assert [r.get("validation") for r in recorded] == validations, "a checkpoint's records hold the validation of its own step"
    parts = found.seen[-1]
    assert parts["loss"] == pytest.approx(parts["flow_loss"] + parts["words_loss"] * STAGE.objective.words_weight, rel=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("zero_stage", [2, 3])
def test_of_two_workers_each_validates_a_share(tmp_path, zero_stage):
    """Under ZeRO-3 the passes are made together; the validation is that of one worker on the same weights."""
    jobs = [job("plain", False, workers=2, parallel__zero_stage=zero_stage, parallel__micro_batch=1)]
    jobs.append(job("seen", True, workers=2, parallel__zero_stage=zero_stage, parallel__micro_batch=1))
    jobs.append(job("alone", True, parallel__zero_stage=zero_stage, parallel__micro_batch=2))
    found = run_jobs(tmp_path, jobs)
    same_training(tmp_path, "plain", "seen", ranks=2)
    for i in (1, 3, 5):
        assert found.seen[i]["validation"] == pytest.approx(found.alone[i]["validation"], rel=1e-3)


@pytest.mark.slow
def test_a_kept_optimizer_goes_on(tmp_path):
    """AdamW's step count and moments are those of the job before; the parameters its own."""
    again = job("kept", False) | {"optimizer_of": "first", "steps": 3}
    fresh = job("fresh", False) | {"optimizer_of": "first", "steps": 3}
    run_jobs(tmp_path, [job("first", False), again])
    first, kept = (load_file(tmp_path / name / step / "rank0.safetensors") for name, step in (("first", "step6"), ("kept", "step3")))
    assert first.keys() == kept.keys() and fresh["optimizer_of"] == "first"
    assert float(first["step"]) == 6.0 and float(kept["step"]) == 9.0
