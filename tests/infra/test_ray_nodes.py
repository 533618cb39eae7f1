"""The pool on a cluster of several nodes (processes of this machine), of which one is lost in mid-work and another comes."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray
import ray_work
from ray.cluster_utils import Cluster

from infra.ray_launch import map_on_ray, stop_ray
from infra.settings import Settings

pytestmark = pytest.mark.slow


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    stop_ray()  # another file's
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]))
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    ray.init(address=cluster.address, log_to_driver=False, logging_level="warning")
    yield cluster
    ray.shutdown()
    cluster.shutdown()


def settings(tmp_path: Path, cluster: Cluster) -> Settings:
    return Settings(home=tmp_path, store=str(tmp_path), num_cpus=2, ray_address=cluster.address, max_workers=4)


def test_a_lost_node_costs_no_item_and_a_new_one_is_used(cluster: Cluster, tmp_path: Path) -> None:
    lost = cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()
    told: list[int] = []

    def on_result(done: int, _: int) -> None:
        told.append(done)
        if done == 8:
            cluster.remove_node(lost, allow_graceful=False)
            cluster.add_node(num_cpus=1)

    pids = map_on_ray(ray_work.pid_of, [0.5] * 40, name="on nodes", settings=settings(tmp_path, cluster), on_result=on_result)
    assert len(pids) == 40 and told == list(range(1, 41))
    assert len(set(pids)) == 3, "one on the head, one on the node that was lost, one on the node that came"


def test_workers_that_find_no_room_wait_and_the_others_do_the_work(cluster: Cluster, tmp_path: Path) -> None:
    pids = map_on_ray(ray_work.pid_of, [0.1] * 6, name="one core", settings=settings(tmp_path, cluster))
    assert len(pids) == 6 and len(set(pids)) == 1
    deadline = time.monotonic() + 20
    while ray.available_resources().get("CPU", 0) < 1 and time.monotonic() < deadline:
        time.sleep(0.2)
    assert ray.available_resources()["CPU"] == 1, "an actor that waited, or has worked, is gone after the map"
