"""What Ray's workers print, handed to whoever listens in this process: a task's log, and by it Prefect's.

Ray gives every driver the output of its own job's workers, on all nodes. The lines come in a thread of Ray's. A worker that prints without end
fills no log: LINES in PER_S are said, each once, the rest is counted; all lines are in Ray's own files (<session>/logs).
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

Say = Callable[[str], None]

NAME = "ray_print_logs"  # Ray's own handler, which prints to this process's terminal
LINES, PER_S = 60, 10.0
LONGEST = 500  # characters of a line
#: Of Ray itself and its autoscaler; not of a worker.
NOT_WORKERS = ("autoscaler", "gcs", "gcs_server", "raylet")

#: tqdm's bars; and what Ray Train's cleaner says every second where Ray has no dashboard.
IDLE_TALK = re.compile(r"\d+%\||^Failed to query Ray Train Controller actor state")


class Ear:
    """The listener of this process, and how much it has heard lately. One at a time: a flow's tasks run in sequence."""

    def __init__(self) -> None:
        self.say: Say | None = None
        self.since_s, self.left_out = time.monotonic(), 0
        self.said: set[str] = set()  # since since_s

    def hear(self, data: dict[str, Any]) -> None:
        """A batch of Ray's: lines, pid and ip of a worker. Never fails: it is called in Ray's thread."""
        say = self.say
        if say is None or str(data.get("pid")) in NOT_WORKERS:
            return
        now = time.monotonic()
        if now - self.since_s > PER_S:
            if self.left_out:
                say(f"({self.left_out} more lines of Ray's workers are in Ray's own log files)")
            self.since_s, self.left_out = now, 0
            self.said.clear()
        where = "" if data.get("ip") == data.get("localhost") else f" on {data.get('ip')}"
        for line in data.get("lines", ()):
            text = str(line).strip()
            if not text or text.startswith(":") or IDLE_TALK.search(text):  # ':actor_name:...' is Ray's own mark in the file
                continue
            if text in self.said or len(self.said) >= LINES:
                self.left_out += 1
                continue
            self.said.add(text)
            say(f"[worker {data.get('pid')}{where}] {text[:LONGEST]}")


EAR = Ear()


def hear_workers() -> None:
    """After ray.init(log_to_driver=True): the workers' lines go to EAR in place of the terminal."""
    from ray._private.ray_logging import global_worker_stdstream_dispatcher as dispatcher

    dispatcher.remove_handler(NAME)
    dispatcher.add_handler(NAME, EAR.hear)


@contextmanager
def heard_by(say: Say) -> Iterator[None]:
    """Let `say` have every line that workers print meanwhile."""
    before, EAR.say = EAR.say, say
    try:
        yield
    finally:
        EAR.say = before
