"""Checkpoints written while training goes on.

Training waits for the copy of the trainable state into the CPU's memory and no more; a thread writes the files, and `save` sends and commits them.
One at a time, in order: the next copy is taken when the one before is committed, into the same memory (host_copies.py).
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from pvtt_model.training.records import STATE

#: What a training that failed still waits for its last checkpoint: of the other ranks one may be dead.
LAST_WAIT_S = 60.0


class BackgroundSaves:
    """save(step, folder, pinned) is called in a thread, with this rank's files of the state after `step` steps in `folder`.

    waited_s: what training waited for the last checkpoint that was begun: for the one before it, and for the copy.
    """

    def __init__(self, save: Callable[[int, Path, bool], None], work: Path) -> None:
        self.save, self.work, self.waited_s = save, work, 0.0
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def start(
        self, step: int, copy: Callable[[], Mapping[str, Mapping[str, Tensor]]], records: Sequence[dict[str, Any]] | None, pinned: bool = False
    ) -> None:
        """Begin a checkpoint: copy() gives its files (name -> tensors that nobody changes any more), to which the records come where given.

        First waits for the one before. Raises what went wrong with that.
        """
        began = time.perf_counter()
        self.finish()
        args = step, copy(), None if records is None else list(records), pinned
        self._thread = threading.Thread(target=self._run, args=args, name=f"checkpoint-{step}", daemon=True)
        self._thread.start()
        self.waited_s = time.perf_counter() - began

    def check(self) -> None:
        """Raises what went wrong with a checkpoint that has ended; waits for none."""
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def finish(self) -> None:
        """Wait for the checkpoint being written. Raises what went wrong with it."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        self.check()

    def leave(self) -> None:
        """Training failed: give what is being written a while to be committed, and say nothing of it."""
        if self._thread is not None:
            self._thread.join(LAST_WAIT_S)

    def _run(self, step: int, files: Mapping[str, Mapping[str, Tensor]], records: Sequence[dict[str, Any]] | None, pinned: bool) -> None:
        try:
            folder = self.work / f"step{step:06d}-{time.monotonic_ns()}"
            folder.mkdir(parents=True)
            for name, tensors in files.items():
                save_file(dict(tensors), folder / name)
            if records is not None:
                (folder / STATE).write_text(json.dumps({"step": step, "records": records}))
            self.save(step, folder, pinned)
        except BaseException as error:
            self._error = error
