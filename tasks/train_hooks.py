"""What a training worker does with what the loop tells it: step checkpoints into the store, progress to the driver."""

from __future__ import annotations

import json
import shutil
import time
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

#: Progress is for people: a message a step would take as long as a small step.
SAY_EVERY_S = 0.5
#: What the ranks' uploads of one checkpoint may differ by.
UPLOADS_WAIT = timedelta(hours=1)


class StoreHooks(Hooks):
    """Step checkpoints into the store, progress onto the board. Every rank makes one, at the same point: it opens a group of its own."""

    def __init__(self, checkpoints: StepCheckpoints, reporter: Reporter, train: TrainSpec) -> None:
        self.checkpoints, self.reporter, self.train = checkpoints, reporter, train
        self.said_s = 0.0
        self.rank, self.world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
        # What is saved is agreed in a thread, beside the exchanges of training: on a group of its own, neither waits for the other.
        self.group = dist.new_group(backend="gloo", timeout=UPLOADS_WAIT) if self.world > 1 else None
        self.watchdog = Watchdog(reporter.say, self.rank, train.hang_timeout_s)

    def at(self, step: int, doing: str) -> None:
        self.watchdog.at(step, doing)

    def stop_asked(self) -> bool:
        return termination.asked.is_set()

    def on_step(self, record: dict[str, float]) -> None:
        now = time.monotonic()
        if self.rank == 0 and now - self.said_s >= SAY_EVERY_S:
            self.said_s = now
            self.reporter.say("step", record)

    def save(self, step: int, folder: Path, pinned: bool) -> None:
        """Committed when every rank's files are there; where one could not send its own, all raise and none is committed."""
        best = self._best(folder)
        mine: list[StoredFile] | str
        try:
            mine = self.checkpoints.upload(step, folder)
        except Exception as error:
            mine = f"{type(error).__name__}: {error}"
        shutil.rmtree(folder)
        gathered: list[list[StoredFile] | str] = [mine]
        if self.world > 1:
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
