"""The objective's options in the loop's loss: what they draw, what they weigh, and that the defaults are what was before."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from pvtt_model.objectives.level_bins import LevelTally, level_record
from pvtt_model.objectives.level_weights import level_weights
from pvtt_model.recipes import recipe_by_name
from pvtt_model.reference.features import PictureFeatures
from pvtt_model.specs import ObjectiveSpec
from pvtt_model.training import step_loss
from pvtt_model.training.loop import train
from pvtt_model.training.samples import Place, Sample

STAGE = recipe_by_name("nano").stages[0]
BEFORE = ObjectiveSpec(timestep_sampling="logit_normal", shift=6.0, text_dropout=0.1, reference_dropout=0.1, mask_weight=10.0)

GOLDEN = {
    "sigma": [0.9235632419586182, 0.6378050446510315, 0.7517402768135071, 0.7416417598724365],
    "noisy": [-0.3867899775505066, -0.059140175580978394, -1.2233014106750488, -0.4969997704029083],
    "loss": 2.0544235706329346,
    "text": [1.0, 1.0, 1.0, 0.0],
    "reference": [True, True, True, True],
}


class Recorder:
    """An engine that remembers what the model was shown, and answers nought."""

    device = torch.device("cpu")

    def __init__(self) -> None:
        self.shown: list[tuple[torch.Tensor, ...]] = []
        self.teacher = SimpleNamespace(resampled_BND=torch.zeros(1, 3, 4), kind="vace", reads_image=False)

    def forward(self, *args: torch.Tensor) -> torch.Tensor:
        self.shown.append(args)
        return torch.zeros_like(args[0])


def clip(row: int) -> Sample:
    g = torch.Generator().manual_seed(row)
    control = torch.zeros(2, 96, 1, 2, 2)
    control[:, 32:, :, 1] = 1
    return Sample(torch.randn(16, 1, 2, 2, generator=g), control, torch.ones(2, 4), (PictureFeatures(torch.zeros(3, 4)),), torch.zeros(0, 4))


SAMPLES = [clip(i) for i in range(8)]


def shown(objective: ObjectiveSpec, draws: int) -> tuple[list[tuple[torch.Tensor, ...]], float, LevelTally]:
    engine, tally = Recorder(), LevelTally()
    stage = STAGE.model_copy(update={"objective": objective})
    loss = step_loss.micro_batch_loss(stage, engine, SAMPLES, torch.zeros(1, 4), 4, [(d, d % 8) for d in range(draws)], tally=tally)
    return engine.shown, float(loss), tally


def test_the_defaults_draw_what_was_drawn_before():
    """Four draws of the nano recipe's objective, as the loop gave them before there were options (commit 4c49b20)."""
    ((noisy, sigma, text, _, _, has_reference, _),), loss, _ = shown(BEFORE, 4)
    assert sigma.tolist() == pytest.approx(GOLDEN["sigma"], rel=1e-6)
    assert noisy[:, 0, 0, 0, 0].tolist() == pytest.approx(GOLDEN["noisy"], rel=1e-5)
    assert loss == pytest.approx(GOLDEN["loss"], rel=1e-5)
    assert text[:, 0, 0].tolist() == GOLDEN["text"] and has_reference.tolist() == GOLDEN["reference"]


def test_dropout_rates_and_independence():
    """Text 0.3 and reference 0.2 apart: shares within 4 standard errors, and both together the product. 3000 draws."""

    def shares(objective: ObjectiveSpec) -> tuple[float, float, float]:
        ((_, _, text, _, _, has_reference, _),), _, _ = shown(objective, 3000)
        no_text, no_reference = text[:, 0, 0] == 0, ~has_reference
        return tuple(float(x.float().mean()) for x in (no_text, no_reference, no_text & no_reference))

    def close(share: float, expected: float) -> bool:
        return abs(share - expected) < 4 * (expected * (1 - expected) / 3000) ** 0.5

    text, reference, both = shares(ObjectiveSpec(text_dropout=0.3, reference_dropout=0.2))
    assert close(text, 0.3) and close(reference, 0.2) and close(both, 0.06)
    text, reference, both = shares(ObjectiveSpec(text_dropout=0.0, reference_dropout=0.0, joint_dropout=0.25))
    assert text == reference == both and close(both, 0.25), "together or not at all"
    text, reference, both = shares(ObjectiveSpec(text_dropout=0.3, reference_dropout=0.2, joint_dropout=0.25))
    assert close(text, 1 - 0.7 * 0.75) and close(reference, 1 - 0.8 * 0.75) and close(both, 0.25 + 0.75 * 0.06)


