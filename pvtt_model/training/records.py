"""The files of a step checkpoint that every rank shares, and what a finished training says of itself. Light."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

TRAINED, STATE = "trained.safetensors", "state.json"


def summary_of(records: Sequence[dict[str, float]]) -> dict[str, Any]:
    """Small facts of a finished stage. The final loss is kept to the last bit (hex), for comparing runs."""
    last = records[-1]["loss"]
    return {"steps": len(records), "final_loss": last, "final_loss_hex": last.hex(), "first_loss": records[0]["loss"]}
