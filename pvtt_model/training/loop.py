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

from pvtt_model.objectives.identity import LossModels
from pvtt_model.objectives.level_bins import LevelTally, level_record
from pvtt_model.objectives.reference_reconstruction import attach_probe
from pvtt_model.specs import StageSpec
from pvtt_model.training.deepspeed_engine import Engine
from pvtt_model.training.kept_samples import KeptSamples
from pvtt_model.training.prepare_step import prepare_step
from pvtt_model.training.records import STATE, TRAINED
from pvtt_model.training.samples import Place
from pvtt_model.training.schedule import samples_of
from pvtt_model.training.step_loss import micro_batch_loss
from pvtt_model.training.teacher import Teacher, load_trainable


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
    prepare_step(teacher, stage.parallel)
    teacher.train()
    engine = Engine(teacher, stage.parallel, stage.optim, first_step=len(records), steps=stage.train.steps)
    if resume is not None:
        engine.load_rank(resume.folder / f"rank{rank}.safetensors")
    samples = KeptSamples(places, injection=stage.reference.injection)
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
        loss = micro_batch_loss(stage, engine, kept, empty_text_LD, max_text_tokens, draws, models, tally)
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


def _write_state(engine: Engine, teacher: Teacher, records: list[dict[str, float]], folder: Path, rank: int) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    trained = engine.trained(teacher)
    engine.save_rank(folder / f"rank{rank}.safetensors")
    if rank == 0:
        save_file(trained, folder / TRAINED)
        (folder / STATE).write_text(json.dumps({"step": len(records), "records": records}))
    return folder
