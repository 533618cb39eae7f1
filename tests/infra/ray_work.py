"""Functions that the pool's actors run in test_ray_pool.py: by name, as the real ones are."""

from __future__ import annotations

import gc
import os
import sys
import time
from pathlib import Path


def pid_of(item: float) -> int:
    time.sleep(item)
    return os.getpid()


def touch(path: str) -> None:
    Path(path).touch()


def title(_: int) -> str:
    return Path(f"/proc/{os.getpid()}/cmdline").read_bytes().split(b"\0")[0].decode()


def fails_at_three(item: int) -> int:
    if item == 3:
        raise KeyError("three")
    return item * item


def dies_once(folder: str) -> str:
    """Kills its own process the first time it is asked."""
    mark = Path(folder) / "died"
    if not mark.exists():
        mark.touch()
        os.kill(os.getpid(), 9)
    return "alive"


def dies(_: int) -> None:
    os.kill(os.getpid(), 9)


def at_work(item: tuple[str, int]) -> int:
    """How many were at work with this one."""
    folder, number = Path(item[0]), item[1]
    mine = folder / str(number)
    mine.touch()
    time.sleep(0.2)
    count = len(list(folder.iterdir()))
    mine.unlink()
    return count


def speaks(word: str) -> int:
    print(f"{word} to out", flush=True)
    print(f"{word} to err", file=sys.stderr, flush=True)
    return os.getpid()


def thresholds(_: int) -> tuple[tuple[int, ...], int]:
    """Of the garbage collector, while an item is worked on; and how many objects it has put aside."""
    return gc.get_threshold(), gc.get_freeze_count()
