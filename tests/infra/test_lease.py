"""Leases: one works, the other waits; the dead are replaced; nobody is needed once the manifest is there."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from infra.artifact_store import ArtifactStore
from infra.lease import Holder, LeaseBusy
from infra.store import ObjectStore
from pvtt_model.artifacts import Planned

ROOT = Path(__file__).parent.parent.parent
PLANNED = Planned(kind="masks", version="v1", spec={}, inputs=(), revision=1)

HOLDER = """
import sys, time
from infra.artifact_store import ArtifactStore
from infra.store import open_store
from pvtt_model.artifacts import Planned
store = ArtifactStore(open_store(sys.argv[1], sys.argv[2] or None))
with store.lease(Planned.model_validate_json(sys.argv[3]), heartbeat_s=0.2, stale_s=1) as lease:
    print(lease.n, flush=True)
    time.sleep(60)
"""


def start_holder(store: ObjectStore) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", HOLDER, store.uri, getattr(store, "endpoint", None) or "", PLANNED.model_dump_json()]
    holder = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)})
    assert holder.stdout is not None and holder.stdout.readline().strip() == "0"
    return holder


def test_a_killed_holder_is_replaced_at_once(artifacts: ArtifactStore, store: ObjectStore) -> None:
    holder = start_holder(store)
    waits: list[Holder] = []
    with pytest.raises(LeaseBusy, match=f"process {holder.pid}"), artifacts.lease(PLANNED, wait_s=0.6, on_wait=lambda s, h: waits.append(h)):
        raise AssertionError("two hold it")
    assert waits and waits[0].pid == holder.pid
    holder.kill()  # not reaped: a zombie is dead too
    begun = time.monotonic()
    with artifacts.lease(PLANNED, stale_s=60) as lease:
        assert lease.n == 1 and lease.done is None and time.monotonic() - begun < 5
    holder.wait()


def test_a_silent_holder_elsewhere_goes_stale(artifacts: ArtifactStore, store: ObjectStore) -> None:
    far = Holder(lease_id="x", n=7, host="far", machine="far", pid=1, process_start="1")
    store.put_bytes(f"leases/{PLANNED.name}/000007.json", far.model_dump_json().encode())
    begun = time.monotonic()
    with artifacts.lease(PLANNED, heartbeat_s=0.2, stale_s=0.8) as lease:
        assert lease.n == 8 and 0.7 < time.monotonic() - begun < 6


def test_a_living_holder_is_not_replaced(artifacts: ArtifactStore) -> None:
    """Its heart beats, so waiting far longer than stale_s takes nothing."""
    order: list[str] = []

    def other() -> None:
        with artifacts.lease(PLANNED, heartbeat_s=0.1, stale_s=0.8) as lease:
            order.append(f"second {lease.n}")

    with artifacts.lease(PLANNED, heartbeat_s=0.1, stale_s=0.8) as first:
        thread = threading.Thread(target=other)
        thread.start()
        time.sleep(2)
        order.append(f"first {first.n}")
        assert not first.lost
    thread.join(10)
    assert order == ["first 0", "second 1"]


def test_the_manifest_ends_the_wait(artifacts: ArtifactStore) -> None:
    got = []

    def other() -> None:
        with artifacts.lease(PLANNED) as lease:
            got.append(lease.done)

    with artifacts.lease(PLANNED) as lease:
        thread = threading.Thread(target=other)
        thread.start()
        time.sleep(0.2)
        made = artifacts.commit(PLANNED, [])
        thread.join(10)
        assert got == [made] and lease.done is None
    with artifacts.lease(PLANNED) as after:
        assert after.done == made and after.n is None


def test_the_same_process_may_try_again(artifacts: ArtifactStore) -> None:
    with pytest.raises(RuntimeError, match="boom"), artifacts.lease(PLANNED):
        raise RuntimeError("boom")
    with artifacts.lease(PLANNED, wait_s=0) as again:
        assert again.n == 1
        with artifacts.lease(PLANNED, wait_s=0) as inner:  # entered twice by one thread
            assert inner is again
    with artifacts.lease(PLANNED, wait_s=0) as third:
        assert third.n == 2


def test_who_was_taken_over_is_told(artifacts: ArtifactStore, store: ObjectStore) -> None:
    with artifacts.lease(PLANNED, heartbeat_s=0.05) as lease:
        taken = Holder(lease_id="y", n=1, host="far", machine="far", pid=1, process_start="1")
        store.put_bytes(f"leases/{PLANNED.name}/000001.json", taken.model_dump_json().encode())
        deadline = time.monotonic() + 5
        while not lease.lost and time.monotonic() < deadline:
            time.sleep(0.02)
        assert lease.lost
        artifacts.commit(PLANNED, [])  # and may still finish


def test_a_heart_too_slow_is_refused(artifacts: ArtifactStore) -> None:
    with pytest.raises(ValueError, match="half of stale_s"), artifacts.lease(PLANNED, heartbeat_s=3, stale_s=4):
        pass
