"""Who hangs: every rank tells the board where it is, and ends itself where it gets no further for too long, so that Ray starts all anew.

A rank that waits for another one is stuck as well, and so is one whose process was stopped, which can say nothing any more: who is behind in
(step, part of the step) is the one that all wait for.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from typing import Any, NamedTuple

LOOK_S = 1.0
SAY_S = 2.0  # for what was said last to reach the board


class Beat(NamedTuple):
    """Where a rank is: number of the part of the run that it began, counted from its start, in what step and doing what."""

    count: int  # type: ignore[assignment]  # a tuple has a method of that name
    step: int
    doing: str


class Watchdog:
    """Of one rank, from its first beat to `close`."""

    def __init__(self, say: Callable[[str, Any], None], rank: int, timeout_s: float) -> None:
        self.say, self.rank, self.timeout_s = say, rank, timeout_s
        self._beat: Beat | None = None
        self._since_s = time.monotonic()
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None
        self._watched = 0

    def at(self, step: int, doing: str) -> None:
        """This rank now begins that. Cheap: the thread tells the board."""
        self._beat = Beat(1 + (self._beat.count if self._beat else 0), step, doing)
        self._since_s = time.monotonic()
        if self._thread is None:
            self._watched = threading.get_ident()
            self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
            self._thread.start()

    def close(self) -> None:
        self._closed.set()

    def _watch(self) -> None:
        told: Beat | None = None
        while not self._closed.wait(min(LOOK_S, self.timeout_s / 4)):
            if self._beat != told:
                told = self._beat
                self.say(f"beat{self.rank}", tuple(told or ()))
            if time.monotonic() - self._since_s > self.timeout_s:
                frame = sys._current_frames().get(self._watched)
                where = "".join(traceback.format_stack(frame)[-3:]) if frame else ""
                self.say(f"hung{self.rank}", {"timeout_s": self.timeout_s, "where": where, "at": time.time()})
                self._closed.wait(SAY_S)
                os.kill(os.getpid(), signal.SIGKILL)


def newly_hung(board: dict[str, Any], before: dict[str, Any]) -> bool:
    """Whether a rank has told of a hang since the board was read before."""
    return any(key.startswith("hung") and before.get(key) != said for key, said in board.items())


def who_hangs(board: dict[str, Any]) -> str | None:
    """What the board says of a hang, in words; None where no rank has told of one."""
    told = {int(key.removeprefix("hung")): said for key, said in board.items() if key.startswith("hung")}
    beats = {int(key.removeprefix("beat")): Beat(*said) for key, said in board.items() if key.startswith("beat")}
    if not told or not beats:
        return None
    least = min(beat.count for beat in beats.values())
    stuck = [f"rank {rank} in step {beat.step}, {beat.doing}" for rank, beat in sorted(beats.items()) if beat.count == least]
    others = [f"rank {rank} in step {beat.step}, {beat.doing}" for rank, beat in sorted(beats.items()) if beat.count != least]
    seconds = next(iter(told.values()))["timeout_s"]
    text = f"no rank got any further for {seconds:g} s (train.hang_timeout_s). Stuck: {'; '.join(stuck)}."
    text += f" Waiting for it: {'; '.join(others)}." if others else ""
    places = "\n".join(f"rank {rank} is at\n{said['where']}" for rank, said in sorted(told.items()))
    return f"{text} All are started anew from the last checkpoint.\n{places}"
