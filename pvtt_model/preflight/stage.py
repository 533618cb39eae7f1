"""What a training worker looks at before it loads weights, and `pvtt doctor` for it: device, memory, room for step checkpoints."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from pvtt_model.preflight.check import Check
from pvtt_model.preflight.device import computes, free_gpu_bytes, gpu_checks
from pvtt_model.preflight.disk import Wanted, disk_checks, step_checkpoint_bytes
from pvtt_model.preflight.machine import cores, host_memory
from pvtt_model.preflight.memory import Room, figures_of, memory_check
from pvtt_model.preflight.processor import threads_check
from pvtt_model.specs import ParallelSpec, RecipeSpec, StageSpec


def worker_checks(recipe: RecipeSpec, stage: StageSpec, scratch: Path, store: Path | None, workers_here: int) -> list[Check]:
    """On the machine that is to train: its device, its memory, its disks. store: its folder, None where it is elsewhere."""
    parallel = stage.parallel
    index = gpu_index()
    found = device_checks(parallel, index)
    if parallel.accelerator == "cpu":
        found.append(threads_check(cores(), workers_here, torch.get_num_threads()))
    gpu = free_gpu_bytes(index) if parallel.accelerator == "gpu" and torch.cuda.is_available() else None
    found += memory_check(recipe, stage, Room(gpu, host_memory().available, workers_here))
    return found + disk_checks(checkpoints_wanted(recipe, stage, scratch, store))


def device_checks(parallel: ParallelSpec, index: int = 0) -> list[Check]:
    """The GPU, or that the CPU computes."""
    if parallel.accelerator == "gpu":
        return gpu_checks(index, parallel.precision)
    return [computes(torch.device("cpu"), parallel.precision)]


def gpu_index() -> int:
    """The GPU that DeepSpeed takes for this process: LOCAL_RANK among those it sees."""
    return int(os.environ.get("LOCAL_RANK", "0")) % max(1, torch.cuda.device_count())


def checkpoints_wanted(recipe: RecipeSpec, stage: StageSpec, scratch: Path, store: Path | None) -> list[Wanted]:
    """Room for the step checkpoint being written, in scratch, and for those that are kept and the newest, in the store's folder."""
    one = step_checkpoint_bytes(figures_of(recipe, stage).parameters.trained, stage.train.ema_decay is not None)
    kept = min(stage.train.keep_checkpoints, -(-stage.train.steps // stage.train.checkpoint_every_steps)) + (stage.train.release == "best")
    what = f"step checkpoints of {stage.name}"
    return [Wanted(scratch, one, what)] + ([Wanted(store, one * (1 + kept), what)] if store is not None else [])
