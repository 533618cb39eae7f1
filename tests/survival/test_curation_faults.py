"""Curation from a bucket into a bucket over a wire that refuses, delays, cuts and swallows, and kill -9 in the midst of it.

The flow `curate` as it is, on real Prefect and Ray. test_kill.py strikes in latents, by way of a deployment; here it is in ingest, masks and
conditions, while the wire does harm. At the end every clip is there once, and every shard as in a run that nobody touched.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from house import House, wait_for
from small_run import CURATED, Watched

from infra.artifact_store import ArtifactStore
from infra.store.s3 import S3Store
from pvtt_model.data.shards import read_rows
from pvtt_model.nano.world import write_world
from pvtt_model.recipes import recipe_by_name

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "infra"))

from fault_proxy import FaultProxy  # noqa: E402

pytestmark = pytest.mark.slow
HARM = ("503", "slow", "cut", "swallow")
SHARE = 0.08
FAILS = ("503", "cut", "swallow")  # whom it befalls asks again
RUN_TIMEOUT_S = 600.0
WORLD = {"world.num_clips": 13, "world.num_validation": 2, "world.num_eval": 5, "world.look_alikes": 2}
OVERRIDES = {**WORLD, "clips.clips_per_shard": 2}


class Curation:
    """Runs of the flow in processes of their own, whose S3 is behind the proxy."""

    def __init__(self, root: Path, proxy: FaultProxy, source: str) -> None:
        self.proxy, self.source = proxy, source
        self.house = House(root / "home", {})  # of which no service is started; it knows the run's processes
        self.env = dict(os.environ, PVTT_HOME=str(self.house.home), PREFECT_HOME=str(root / "prefect"), AWS_ENDPOINT_URL_S3=proxy.endpoint)
        self.env |= {"PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120", "PREFECT_SERVER_ANALYTICS_ENABLED": "false", "PVTT_NUM_CPUS": "2"}
        self.env |= {"DO_NOT_TRACK": "1", "OMP_WAIT_POLICY": "PASSIVE"}
        for name in ("PREFECT_API_URL", "PVTT_STORE", "PVTT_CACHE"):
            self.env.pop(name, None)
        self.log = root / "run.log"

    def start(self, store: str) -> subprocess.Popen[bytes]:
        runs = [["curate", {"clips": self.source, "store": store, "overrides": OVERRIDES}]]
        with self.log.open("ab") as log:
            command = [sys.executable, str(HERE.parent / "flows" / "run_flows.py"), json.dumps(runs)]
            return subprocess.Popen(command, env=self.env, stdout=log, stderr=log)

    def completes(self, run: subprocess.Popen[bytes]) -> None:
        assert run.wait(RUN_TIMEOUT_S) == 0, self.tell()
        answers = [line for line in self.log.read_text(errors="replace").splitlines() if line.startswith("ANSWER ")]
        assert json.loads(answers[-1].removeprefix("ANSWER "))["state"] == "COMPLETED", self.tell()

    def kill_a_worker(self, what: str) -> None:
        """SIGKILL to a Ray worker that is at it."""

        def killed() -> bool:
            at_it = [p for p in self.house.ray_processes() if p.title.startswith(f"ray::{what}")]
            for process in at_it[-1:]:
                process.kill()
            return bool(at_it)

        wait_for(killed, 60, f"a worker at '{what}'", self.tell, poll_s=0.02)

    def tell(self) -> str:
        harmed = Counter(kind for kind, _ in self.proxy.harmed)
        return f"harmed {dict(harmed)} of {len(self.proxy.requests)} requests\n{self.log.read_text(errors='replace')[-6000:]}"

    def end(self) -> None:
        """Prefect's server is a process of its own, and outlives a killed flow."""
        for process in self.house.processes():
            process.kill()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world") / "world"
    write_world(recipe_by_name("nano", WORLD).world, folder)
    return folder


@pytest.fixture(scope="module")
def bucketful(world: Path, s3_environment: dict[str, str]) -> str:
    """The same clips below an s3:// prefix."""
    store = S3Store("s3://pvtt/world")
    for path in sorted(p for p in world.rglob("*") if p.is_file()):
        store.put_file(path.relative_to(world).as_posix(), path)
    return store.uri


@pytest.fixture
def wire(s3_environment: dict[str, str]) -> Iterator[FaultProxy]:
    proxy = FaultProxy(s3_environment["AWS_ENDPOINT_URL_S3"])
    yield proxy
    proxy.close()


@pytest.fixture
def curation(tmp_path: Path, wire: FaultProxy, bucketful: str) -> Iterator[Curation]:
    found = Curation(tmp_path, wire, bucketful)
    yield found
    found.end()


@pytest.fixture(scope="module")
def untouched(tmp_path_factory: pytest.TempPathFactory, world: Path) -> Iterator[Watched]:
    """From a folder into a folder; no wire, no harm."""
    root = tmp_path_factory.mktemp("untouched")
    proxy = FaultProxy("http://127.0.0.1:9")  # nobody is asked
    run = Curation(root, proxy, str(world))
    try:
        run.completes(run.start(str(root / "store")))
        assert not proxy.requests
        yield Watched(str(root / "store"))
    finally:
        run.end()
        proxy.close()


