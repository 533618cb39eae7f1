"""What each training worker runs. Called by Ray on every rank; without Ray the same with one process."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from safetensors.torch import load_file

from infra.artifact_store import ArtifactStore
from infra.ray_launch import Reporter
from infra.settings import Settings, settings
from infra.step_checkpoints import Names, StepCheckpoints
from pvtt_model.artifacts import StoredFile
from pvtt_model.data.tensor_rows import TensorRows
from pvtt_model.objectives.identity import LossModels
from pvtt_model.preflight.check import as_lines, refuse
from pvtt_model.preflight.stage import worker_checks
from pvtt_model.preflight.weights import files_checks
from pvtt_model.specs import RecipeSpec, StageSpec
from pvtt_model.training.carried import as_text, carried_over
from pvtt_model.training.loop import Resume, train
from pvtt_model.training.metering import Meter
from pvtt_model.training.out_of_memory import DoesNotFit, is_out_of_memory, what_would_fit
from pvtt_model.training.records import EMA, STATE, TRAINED, rank_file, rank_files_for
from pvtt_model.training.samples import Place, Shard
from pvtt_model.training.teacher import build_teacher, load_trainable, load_trainable_files
from pvtt_model.training.trained_tensors import part_of
from pvtt_model.training.validation import Validation
from tasks.preflight import store_folder
from tasks.shard_work import device, model_of, weights_of
from tasks.train_hooks import StoreHooks
from tasks.train_payload import TrainPayload
from tasks.train_samples import shown_samples


def train_worker(payload: TrainPayload, reporter: Reporter) -> None:
    """Train one stage on this rank, from its last step checkpoint where there is one."""
    where = settings(payload.store)
    store = ArtifactStore.open(payload.store, where.cache)
    stage = payload.recipe.stages[payload.stage_index]
    stage = stage.model_copy(update={"parallel": stage.parallel.as_run()})
    checkpoints = StepCheckpoints(store.store, payload.planned)
    rank = dist.get_rank() if dist.is_initialized() else 0
    reporter.say(f"rank{rank}", "loading")
    _preflight(payload.recipe, stage, where, reporter)
    dtype = torch.bfloat16 if stage.parallel.precision == "bfloat16" else torch.float32
    image_encoder = payload.recipe.conditions.image_encoder.architecture
    clip = payload.recipe.conditions.clip_encoder
    teacher = build_teacher(
        stage.backbone, stage.reference, stage.lora, image_encoder, weights_of(stage.backbone), dtype, stage.train.seed, stage.train.trained,
        clip_encoder=clip.architecture if clip else None,
    )  # fmt: skip
    if payload.init is not None:
        before = load_trainable_files({name: store.local_path(file) for name, file in payload.init.items()})
        carried = carried_over({n: tuple(p.shape) for n, p in teacher.named_parameters()}, {n: tuple(t.shape) for n, t in before.items()})
        load_trainable(teacher, before, partial=payload.init_is_partial, parts={part_of(name) for name in before})
        if rank == 0:
            reporter.say("carried_over", as_text(carried))
    refs = (*payload.places, *payload.validation)
    shards = {file.key: _shard(store, file, stage.data.read) for p in refs for file in (p.latents, p.conditions)}
    placed = [Place(p.clip_key, shards[p.latents.key], shards[p.conditions.key], p.row, p.bucket, p.selected) for p in refs]
    places, held_out = placed[: len(payload.places)], placed[len(payload.places) :]
    empty = load_file(store.local_path(payload.empty_text))["text_LD"].float()
    with tempfile.TemporaryDirectory(dir=_scratch(where.scratch)) as work:
        resume = _resume(checkpoints, Path(work), lambda there: _files_to_resume(stage, rank, there))
        if rank == 0:
            reporter.say("resumed_at", resume.step if resume else 0)
        hooks = StoreHooks(checkpoints, reporter, stage.train, shown_samples(payload, store, stage, empty, rank))
        models = _loss_models(payload.recipe) if stage.objective.identity_weight else None
        meter = Meter(payload.recipe, stage, torch.device(device()))
        if rank == 0:
            reporter.say("why_no_mfu", meter.why_no_mfu)
        kept = _kept_optimizer(payload, store, Path(work))
        validation = Validation(held_out, stage.reference.injection) if held_out else None
        try:
            train(
                stage, teacher, places, empty, payload.recipe.conditions.max_text_tokens, hooks, Path(work), resume, models, validation, meter, kept
            )  # fmt: skip
        except (MemoryError, RuntimeError) as error:
            if is_out_of_memory(error):
                raise DoesNotFit(what_would_fit(error, payload.recipe, stage, here=int(os.environ.get("LOCAL_WORLD_SIZE", "1")))) from error
            raise
        finally:
            hooks.close()


def _kept_optimizer(payload: TrainPayload, store: ArtifactStore, work: Path) -> Path | None:
    """The first of the files in which the ranks of the stage before left their optimizer's state, all of them beside each other."""
    if not payload.kept_optimizer:
        return None
    folder = _scratch(work / "kept")
    for rank, file in enumerate(payload.kept_optimizer):
        (folder / rank_file(rank)).symlink_to(store.local_path(file).resolve())
    return folder / rank_file(0)


