"""kill -9 in curation, in training and in evaluation, of the flow run's process, of the Prefect worker, of a Ray worker.

Each time the same deployment is run again (after a Ray worker's death the run mends itself). At the end all is done, what was done
before a kill was not done again, and the training's losses are those of an undisturbed run to the last bit.
"""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from conftest import RUN_TIMEOUT_S
from house import House, wait_for
from small_run import EVERY, MOMENTS, STEPS, Moment, Snapshot, Watched, parameters

pytestmark = pytest.mark.slow
NEXT_S = 300.0


def strike_at(moment: Moment, store: Watched, house: House, run: str) -> None:
    """Return at the moment; fail where the run ended before it."""

    def reached() -> bool:
        return moment.reached(store)

    ends_s = time.monotonic() + NEXT_S
    while not reached():
        if time.monotonic() > ends_s or house.state(run)[0] in ("FAILED", "CRASHED", "COMPLETED"):
            pytest.fail(f"{moment.name} was not reached: {house.state(run)}\n{house.tell()}")
        until_s = time.monotonic() + 2
        while time.monotonic() < until_s and not reached():
            time.sleep(0.02)


def assert_nothing_done_twice(store: Watched, before: list[Snapshot]) -> None:
    now = store.snapshot()
    for snapshot in before:
        changed = {key for key, record in snapshot.records.items() if now.records.get(key) != record}
        assert not changed, f"finished work was recorded again: {changed}"
        rewritten = {key for key, written in snapshot.pool.items() if now.pool.get(key) != written}
        assert not rewritten, f"pooled objects were written again: {rewritten}"


def assert_as_undisturbed(store: Watched, undisturbed: Watched) -> None:
    assert len(store.losses()) == STEPS
    assert store.losses() == undisturbed.losses()
    mine, theirs = store.manifest("checkpoints").summary, undisturbed.manifest("checkpoints").summary
    assert mine["final_loss_hex"] == theirs["final_loss_hex"]
    assert store.content() == undisturbed.content()
    assert store.manifest("releases").version == undisturbed.manifest("releases").version


def test_kill_of_the_flow_runs_process(house: House, store: Watched, undisturbed: Watched) -> None:
    snapshots: list[Snapshot] = []
    step = 0
    for moment in MOMENTS:
        run = house.start(parameters(store.uri))
        process = house.flow_process(run)
        strike_at(moment, store, house, run)
        process.kill()
        left_s = wait_for(lambda: not house.ray_processes(), 30, "Ray to die with its driver", house.tell)
        assert not moment.over(store), f"{moment.name} was over before the kill"
        if moment.name == "training":
            step = store.last_step()
        snapshots.append(store.snapshot())
        print(f"{moment.name}: killed; Ray was gone after {left_s:.1f} s; records: {len(snapshots[-1].records)}; step {store.last_step()}")
        assert house.wait(run, 60)[0] == "CRASHED"
    run = house.start(parameters(store.uri))
    ended = house.wait(run, RUN_TIMEOUT_S)
    assert ended[0] == "COMPLETED", f"{ended}\n{house.tell()}"
    assert_nothing_done_twice(store, snapshots)
    assert store.manifest("checkpoints").summary["resumed_at"] == step >= 10
    assert_as_undisturbed(store, undisturbed)
