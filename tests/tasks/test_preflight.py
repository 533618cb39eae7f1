"""The checks of a stage on the flow's side and in a worker: a training that cannot end is not begun, and not tried again."""

from __future__ import annotations

import logging
import os
import shutil
from pathlib import Path

import pytest

import tasks.train_stage as train_stage
from infra.artifact_store import ArtifactMissing, ArtifactStore
from infra.failures import kind_of
from infra.settings import settings
from pvtt_model.artifacts import ArtifactRef, StoredFile
from pvtt_model.chain import checkpoint_artifact
from pvtt_model.nano.shipped import shipped_folder
from pvtt_model.preflight.check import PreflightFailed
from pvtt_model.recipes import recipe_by_name
from tasks.clip_table import Curated
from tasks.preflight import driver_checks, services_checks, store_check, weights_found
from tasks.train_payload import TrainPayload

FILE = StoredFile(name="x", key="x", bytes=1, sha256="0" * 64)


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("PVTT_HOME", str(tmp_path / "home"))
    for name in ("RAY_ADDRESS", "PREFECT_API_URL", "PVTT_PREFLIGHT", "PVTT_STORE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(train_stage, "get_run_logger", lambda: logging.getLogger("preflight"))
    return tmp_path


def make(tmp_path: Path, overrides: dict):
    """The checkpoint of 'verify', from curated artifacts that are not there: whoever looks for them has begun."""
    recipe = recipe_by_name("nano", overrides)
    store = ArtifactStore.open(tmp_path / "store")
    data = Curated(**{k: ArtifactRef(kind=k, version="0" * 20, uri=store.store.uri) for k in ("clips", "masks", "latents", "conditions")})
    planned = checkpoint_artifact(recipe, recipe.stages[0], data.latents.name, data.conditions.name, data.masks.name, data.clips.name, None)
    return train_stage._make(store, planned, recipe, "verify", data, None)


def test_a_training_with_a_failing_check_is_not_begun(home):
    with pytest.raises(PreflightFailed, match="training of stage 'verify' was not started: 2 of") as caught:
        make(home, {"stages.verify.parallel.offload_params": True, "stages.verify.backbone.weights": str(home / "none")})
    assert "zero_stage=3" in str(caught.value) and "stages.verify.backbone.weights" in str(caught.value)
    assert kind_of(caught.value) == "data", "not tried again"


def test_it_is_begun_in_spite_of_it_where_that_is_asked_for(home, monkeypatch, caplog):
    monkeypatch.setenv("PVTT_PREFLIGHT", "warn")
    with pytest.raises(ArtifactMissing), caplog.at_level(logging.WARNING):
        make(home, {"stages.verify.parallel.offload_params": True})
    assert "offload_params at ZeRO-3" in caplog.text
    monkeypatch.setenv("PVTT_PREFLIGHT", "no")
    with pytest.raises(ValueError, match="PVTT_PREFLIGHT is 'no'"):
        settings()


def test_nano_passes_here_on_the_flows_side(home):
    where = settings(str(home / "store")).model_copy(update={"num_cpus": 2})
    checks = driver_checks(recipe_by_name("nano").stages[0], where)
    assert not [c for c in checks if c.status == "fail"], checks
    assert {c.name for c in driver_checks(recipe_by_name("nano").stages[0], where.model_copy(update={"num_cpus": 1})) if c.status == "fail"} == {
        "workers"
    }


def test_on_a_cluster_only_what_holds_for_every_node_is_refused(home):
    where = settings(str(home / "store")).model_copy(update={"ray_address": "10.0.0.1:6379"})
    gone = recipe_by_name("wan2.1-vace-1.3b", {"stages.verify.backbone.weights": "/only/on/the/nodes"}).stages[0]
    assert not [c for c in driver_checks(gone, where) if c.status == "fail"]
    unpinned = recipe_by_name("wan2.1-vace-1.3b").stages[0]
    (failed,) = [c for c in driver_checks(unpinned, where) if c.status == "fail"]
    assert "--set stages.verify.backbone.revision=COMMIT" in failed.cure and "'unpinned'" in failed.got


def test_weights_that_are_not_found_name_their_settings(home):
    where = settings()
    spec = recipe_by_name("full").conditions.image_encoder
    looked = weights_found(["conditions.image_encoder", "stages.*.evaluate.dino"], spec, where)
    assert (
        looked.folder is None and "--set conditions.image_encoder.revision=COMMIT --set stages.*.evaluate.dino.revision=COMMIT" in looked.check.cure
    )
    seeded = recipe_by_name("nano", {"stages.verify.backbone.weights": "seed:1", "stages.verify.backbone.sha256": None}).stages[0].backbone
    big = seeded.model_copy(update={"architecture": "wan2.1-vace-1.3b"})
    assert weights_found(["x"], big, where).check.status == "fail"
    assert "stand-in" in weights_found(["x"], seeded, where).check.got


def test_a_store_that_cannot_be_written_to_and_addresses_that_nobody_answers(monkeypatch, home):
    assert store_check(str(home / "store")).status == "ok"
    assert store_check("/proc/pvtt").status == "fail" and store_check("ftp://x").status == "fail"
    assert [c.status for c in services_checks(settings())] == ["ok", "ok"]
    monkeypatch.setenv("PREFECT_API_URL", "http://user:secret@127.0.0.1:1/api")  # not-a-secret: to be refused or hidden
    where = settings().model_copy(update={"ray_address": "127.0.0.1:1"})
    found = list(services_checks(where))
    assert [c.status for c in found] == ["fail", "fail"] and "secret" not in str(found)


class _Said:
    """A reporter that keeps what is said."""

    def __init__(self) -> None:
        self.said: dict[str, object] = {}

    def say(self, key: str, value: object) -> None:
        self.said[key] = value


def worker(home: Path, overrides: dict) -> tuple[TrainPayload, _Said]:
    recipe = recipe_by_name("nano", {"stages.*.parallel.num_workers": 1} | overrides)
    planned = checkpoint_artifact(recipe, recipe.stages[0], "latents/a", "conditions/a", "masks/a", "clips/a", None)
    return TrainPayload(str(home / "store"), planned, recipe, 0, (), FILE, None, False), _Said()


def test_a_worker_refuses_weights_that_were_cut_short(home):
    from tasks.train_worker import train_worker

    folder = shutil.copytree(shipped_folder("nano:nano-s"), home / "nano-s")
    file = folder / "diffusion_pytorch_model.safetensors"
    os.truncate(file, file.stat().st_size - 1000)
    payload, said = worker(home, {"stages.verify.backbone.weights": str(folder), "stages.verify.backbone.sha256": None})
    with pytest.raises(PreflightFailed, match="cut short"):
        train_worker(payload, said)


def test_a_worker_refuses_a_training_that_the_memory_does_not_hold(home, monkeypatch):
    import pvtt_model.preflight.stage as of_stage
    from pvtt_model.preflight.machine import HostMemory
    from tasks.train_worker import train_worker

    monkeypatch.setattr(of_stage, "host_memory", lambda: HostMemory(2**20, 2**20))
    payload, said = worker(home, {})
    with pytest.raises(PreflightFailed, match="host memory verify"):
        train_worker(payload, said)


def test_a_worker_warns_and_goes_on(home, monkeypatch):
    import tasks.train_worker as of_worker

    monkeypatch.setattr(of_worker, "files_checks", lambda *_, **__: [])
    monkeypatch.setattr("pvtt_model.preflight.stage.cores", lambda: 0)
    payload, said = worker(home, {})
    of_worker._preflight(payload.recipe, payload.recipe.stages[0], settings(payload.store), said)
    assert "threads" in said.said["warnings"]
