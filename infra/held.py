"""What a run's work took of the machines: processor and GPU seconds that were at work, counted in the process that hands the work out."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple


class Held(NamedTuple):
    """Seconds times how many: of GPUs, of workers (a process each, with or without a GPU)."""

    gpu_s: float = 0.0
    worker_s: float = 0.0


_SO_FAR = [0.0, 0.0]


def count(gpus: float, workers: float, seconds: float) -> None:
    """`workers` processes were at work for `seconds`, holding `gpus` together."""
    _SO_FAR[0] += gpus * seconds
    _SO_FAR[1] += workers * seconds


@contextmanager
def counted(gpus: float, workers: float) -> Iterator[None]:
    """The same for a piece of work, also where it fails."""
    begun = time.monotonic()
    try:
        yield
    finally:
        count(gpus, workers, time.monotonic() - begun)


def so_far() -> Held:
    """Of this process, since its start."""
    return Held(*_SO_FAR)
