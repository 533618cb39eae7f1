"""Five curricula and a re-training, while every other minute something is killed: the Prefect worker with its flows, a raylet, the server, the S3
server, the connections to the database. For PVTT_CHAOS_S (an hour) at most, and until all are done.

They share their clips, masks, latents and conditions, and train with seeds of their own. Where a run crashes or fails, it is run again, as a person
would in the UI. Afterwards every artifact verifies, what was once written was never written again, and the weights are those of a run that nobody
disturbed.
"""

from __future__ import annotations

import json
import os
import random
import time
from collections import Counter
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from native import Topology, environment
from small_run import Snapshot, Watched, parameters

from infra.artifact_store import ArtifactStore
from pvtt_model.nano.world import write_world
from pvtt_model.specs import NanoWorldSpec

pytestmark = pytest.mark.slow

HOUR_S = float(os.environ.get("PVTT_CHAOS_S", "3600"))
GRACE_S = 2400.0  # for what is not done when the killing ends
CURRICULA = 5
GAP_S = (60.0, 150.0)
AWAY_S = (2.0, 20.0)
WORLD = NanoWorldSpec(num_clips=12, num_validation=0, num_eval=4, look_alikes=2)
SHARED = ("clips", "masks", "latents", "conditions")


def asked(store: str, clips: Path, seed: int) -> dict[str, Any]:
    """The small curriculum of the kill tests on the clips of a manifest, trained with a seed of its own."""
    found = parameters(store)
    overrides = {name: value for name, value in found["overrides"].items() if not name.startswith("world.")}
    overrides["stages"][0]["train"]["seed"] = seed
    return found | {"clips": str(clips), "overrides": overrides | {"retrain.steps": 20, "retrain.tolerance": 0.05}}


class Chaos:
    """The killer, its dice, and its diary."""

    def __init__(self, topology: Topology, seed: int) -> None:
        self.topology, self.dice, self.struck, self.away_s = topology, random.Random(seed), Counter[str](), 0.0

    def strike(self) -> None:
        what = self.dice.choice(["worker", "raylet", "server", "s3", "database"])
        away, begun, t = self.dice.uniform(*AWAY_S), time.monotonic(), self.topology
        if what == "database":
            print(f"  {t.cut_database()} connections to the database cut")
        elif what == "s3":
            t.kill_gateway()
            time.sleep(away)
            t.gateway()
        else:
            name, again = {"worker": ("worker", t.worker), "raylet": ("ray-worker", t.raylet), "server": ("server", t.server)}[what]
            t.kill(name)
            if what == "worker":
                t.kill_flows()
            time.sleep(away)
            again()
        self.struck[what] += 1
        print(f"  {what} struck, back after {time.monotonic() - begun:.0f} s", flush=True)


class Jobs:
    """The runs that are to end well, each run again where it ended badly."""

    def __init__(self, topology: Topology) -> None:
        self.topology, self.runs, self.again = topology, dict[str, list[str]](), Counter[str]()

    def start(self, name: str, values: dict[str, Any], deployment: str = "pvtt/full-curriculum") -> None:
        self.runs[name] = [self.topology.run(values, deployment)]

    def look(self) -> dict[str, str]:
        """By job the state of its run. One that ended badly is scheduled again."""
        states = {}
        for name, runs in self.runs.items():
            states[name] = state = self.topology.state(runs[-1])
            if state in ("CRASHED", "FAILED", "CANCELLED"):
                flow = self.topology.call("get", f"/flow_runs/{runs[-1]}")
                body = {"state": {"type": "SCHEDULED", "name": "AwaitingRetry"}, "force": True}
                if flow and self.topology.call("post", f"/flow_runs/{runs[-1]}/set_state", body):
                    self.again[name] += 1
                    print(f"  {name} {state}, run again: {str(flow['state']['message'])[:300]}", flush=True)
        return states


@contextmanager
def seen(topology: Topology, store: str):  # type: ignore[no-untyped-def]
    with environment(topology.environment()):
        yield Watched(store)


def test_an_hour_of_kills(topology: Topology, tmp_path: Path) -> None:
    write_world(WORLD, tmp_path / "clips")
    everything = tmp_path / "clips" / "manifest.jsonl"
    lines = everything.read_text().splitlines()
    new = [i for i, line in enumerate(lines) if json.loads(line)["metadata"]["split"] == "train"][-2:]
    old = tmp_path / "clips" / "old.jsonl"
    old.write_text("".join(f"{line}\n" for i, line in enumerate(lines) if i not in new))
    store, chaos, jobs = f"{topology.store}-chaos", Chaos(topology, seed=2026), Jobs(topology)
    begun, snapshots = time.monotonic(), list[Snapshot]()
    for n in range(CURRICULA):
        jobs.start(f"curriculum {n}", asked(store, old, seed=n))
    next_s = begun + 60
    while time.monotonic() - begun < HOUR_S + GRACE_S:
        time.sleep(5)
        states = jobs.look()
        if "COMPLETED" in states.values() and "retrain" not in states:
            jobs.start("retrain", asked(store, everything, seed=0), "retrain/retrain")
        elif set(states.values()) == {"COMPLETED"}:
            break
        now = time.monotonic()
        if now > next_s and now - begun < HOUR_S:
            with seen(topology, store) as watched:
                snapshots.append(watched.snapshot())
            print(f"{now - begun:.0f} s: {states}, {len(snapshots[-1].records)} records", flush=True)
            chaos.strike()
            next_s = time.monotonic() + chaos.dice.uniform(*GAP_S)
    wall_s = time.monotonic() - begun
    print(f"\n{wall_s:.0f} s; struck {dict(chaos.struck)}; run again {dict(jobs.again)}")
    assert set(jobs.look().values()) == {"COMPLETED"}, (jobs.look(), topology.tell())
    print(topology.command("cli.main", "releases", "--store", store))
    assert "all intact" in topology.command("cli.main", "artifacts", "verify", "--store", store)
    assert topology.ended(untouched := topology.run(asked(f"{store}-untouched", old, seed=3)), 1800) == "COMPLETED", untouched
    with seen(topology, store) as watched, seen(topology, f"{store}-untouched") as calm:
        now, found = watched.snapshot(), ArtifactStore(watched.store)
        for before in snapshots:
            assert not [key for key, record in before.records.items() if now.records.get(key) != record], "a record was lost or written again"
            assert not [key for key, at in before.pool.items() if now.pool.get(key) != at], "an object was lost or written again"
        for kind in SHARED:
            assert len(found.names(kind)) == 2, f"{kind}: what the five share, and what the re-training added to it"  # type: ignore[arg-type]
        assert len(found.names("checkpoints")) == len(found.names("releases")) == CURRICULA + 1
        (theirs,) = ArtifactStore(calm.store).manifests("checkpoints")
        ours = [m for m in found.manifests("checkpoints") if m.version == theirs.version]
        same = {file.name: file.sha256 for file in theirs.files if file.name.endswith(".safetensors")}
        assert same and [{f.name: f.sha256 for f in m.files if f.name in same} for m in ours] == [same]
