"""One stage's training, on one rank. Ray, one process or a notebook call the same function; what they want to know comes through `Hooks`.

The state after step k is a function of (recipe, data, k): samples, noise and dropout are drawn from seeds of the step, so a run
killed anywhere and resumed from its last checkpoint ends in the same bits as one left alone (same world size).
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from torch import Tensor

from pvtt_model.objectives.identity import LossModels, identity_loss, pooled_reference
from pvtt_model.objectives.level_bins import BINS, LevelTally, level_record
from pvtt_model.objectives.level_weights import level_weights
from pvtt_model.objectives.noise_levels import draw_sigma, shift_of
from pvtt_model.objectives.rectified_flow import data_estimate, flow_loss, interpolate, mask_weights
from pvtt_model.objectives.reference_reconstruction import attach_probe, reconstruction_loss
from pvtt_model.objectives.words import words_loss
from pvtt_model.specs import StageSpec
from pvtt_model.training.deepspeed_engine import Engine
from pvtt_model.training.kept_samples import KeptSamples
from pvtt_model.training.records import STATE, TRAINED
from pvtt_model.training.samples import Batch, Place, Sample, collate
from pvtt_model.training.schedule import samples_of, seed_of
from pvtt_model.training.teacher import Teacher, load_trainable

#: VACE's mask stands last in its context: the 8 x 8 pixels of each latent cell.
MASK_CHANNELS = 64


class Hooks(Protocol):
    """What the loop tells its surroundings."""

    def on_step(self, record: dict[str, float]) -> None:
        """Called by every rank after every step, with the same record."""

    def save(self, step: int, folder: Path) -> None:
        """Called by every rank after every checkpoint_every_steps steps and after the last: this rank's files of the state after `step` steps."""


class Resume(NamedTuple):
    """The state after `step` steps: a folder with trained.safetensors, state.json and this rank's rankR.safetensors."""

    step: int
    folder: Path


def train(
    stage: StageSpec,
    teacher: Teacher,
    places: Sequence[Place],
    empty_text_LD: Tensor,
    max_text_tokens: int,
    hooks: Hooks,
    work: Path,
    resume: Resume | None = None,
    models: LossModels | None = None,
) -> list[dict[str, float]]:
    """Train `teacher` for stage.train.steps steps in all; returns one record a step: step, loss, lr, grad_norm, samples_per_s, and the loss by
    noise level as level_bins.level_record has it.

    models: what objective.identity_weight looks through. Raises ValueError for no samples, FloatingPointError for a loss that is not finite,
    naming the clips of the batch.
    """
    if not places:
        raise ValueError(f"stage '{stage.name}' has no samples. Look at the masks' table: every clip was refused or held out.")
    rank, world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    if world != stage.parallel.num_workers:
        raise ValueError(f"stage '{stage.name}' wants {stage.parallel.num_workers} workers, got {world}. Set parallel.num_workers={world}.")
    if stage.objective.identity_weight and models is None:
        raise ValueError(f"stage '{stage.name}' has an identity_weight and train() got no models. Give LossModels(vae, image encoder).")
    if stage.objective.reference_recon_weight:
        attach_probe(teacher, stage.train.seed)
    records: list[dict[str, float]] = []
    if resume is not None:
        load_trainable(teacher, load_file(resume.folder / TRAINED))
        records = json.loads((resume.folder / STATE).read_text())["records"]
    if stage.parallel.gradient_checkpointing:
        teacher.transformer.enable_gradient_checkpointing()  # type: ignore[operator]
    teacher.train()
    engine = Engine(teacher, stage.parallel, stage.optim, first_step=len(records), steps=stage.train.steps)
    if resume is not None:
        engine.load_rank(resume.folder / f"rank{rank}.safetensors")
    samples = KeptSamples(places)
    for step in range(len(records), stage.train.steps):
        records.append(_step(stage, engine, samples, empty_text_LD, max_text_tokens, step, rank, world, models))
        hooks.on_step(records[-1])
        if (step + 1) % stage.train.checkpoint_every_steps == 0 or step + 1 == stage.train.steps:
            hooks.save(step + 1, _write_state(engine, teacher, records, work / f"step{step + 1:06d}-rank{rank}", rank))
    return records


def _step(
    stage: StageSpec, engine: Engine, kept: KeptSamples, empty_text_LD: Tensor, max_text_tokens: int, step: int, rank: int, world: int,
    models: LossModels | None,
) -> dict[str, float]:  # fmt: skip
    started = time.perf_counter()
    tally = LevelTally()
    lr = engine.set_lr(step)
    total = torch.zeros((), dtype=torch.float64)
    for accum in range(stage.parallel.grad_accum):
        draws = samples_of(
            step, rank, accum, seed=stage.train.seed, num_samples=len(kept),
            micro_batch=stage.parallel.micro_batch, num_workers=world, grad_accum=stage.parallel.grad_accum, buckets=kept.buckets,
        )  # fmt: skip
        loss = _loss(stage, engine, kept, empty_text_LD, max_text_tokens, draws, models, tally)
        if not torch.isfinite(loss):
            clips = [kept.places[index].clip_key for _, index in draws]
            raise FloatingPointError(f"loss is {float(loss)} in step {step} on clips {clips}. Look at these clips, or lower optim.lr ({lr:g}).")
        engine.backward(loss)
        total += loss.detach().double().cpu() / stage.parallel.grad_accum
    packed = tally.packed()
    if world > 1:
        packed_on = packed.to(engine.device)
        dist.all_reduce(packed_on)
        packed = packed_on.cpu()
        total_on = total.to(engine.device)
        dist.all_reduce(total_on)
        total = total_on.cpu() / world
    seconds = time.perf_counter() - started
    norm = engine.grad_norm()
    return {
        "step": step,
        "loss": float(total),
        "lr": lr,
        "grad_norm": norm if math.isfinite(norm) else -1.0,
        "samples_per_s": stage.parallel.global_batch / seconds,
        **level_record(packed),
    }


