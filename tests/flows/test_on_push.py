"""`pvtt data push` to S3 (moto's server), its event, and the automation that runs retrain on it, on the real server and worker of `pvtt up`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from infra.artifact_store import ArtifactStore
from infra.store.s3 import s3_client
from pvtt_model.nano.world import write_world
from pvtt_model.specs import NanoWorldSpec
from tests.flows.test_retrain import asked

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent.parent
MOTO = ROOT / "tests" / "survival" / "moto_server.py"


class Town:
    """A home of its own with what `pvtt` starts in it."""

    def __init__(self, home: Path, endpoint: str) -> None:
        gone = ("PREFECT_API_URL", "PVTT_STORE", "RAY_ADDRESS", "AWS_PROFILE", "AWS_ENDPOINT_URL")
        self.env = {k: v for k, v in os.environ.items() if k not in gone} | {"PVTT_HOME": str(home), "PYTHONPATH": str(ROOT)}
        self.env |= {"AWS_ENDPOINT_URL_S3": endpoint, "AWS_ACCESS_KEY_ID": "AK", "AWS_SECRET_ACCESS_KEY": "SK", "AWS_DEFAULT_REGION": "us-east-1"}
        self.home, self.api = home, ""

    def pvtt(self, *args: str) -> str:
        done = subprocess.run([sys.executable, "-m", "cli.main", *args], cwd=ROOT, env=self.env, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def up(self) -> None:
        self.api = self.pvtt("up").rpartition("UI: ")[2].strip() + "/api"

    def ask(self, path: str, body: dict[str, Any] | None = None) -> Any:
        data = json.dumps(body or {}).encode()
        request = urllib.request.Request(f"{self.api}/{path}", data=data, headers={"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=20) as answer:
            return json.load(answer)

    def runs(self, count: int, wait_s: float) -> list[dict[str, Any]]:
        """The `count` runs of retrain, when they have ended, oldest first."""
        end = time.monotonic() + wait_s
        while True:
            runs = self.ask("flow_runs/filter", {"flows": {"name": {"any_": ["retrain"]}}, "sort": "EXPECTED_START_TIME_ASC"})
            done = [r for r in runs if r["state"]["type"] in ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")]
            if len(done) >= count:
                return done
            assert time.monotonic() < end, [(r["name"], r["state"]["type"]) for r in runs]
            time.sleep(1)


@pytest.fixture
def town(tmp_path: Path) -> Iterator[Town]:
    moto = subprocess.Popen([sys.executable, str(MOTO), str(tmp_path / "puts")], stdout=subprocess.PIPE, text=True)
    assert moto.stdout is not None
    town = Town(tmp_path / "home", moto.stdout.readline().strip())
    try:
        with pytest.MonkeyPatch.context() as patch:
            for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION"):
                patch.setenv(name, town.env[name])
            s3_client(town.env["AWS_ENDPOINT_URL_S3"]).create_bucket(Bucket="incoming")
        yield town
    finally:
        town.pvtt("down")
        moto.terminate()
        moto.wait()


def test_a_push_retrains(town: Town, tmp_path: Path) -> None:
    write_world(NanoWorldSpec(num_clips=4, num_validation=1, num_eval=2, look_alikes=2), tmp_path / "clips")
    push = ["data", "push", str(tmp_path / "clips"), "s3://incoming/mugs", "--recipe", "nano"]
    push += [part for path, value in asked().items() for part in ("--set", f"{path}={json.dumps(value)}")]
    assert "no event was sent: no Prefect server runs here" in town.pvtt(*push)
    town.up()
    assert "retrain on pushed clips" in [automation["name"] for automation in town.ask("automations/filter")]
    said = town.pvtt(*push)
    assert "s3://incoming/mugs: 0 new clips, 7 were there, 0 refused; sent 0 files" in said and "event pvtt.data.pushed" in said
    (run,) = town.runs(1, 1200)
    assert run["state"]["type"] == "COMPLETED", run["state"]["message"]
    assert (run["parameters"]["clips"], run["parameters"]["recipe"]) == ("s3://incoming/mugs", "nano")
    assert run["parameters"]["overrides"] == asked()
    started = time.monotonic()
    town.pvtt(*push)
    runs = town.runs(2, 120)
    assert runs[1]["state"]["name"] == "NothingNew" and time.monotonic() - started < 60
    assert runs[1]["total_run_time"] < 20
    town.up()  # deployed once more or not, there is one automation
    assert [automation["name"] for automation in town.ask("automations/filter")].count("retrain on pushed clips") == 1
    assert len(ArtifactStore.open(town.home / "store").manifests("releases")) == 1
