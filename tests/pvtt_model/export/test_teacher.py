"""A release made into a teacher again: every trained tensor, to the bit."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import save_file

from pvtt_model.export.release import write_release
from pvtt_model.export.teacher import load_teacher
from pvtt_model.recipes import recipe_by_name
from pvtt_model.training.teacher import build_teacher
from pvtt_model.training.trained_tensors import split_trainable

BASE = {"stages.*.backbone.architecture": "nano-s", "stages.*.backbone.weights": "seed:7", "latents.vae.weights": "seed:0"}


def released(folder, overrides):
    recipe = recipe_by_name("nano", BASE | overrides)
    stage = recipe.stages[-1]
    teacher = build_teacher(stage.backbone, stage.reference, stage.lora, "nano-dinov2", None, torch.float32, 3)
    trained = {name: torch.randn_like(p) for name, p in teacher.trainable().items()}
    lora, adapter, _ = split_trainable(trained)
    save_file(lora, folder / "l.safetensors")
    save_file(adapter, folder / "a.safetensors")
    given = dict(stages=[], reports=[], verdicts=[], lineage={}, contact_sheet=None, created="2026-01-01T00:00:00Z")
    write_release(folder / "release", adapter=folder / "a.safetensors", lora=folder / "l.safetensors", recipe=recipe.model_dump(mode="json"), **given)
    return folder / "release", trained


@pytest.mark.parametrize(
    "overrides", [{}, {"stages.*.lora.kind": "dora", "stages.*.lora.blocks": [0, 2], "stages.*.lora.rank_pattern": {"attn2": 2}}]
)
def test_every_trained_tensor_comes_back(tmp_path, overrides):
    folder, trained = released(tmp_path, overrides)
    teacher = load_teacher(folder)
    own = teacher.trainable()
    assert own.keys() == trained.keys() and all(torch.equal(own[n], trained[n]) for n in own)
    assert not teacher.training


def test_a_release_of_a_published_base_wants_it(tmp_path):
    folder, _ = released(tmp_path, {})
    index = json.loads((folder / "model_index.json").read_text())
    index["base_model"]["weights"] = "/no/such/folder"
    (folder / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match="base '/no/such/folder'.*Give base="):
        load_teacher(folder)
    with pytest.raises(ValueError, match="is no release of PVTT"):
        load_teacher(tmp_path)
