"""What a training worker does with what the loop tells it: step checkpoints into the store, progress to the driver."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import torch.distributed as dist

from infra.ray_launch import Reporter
from infra.step_checkpoints import StepCheckpoints
from pvtt_model.artifacts import StoredFile

#: Progress is for people: a message a step would take as long as a small step.
SAY_EVERY_S = 0.5


class StoreHooks:
    """Step checkpoints into the store, progress onto the board."""

    def __init__(self, checkpoints: StepCheckpoints, reporter: Reporter, keep: int) -> None:
        self.checkpoints, self.reporter, self.keep = checkpoints, reporter, keep
        self.said_s = 0.0
        self.rank, self.world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)

    def on_step(self, record: dict[str, float]) -> None:
        now = time.monotonic()
        if self.rank == 0 and now - self.said_s >= SAY_EVERY_S:
            self.said_s = now
            self.reporter.say("step", record)

    def save(self, step: int, folder: Path) -> None:
        mine = self.checkpoints.upload(step, folder)
        shutil.rmtree(folder)
        gathered: list[list[StoredFile]] = [mine]
        if self.world > 1:
            gathered = [[] for _ in range(self.world)]
            dist.all_gather_object(gathered, mine)
        if self.rank == 0:
            self.checkpoints.commit(step, [file for files in gathered for file in files])
            self.checkpoints.prune(self.keep)
            self.reporter.say("checkpoint", step)
