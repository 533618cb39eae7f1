"""A loss or gradient with which no step may be taken: told the same by every rank, and the same again after a resume."""

from __future__ import annotations

import logging
import math
import statistics
from collections.abc import Sequence
from typing import Any

import torch.distributed as dist

from pvtt_model.specs import TrainSpec

log = logging.getLogger(__name__)
#: Steps whose median a spike is held against, and how many of them there must be.
WINDOW, LEAST = 50, 10


def what_is_wrong(loss: float, records: Sequence[dict[str, Any]], train: TrainSpec) -> str | None:
    """Of a step's loss over all ranks, before the optimizer steps; None where nothing is. A pure function of the steps before."""
    if not math.isfinite(loss):
        return f"loss is {loss}"
    if train.spike_factor is None:
        return None
    before = [r["loss"] for r in records[-WINDOW:] if not r.get("skipped")]
    if len(before) < LEAST:
        return None
    usual = statistics.median(before)
    if loss > train.spike_factor * usual:
        return f"loss is {loss:.4g}, above {train.spike_factor:g} x the median {usual:.4g} of the {len(before)} steps before"
    return None


def answer(train: TrainSpec, records: Sequence[dict[str, Any]], step: int, lr: float, wrong: str, seen: list[tuple[str, float]]) -> None:
    """Log the step's clips of all ranks with their micro-batch's loss; then stop, or return where the step is to be skipped.

    seen: of this rank (clip key, loss of its micro-batch). Every rank must call it. Raises FloatingPointError.
    """
    everyone: list[list[tuple[str, float]]] = [seen]
    if dist.is_initialized() and dist.get_world_size() > 1:
        everyone = [[] for _ in range(dist.get_world_size())]
        dist.all_gather_object(everyone, seen)
    clips = [pair for of_rank in everyone for pair in of_rank]
    finite = [pair for pair in clips if math.isfinite(pair[1])]
    named = clips if len(finite) == len(clips) else [pair for pair in clips if not math.isfinite(pair[1])]
    text = f"{wrong} in step {step} on clips {[key for key, _ in named]} (losses {[round(loss, 4) for _, loss in named]})"
    in_a_row = next((n for n, r in enumerate(reversed(records)) if not r.get("skipped")), len(records))
    if train.on_bad_loss == "stop":
        raise FloatingPointError(f"{text}. Look at these clips, lower optim.lr ({lr:g}), or leave such steps out by train.on_bad_loss='skip'.")
    if in_a_row >= train.max_skipped:
        raise FloatingPointError(
            f"{text}, after {in_a_row} skipped steps in a row (train.max_skipped). Look at these clips, or lower optim.lr ({lr:g})."
        )
    log.warning("%s: the step is skipped", text)
