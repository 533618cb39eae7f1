"""`pvtt doctor` through typer: what is looked at, and the exit status."""

from __future__ import annotations

import json

import pytest
import torch
import typer
from typer.testing import CliRunner

from cli.doctor import doctor
from pvtt_model.nano.world import write_world
from pvtt_model.specs import NanoWorldSpec

app = typer.Typer()
app.command()(doctor)


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("PVTT_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PVTT_NUM_CPUS", "2")
    for name in ("RAY_ADDRESS", "PREFECT_API_URL", "PVTT_STORE"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def run(*args: str):
    return CliRunner().invoke(app, list(args))


def checks(*args: str) -> tuple[int, dict]:
    answer = run("--json", *args)
    return answer.exit_code, {c["name"]: c for c in json.loads(answer.stdout)["checks"]}


def test_nano_passes_and_clips_are_looked_into(home):
    write_world(NanoWorldSpec(num_clips=3, num_eval=2, look_alikes=2), home / "clips")
    lines = (home / "clips" / "manifest.jsonl").read_text().splitlines()
    (home / "clips" / "manifest.jsonl").write_text("\n".join([*lines, "{}"]) + "\n")
    code, found = checks("--recipe", "nano", "--store", str(home / "store"), "--clips", str(home / "clips"), "--sample", "3")
    assert code == 0, [c for c in found.values() if c["status"] == "fail"]
    assert found["clips"]["what"].endswith("3 of 6 lines looked at") and "line 6" in found["clips"]["got"], "the last is among them, by its number"
    assert found["weights stages.base.backbone keys"]["status"] == "ok" and found["host memory refine"]["status"] == "ok"


def test_what_full_lacks_here_by_name(home):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    code, found = checks("--recipe", "full", "--store", str(home / "store"), "--set", "stages.*.parallel.gpu_memory_gib=24")
    assert code == 1
    assert found["gpu"]["status"] == "fail" and found["memory base"]["status"] == "fail"
    assert "revision=COMMIT" in found["weights stages.base.backbone"]["cure"]
    assert "stages.*.evaluate.dino.revision" in found["weights conditions.image_encoder"]["cure"]


def test_without_a_recipe_and_strictness(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "8")
    answer = run()
    assert answer.exit_code == 0 and "1 warning" in answer.stdout, answer.output
    assert run("--strict").exit_code == 1


def test_a_store_that_fails():
    code, found = checks("--store", "/proc/pvtt")
    assert code == 1 and found["store"]["status"] == "fail"


def test_wrong_arguments_are_2():
    for args, says in (
        (["--recipe", "nanu"], "Did you mean 'nano'"),
        (["--set", "stages.verify.train.steps=5"], "Add --recipe"),
        (["--clips", "x"], "Add --recipe"),
    ):
        answer = run(*args)
        assert answer.exit_code == 2 and says in answer.output, answer.output
