"""The loss of one micro-batch, and of a teacher by noise level: what a training step and a validation both ask."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from pvtt_model.backbones.conditioning import answered
from pvtt_model.backbones.experts import level_range
from pvtt_model.objectives.identity import LossModels, identity_loss, pooled_reference
from pvtt_model.objectives.level_bins import BINS, LevelTally
from pvtt_model.objectives.level_weights import level_weights
from pvtt_model.objectives.noise_levels import draw_sigma, shift_of
from pvtt_model.objectives.rectified_flow import answered_weights, data_estimate, flow_loss, interpolate, mask_weights
from pvtt_model.objectives.reference_reconstruction import reconstruction_loss
from pvtt_model.objectives.words import words_loss
from pvtt_model.specs import StageSpec
from pvtt_model.training.engine import Engine
from pvtt_model.training.kept_samples import KeptSamples
from pvtt_model.training.samples import Batch, Sample, collate
from pvtt_model.training.schedule import seed_of


class MicroBatch(NamedTuple):
    """All that the loss of one micro-batch is asked, on the CPU: what hangs on the draws alone, and so can be made ahead."""

    draws: list[tuple[int, int]]
    batch: Batch
    noise_BCFHW: Tensor
    sigma_B: Tensor
    has_reference_B: Tensor

    def pinned(self) -> MicroBatch:
        """In memory that a GPU reads by itself."""
        reference = type(self.batch.reference)(*(None if t is None else t.pin_memory() for t in self.batch.reference))
        batch = type(self.batch)(*(t.pin_memory() if isinstance(t, Tensor) else reference for t in self.batch))  # type: ignore[arg-type]  # as Batch.to
        return MicroBatch(self.draws, batch, *(t.pin_memory() for t in self[2:]))


def make_micro_batch(
    stage: StageSpec, kept: Sequence[Sample] | KeptSamples, empty_text_LD: Tensor, max_text_tokens: int, draws: list[tuple[int, int]]
) -> MicroBatch:
    """Noise, level, dropped conditions and the variants hang on the draw's number alone.

    A thread may call it: it draws nothing from torch's own generator. Options that draw more draw last, so that they change no draw of before.
    """
    objective, seed = stage.objective, stage.train.seed
    generators = [torch.Generator().manual_seed(seed_of(seed, "noise", draw)) for draw, _ in draws]
    samples = [kept[index] for _, index in draws]
    keep_text = [bool(torch.rand((), generator=g) >= objective.text_dropout) for g in generators]
    keep_reference = [bool(torch.rand((), generator=g) >= objective.reference_dropout) for g in generators]
    latent_shape, levels = tuple(samples[0].x0_CFHW.shape), level_range(stage.backbone)
    sigma = torch.cat([draw_sigma(objective, latent_shape, g, levels) for g in generators])
    noise = torch.stack([torch.randn(s.x0_CFHW.shape, generator=g) for s, g in zip(samples, generators, strict=True)])
    variants = [int(torch.randint(len(s.control_VMFHW), (), generator=g)) for s, g in zip(samples, generators, strict=True)]
    pictures = [_one_of(len(s.pictures), g) for s, g in zip(samples, generators, strict=True)]
    samples = [s.of_video(_one_of(s.num_videos, g)) for s, g in zip(samples, generators, strict=True)]
    if objective.joint_dropout:
        both = [bool(torch.rand((), generator=g) < objective.joint_dropout) for g in generators]
        keep_text, keep_reference = ([keep and not drop for keep, drop in zip(keeps, both, strict=True)] for keeps in (keep_text, keep_reference))
    batch: Batch = collate(samples, max_text_tokens, empty_text_LD, keep_text, variants, pictures).to(torch.device("cpu"), _dtype(stage))
    return MicroBatch(draws, batch, noise, sigma, torch.tensor(keep_reference))


def micro_batch_loss(
    stage: StageSpec,
    engine: Engine,
    kept: Sequence[Sample] | KeptSamples,
    empty_text_LD: Tensor,
    max_text_tokens: int,
    draws: list[tuple[int, int]],
    models: LossModels | None = None,
    tally: LevelTally | None = None,
) -> Tensor:
    """Mean loss of the micro-batch of these draws."""
    return loss_of(stage, engine, make_micro_batch(stage, kept, empty_text_LD, max_text_tokens, draws), models, tally)


def loss_of(stage: StageSpec, engine: Engine, made: MicroBatch, models: LossModels | None = None, tally: LevelTally | None = None) -> Tensor:
    """Mean loss of one micro-batch. LoRA's dropout hangs on the first draw's number. `tally` takes the plain flow loss by noise level."""
    objective, kind, latent_shape = stage.objective, engine.teacher.kind, tuple(made.noise_BCFHW.shape[1:])
    torch.manual_seed(seed_of(stage.train.seed, "dropout", made.draws[0][0]))
    dtype, batch = _dtype(stage), made.batch.to(engine.device, _dtype(stage))
    x0, noise, sigma = batch.x0_BCFHW.float(), made.noise_BCFHW.to(engine.device), made.sigma_B.to(engine.device)
    noisy, has_reference = interpolate(x0, noise, sigma), made.has_reference_B.to(engine.device)
    control, mask = batch.context(kind), batch.mask_BMFHW
    prediction = engine.forward(
        noisy.to(dtype), sigma, batch.text_BLD, control, batch.reference, has_reference, batch.image if engine.teacher.reads_image else None
    )
    weights = None if objective.mask_weight == 1 else mask_weights(mask, objective.mask_weight)
    weights = answered_weights(weights, answered(kind, control))
    losses = flow_loss(prediction, x0, noise, weights)
    if tally is not None:
        tally.add(sigma, losses if weights is None else flow_loss(prediction.detach(), x0, noise))
    if objective.weighting != "none":
        shift = shift_of(objective, latent_shape)
        losses = losses * level_weights(sigma, objective.weighting, gamma=objective.min_snr_gamma, shift=shift)
    loss = losses.mean()
    if tally is not None:
        tally.add_term("flow", losses, torch.ones_like(losses))
    if objective.words_weight:
        tokens = engine.teacher.resampled_BND  # of the forward pass above
        assert tokens is not None
        words = words_loss(tokens, batch.words_BLD)
        loss = loss + objective.words_weight * words.mean()
        if tally is not None:
            tally.add_term("words", words, torch.ones_like(words))
    patches, keep = batch.reference.patches_BPC, batch.reference.keep_BP
    if objective.identity_weight:
        assert models is not None and patches is not None and keep is not None
        wanted, pooled = (sigma < objective.identity_below) & has_reference, pooled_reference(patches, keep)
        identity, has = identity_loss(data_estimate(noisy, prediction, sigma), mask, pooled, wanted, models, objective.identity_frames)
        loss = loss + objective.identity_weight * identity.mean()
        if tally is not None:
            tally.add_term("identity", identity, has)
    if objective.reference_recon_weight:
        assert patches is not None and keep is not None
        recon = reconstruction_loss(engine.teacher.reconstructed_B2C, patches, keep)
        loss = loss + objective.reference_recon_weight * recon.mean()
        if tally is not None:
            tally.add_term("reference_recon", recon, keep.any(1))
    return loss


@torch.no_grad()
def loss_levels(stage: StageSpec, engine: Engine, samples: Sequence[Sample], empty_text_LD: Tensor, max_text_tokens: int, per_bin: int) -> LevelTally:
    """The plain flow loss of `samples` by noise level: training's own loss, with `per_bin` draws in each bin of levels, evenly spread in it.

    Noise, level and dropped conditions hang on the draw's number and the stage's seed alone, so two teachers are asked the same questions.
    """
    tally, size = LevelTally(), stage.parallel.micro_batch
    asked = {
        "timestep_sampling": "uniform",
        "shift": 1.0,
        "shift_by": "fixed",
        "identity_weight": 0.0,
        "reference_recon_weight": 0.0,
        "words_weight": 0.0,
    }
    for i in range(BINS):
        levels = {"sigma_low": i / BINS, "sigma_high": (i + 1) / BINS}
        of_bin = stage.model_copy(update={"objective": stage.objective.model_copy(update=asked | levels)})
        draws = [(i * per_bin + n, n % len(samples)) for n in range(per_bin)]
        for start in range(0, per_bin, size):
            micro_batch_loss(of_bin, engine, samples, empty_text_LD, max_text_tokens, draws[start : start + size], tally=tally)
    return tally


def _dtype(stage: StageSpec) -> torch.dtype:
    return torch.bfloat16 if stage.parallel.precision == "bfloat16" else torch.float32


def _one_of(count: int, generator: torch.Generator) -> int:
    """A draw, where there is a choice: one more option in the data must not change the draws of data without it."""
    return int(torch.randint(count, (), generator=generator)) if count > 1 else 0
