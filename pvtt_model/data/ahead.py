"""Work on the next item while this one is used: what decodes on the CPU does not wait for what encodes on the GPU, nor the other way round."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Made = TypeVar("Made")


def ahead(make: Callable[[Item], Made], items: Iterable[Item], begin: Callable[[], None] | None = None) -> Iterator[Made]:
    """make(item) of every item, in order, one item ahead in a thread: at most two are held. begin: called first in that thread.

    An error of `make` is raised where its result would have been. Whoever stops early waits for the item in the making.
    """
    with ThreadPoolExecutor(1, initializer=begin) as thread:
        coming = None
        for item in items:
            made, coming = coming, thread.submit(make, item)
            if made is not None:
                yield made.result()
        if coming is not None:
            yield coming.result()
