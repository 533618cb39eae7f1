"""Micro-batches made ahead of their use: reading, decoding, collating and pinning in threads, while the step before computes.

Which come next is known for the whole run (schedule.samples_of), so any number can be in the making; they are handed out in order.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

Key = TypeVar("Key")
Made = TypeVar("Made")


class Prefetch(Generic[Key, Made]):
    """make(key) of `keys`, in their order; `ahead` of them are in the making or ready, each in a thread of its own. 0: made when asked for.

    In memory are `ahead` and the one in use, whatever the speed of either side. An error of make is raised where its turn comes.
    """

    def __init__(self, make: Callable[[Key], Made], keys: Iterable[Key], ahead: int) -> None:
        self._make, self._keys, self._ahead = make, iter(keys), ahead
        self._pool = ThreadPoolExecutor(ahead, thread_name_prefix="prefetch") if ahead else None
        self._making: deque[Future[Made]] = deque()
        self._fill()

    def next(self) -> tuple[Made, float]:
        """The next one, and the seconds that were waited for it. Raises StopIteration after the last."""
        started = time.perf_counter()
        if self._pool is None:
            made = self._make(next(self._keys))
        else:
            if not self._making:
                raise StopIteration
            made = self._making.popleft().result()
        waited_s = time.perf_counter() - started
        self._fill()
        return made, waited_s

    def close(self) -> None:
        """Begin nothing more; what is being read is waited for by nobody."""
        self._ahead = 0
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)

    def __iter__(self) -> Iterator[Made]:
        while True:
            try:
                yield self.next()[0]
            except StopIteration:
                return

    def _fill(self) -> None:
        while self._pool is not None and len(self._making) < self._ahead:
            try:
                key = next(self._keys)
            except StopIteration:
                return
            self._making.append(self._pool.submit(self._make, key))
