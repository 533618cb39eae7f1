"""One training at a time on a pool: on a real server and worker, over a kill of the one that holds the slot and a restart of the server."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from house import House, wait_for

from tasks.training_slot import LEASE_S

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def hold(built_house: House) -> House:
    built_house.up()
    where = "tests/survival/slot_flow.py:hold"
    built_house.services._module(built_house.api, "prefect", "deploy", where, "--name", "slot", "--pool", "local", "--no-prompt")
    return built_house


def start(house: House, folder: Path, name: str, seconds: float) -> str:
    return house.start({"folder": str(folder), "name": name, "seconds": seconds}, "hold/slot")


def spans(folder: Path) -> list[list[float]]:
    return sorted(json.loads(path.read_text()) for path in folder.glob("*.json"))


def test_two_never_at_once(hold: House, tmp_path: Path) -> None:
    runs = [start(hold, tmp_path, name, 6) for name in ("a", "b", "c")]
    assert [hold.wait(run, 120)[0] for run in runs] == ["COMPLETED"] * 3
    (_, first), (second, second_end), (third, _) = spans(tmp_path)
    assert first <= second and second_end <= third
    print(f"waited {second - first:.1f} and {third - second_end:.1f} s for a slot that was free")


def test_a_killed_one_gives_its_slot_back(hold: House, tmp_path: Path) -> None:
    run = start(hold, tmp_path, "killed", 600)
    wait_for((tmp_path / "killed.begun").exists, 60, "the slot to be taken", hold.tell)
    hold.flow_process(run).kill()
    killed = time.time()
    assert hold.wait(start(hold, tmp_path, "next", 0), LEASE_S + 60)[0] == "COMPLETED"
    print(f"the slot was free {spans(tmp_path)[0][0] - killed:.0f} s after the kill")


def test_a_servers_restart_loses_no_slot(hold: House, tmp_path: Path) -> None:
    run = start(hold, tmp_path, "before", 45)
    wait_for((tmp_path / "before.begun").exists, 60, "the slot to be taken", hold.tell)
    (server,) = [s for s in hold.services.running() if s.name == "server"]
    port = server.port
    hold.restart_server()
    assert hold.services._running("server").port == port
    later = start(hold, tmp_path, "later", 0)
    assert [hold.wait(r, 180)[0] for r in (run, later)] == ["COMPLETED"] * 2
    (_, before), (after, _) = spans(tmp_path)
    assert before <= after
