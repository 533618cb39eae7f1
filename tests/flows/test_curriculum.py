"""The flows end to end on real Prefect, Ray and DeepSpeed, at the smallest size: one stage, four steps."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from infra.artifact_store import ArtifactStore
from pvtt_model.recipes import NANO

RUNNER = Path(__file__).with_name("run_flows.py")
STAGE = NANO.model_dump(mode="json")["stages"][0]


def small(**gate: Any) -> dict[str, Any]:
    """Overrides for one short stage, and a gate that needs no learning; `gate` replaces its thresholds."""
    stage = json.loads(json.dumps(STAGE))
    stage["train"] |= {"steps": 4, "checkpoint_every_steps": 2, "validate_every_steps": 2, "validate_clips": 1}
    stage["train"] |= {"sample_every_steps": 4, "sample_clips": 1, "sample_steps": 1}
    stage["parallel"] |= {"micro_batch": 2}
    stage["edit"] |= {"num_steps": 2, "max_clips": 2}
    stage["gate"] = gate or {"thresholds": [t for t in stage["gate"]["thresholds"] if t["metric"] == "bg_psnr_composited_db"]}
    world = {"world.num_clips": 5, "world.num_validation": 1, "world.num_eval": 3, "world.look_alikes": 2}
    return {**world, "clips.clips_per_shard": 4, "stages": [stage]}


def run_flows(home: Path, *runs: tuple[str, dict[str, Any]]) -> list[dict[str, Any]]:
    env = dict(os.environ, PREFECT_HOME=str(home / "prefect"), PVTT_HOME=str(home), PREFECT_SERVER_ANALYTICS_ENABLED="false", DO_NOT_TRACK="1")
    env |= {"PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "90", "OMP_WAIT_POLICY": "PASSIVE"}
    env.pop("PREFECT_API_URL", None)
    env.pop("PVTT_STORE", None)
    done = subprocess.run([sys.executable, str(RUNNER), json.dumps(runs)], env=env, capture_output=True, text=True, timeout=900 * len(runs))
    answers = [json.loads(line.removeprefix("ANSWER ")) for line in done.stdout.splitlines() if line.startswith("ANSWER ")]
    assert len(answers) == len(runs), (done.stdout + done.stderr)[-4000:]
    return answers


def records(store: ArtifactStore) -> dict[str, str]:
    """commit_id of everything finished: artifacts and units of work."""
    keys = [i.key for i in store.store.list() if i.key.endswith("/manifest.json") or i.key.startswith("derived/")]
    return {key: json.loads(store.store.get_bytes(key))["commit_id"] for key in keys}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def first(home: Path) -> dict[str, Any]:
    return run_flows(home, ("pvtt", {"overrides": small()}))[0]


@pytest.fixture(scope="module")
def store(home: Path, first: dict[str, Any]) -> ArtifactStore:
    return ArtifactStore.open(home / "store")


def test_from_clips_to_release(first: dict[str, Any], store: ArtifactStore) -> None:
    assert first["state"] == "COMPLETED", first["message"]
    kinds = [name.split("/")[0] for name in store.names()]
    assert sorted(kinds) == sorted(["clips", "masks", "latents", "conditions", "cards", "checkpoints", "edits", "reports", "gates", "releases"])
    for line in first["message"].splitlines()[:3]:
        assert Path(line.split(": ", 1)[1]).exists(), line
    report = store.verify()
    assert report.ok and report.files > 15, report.problems


def test_release_is_whole_and_reaches_the_clips(store: ArtifactStore, tmp_path: Path) -> None:
    from pvtt_model.export.release import load_adapter, load_lora

    release = store.manifests("releases")[-1]
    for file in release.files:
        (tmp_path / file.name).write_bytes(store.local_path(file).read_bytes())
    assert any(".attn1.to_q.lora_A." in key for key in load_lora(tmp_path))
    assert any("resampler" in key for key in load_adapter(tmp_path))
    card = (tmp_path / "README.md").read_text()
    assert "nano-openclip" in card and release.version in (tmp_path / "lineage.json").read_text()

    def names(node: Any) -> set[str]:
        return {node.name}.union(*(names(child) for child in node.inputs))

    assert any(name.startswith("clips/") for name in names(store.lineage(release.name)))


def test_training_has_steps_and_final_loss(store: ArtifactStore) -> None:
    (checkpoint,) = store.manifests("checkpoints")
    assert checkpoint.summary["steps"] == 4 and checkpoint.summary["validation"] > 0
    names = {file.name for file in checkpoint.files}
    assert {"samples/000004-0.png", "events.out.tfevents.whole"} <= names, names
    assert float.fromhex(checkpoint.summary["final_loss_hex"]) == checkpoint.summary["final_loss"]
    held_out = {f["clip_key"] for f in json.loads(store.local_path(store.manifests("clips")[0].file("table.json")).read_text()) if f["held_out"]}
    assert held_out and not held_out & set(json.loads(store.local_path(checkpoint.file("trained_on.json")).read_text()))


def test_what_follows_reuses_and_refuses(home: Path, first: dict[str, Any], store: ArtifactStore, tmp_path: Path) -> None:
    """The same run again, an unknown field, a manifest of bad lines, a missed gate, and re-training on nothing new: one server for all."""
    before = records(store)
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"video_path": "gone.mp4"}\nnot json\n')
    impossible = {
        "thresholds": [{"metric": "bg_psnr_db", "op": ">", "value": 99.0}, {"metric": "clip_i", "op": ">", "value": 0.75}],
        "on_failure": "stop",
    }
    again, unknown, refused, missed, nothing = run_flows(
        home,
        ("pvtt", {"overrides": small()}),
        ("pvtt", {"overrides": {"stages.verify.train.stepps": 3}}),
        ("pvtt", {"overrides": small(), "clips": str(bad)}),
        ("pvtt", {"overrides": small(**impossible)}),
        ("retrain", {"overrides": small()}),
    )
    assert again["state"] == "COMPLETED"
    assert {k: v for k, v in records(store).items() if k in before} == before
    assert unknown["state"] == "FAILED" and "Did you mean 'steps'?" in unknown["message"]
    assert refused["state"] == "FAILED"
    assert all(word in refused["message"] for word in ("All 2 clips", "missing_field", "not_json")), refused["message"]
    assert missed["state"] == "FAILED"
    assert "| `bg_psnr_db` | > 99 |" in missed["message"] and "not measured" in missed["message"]
    assert nothing["state"] == "COMPLETED" and nothing["name"] == "NothingNew"
    added = set(records(store)) - set(before)
    assert {key.split("/")[0] for key in added} == {"gates"}, added
