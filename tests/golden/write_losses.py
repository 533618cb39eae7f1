"""Writes losses.json: 20 steps of the nano recipe's first stage on random rows from fixed seeds, one plain process, float32.

    PYTHONPATH=. .venv/bin/python tests/golden/write_losses.py

Only where the mathematics of a step was meant to change, and say so in the commit. test_golden_losses.py holds every strategy against it.
"""

from __future__ import annotations

import json
import platform
import tempfile
from pathlib import Path
from typing import Any

import torch

from tests.pvtt_model.training.test_loop_resume import run_jobs

LOSSES = Path(__file__).with_name("losses.json")
STEPS = 20


def golden_job(name: str, workers: int, **parallel: Any) -> dict[str, Any]:
    """Four micro-batches of one sample a step, over as many workers. LoRA's dropout hangs on the micro-batch, so it may stay."""
    settings = {"num_workers": workers, "micro_batch": 1, "grad_accum": 4 // workers, "precision": "float32", **parallel}
    overrides = {f"stages.*.parallel.{key}": value for key, value in settings.items()} | {"stages.*.train.checkpoint_every_steps": STEPS}
    return {"name": name, "steps": STEPS, "resume": None, "workers": workers, "overrides": overrides}


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        records = run_jobs(Path(folder), [golden_job("golden", 1, strategy="one")])["golden"]
    made = {
        "torch": torch.__version__,
        "machine": platform.machine(),
        "loss": [r["loss"] for r in records],
        "grad_norm": [r["grad_norm"] for r in records],
    }
    LOSSES.write_text(json.dumps(made, indent=1) + "\n")
