"""What a worker prints, as its listener is told it; on a real Ray in test_ray_pool.py."""

from __future__ import annotations

import pytest

import infra.worker_log
from infra.worker_log import LINES, Ear


def batch(*lines: str) -> dict[str, object]:
    return {"pid": 7, "ip": "10.0.0.2", "localhost": "10.0.0.1", "lines": list(lines)}


def test_a_worker_without_end_is_cut_off_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    ear, heard = Ear(), []
    ear.say = heard.append
    ear.hear(batch(*[f"{i:02}{'x' * 2000}" for i in range(LINES + 3)], "02" + "x" * 2000, "00" + "x" * 2000))
    assert len(heard) == LINES and heard[0] == f"[worker 7 on 10.0.0.2] 00{'x' * 498}"
    monkeypatch.setattr(infra.worker_log, "PER_S", 0.0)
    ear.hear(batch("Loading weights: 100%|####| 22/22", ":actor_name:A", "", "last"))
    assert heard[LINES:] == ["(5 more lines of Ray's workers are in Ray's own log files)", "[worker 7 on 10.0.0.2] last"]
    ear.hear({**batch("scaling"), "pid": "autoscaler"})
    assert len(heard) == LINES + 2
