"""SIGTERM to a training worker (a spot machine is taken away): it is noted, and training saves its state and stops.

A signal's handler can only be set in a process's main thread, which in a Ray training worker runs what the group's backend asks and never the
training itself; the handler runs there, too, when Ray next asks how the worker is (RAY_TRAIN_HEALTH_CHECK_INTERVAL_S).
"""

from __future__ import annotations

import signal
import threading
from types import FrameType

asked = threading.Event()
#: Set while a training function runs; before and after it SIGTERM does what it did.
training = threading.Event()


def watch() -> None:
    """Called in the main thread."""
    before = signal.getsignal(signal.SIGTERM)

    def note(number: int, frame: FrameType | None) -> None:
        if training.is_set():
            asked.set()
        elif callable(before):
            before(number, frame)
        else:
            raise SystemExit(128 + number)

    asked.clear()
    signal.signal(signal.SIGTERM, note)
