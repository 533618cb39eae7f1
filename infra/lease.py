"""A lease: a courtesy between processes, so that two of them do not do the same work at the same time.

Correctness never depends on it: who loses it unawares (a long pause, a lost heartbeat) goes on, and the manifest's conditional
put decides whose work counts. It only saves the work of doing a thing twice.

    leases/<kind>/<version>/000000.json, 000001.json, ...   each made by a conditional put; the highest number holds

The next number may be taken when the holder released its own, or its process is dead (told at once on the same machine), or
its heartbeat was not seen to change for stale_s by the waiter's own clock (so clocks need not agree).
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from infra.store.base import ObjectMissing, ObjectStore
from pvtt_model.artifacts import Manifest

log = logging.getLogger(__name__)
POLL_S = 0.5


class Holder(BaseModel):
    """Who holds a lease, as written in the store."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    lease_id: str
    n: int
    host: str
    machine: str
    pid: int
    process_start: str
    beat: int = 0
    released: bool = False


class LeaseBusy(TimeoutError):
    """Another process still does this work after wait_s."""


class Lease:
    """A lease held, or not needed any more. `done` is the manifest, where it appeared before or while waiting: there is nothing to do."""

    def __init__(self, store: ObjectStore, name: str) -> None:
        self.name = name
        self.done: Manifest | None = None
        self.waited_s = 0.0
        self.lost = False  # another took over while we held it; our work is still safe to finish
        self.holder: Holder | None = None
        self._store = store
        self._stop = threading.Event()
        self._beats: threading.Thread | None = None

    @property
    def n(self) -> int | None:
        return None if self.holder is None else self.holder.n

    def _take(self, n: int) -> bool:
        """Raise n to ours by a conditional put."""
        pid = os.getpid()
        holder = Holder(lease_id=uuid.uuid4().hex, n=n, host=socket.gethostname(), machine=machine_id(), pid=pid, process_start=_started(pid))
        if not self._store.put_if_absent(_key(self.name, n), holder.model_dump_json().encode()):
            return False
        self.holder = holder
        return True

    def _start(self, heartbeat_s: float) -> None:
        self._beats = threading.Thread(target=self._heartbeat, args=(heartbeat_s,), name=f"lease {self.name}", daemon=True)
        self._beats.start()

    def _heartbeat(self, heartbeat_s: float) -> None:
        while not self._stop.wait(heartbeat_s):
            try:
                assert self.holder is not None
                if self._store.exists(_key(self.name, self.holder.n + 1)):
                    self.lost = True
                    log.warning("lease on %s was taken over by another process; both go on, the first to commit counts", self.name)
                    return
                self._write(beat=self.holder.beat + 1)
            except Exception as error:  # a courtesy must not end the work
                log.warning("heartbeat of the lease on %s failed: %s", self.name, error)

    def _release(self) -> None:
        self._stop.set()
        if self._beats is not None:
            self._beats.join()
        try:
            self._write(released=True)
        except Exception as error:
            log.warning("lease on %s was not released, others wait for it to go stale: %s", self.name, error)

    def _write(self, **changes: object) -> None:
        assert self.holder is not None
        self.holder = self.holder.model_copy(update=changes)
        self._store.put_bytes(_key(self.name, self.holder.n), self.holder.model_dump_json().encode())


# Held by this process: (store, name) -> (thread, lease). The same thread may enter again; another thread waits like a stranger.
_held: dict[tuple[str, str], tuple[int, Lease]] = {}


@contextmanager
def hold_lease(
    store: ObjectStore,
    name: str,
    find: Callable[[], Manifest | None],
    heartbeat_s: float = 3.0,
    stale_s: float = 20.0,
    wait_s: float | None = None,
    on_wait: Callable[[float, Holder], None] | None = None,
) -> Iterator[Lease]:
    """Wait for the lease on `name`, hold it in the block, release it after. Yields at once with `.done` when the manifest is there.

    on_wait(seconds waited, holder) is called at each look, about twice a second. Raises LeaseBusy after wait_s (None: wait for ever),
    ValueError where the heartbeat is not well below stale_s.
    """
    if not 0 < heartbeat_s * 2 <= stale_s:
        raise ValueError(f"heartbeat_s {heartbeat_s} must be positive and at most half of stale_s {stale_s}, or living holders look dead")
    place = (store.uri, name)
    thread, outer = _held.get(place, (0, None))
    if outer is not None and thread == threading.get_ident() and outer.holder is not None and outer.holder.pid == os.getpid():
        yield outer
        return
    lease = _acquire(store, name, find, stale_s, wait_s, on_wait)
    if lease.done is not None:
        yield lease
        return
    _held[place] = (threading.get_ident(), lease)
    lease._start(heartbeat_s)
    try:
        yield lease
    finally:
        _held.pop(place, None)
        lease._release()


def _acquire(
    store: ObjectStore,
    name: str,
    find: Callable[[], Manifest | None],
    stale_s: float,
    wait_s: float | None,
    on_wait: Callable[[float, Holder], None] | None,
) -> Lease:
    lease = Lease(store, name)
    begun = time.monotonic()
    seen: tuple[Holder | None, float] = (None, begun)
    while True:
        lease.done = find()
        if lease.done is not None:
            return lease
        holder = _top(store, name)
        now = time.monotonic()
        if holder != seen[0]:
            seen = (holder, now)
        if holder is None or holder.released or _is_dead(holder) or now - seen[1] > stale_s:
            if lease._take(0 if holder is None else holder.n + 1):
                lease.done = find()  # it may have been finished between the look and the lease
                if lease.done is not None:
                    lease._release()
                return lease
            continue
        lease.waited_s = now - begun
        if wait_s is not None and lease.waited_s >= wait_s:
            raise LeaseBusy(
                f"{name} is being made by process {holder.pid} on {holder.host}; waited {lease.waited_s:.0f} s. Wait longer, or end that process."
            )
        if on_wait is not None:
            on_wait(lease.waited_s, holder)
        time.sleep(POLL_S if wait_s is None else min(POLL_S, max(0.01, wait_s - lease.waited_s)))


def _key(name: str, n: int) -> str:
    return f"leases/{name}/{n:06d}.json"


def _top(store: ObjectStore, name: str) -> Holder | None:
    """The holder of the highest number; None where there never was one."""
    keys = [info.key for info in store.list(f"leases/{name}/")]
    if not keys:
        return None
    try:
        return Holder.model_validate_json(store.get_bytes(keys[-1]))
    except ObjectMissing:
        return _top(store, name)


def _is_dead(holder: Holder) -> bool:
    return holder.machine == machine_id() and _started(holder.pid) != holder.process_start


@cache
def machine_id() -> str:
    """This machine, boot and process-id namespace: within it, equal process ids and start times mean the same process."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{socket.gethostname()} {boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return f"{socket.gethostname()} {uuid.uuid4().hex}"  # no /proc: nobody is known to be dead, heartbeats decide


def _started(pid: int) -> str:
    """The start time of a living process in ticks since boot; '' where there is none, or it is a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in "ZX" else fields[19]
