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
from safetensors.torch import load_file
from torch import Tensor

from pvtt_model.objectives.identity import LossModels
from pvtt_model.objectives.level_bins import LevelTally, level_record
from pvtt_model.objectives.reference_reconstruction import attach_probe
from pvtt_model.specs import StageSpec
from pvtt_model.training.background_saves import BackgroundSaves
from pvtt_model.training.bad_steps import answer, what_is_wrong
from pvtt_model.training.ema import Ema
from pvtt_model.training.engine import Engine, build_engine
from pvtt_model.training.host_copies import HostCopies
from pvtt_model.training.metering import Meter
from pvtt_model.training.prefetch import Samples
from pvtt_model.training.prepare_step import prepare_step
from pvtt_model.training.records import EMA, STATE, TRAINED, is_best, rank_file
from pvtt_model.training.samples import Place
from pvtt_model.training.schedule import ends_epoch
from pvtt_model.training.step_loss import loss_of
from pvtt_model.training.teacher import Teacher, load_trainable
from pvtt_model.training.validation import Validation, at_rest, is_due


class Hooks(Protocol):
    """What the loop tells its surroundings. A class of its own that derives from this one need only write what it wants to hear."""

    def at(self, step: int, doing: str) -> None:
        """Called by each rank as it goes on: in step `step` (from 0) it now begins 'micro-batch 2 of 4', 'step', 'validation', 'checkpoint'."""

    def on_step(self, record: dict[str, float]) -> None:
        """Called by every rank after every step, with the same record."""

    def save(self, step: int, folder: Path, pinned: bool) -> None:
        """This rank's files of the state after `step` steps, called by every rank, in the same order, in a thread while training goes on.

        pinned: it stays, however many come after it (an epoch's end). The best by validation so far is in the records.
        """

    def stop_asked(self) -> bool:
        """Whether this rank's machine is about to be taken away: all save the state after this step, and stop."""
        return False

    def validated(self, record: dict[str, float]) -> None:
        """Called by every rank after a validation: the step's record with what Validation.loss says."""

    def sample(self, step: int, teacher: Teacher) -> None:
        """Called by every rank every sample_every_steps steps: the teacher after `step` steps, at rest, to look at what it makes."""


class Interrupted(RuntimeError):
    """Training was asked to stop; the state was saved, and the next start goes on from it."""


class Resume(NamedTuple):
    """The state after `step` steps: a folder with trained.safetensors, state.json, ema.safetensors where an average is kept, and the ranks' files
    that records.rank_files_for names."""

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
    validation: Validation | None = None,
    meter: Meter | None = None,
    kept_optimizer: Path | None = None,
) -> list[dict[str, float]]:
    """Train `teacher` for stage.train.steps steps in all; returns one record a step: step, loss, lr, grad_norm, samples_per_s, the seconds waited
    for data and for the last checkpoint (data_wait_s, checkpoint_wait_s), `skipped` for a step left out, and the loss by noise level as
    level_bins.level_record has it.

    models: what objective.identity_weight looks through. validation: asked every train.validate_every_steps steps and after the last. meter: adds
    what it measures to the records. kept_optimizer: a rank's file of the stage before, those of the others beside it, with whose moments this one
    starts. Raises ValueError for no samples, FloatingPointError for a loss that is not finite or a spike (by stage.train.on_bad_loss), naming the
    clips of the batch, Interrupted where a rank was asked to stop.
    """
    if not places:
        raise ValueError(f"stage '{stage.name}' has no samples. Look at the masks' table: every clip was refused or held out.")
    rank, world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    stage = stage.model_copy(update={"parallel": stage.parallel.as_run()})
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
    engine = build_engine(teacher, stage.parallel, stage.optim, first_step=len(records), steps=stage.train.steps)
    if resume is not None:
        engine.load_rank(resume.folder / rank_file(rank))
    elif kept_optimizer is not None:
        engine.load_rank(kept_optimizer)
    ema = Ema(engine, stage.train.ema_decay, resume.folder / EMA if resume else None) if stage.train.ema_decay is not None else None
    saves, copies = BackgroundSaves(hooks.save, work), HostCopies()
    data = Samples(stage, places, empty_text_LD, max_text_tokens, rank, world, engine.device, first_step=len(records))
    try:
        while len(records) < stage.train.steps:
            waited_s, saves.waited_s = saves.waited_s, 0.0
            records.append(_step(stage, engine, data, records, rank, world, hooks, models) | {"checkpoint_wait_s": waited_s})
            records[-1] |= meter.measure(records[-1]) if meter else {}
            if ema is not None and not records[-1].get("skipped"):
                ema.update(len(records) - 1)
            hooks.on_step(records[-1])
            if validation is not None and is_due(len(records), stage.train.validate_every_steps, stage.train.steps):
                hooks.at(len(records) - 1, "validation")
                records[-1] |= validation.loss(stage, engine, empty_text_LD, max_text_tokens)
                hooks.validated(records[-1])
            if is_due(len(records), stage.train.sample_every_steps):
                hooks.at(len(records) - 1, "sample edits")
                with at_rest(teacher, engine.device):
                    hooks.sample(len(records), teacher)
            stop = _any_rank(hooks.stop_asked(), world, engine.device)
            if stop or _is_due(stage, records, data.epoch_samples):
                hooks.at(len(records) - 1, "checkpoint")
                pinned = stage.train.keep_every_epoch and ends_epoch(len(records) - 1, data.epoch_samples, stage.parallel.global_batch)
                saves.start(len(records), lambda: _files(engine, teacher, rank, ema, copies), records if rank == 0 else None, pinned)
            saves.check()
            if stop:
                saves.finish()
                raise Interrupted(
                    f"stage '{stage.name}' was asked to stop; the state after step {len(records)} is saved. Run again to go on from it."
                )
        hooks.at(len(records) - 1, "checkpoint")
        saves.finish()
    finally:
        data.close()
        saves.leave()
    return records


