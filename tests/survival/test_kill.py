"""kill -9 in curation, in training and in evaluation: of the flow run's process, of the Prefect worker, of a Ray worker.

The same deployment is run again (after a Ray worker's death the run mends itself). At the end all is done, what was done before a kill
was not done again, and the training's losses are those of an undisturbed run to the last bit. About four minutes a test on two cores.
"""

from __future__ import annotations

import time

import pytest
from house import House, Process, wait_for
from small_run import EVERY, MOMENTS, RUN_TIMEOUT_S, STEPS, Moment, Snapshot, Watched, parameters

pytestmark = pytest.mark.slow
MOMENT_TIMEOUT_S = 600.0


def test_of_the_flow_runs_process(house: House, store: Watched, request: pytest.FixtureRequest) -> None:
    snapshots: list[Snapshot] = []
    step = 0
    for moment in MOMENTS:
        run = house.start(parameters(store.uri))
        process = house.flow_process(run)
        strike_at(moment, store, house, run)
        process.kill()
        gone_s = wait_for(lambda: not house.ray_processes(), 30, "Ray to die with its driver", house.tell)
        snapshots.append(taken(store, moment))
        step = store.last_step() if moment.name == "training" else step
        print(f"{moment.name}: Ray was gone after {gone_s:.1f} s; {len(snapshots[-1].records)} records, step {store.last_step()}")
        assert house.wait(run, 60)[0] == "CRASHED"
    assert_completes(house, house.start(parameters(store.uri)))
    assert_nothing_done_twice(store, snapshots)
    assert store.manifest("checkpoints").summary["resumed_at"] == step >= 2 * EVERY
    assert_as_undisturbed(store, request.getfixturevalue("undisturbed"))


def test_of_the_prefect_worker(house: House, store: Watched, request: pytest.FixtureRequest) -> None:
    """The run's process goes on as an orphan, and the run made after it waits for what the orphan is making."""
    snapshots: list[Snapshot] = []
    orphans: list[Process] = []
    for moment in MOMENTS:
        run = house.start(parameters(store.uri))
        orphans.append(house.flow_process(run))
        strike_at(moment, store, house, run)
        house.worker().kill()
        snapshots.append(taken(store, moment))
        print(f"{moment.name}: {len(snapshots[-1].records)} records, step {store.last_step()}; orphans alive: {[o.alive() for o in orphans]}")
        assert orphans[0].alive(), "the run's process was meant to go on"
        house.up()
    assert_completes(house, house.start(parameters(store.uri)))
    wait_for(lambda: not any(orphan.alive() for orphan in orphans), 120, "the orphans to end", house.tell)
    assert_nothing_done_twice(store, snapshots)
    assert store.manifest("checkpoints").summary["resumed_at"] == 0, "two trainings side by side"
    assert_as_undisturbed(store, request.getfixturevalue("undisturbed"))


def test_of_a_ray_worker(house: House, store: Watched, request: pytest.FixtureRequest) -> None:
    """One run, which mends itself three times."""
    run = house.start(parameters(store.uri))
    snapshots: list[Snapshot] = []
    step = 0
    for moment in MOMENTS:
        strike_at(moment, store, house, run)
        workers = [p for p in house.ray_processes() if p.title.startswith(moment.unit)]
        assert workers, f"nobody is at '{moment.unit}'\n{house.tell()}"
        workers[-1].kill()
        snapshots.append(taken(store, moment))
        step = store.last_step() if moment.name == "training" else step
        print(f"{moment.name}: killed {workers[-1].title} of {len(workers)}; {len(snapshots[-1].records)} records, step {store.last_step()}")
    assert_completes(house, run)
    assert_nothing_done_twice(store, snapshots)
    # A checkpoint that all ranks had uploaded at the kill may still be committed by the surviving one.
    assert store.manifest("checkpoints").summary["resumed_at"] in (step, step + EVERY)
    assert_as_undisturbed(store, request.getfixturevalue("undisturbed"))


def test_a_run_left_in_running_blocks_no_other(house: House, undisturbed: Watched) -> None:
    """Worker and run end at once, as in a power cut: nobody tells the server, and the run stays Running there."""
    run = house.start(parameters(undisturbed.uri))
    process = house.flow_process(run)
    wait_for(lambda: house.state(run)[0] == "RUNNING", 120, "the run to start", house.tell, poll_s=0.1)
    house.worker().kill()
    process.kill()
    house.up()
    before = undisturbed.snapshot()
    assert_completes(house, house.start(parameters(undisturbed.uri)))
    assert undisturbed.snapshot().records == before.records
    assert house.state(run)[0] == "RUNNING"


def strike_at(moment: Moment, store: Watched, house: House, run: str) -> None:
    """Return at the moment; fail where the run ended before it."""
    ends_s = time.monotonic() + MOMENT_TIMEOUT_S
    while not moment.reached(store):
        if time.monotonic() > ends_s or house.state(run)[0] in ("FAILED", "CRASHED", "COMPLETED"):
            pytest.fail(f"{moment.name} was not reached: {house.state(run)}\n{house.tell()}")
        until_s = time.monotonic() + 2
        while time.monotonic() < until_s and not moment.reached(store):
            time.sleep(0.02)


def taken(store: Watched, moment: Moment) -> Snapshot:
    """What the store held at the kill, which was in time."""
    assert not moment.over(store), f"{moment.name} was over before the kill"
    return store.snapshot()


def assert_completes(house: House, run: str) -> None:
    ended = house.wait(run, RUN_TIMEOUT_S)
    assert ended[0] == "COMPLETED", f"{ended}\n{house.tell()}"


def assert_nothing_done_twice(store: Watched, before: list[Snapshot]) -> None:
    now = store.snapshot()
    for snapshot in before:
        changed = {key for key, record in snapshot.records.items() if now.records.get(key) != record}
        assert not changed, f"finished work was recorded again: {changed}"
        rewritten = {key for key, written in snapshot.pool.items() if now.pool.get(key) != written}
        assert not rewritten, f"pooled objects were written again: {rewritten}"
        again = store.put_since(snapshot) & {*snapshot.records, *snapshot.pool}
        assert not again, f"finished work was sent to the store again: {again}"


def assert_as_undisturbed(store: Watched, undisturbed: Watched) -> None:
    losses = store.losses()
    assert len(losses) == STEPS
    assert losses == undisturbed.losses()
    mine, theirs = store.manifest("checkpoints").summary, undisturbed.manifest("checkpoints").summary
    assert mine["final_loss_hex"] == theirs["final_loss_hex"] == losses[-1]
    assert store.content() == undisturbed.content()
    assert store.manifest("releases").version == undisturbed.manifest("releases").version
