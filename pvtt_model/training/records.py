"""The files of a step checkpoint that every rank shares, and what a finished training says of itself. Light."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

TRAINED, STATE = "trained.safetensors", "state.json"


def summary_of(records: Sequence[dict[str, float]]) -> dict[str, Any]:
    """Small facts of a finished stage. The final loss is kept to the last bit (hex), for comparing runs."""
    last = records[-1]["loss"]
    said = {"steps": len(records), "final_loss": last, "final_loss_hex": last.hex(), "first_loss": records[0]["loss"]}
    skipped = sum(1 for r in records if r.get("skipped"))
    return said | ({"skipped_steps": skipped} if skipped else {})


def by_validation(records: Sequence[dict[str, Any]]) -> list[int]:
    """The steps done (1 after the first) whose state was validated, the least loss first, the earlier of equals first."""
    told = [(r["validation"], r["step"] + 1) for r in records if math.isfinite(r.get("validation", math.nan))]
    return [step for _, step in sorted(told)]


def is_best(records: Sequence[dict[str, Any]]) -> bool:
    """Whether the state after the last of the records is the best of those validated."""
    return by_validation(records)[:1] == [records[-1]["step"] + 1]