def _loss(
    stage: StageSpec,
    engine: Engine,
    kept: Sequence[Sample] | KeptSamples,
    empty_text_LD: Tensor,
    max_text_tokens: int,
    draws: list[tuple[int, int]],
    models: LossModels | None = None,
    tally: LevelTally | None = None,
) -> Tensor:
    """Mean loss of one micro-batch. Noise, level, dropped conditions and the variants hang on the draw's number alone; LoRA's dropout too.

    `tally` takes the plain flow loss by noise level. Options that draw more draw last, so that they change no draw of before.
    """
    objective, seed = stage.objective, stage.train.seed
    generators = [torch.Generator().manual_seed(seed_of(seed, "noise", draw)) for draw, _ in draws]
    torch.manual_seed(seed_of(seed, "dropout", draws[0][0]))
    samples = [kept[index] for _, index in draws]
    keep_text = [bool(torch.rand((), generator=g) >= objective.text_dropout) for g in generators]
    keep_reference = [bool(torch.rand((), generator=g) >= objective.reference_dropout) for g in generators]
    latent_shape = tuple(samples[0].x0_CFHW.shape)
    sigma = torch.cat([draw_sigma(objective, latent_shape, g) for g in generators])
    noise = torch.stack([torch.randn(s.x0_CFHW.shape, generator=g) for s, g in zip(samples, generators, strict=True)])
    variants = [int(torch.randint(len(s.control_VMFHW), (), generator=g)) for s, g in zip(samples, generators, strict=True)]
    pictures = [_one_of(len(s.reference_VPC), g) for s, g in zip(samples, generators, strict=True)]
    samples = [s.of_video(_one_of(s.num_videos, g)) for s, g in zip(samples, generators, strict=True)]
    if objective.joint_dropout:
        both = [bool(torch.rand((), generator=g) < objective.joint_dropout) for g in generators]
        keep_text, keep_reference = ([keep and not drop for keep, drop in zip(keeps, both, strict=True)] for keeps in (keep_text, keep_reference))
    dtype = torch.bfloat16 if stage.parallel.precision == "bfloat16" else torch.float32
    batch: Batch = collate(samples, max_text_tokens, empty_text_LD, keep_text, variants, pictures).to(engine.device, dtype)
    x0, noise, sigma = batch.x0_BCFHW.float(), noise.to(engine.device), sigma.to(engine.device)
    noisy, has_reference = interpolate(x0, noise, sigma), torch.tensor(keep_reference, device=engine.device)
    prediction = engine.forward(
        noisy.to(dtype), sigma, batch.text_BLD, batch.control_BMFHW, batch.reference_BPC, batch.reference_keep_BP, has_reference
    )
    mask = batch.control_BMFHW[:, -MASK_CHANNELS:]
    weights = None if objective.mask_weight == 1 else mask_weights(mask, objective.mask_weight)
    losses = flow_loss(prediction, x0, noise, weights)
    if tally is not None:
        tally.add(sigma, losses if weights is None else flow_loss(prediction.detach(), x0, noise))
    if objective.weighting != "none":
        shift = shift_of(objective, latent_shape)
        losses = losses * level_weights(sigma, objective.weighting, gamma=objective.min_snr_gamma, shift=shift)
    loss = losses.mean()
    if objective.words_weight:
        tokens = engine.teacher.resampled_BND  # of the forward pass above
        assert tokens is not None
        loss = loss + objective.words_weight * words_loss(tokens, batch.words_BLD).mean()
    if objective.identity_weight:
        assert models is not None
        wanted, pooled = (sigma < objective.identity_below) & has_reference, pooled_reference(batch.reference_BPC, batch.reference_keep_BP)
        identity, has = identity_loss(data_estimate(noisy, prediction, sigma), mask, pooled, wanted, models, objective.identity_frames)
        loss = loss + objective.identity_weight * identity.mean()
        if tally is not None:
            tally.add_term("identity", identity, has)
    if objective.reference_recon_weight:
        recon = reconstruction_loss(engine.teacher.reconstructed_B2C, batch.reference_BPC, batch.reference_keep_BP)
        loss = loss + objective.reference_recon_weight * recon.mean()
        if tally is not None:
            tally.add_term("reference_recon", recon, batch.reference_keep_BP.any(1))
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
            _loss(of_bin, engine, samples, empty_text_LD, max_text_tokens, draws[start : start + size], tally=tally)
    return tally


def _one_of(count: int, generator: torch.Generator) -> int:
    """A draw, where there is a choice: one more option in the data must not change the draws of data without it."""
    return int(torch.randint(count, (), generator=generator)) if count > 1 else 0


def _write_state(engine: Engine, teacher: Teacher, records: list[dict[str, float]], folder: Path, rank: int) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    trained = engine.trained(teacher)
    engine.save_rank(folder / f"rank{rank}.safetensors")
    if rank == 0:
        save_file(trained, folder / TRAINED)
        (folder / STATE).write_text(json.dumps({"step": len(records), "records": records}))
    return folder
