"""A flow that holds a training's slot for a while, and writes when it had it."""

from __future__ import annotations

import json
import time
from pathlib import Path

from prefect import flow, task

from tasks.training_slot import training_slot


@task
def hold_slot(folder: str, name: str, seconds: float) -> None:
    with training_slot():
        begun = time.time()
        Path(folder, f"{name}.begun").touch()
        time.sleep(seconds)
        Path(folder, f"{name}.json").write_text(json.dumps([begun, time.time()]))


@flow
def hold(folder: str, name: str, seconds: float) -> None:
    hold_slot(folder, name, seconds)
