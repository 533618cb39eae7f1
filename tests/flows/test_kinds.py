"""The whole flow, from clips to release, with a backbone of every kind beside VACE; and `pvtt edit` with what it released. Random weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from infra.artifact_store import ArtifactStore
from pvtt_model.recipes import NANO
from pvtt_model.training.trained_tensors import LORA
from tests.flows.test_curriculum import run_flows, small

pytestmark = pytest.mark.slow

CLIP = NANO.model_dump(mode="json")["stages"][0]["evaluate"]["clip"]
FIRST_FRAME = {"latents.first_frame": True}


def of_kind(architecture: str, *experts: str, **more: Any) -> dict[str, Any]:
    """The small run with another backbone, a stage an expert where it has two."""
    asked = small()
    (stage,) = asked.pop("stages")
    stages = []
    for expert in experts or (None,):
        own = json.loads(json.dumps(stage)) | {"name": expert or stage["name"]}
        own["backbone"] |= {"architecture": architecture, "weights": "seed:0", "sha256": None, "expert": expert}
        own["edit"]["background"] = "generated"
        own["reference"]["vace_blocks"] = False
        stages.append(own)
    return asked | {"stages": stages} | more


KINDS = {
    "t2v": of_kind("nano-t2v"),
    "i2v": of_kind("nano-i2v", **FIRST_FRAME, **{"latents.first_frame_clip": CLIP}),
    "ti2v": of_kind("nano-ti2v", **{"latents.vae": {"architecture": "nano-vae22", "weights": "seed:0"}}),
    "two experts, t2v": of_kind("nano-t2v-a14b", "high", "low"),
    "two experts, i2v": of_kind("nano-i2v-a14b", "low", "high", **FIRST_FRAME),
}


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[ArtifactStore, dict[str, dict[str, Any]]]:
    home = tmp_path_factory.mktemp("kinds")
    answers = run_flows(home, *(("pvtt", {"overrides": overrides}) for overrides in KINDS.values()))
    return ArtifactStore.open(home / "store"), dict(zip(KINDS, answers, strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_from_clips_to_release(ran: Any, kind: str) -> None:
    store, answers = ran
    assert answers[kind]["state"] == "COMPLETED", answers[kind]["message"]
    release = released(store, answers[kind])
    stages = KINDS[kind]["stages"]
    assert release.summary["stages"] == [stage["name"] for stage in stages] and release.summary["gates_passed"]
    names = {file.name for file in release.files}
    assert LORA in names and (len(stages) == 1 or f"{stages[0]['backbone']['expert']}_noise.{LORA}" in names)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("how", ["store", "folder"])
def test_edited_with_the_release(ran: Any, kind: str, how: str, tmp_path: Path) -> None:
    """A backbone that starts from a first frame edits by it; one that starts from words alone edits nothing, and says so."""
    from cli.main import app
    from pvtt_model.data.video_io import png_bytes, write_mp4

    store, answers = ran
    release = released(store, answers[kind])
    write_mp4(tmp_path / "v.mp4", torch.randint(60, 200, (9, 3, 48, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)), 8)
    mask = torch.zeros(48, 64, dtype=torch.bool)
    mask[16:32, 20:40] = True
    (tmp_path / "m.png").write_bytes(png_bytes(mask))
    product = torch.full((3, 24, 24), 255, dtype=torch.uint8)
    product[:, 6:18, 8:16] = torch.tensor([200, 40, 40], dtype=torch.uint8).view(3, 1, 1)
    (tmp_path / "r.png").write_bytes(png_bytes(product))
    args: list[object] = ["edit", "--video", tmp_path / "v.mp4", "--reference", tmp_path / "r.png", "--mask", tmp_path / "m.png"]
    args += ["--mode", "first-frame", "--steps", 2, "--out", tmp_path / "out", "--store", store.store.uri]
    if how == "store":
        args += ["--release", release.name]
    else:
        folder = tmp_path / "release"
        folder.mkdir()
        for file in release.files:
            (folder / file.name).write_bytes(store.local_path(file).read_bytes())
        args += ["--release", folder]
    answer = CliRunner().invoke(app, [str(arg) for arg in args])
    if "t2v" in kind:
        assert answer.exit_code == 2 and "t2v" in answer.output, answer.output
        return
    if how == "folder":  # the recipe of that name has another backbone
        assert answer.exit_code == 2 and "--recipe" in answer.output, answer.output
        return
    assert answer.exit_code == 0, answer.output
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["settings"]["backbone"]["expert"] == (KINDS[kind]["stages"][-1]["backbone"]["expert"])
    partner = report["settings"].get("partner")
    assert (partner is not None) == ("two experts" in kind)


def released(store: ArtifactStore, answer: dict[str, Any]) -> Any:
    """The release that the run's message names."""
    (line,) = [line for line in answer["message"].splitlines() if "/releases/" in line][:1]
    return store.manifest("releases/" + line.rstrip().rsplit("/releases/", 1)[1].split("/")[0].split()[0])