def test_a_bad_wire_costs_nothing_but_time(curation: Curation, wire: FaultProxy, untouched: Watched, tmp_path: Path) -> None:
    wire.harm_at_random(SHARE, HARM, seed=7)
    began = time.monotonic()
    curation.completes(curation.start("s3://pvtt/badly-wired"))
    wire.harm_at_random(0, (), seed=7)
    harmed = Counter(kind for kind, _ in wire.harmed)
    print(f"{time.monotonic() - began:.0f} s, {len(wire.requests)} requests, harmed {dict(harmed)}")
    assert set(harmed) == set(HARM) and sum(harmed.values()) > 0.04 * len(wire.requests)
    assert_whole(Watched("s3://pvtt/badly-wired"), untouched, tmp_path)
    assert_sent_once(wire)


def test_kill_9_on_a_bad_wire(curation: Curation, wire: FaultProxy, untouched: Watched, tmp_path: Path) -> None:
    """Of the driver in ingest and in conditions, of a Ray worker in masks; then the run once more."""
    store, house = Watched("s3://pvtt/killed-on-the-wire"), curation.house
    wire.harm_at_random(SHARE, HARM, seed=11)
    snapshots = []
    for kind, what in (("clips", "probing clips"), ("conditions", "embedding conditions")):
        run = curation.start(store.uri)
        if kind == "conditions":
            strike_at(curation, run, store, "masks")
            curation.kill_a_worker("extracting masks")
            snapshots.append(store.snapshot())
        strike_at(curation, run, store, kind)
        run.kill()
        run.wait(30)
        snapshots.append(store.snapshot())
        print(f"killed while {what}: {len(snapshots[-1].records)} records")
        assert not store.done(kind), f"{kind} were done before the kill"
        wait_for(lambda: not house.ray_processes(), 60, "Ray to die with its driver", house.tell)
        curation.end()
    fetched = [r for r in wire.requests if r.startswith("GET /pvtt/world/")]
    began = time.monotonic()
    curation.completes(curation.start(store.uri))
    wire.harm_at_random(0, (), seed=11)
    print(f"the last run took {time.monotonic() - began:.0f} s; harmed {dict(Counter(kind for kind, _ in wire.harmed))} of {len(wire.requests)}")
    assert [r for r in wire.requests if r.startswith("GET /pvtt/world/")] == fetched, "the source was there already"
    now = store.snapshot()
    for snapshot in snapshots:
        assert {key: now.records.get(key) for key in snapshot.records} == snapshot.records, "finished work was recorded again"
        assert {key: now.pool.get(key) for key in snapshot.pool} == snapshot.pool, "finished work was written again"
    assert_whole(store, untouched, tmp_path)


def strike_at(curation: Curation, run: subprocess.Popen[bytes], store: Watched, kind: str) -> None:
    """Return when the first unit of work of that kind is recorded."""

    def reached() -> bool:
        assert run.poll() is None, f"the run ended before its {kind}\n{curation.tell()}"
        return store.derived(kind) > 0

    wait_for(reached, RUN_TIMEOUT_S, f"the first of {kind}", curation.tell, poll_s=0.05)


def assert_whole(store: Watched, untouched: Watched, tmp_path: Path) -> None:
    """Every clip once and in every kind; the shards' bytes as untouched; every record and every pooled file belongs to a manifest."""
    assert store.content(CURATED) == untouched.content(CURATED)
    opened = ArtifactStore(store.store, tmp_path / "cache")
    assert opened.verify().ok
    keys = [row["clip_key"] for row in json.loads(store.store.get_bytes(store.manifest("clips").file("table.json").key))]
    assert len(keys) == len(set(keys)) == 20
    pooled: set[str] = set()
    for kind in CURATED:
        manifest = store.manifest(kind)
        shards = manifest.shards()
        rows = [row["clip_key"] for shard in shards for row in read_rows(opened.local_path(shard), ["clip_key"])]
        assert rows == keys and len(shards) == 10, f"{kind} lost or doubled a clip"
        assert store.derived(kind) == untouched.derived(kind), "a unit of work was recorded under two keys"
        pooled |= {file.key for file in manifest.files if file.key.startswith("pool/")}
    assert set(store.snapshot().pool) == pooled, "work was done that no manifest lists"


def assert_sent_once(wire: FaultProxy) -> None:
    """Of each record and manifest one PUT came through at most: a unit worked off twice would have sent a second."""
    sent = Counter(r for r in wire.requests if r.startswith("PUT ") and ("/derived/" in r or "/manifest.json" in r))
    failed = Counter(request for kind, request in wire.harmed if kind in FAILS)
    twice = {request: n - failed[request] for request, n in sent.items() if n - failed[request] > 1}
    assert sent and not twice, twice
