"""A killed rank: seconds until the next step is taken, and steps lost.

    PYTHONPATH=. .venv/bin/python benchmarks/recovery.py [--rounds 3] [--every 5]

tasks/train_worker.py on a local Ray, two ranks of the nano teacher over gloo under ZeRO-2, a checkpoint every --every steps into a local store.
A rank is killed by SIGKILL while training goes on; Ray starts both anew, they load the newest whole checkpoint and go on. Seconds: from the kill
until the driver hears of a step again (it hears every half second); most of it is Python loading torch and DeepSpeed in two new processes. Steps
lost: done at the kill, as last heard, less those of the checkpoint.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
for folder in (ROOT, ROOT / "tests" / "survival"):
    sys.path.insert(0, str(folder))
os.environ["PYTHONPATH"] = f"{ROOT}:{ROOT / 'tests' / 'survival'}"  # of Ray's workers

from house import House  # noqa: E402
from training_run import payload_of, recipe  # noqa: E402

from infra.artifact_store import ArtifactStore  # noqa: E402
from infra.ray_launch import start_ray, stop_ray, train_on_ray  # noqa: E402
from infra.settings import settings  # noqa: E402


class Round:
    """What is heard of one training, in which a rank is killed once."""

    def __init__(self, house: House, every: int) -> None:
        self.house, self.every = house, every
        self.killed_s = self.recovered_s = 0.0
        self.at_kill = self.resumed_at = -1
        self.last = 0

    def heard(self, board: dict[str, Any]) -> None:
        done = int(board["tail"]["records"][-1]["step"]) + 1 if board.get("tail", {}).get("records") else 0
        if not self.killed_s and done > 2 * self.every:
            workers = [p for p in self.house.ray_processes() if p.title.startswith("ray::RayTrainWorker")]
            if len(workers) == 2:
                workers[-1].kill()
                self.killed_s, self.at_kill = time.monotonic(), done
        elif self.killed_s and not self.recovered_s and board.get("resumed_at") and done != self.last:
            self.recovered_s, self.resumed_at = time.monotonic() - self.killed_s, int(board["resumed_at"])
        self.last = done


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--every", type=int, default=5)
    parser.add_argument("--steps", type=int, default=80)
    asked = parser.parse_args()
    found: list[Round] = []
    with tempfile.TemporaryDirectory() as name:
        os.environ |= {"PVTT_HOME": str(Path(name) / "home"), "PVTT_NUM_CPUS": "2", "PVTT_PREFLIGHT": "warn"}
        for number in range(asked.rounds):
            uri = str(Path(name) / f"store{number}")
            where, told = settings(uri), recipe(asked.steps, asked.every)
            payload = payload_of(ArtifactStore.open(uri, where.cache), told, 0)
            start_ray(where)
            found.append(Round(House(where.home, {}), asked.every))
            train_on_ray(
                "tasks.train_worker:train_worker", payload, name=f"round{number}", settings=where, num_workers=2, use_gpu=False,
                max_restarts=3, on_progress=found[-1].heard, poll_s=0.1,
            )  # fmt: skip
        stop_ray()
    if not all(one.recovered_s for one in found):
        raise SystemExit("a round ended without a kill or without a step after it: nothing was measured. Give --steps more.")
    print(f"checkpoint every {asked.every} steps\n\n| round | seconds to the next step | steps lost |\n|---|---|---|")
    for number, one in enumerate(found):
        print(f"| {number} | {one.recovered_s:.1f} | {one.at_kill - one.resumed_at} |")
    print(f"\nmedian {statistics.median(one.recovered_s for one in found):.1f} s")


if __name__ == "__main__":
    main()
