"""What a training worker does with what the loop tells it: step checkpoints into the store, progress to the driver."""

from __future__ import annotations

import json
import shutil
import time
import uuid
from collections import deque
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import torch.distributed as dist

from infra import termination
from infra.ray_launch import Reporter
from infra.step_checkpoints import StepCheckpoints
from infra.watchdog import Watchdog
from pvtt_model.artifacts import StoredFile
from pvtt_model.specs import TrainSpec
from pvtt_model.training.loop import Hooks
from pvtt_model.training.records import STATE, by_validation
from pvtt_model.training.teacher import Teacher

#: Progress is for people: a message a step would take as long as a small step.
SAY_EVERY_S = 0.5
TAIL = 64  # records that the driver can be behind; what it misses is in the checkpoint's records
#: What the ranks' uploads of one checkpoint may differ by.
UPLOADS_WAIT = timedelta(hours=1)

#: Sample edits of the teacher after so many steps: their pictures' files in the store.
Show = Callable[[int, Teacher], list[StoredFile]]


class StoreHooks(Hooks):
    """Step checkpoints into the store, progress onto the board. Every rank makes one, at the same point: it opens a group of its own."""

    def __init__(self, checkpoints: StepCheckpoints, reporter: Reporter, train: TrainSpec, show: Show | None = None) -> None:
        """show: makes and stores the sample edits of a step, or None where this rank has none to make."""
        self.checkpoints, self.reporter, self.train, self.show = checkpoints, reporter, train, show
        self.said_s, self.start = 0.0, uuid.uuid4().hex
        self.tail: deque[dict[str, float]] = deque(maxlen=TAIL)
        self.first_step: int | None = None  # of this start
        self.rank, self.world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
        # What is saved is agreed in a thread, beside the exchanges of training: on a group of its own, neither waits for the other.
        self.group: dist.ProcessGroup | None = None
        if self.world > 1:
            self.group = dist.new_group(backend="gloo", timeout=UPLOADS_WAIT)  # type: ignore[assignment]  # a member gets a group
        self.watchdog = Watchdog(reporter.say, self.rank, train.hang_timeout_s)

    def at(self, step: int, doing: str) -> None:
        self.watchdog.at(step, doing)

    def stop_asked(self) -> bool:
        return termination.asked.is_set()

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

    def save(self, step: int, folder: Path, pinned: bool) -> None:
        """Committed when every rank's files are there; where one could not send its own, all raise and none is committed."""
        self._say_tail()
        best = self._best(folder)
        mine: list[StoredFile] | str
        try:
            mine = self.checkpoints.upload(step, folder)
        except Exception as error:
            mine = f"{type(error).__name__}: {error}"
        shutil.rmtree(folder)
        gathered: list[list[StoredFile] | str] = [mine]
        if self.group is not None:
            gathered = [[] for _ in range(self.world)]
            dist.all_gather_object(gathered, mine, group=self.group)
        failed = [f"rank {rank}: {of_rank}" for rank, of_rank in enumerate(gathered) if isinstance(of_rank, str)]
        if failed:
            raise RuntimeError(
                f"the checkpoint after step {step} could not be sent ({'; '.join(failed)}). Training starts again from the one before."
            )
        if self.rank == 0:
            self.checkpoints.commit(step, [file for files in gathered if not isinstance(files, str) for file in files], pinned)
            self.checkpoints.prune(self.train.keep_checkpoints, also=best)
            self.reporter.say("checkpoint", step)

    def close(self) -> None:
        self.watchdog.close()

    def _best(self, folder: Path) -> list[int]:
        """The step of the least validation loss of those in the records (rank 0's), where there is any."""
        state = folder / STATE
        return by_validation(json.loads(state.read_text())["records"])[:1] if state.exists() else []
