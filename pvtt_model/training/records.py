"""The files of a step checkpoint that every rank shares, and what a finished training says of itself. Light."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from typing import Any

from pvtt_model.specs import TrainSpec

TRAINED, STATE = "trained.safetensors", "state.json"
EMA = "ema.safetensors"  # beside TRAINED where train.ema_decay is set


def released_file(train: TrainSpec) -> str:
    """Of a step checkpoint's files the one whose tensors the stage's artifact is made of."""
    return EMA if train.release_ema else TRAINED


def rank_file(rank: int) -> str:
    """What rank `rank` wrote of the optimizer's state (training/pieces.py)."""
    return f"rank{rank}.safetensors"


def rank_files_for(rank: int, world: int, there: Iterable[str], replicated: bool) -> list[str]:
    """Of a checkpoint's files those of ranks that rank `rank` of `world` must read, by their names.

    Its own where as many ranks wrote it and each a share of its own; else all: a share may lie across several, and of a replicated state (DDP,
    ZeRO-0) rank 0 wrote all. Raises ValueError where a rank's file is missing.
    """
    numbers = sorted(int(found[1]) for name in there if (found := re.fullmatch(r"rank(\d+)\.safetensors", name)))
    if not numbers or numbers != list(range(len(numbers))):
        raise ValueError(f"it has the files of ranks {numbers}, of which some are missing")
    return [rank_file(rank)] if len(numbers) == world and not replicated else [rank_file(number) for number in numbers]


def summary_of(records: Sequence[dict[str, float]]) -> dict[str, Any]:
    """Small facts of a finished stage. The final loss is kept to the last bit (hex), for comparing runs."""
    last = records[-1]["loss"]
    workers = [record.get("workers") for record in records]  # which steps an early training's records leave open
    changes = [f"{count} from step {i}" for i, count in enumerate(workers) if count is not None and (i == 0 or workers[i - 1] != count)]
    said = {
        "steps": len(records),
        "final_loss": last,
        "final_loss_hex": last.hex(),
        "first_loss": records[0]["loss"],
        "workers": ", ".join(changes) or None,
    }
    skipped = sum(1 for r in records if r.get("skipped"))
    return said | ({"skipped_steps": skipped} if skipped else {})


def by_validation(records: Sequence[dict[str, Any]]) -> list[int]:
    """The steps done (1 after the first) whose state was validated, the least loss first, the earlier of equals first."""
    told = [(r["validation"], r["step"] + 1) for r in records if math.isfinite(r.get("validation", math.nan))]
    return [step for _, step in sorted(told)]


def is_best(records: Sequence[dict[str, Any]]) -> bool:
    """Whether the state after the last of the records is the best of those validated."""
    return by_validation(records)[:1] == [records[-1]["step"] + 1]
