"""A rank that gets no further: who it is, by what the board holds, and that its process ends. Real processes, of which one is stopped or stands."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from infra.watchdog import newly_hung, who_hangs

RANK = """
import json, sys, time
from pathlib import Path
from infra.watchdog import Watchdog
folder, rank, stands = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
dog = Watchdog(lambda key, value: (folder / key).write_text(json.dumps(value)), rank, timeout_s=1.0)
for part in range(stands):
    dog.at(part // 2, ("micro-batch 1 of 1", "the loss of all ranks")[part % 2])
    time.sleep(0.4)
def standing_here():
    time.sleep(60)
standing_here()
"""


def start(folder: Path, rank: int, stands: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", RANK, str(folder), str(rank), str(stands)])


def test_the_rank_behind_is_named_and_all_end(tmp_path):
    ranks = [start(tmp_path, rank, stands) for rank, stands in ((0, 4), (1, 3), (2, 4))]
    assert [rank.wait(60) for rank in ranks] == [-signal.SIGKILL] * 3, "so that Ray sees it, and starts all anew"
    said = who_hangs({path.name: json.loads(path.read_text()) for path in tmp_path.iterdir()})
    assert said is not None
    assert "no rank got any further for 1 s (train.hang_timeout_s). Stuck: rank 1 in step 1, micro-batch 1 of 1." in said
    assert "Waiting for it: rank 0 in step 1, the loss of all ranks; rank 2 in step 1" in said
    assert "in standing_here" in said, "with the place in its code"


def test_a_stopped_process_is_named_by_those_that_wait_for_it(tmp_path):
    waits, stopped = start(tmp_path, 0, 4), start(tmp_path, 1, 50)
    ends_s = time.monotonic() + 30
    while not (tmp_path / "beat1").exists() and time.monotonic() < ends_s:
        time.sleep(0.02)
    os.kill(stopped.pid, signal.SIGSTOP)
    try:
        assert waits.wait(60) == -signal.SIGKILL
        board = {path.name: json.loads(path.read_text()) for path in tmp_path.iterdir()}
    finally:
        stopped.kill()
        stopped.wait()
    assert set(board) == {"beat0", "beat1", "hung0"}
    assert "Stuck: rank 1 in step" in str(who_hangs(board))


def test_no_hang_no_words():
    assert who_hangs({}) is None
    assert who_hangs({"beat0": [3, 1, "step"], "step": {"loss": 1.0}}) is None


def test_a_hang_is_told_once():
    hung = {"hung0": {"timeout_s": 1, "where": "", "at": 1.0}, "beat0": [3, 1, "step"]}
    assert newly_hung(hung, {}) and not newly_hung(hung, hung)
    assert not newly_hung(hung | {"beat0": [1, 0, "step"]}, hung), "started anew, it gets on"
    assert newly_hung(hung | {"hung0": hung["hung0"] | {"at": 2.0}}, hung)
