"""A function mapped over items by a pool of Ray actors: as many at work as there is room for, each with its models loaded once.

Ray's plain tasks will not do: one on a GPU gets a new process each time (Ray's `max_calls` is 1 there), which would load a text encoder of
11 GB anew for every shard; and all of 300,000 clips' units would be submitted at once.

Back-pressure: an item is handed out when an actor is free, so what waits is a number in a queue. An actor waits at Ray, where a cluster
that grows by demand sees it, until there is room for it.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import ray

from infra.failures import WorkerLost
from infra.held import count
from infra.python_gc import few_collections, usual_collections

Item = TypeVar("Item")
Result = TypeVar("Result")


@ray.remote
class _Actor:
    def __init__(self) -> None:
        few_collections()  # its first item has it load torch and diffusers

    def ready(self) -> None:
        """Answers as soon as the process is up."""

    def do(self, function: Callable[[Any], Any], item: Any) -> Any:
        try:
            return function(item)
        finally:
            usual_collections()


#: Actors of a local Ray without GPU, idle: they hold no resource of Ray's, and have loaded torch and diffusers, which takes
#: longer than most of their work. The next map begins with them.
_IDLE: list[Any] = []


def forget_idle() -> None:
    """Ray was stopped, and the idle actors with it."""
    _IDLE.clear()


def map_on_actors(
    function: Callable[[Item], Result],
    items: Sequence[Item],
    *,
    name: str,
    most: int,
    num_gpus: float,
    keep: bool,
    max_retries: int,
    on_result: Callable[[int, Result], None] | None = None,
) -> list[Result]:
    """function(item) for every item, in at most `most` actors of a core and `num_gpus` each; results in the items' order.

    keep: the actors hold no resource of Ray's and stay for the next map; else they hold them, and end with the map, which frees the GPU.
    An actor that dies is replaced and its item tried again, `max_retries` times. An exception of the function itself is raised as it is,
    after the other items have ended: what they finished is kept. `on_result(done, result)` is called in this process. Raises WorkerLost.
    """
    options = {"num_cpus": 0 if keep else 1, "num_gpus": num_gpus}
    waiting, tries, lost = deque(range(len(items))), Counter[int](), 0
    results: dict[int, Result] = {}
    failures: list[Exception] = []
    idle: list[Any] = []
    kept = {actor.ready.remote(): actor for actor in [_IDLE.pop() for _ in range(min(len(_IDLE), most))]} if keep else {}
    starting: dict[Any, Any] = dict(kept)  # an idle one may have died since
    busy: dict[Any, tuple[Any, int, float]] = {}  # actor, item, since when

    def hand_out() -> None:
        while waiting and idle:
            actor, first = idle.pop(), waiting.popleft()
            busy[actor.do.options(name=name).remote(function, items[first])] = (actor, first, time.monotonic())

    try:
        while waiting or busy:
            hand_out()
            for _ in range(min(len(waiting), most - len(busy)) - len(starting)):
                actor = _Actor.options(**options).remote()  # type: ignore[attr-defined]
                starting[actor.ready.remote()] = actor
            (done,), _ = ray.wait([*busy, *starting], num_returns=1)
            index: int | None = None
            if done in starting:
                actor = starting.pop(done)
            else:
                actor, index, since_s = busy.pop(done)
                count(num_gpus, 1, time.monotonic() - since_s)
            try:
                result = ray.get(done)
            except ray.exceptions.RayTaskError as error:
                failures.append(error.cause if isinstance(error.cause, Exception) else error)
                if num_gpus:  # its process may be of no use to the next item
                    ray.kill(actor)
                else:
                    idle.append(actor)
            except ray.exceptions.RayError as error:
                if index is None:
                    lost += done not in kept
                else:
                    tries[index] += 1
                    waiting.appendleft(index)
                if max(lost, *tries.values(), 0) > max_retries:
                    raise WorkerLost(f"{name}: {type(error).__name__}: {error}") from error
            else:
                lost = 0
                idle.append(actor)
                if index is not None:
                    results[index] = result
                    hand_out()  # first: whoever listens may take a while, and the actor need not wait for it
                    if on_result is not None:
                        on_result(len(results), result)
    finally:
        if keep:
            _IDLE.extend(idle)
        for actor in [*starting.values(), *(actor for actor, *_ in busy.values()), *([] if keep else idle)]:
            ray.kill(actor)
    if failures:
        raise failures[0]
    return [results[i] for i in range(len(items))]