def _is_due(stage: StageSpec, records: list[dict[str, float]], epoch_samples: int) -> bool:
    """Whether the state after the last of the records is to be saved."""
    done, spec = len(records), stage.train
    if done % spec.checkpoint_every_steps == 0 or done == spec.steps:
        return True
    if spec.keep_every_epoch and ends_epoch(done - 1, epoch_samples, stage.parallel.global_batch):
        return True
    return spec.release == "best" and is_best(records)


def _any_rank(here: bool, world: int, device: torch.device) -> bool:
    if world == 1:
        return here
    told = torch.tensor([int(here)], device=device)
    dist.all_reduce(told, op=dist.ReduceOp.MAX)
    return bool(told.item())


def _step(
    stage: StageSpec, engine: Engine, data: Samples, records: list[dict[str, float]], rank: int, world: int, hooks: Hooks, models: LossModels | None
) -> dict[str, float]:  # fmt: skip
    """One step. All ranks know its loss before the last backward pass, in which the optimizer steps: there it is decided whether it may."""
    step, started, waited_s = len(records), time.perf_counter(), 0.0
    tally, lr, accums = LevelTally(), engine.set_lr(step), stage.parallel.grad_accum
    total, seen, skipped = torch.zeros((), dtype=torch.float64), [], False
    for accum in range(accums):
        hooks.at(step, f"micro-batch {accum + 1} of {accums}")
        made, micro_s = data.next()
        waited_s += micro_s
        loss = loss_of(stage, engine, made, models, tally)
        here = loss.detach().double().cpu()
        seen += [(data.clip_key(index), float(here)) for _, index in made.draws]
        total += here / accums
        if accum + 1 < accums:
            engine.backward(loss)
            continue
        hooks.at(step, "the loss of all ranks")
        total = _summed(total, world, engine.device) / world
        wrong = what_is_wrong(float(total), records, stage.train)
        if wrong is not None:
            answer(stage.train, records, step, lr, wrong, seen)
        hooks.at(step, "step")
        (engine.backward if wrong is None else engine.backward_and_drop)(loss)
        if wrong is None and engine.dropped:
            answer(stage.train, records, step, lr, "the gradient is not finite", seen)
        skipped = engine.dropped
    packed = _summed(tally.packed(), world, engine.device)
    seconds = time.perf_counter() - started
    norm = engine.grad_norm()
    return {
        "step": step,
        "loss": float(total),
        "lr": lr,
        "grad_norm": norm if math.isfinite(norm) and not skipped else -1.0,
        "samples_per_s": stage.parallel.global_batch / seconds,
        "workers": world,
        "data_wait_s": waited_s,
        **({"skipped": 1.0} if skipped else level_record(packed)),
    }


def _summed(total: Tensor, world: int, device: torch.device) -> Tensor:
    """Over all ranks, on the CPU."""
    if world == 1:
        return total
    total_on = total.to(device)
    dist.all_reduce(total_on)
    return total_on.cpu()


def _files(engine: Engine, teacher: Teacher, rank: int, ema: Ema | None, copies: HostCopies) -> dict[str, dict[str, Tensor]]:
    """This rank's files of a checkpoint, copied into the CPU's memory. Every rank must call it (ZeRO-3 gathers)."""
    files = {TRAINED: engine.trained(teacher, copies.of(TRAINED))} | ({EMA: ema.tensors()} if ema is not None else {})
    return {rank_file(rank): engine.rank_state(copies.of(rank_file(rank)))} | (files if rank == 0 else {})
