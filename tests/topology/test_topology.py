"""Everything grown up at once (native.py): the nano curriculum through it, a server that is gone for 60 s, a run that is cancelled."""

from __future__ import annotations

import json
import time
from collections import Counter

import httpx
import pytest
from native import Topology
from small_run import parameters

pytestmark = pytest.mark.slow
RUN_S = 7200.0
DOWN_S = 60.0


def trains(topology: Topology) -> bool:
    return bool(topology.titles("ray::RayTrainWorker", "ray::_RayTrainWorker"))


def test_without_the_password_the_server_answers_nobody(topology: Topology) -> None:
    for auth in (None, ("pvtt", "wrong")):
        assert httpx.post(f"{topology.api}/flow_runs/filter", json={}, auth=auth, timeout=30).status_code == 401
    assert isinstance(topology.call("post", "/flow_runs/filter", {}), list)


def test_the_nano_curriculum_runs_through_and_every_artifact_verifies(topology: Topology) -> None:
    run = topology.run({"recipe": "nano", "clips": "nano", "store": topology.store, "on_gate_failure": "continue"})
    assert topology.ended(run, RUN_S) == "COMPLETED", topology.tell()
    flow, tasks = topology.call("get", f"/flow_runs/{run}"), topology.task_runs(run)
    work_s = sum(task["total_run_time"] for task in tasks)
    over_s = flow["total_run_time"] - work_s
    print(f"\n{flow['total_run_time']:.0f} s, of it {work_s:.0f} s in {len(tasks)} tasks: {over_s:.1f} s besides, {over_s / len(tasks):.2f} s a task")
    seen = {r["id"]: r for r in json.loads(topology.command("flows.status", "--json"))}[run]
    kinds = Counter(row["artifact"].partition("/")[0] for row in seen["made"])
    print(f"{dict(kinds)}; {seen['worker_hours']:.3f} worker-hours, {seen['gpu_hours']} GPU-hours")
    assert kinds["releases"] == kinds["clips"] == 1 and seen["worker_hours"] > 0
    assert over_s <= 0.1 * flow["total_run_time"] and over_s <= 3 * len(tasks)
    said = topology.command("cli.main", "artifacts", "verify", "--store", topology.store)
    print(said)
    assert "all intact" in said


def test_the_server_away_for_a_minute_in_mid_run(topology: Topology) -> None:
    store = f"{topology.store}-away"
    run = topology.run(parameters(store))
    topology.wait("training", lambda: trains(topology), 900)
    topology.kill("server")
    time.sleep(DOWN_S)
    topology.server()
    assert topology.ended(run, RUN_S) == "COMPLETED", topology.tell()
    assert "all intact" in topology.command("cli.main", "artifacts", "verify", "--store", store)


def test_a_cancelled_run_frees_the_cluster_within_30_seconds(topology: Topology) -> None:
    run = topology.run(parameters(f"{topology.store}-cancelled"))
    topology.wait("training", lambda: trains(topology), 900)
    topology.command("prefect", "flow-run", "cancel", run)
    begun = time.monotonic()
    topology.wait("Ray's workers to end", lambda: not trains(topology), 120, poll_s=0.2)
    freed_s = time.monotonic() - begun
    print(f"\nfreed {freed_s:.1f} s after `prefect flow-run cancel`")
    assert freed_s <= 30
    assert topology.ended(run, 120) == "CANCELLED"
