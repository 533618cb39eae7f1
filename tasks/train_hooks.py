"""What a training worker does with what the loop tells it: step checkpoints into the store, progress to the driver."""

from __future__ import annotations

import shutil
import time
import uuid
from collections import deque
from collections.abc import Callable
from pathlib import Path

import torch.distributed as dist

from infra.ray_launch import Reporter
from infra.step_checkpoints import StepCheckpoints
from pvtt_model.artifacts import StoredFile
from pvtt_model.training.teacher import Teacher

#: Progress is for people: a message a step would take as long as a small step.
SAY_EVERY_S = 0.5
TAIL = 64  # records that the driver can be behind; what it misses is in the checkpoint's records

#: Sample edits of the teacher after so many steps: their pictures' files in the store.
Show = Callable[[int, Teacher], list[StoredFile]]


class StoreHooks:
    """Step checkpoints into the store, progress onto the board."""

    def __init__(self, checkpoints: StepCheckpoints, reporter: Reporter, keep: int, show: Show | None = None) -> None:
        """show: makes and stores the sample edits of a step, or None where this rank has none to make."""
        self.checkpoints, self.reporter, self.keep, self.show = checkpoints, reporter, keep, show
        self.said_s, self.start = 0.0, uuid.uuid4().hex
        self.tail: deque[dict[str, float]] = deque(maxlen=TAIL)
        self.first_step: int | None = None  # of this start
        self.rank, self.world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)

    def on_step(self, record: dict[str, float]) -> None:
        self.first_step = int(record["step"]) if self.first_step is None else self.first_step
        self.tail.append(record)
        if time.monotonic() - self.said_s >= SAY_EVERY_S:
            self._say_tail()

    def validated(self, record: dict[str, float]) -> None:
        self._say_tail()

    def sample(self, step: int, teacher: Teacher) -> None:
        files = self.show(step, teacher) if self.show else []
        if self.rank == 0 and files:
            self.reporter.say("samples", {"step": step, "files": files})

    def _say_tail(self) -> None:
        self.said_s = time.monotonic()
        if self.rank == 0:
            self.reporter.say("tail", {"start": self.start, "first_step": self.first_step, "records": list(self.tail)})

    def save(self, step: int, folder: Path) -> None:
        self._say_tail()
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
