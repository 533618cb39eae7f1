"""kill -9 in a training: at each of six moments, of a training worker, of the driver, of the node's raylet; checkpoints in a folder and on S3.

One run of two stages is met at all six moments one after the other; each time what was struck is started again as the pipeline would
(Ray the workers, the task's policy Ray, the next run the driver). It ends with the bits of a run that nobody touched: every loss, and the tensors
of both stages' checkpoints, of which the best by validation is released.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from house import House, Process, wait_for
from training_run import AT, MOMENTS, STEPS, planned

from infra.artifact_store import ArtifactStore
from infra.store import open_store

pytestmark = pytest.mark.slow
HERE = Path(__file__).parent
MOMENT_TIMEOUT_S = 400.0


class Training:
    """The driver, in a process of its own that is started again where it ended before its time."""

    def __init__(self, root: Path, uri: str, victim: str | None, **environment: str) -> None:
        self.house, self.uri, self.root, self.strikes = House(root / "home", {}), uri, root, root / "strikes"
        self.strikes.mkdir()
        self.env = dict(os.environ, PVTT_HOME=str(self.house.home), PVTT_NUM_CPUS="2", PVTT_PREFLIGHT="warn")
        self.env["PYTHONPATH"] = f"{HERE.parents[1]}:{HERE}"
        self.env |= {"STRIKES": str(self.strikes), "STRIKE_AT": victim} if victim else {}
        self.env |= environment
        self.log = root / "run.log"
        self.start()

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen([sys.executable, str(HERE / "training_run.py"), self.uri], env=self.env, stdout=log, stderr=log)

    def tell(self) -> str:
        return self.log.read_text(errors="replace")[-4000:]

    def meets(self, moment: str) -> int:
        """The pid of the process that stands at the moment. A driver that failed is started again, as the next run is."""
        ends_s = time.monotonic() + MOMENT_TIMEOUT_S
        while not (self.strikes / moment).exists():
            if self.process.poll() is not None:
                assert self.process.returncode != 0, f"the training ended before '{moment}'\n{self.tell()}"
                self.start()
            assert time.monotonic() < ends_s, f"'{moment}' was not reached\n{self.tell()}"
            time.sleep(0.05)
        return int((self.strikes / moment).read_text())

    def kill(self, victim: str, pid: int) -> None:
        found = [p for p in self.house.processes() if p.pid == pid]
        if victim == "raylet":
            found = [p for p in self.house.ray_processes() if "raylet/raylet" in p.title]
        if victim == "driver":
            found = [p for p in self.house.processes() if p.pid == self.process.pid]
        assert len(found) == 1, [p.title[:100] for p in self.house.processes()]
        found[0].kill()
        if victim == "driver":
            self.process.wait(60)
            wait_for(lambda: not self.house.ray_processes(), 60, "Ray to die with its driver", self.tell)

    def completes(self) -> None:
        for _ in range(3):
            if self.process.wait(MOMENT_TIMEOUT_S) == 0:
                return
            self.start()
        pytest.fail(self.tell())

    def results(self) -> dict[str, object]:
        store = ArtifactStore(open_store(self.uri))
        found: dict[str, object] = {}
        for index in (0, 1):
            manifest = store.find(planned(index))
            assert manifest is not None
            records = json.loads(store.store.get_bytes(manifest.file("records.json").key))
            assert len(records) == STEPS
            found[f"losses {index}"] = [float(r["loss"]).hex() for r in records]
            found[f"released {index}"] = manifest.summary["released_step"]
            found |= {f"{index}/{f.name}": f.sha256 for f in manifest.files if f.name.endswith(".safetensors")}
        return found

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        left: list[Process] = self.house.processes()
        for process in left:
            process.kill()


@pytest.fixture
def trainings(tmp_path: Path) -> Iterator[list[Training]]:
    made: list[Training] = []
    yield made
    for training in made:
        training.end()


@pytest.fixture(scope="module")
def untouched(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    root = tmp_path_factory.mktemp("untouched")
    training = Training(root, str(root / "store"), None)
    try:
        training.completes()
        return training.results()
    finally:
        training.end()


@pytest.mark.parametrize("where", ["local", "s3"])
@pytest.mark.parametrize("victim", ["worker", "driver", "raylet"])
def test_six_moments(victim: str, where: str, tmp_path: Path, trainings: list[Training], request: pytest.FixtureRequest) -> None:
    if where == "s3":
        request.getfixturevalue("s3_environment")
    uri = str(tmp_path / "store") if where == "local" else f"s3://pvtt/{uuid.uuid4().hex[:8]}"
    untouched = request.getfixturevalue("untouched")
    training = Training(tmp_path, uri, victim)
    trainings.append(training)
    for moment in MOMENTS:
        began = time.monotonic()
        pid = training.meets(moment)
        training.kill(victim, pid)
        print(f"{where}: {victim} killed at '{moment}' ({time.monotonic() - began:.0f} s after the one before)", flush=True)
    training.completes()
    assert training.results() == untouched


def test_sigterm_saves_the_state_after_the_step_and_the_run_goes_on_from_it(
    tmp_path: Path, trainings: list[Training], untouched: dict[str, object]
) -> None:
    """As a spot machine is taken away: one rank is told in the midst of step 4, and no checkpoint is due after it."""
    training = Training(tmp_path, str(tmp_path / "store"), "worker")
    trainings.append(training)
    for moment in MOMENTS:
        pid = training.meets(moment)
        if moment == "accumulation":
            os.kill(pid, signal.SIGTERM)
            time.sleep(5)  # Ray asks how the worker is every half second, and then the signal's handler runs
        (training.strikes / f"{moment} is over").touch()
    training.completes()
    assert f"stage one resumed at {AT['accumulation'] + 1}\n" in training.tell()
    assert training.results() == untouched


def test_a_rank_that_hangs_is_named_and_all_go_on_from_the_checkpoint(
    tmp_path: Path, trainings: list[Training], untouched: dict[str, object]
) -> None:
    """SIGSTOP, so that it cannot even say so: the other rank, which waits for it, tells, and Ray starts both anew."""
    training = Training(tmp_path, str(tmp_path / "store"), "worker", HANG_TIMEOUT_S="15")
    trainings.append(training)
    stopped, began = 0, 0.0
    for moment in MOMENTS:
        pid = training.meets(moment)
        if moment == "accumulation":
            time.sleep(3)  # the board hears every second where a rank is
            os.kill(pid, signal.SIGSTOP)
            stopped, began = pid, time.monotonic()
        elif stopped and moment == "writing":
            print(f"the next steps came {time.monotonic() - began:.0f} s after the hang, of which 15 are its limit")
        (training.strikes / f"{moment} is over").touch()
    training.completes()
    assert "Stuck: rank 0 in step 4, micro-batch 2 of 2. Waiting for it: rank 1 in step 4," in training.tell()
    assert stopped not in [process.pid for process in training.house.processes()], "a rank that was stopped is left for good"
    assert training.results() == untouched