def _loss_models(recipe: RecipeSpec) -> LossModels:
    """The frozen models of the identity loss, loaded only where a stage asks for it."""
    return LossModels(model_of("vae", recipe.latents.vae), model_of("image", recipe.conditions.image_encoder))


def _preflight(recipe: RecipeSpec, stage: StageSpec, where: Settings, reporter: Reporter) -> None:
    """This rank's device, memory, disks and the backbone's files, before any rank loads weights: what one loads another would miss as free.

    All ranks refuse together, with every rank's failures. Raises PreflightFailed.
    """
    here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    checks = worker_checks(recipe, stage, where.scratch, store_folder(where), here)
    folder = weights_of(stage.backbone)
    if folder is not None:  # the loader looks at the hash
        checks += files_checks("weights backbone", stage.backbone, folder, with_hash=False)
    gathered = [checks]
    if dist.is_initialized():
        gathered = [[] for _ in range(dist.get_world_size())]
        dist.all_gather_object(gathered, checks)
    everyone = list(dict.fromkeys(check for of_rank in gathered for check in of_rank))
    shown = [c for c in everyone if c.status == "warn" or (c.status == "fail" and where.preflight == "warn")]
    if shown and (not dist.is_initialized() or dist.get_rank() == 0):
        reporter.say("warnings", as_lines(shown))
    if where.preflight == "fail":
        refuse(everyone, f"training of stage '{stage.name}'")


def _shard(store: ArtifactStore, file: StoredFile, read: str) -> Shard:
    """The shard on this machine, or, for 'ranges', what opens it where it lies."""
    if read == "cache":
        return store.local_path(file)

    def ranged(offset: int, length: int) -> np.ndarray:
        return np.frombuffer(bytearray(store.store.get_range(file.key, offset, length)), np.uint8)

    return lambda: TensorRows(ranged, file.bytes, f"{file.key} in {store.store.uri}", check=True)


def _files_to_resume(stage: StageSpec, rank: int, there: Sequence[str]) -> list[str]:
    """Of a step checkpoint's files those that this rank reads, also where another number of workers wrote it."""
    parallel = stage.parallel
    average = [EMA] if stage.train.ema_decay is not None else []
    return [TRAINED, STATE, *average, *rank_files_for(rank, parallel.num_workers, there, parallel.replicated)]


def _resume(checkpoints: StepCheckpoints, folder: Path, names: Names) -> Resume | None:
    """The newest step checkpoint that is whole for every rank."""
    found = checkpoints.fetch_last(folder, names)
    while dist.is_initialized():
        steps = [0] * dist.get_world_size()
        dist.all_gather_object(steps, found[0] if found else 0)
        if len(set(steps)) == 1:
            break
        found = checkpoints.fetch_last(folder, names, at_most=min(steps))
    return Resume(*found) if found else None


def _scratch(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder
