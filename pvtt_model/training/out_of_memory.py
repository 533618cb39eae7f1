"""Out of memory in training: what was measured, and the settings with which it would fit."""

from __future__ import annotations

import resource

import torch

from pvtt_model.preflight.machine import host_memory
from pvtt_model.preflight.memory import GIB, Room, figures_of, need_of, settings_that_fit
from pvtt_model.specs import RecipeSpec, StageSpec

#: What torch's CPU allocator says, in a RuntimeError.
OF_CPU = ("can't allocate memory", "not enough memory")


class DoesNotFit(ValueError):
    """Out of memory: no restart mends it."""


def is_out_of_memory(error: BaseException) -> bool:
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or (isinstance(error, RuntimeError) and any(t in str(error) for t in OF_CPU))


def what_would_fit(error: BaseException, recipe: RecipeSpec, stage: StageSpec, here: int, room: Room | None = None) -> str:
    """The message. here: workers on this machine. room: what there is, where it is not to be asked.

    The settings are those of the preflight (settings_that_fit), by a plan corrected by what was measured: where the peak was above the planned
    need, the room counts as smaller by that ratio.
    """
    on_gpu = stage.parallel.accelerator == "gpu" and torch.cuda.is_available()
    if on_gpu:
        device = torch.cuda.current_device()
        peak, total = torch.cuda.max_memory_allocated(device), torch.cuda.get_device_properties(device).total_memory
        room = room or Room(total, host_memory().available, here)
    else:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        room = room or Room(None, host_memory().available + peak, here)
    need = need_of(figures_of(recipe, stage))
    planned = need.gpu if on_gpu else need.host
    short = min(1.0, planned / peak) if planned else 1.0
    corrected = Room(
        int(room.gpu * short) if room.gpu else None, int(room.host * short) if room.host and not on_gpu else room.host, room.workers_here
    )
    found = settings_that_fit(recipe, stage, corrected)
    which = f"GPU {torch.cuda.current_device()}" if on_gpu else "this machine"
    there = f"{((room.gpu if on_gpu else room.host) or 0) / GIB:.2f}"
    cure = (
        f"Any of these fits by the plan: {' or '.join(f'[{said}]' for said in found)}."
        if found
        else "By the plan no setting fits: use larger memory."
    )
    first = (str(error).splitlines() or [type(error).__name__])[0]
    return (
        f"stage '{stage.name}' ran out of memory on {which}: {first} Measured peak of this worker {peak / GIB:.2f} GiB, planned {planned / GIB:.2f}, "
        f"there is {there} GiB. {cure}"
    )