def test_joint_dropout_changes_no_other_draw():
    ((noisy, sigma, _, control, *_),), _, _ = shown(BEFORE, 40)
    ((noisy_joint, sigma_joint, _, control_joint, *_),), _, _ = shown(BEFORE.model_copy(update={"joint_dropout": 0.5}), 40)
    assert torch.equal(noisy, noisy_joint) and torch.equal(sigma, sigma_joint) and torch.equal(control, control_joint)


def same_bins(one, other):
    return torch.equal(one.sums, other.sums) and torch.equal(one.counts, other.counts)


@pytest.mark.parametrize("weighting", ["min_snr", "sigma_sqrt", "cosmap", "bell"])
def test_the_level_weighs(weighting):
    """Each draw alone: its loss is the plain one times its level's weight; the tally keeps the plain one."""
    plain = BEFORE.model_copy(update={"mask_weight": 1.0})
    ((_, sigma, *_),), base, tally = shown(plain, 1)
    _, loss, weighted_tally = shown(plain.model_copy(update={"weighting": weighting, "min_snr_gamma": 0.5}), 1)
    weight = float(level_weights(sigma, weighting, gamma=0.5, shift=6.0))
    assert weight != pytest.approx(1.0, rel=1e-3) and loss == pytest.approx(base * weight, rel=1e-5)
    assert same_bins(tally, weighted_tally) and float(tally.sums.sum()) == pytest.approx(base)


def test_the_bins_hold_the_plain_loss_of_every_draw():
    """An answer of nought has the error (eps - x0)^2: a weight of the mask changes the loss and not the bins."""
    ((_, sigma, *_),), loss, tally = shown(BEFORE, 64)
    _, plain, plain_tally = shown(BEFORE.model_copy(update={"mask_weight": 1.0}), 64)
    assert same_bins(tally, plain_tally) and loss != pytest.approx(plain, rel=1e-3)
    assert float(tally.sums.sum()) / 64 == pytest.approx(plain, rel=1e-5)
    counts = [((sigma >= i / 10) & (sigma < (i + 1) / 10)).sum().item() for i in range(10)]
    assert tally.counts.tolist() == counts
    assert {k for k in level_record(tally.packed()) if k.endswith("_count")} == {f"level{i}_count" for i, n in enumerate(counts) if n}


def test_levels_evenly_asked():
    """loss_levels asks every bin equally often, whatever the stage's own sampling; the same questions each time."""
    engine, stage = Recorder(), STAGE.model_copy(update={"objective": BEFORE})
    tally = step_loss.loss_levels(stage, engine, SAMPLES, torch.zeros(1, 4), 4, 16)
    assert tally.counts.tolist() == [16.0] * 10
    again = step_loss.loss_levels(stage, Recorder(), SAMPLES, torch.zeros(1, 4), 4, 16)
    assert torch.equal(tally.packed(), again.packed())


def test_an_identity_loss_without_models(tmp_path):
    stage = STAGE.model_copy(update={"objective": BEFORE.model_copy(update={"identity_weight": 0.1})})
    stage = stage.model_copy(update={"parallel": stage.parallel.model_copy(update={"num_workers": 1})})
    with pytest.raises(ValueError, match="stage 'verify' has an identity_weight and train\\(\\) got no models"):
        train(stage, None, [Place("a", tmp_path, tmp_path, 0)], torch.zeros(1, 64), 32, None, tmp_path)
