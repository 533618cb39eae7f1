"""The pool of actors on a real local Ray."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

import pytest
import ray
import ray_work

from infra.python_gc import SELDOM
from infra.ray_launch import WorkerLost, map_on_ray, start_ray, stop_ray
from infra.ray_pool import map_on_actors
from infra.settings import Settings
from infra.worker_log import heard_by


def cancelled(number: int, frame: FrameType | None) -> None:
    """In the place of Prefect's, by which a flow knows that it is cancelled."""


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    home = tmp_path_factory.mktemp("home")
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), *([before] if before else [])])
    settings = Settings(home=home, store=str(home / "store"), num_cpus=2, ray_address=None)
    handler = signal.signal(signal.SIGTERM, cancelled)
    start_ray(settings)
    yield settings
    stop_ray()
    signal.signal(signal.SIGTERM, handler)
    os.environ["PYTHONPATH"] = before or ""


def test_who_hears_sigterm_hears_it_after_ray_has_started_as_well(here: Settings) -> None:
    assert signal.getsignal(signal.SIGTERM) is cancelled


def test_results_come_in_the_items_order_and_each_is_told_of(here: Settings) -> None:
    told: list[tuple[int, int]] = []
    got = map_on_ray(ray_work.fails_at_three, [1, 2, 4, 5], name="squares", settings=here, on_result=lambda done, r: told.append((done, r)))
    assert got == [1, 4, 16, 25] and [done for done, _ in told] == [1, 2, 3, 4] and sorted(r for _, r in told) == got
    assert map_on_ray(ray_work.fails_at_three, [], name="none", settings=here) == []


def test_the_next_item_is_begun_before_one_is_told_of(here: Settings, tmp_path: Path) -> None:
    items = [str(tmp_path / name) for name in ("first", "second", "third")]
    begun: list[bool] = []

    def told(done: int, _: object) -> None:
        until = time.monotonic() + 20
        while done < len(items) and not Path(items[done]).exists() and time.monotonic() < until:
            time.sleep(0.01)
        begun.append(Path(items[min(done, len(items) - 1)]).exists())

    map_on_actors(ray_work.touch, items, name="touch", most=1, num_gpus=0, keep=True, max_retries=0, on_result=told)
    assert begun == [True] * 3


def test_an_error_is_raised_as_it_is_after_the_others_have_ended(here: Settings) -> None:
    told: list[int] = []
    with pytest.raises(KeyError, match="three"):
        map_on_ray(ray_work.fails_at_three, [3, 1, 2, 4], name="squares", settings=here, on_result=lambda _, r: told.append(r))
    assert sorted(told) == [1, 4, 16]


def test_no_more_are_at_work_than_there_are_cores(here: Settings, tmp_path: Path) -> None:
    counts = map_on_ray(ray_work.at_work, [(str(tmp_path), i) for i in range(8)], name="at work", settings=here)
    assert max(counts) <= 2  # on a loaded machine the second may come when the first has done all


def test_the_next_map_begins_with_the_same_processes_and_no_more(here: Settings) -> None:
    first = set(map_on_ray(ray_work.pid_of, [0.3] * 4, name="first", settings=here))
    again = set(map_on_ray(ray_work.pid_of, [0.3] * 4, name="again", settings=here))
    assert first == again and len(first) == 2
    assert ray.available_resources()["CPU"] == 2  # nothing is held: a training finds its room


def test_actors_that_are_not_kept_hold_their_core_and_end_with_the_map(here: Settings) -> None:
    common = {"num_gpus": 0, "keep": False, "max_retries": 0}
    pids = set(map_on_actors(ray_work.pid_of, [0.1] * 6, name="not kept", most=9, **common))
    assert len(pids) <= 2  # of nine wished for, two have room
    ray_work_gone = [pid for pid in pids if _alive(pid)]
    for _ in range(100):
        if not (ray_work_gone := [pid for pid in pids if _alive(pid)]):
            break
        ray_work.pid_of(0.1)
    assert not ray_work_gone


def test_a_killed_worker_is_replaced_and_its_item_done(here: Settings, tmp_path: Path) -> None:
    assert map_on_ray(ray_work.dies_once, [str(tmp_path)] * 3, name="dies once", settings=here) == ["alive"] * 3


def test_actors_that_died_idle_cost_no_item_its_tries(here: Settings) -> None:
    for pid in set(map_on_ray(ray_work.pid_of, [0.2] * 4, name="alive", settings=here)):
        os.kill(pid, 9)
    assert map_on_ray(ray_work.fails_at_three, [2], name="after", settings=here, max_retries=0) == [4]


def test_a_worker_is_named_after_its_work(here: Settings) -> None:
    assert map_on_ray(ray_work.title, [0], name="encoding latents", settings=here) == ["ray::encoding latents"]


def test_an_item_that_kills_every_worker_ends_the_map(here: Settings) -> None:
    with pytest.raises(WorkerLost, match="deadly"):
        map_on_ray(ray_work.dies, [0], name="deadly", settings=here, max_retries=1)
    start_ray(here)
    assert map_on_ray(ray_work.fails_at_three, [2], name="after", settings=here) == [4]


def test_lines_of_both_streams_come_with_the_workers_pid_and_not_to_the_terminal(here: Settings, capfd: pytest.CaptureFixture[str]) -> None:
    start_ray(here)
    heard: list[str] = []
    with heard_by(heard.append):
        pids = map_on_ray(ray_work.speaks, ["a word", "another"], name="speaking", settings=here)
        until = time.monotonic() + 20
        while len(heard) < 4 and time.monotonic() < until:
            time.sleep(0.1)
    assert sorted(heard) == sorted(f"[worker {pids[0]}] {w} to {s}" for w in ("a word", "another") for s in ("out", "err"))
    assert "a word" not in "".join(capfd.readouterr())


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def test_garbage_is_looked_for_seldom_until_an_actor_has_loaded_what_it_needs(here: Settings) -> None:
    stop_ray()  # the actors of the tests before have done an item
    start_ray(here)
    first, second = map_on_actors(ray_work.thresholds, [0, 1], name="thresholds", most=1, num_gpus=0, keep=True, max_retries=0)
    assert first[0] == SELDOM
    assert second[0] == (700, 10, 10) and second[1] > first[1], "Python's own, and what was loaded is put aside"
