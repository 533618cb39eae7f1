"""The weights that come with the project: what the index says of them is so, and they load as what they are said to be."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from pvtt_model.artifacts import sha256_of_file
from pvtt_model.backbones.architectures import ARCHITECTURES
from pvtt_model.backbones.clip import load_clip
from pvtt_model.backbones.dit import load_transformer
from pvtt_model.backbones.image import load_image_encoder
from pvtt_model.backbones.text import load_text_encoder
from pvtt_model.backbones.vae import load_vae
from pvtt_model.backbones.video import load_video_features
from pvtt_model.nano.shipped import FOLDER, index, shipped, shipped_folder
from pvtt_model.recipes import NANO, NANO_WIDE
from pvtt_model.specs import BackboneSpec, ModelSpec

MOST_BYTES = 40 * 10**6
LOADERS = {"dit": load_transformer, "vae": load_vae, "text": load_text_encoder, "image": load_image_encoder, "clip": load_clip}
LOADERS |= {"video": load_video_features}
MODELS = list(index())


def kind_of(name: str) -> type[ModelSpec]:
    return BackboneSpec if ARCHITECTURES[index()[name]["architecture"]].family == "dit" else ModelSpec


def load(spec: ModelSpec, folder: Path) -> torch.nn.Module:
    found = LOADERS[ARCHITECTURES[spec.architecture].family](spec, folder)
    return found if isinstance(found, torch.nn.Module) else found.model


def weight_file(folder: Path) -> Path:
    (file,) = (f for f in folder.rglob("*") if f.suffix in (".safetensors", ".pt"))
    return file


@pytest.mark.parametrize("name", list(index()))
def test_the_file_is_the_one_in_the_index(name):
    file, card = weight_file(shipped_folder(f"nano:{name}")), index()[name]
    assert sha256_of_file(file) == card["sha256"]
    assert file.stat().st_size <= card["bytes"]


def test_all_together_are_small_and_in_the_index():
    assert sum(f.stat().st_size for f in FOLDER.rglob("*") if f.is_file()) <= MOST_BYTES
    assert {f.name for f in FOLDER.iterdir() if f.is_dir()} == set(index())


@pytest.mark.parametrize("name", MODELS)
def test_each_loads_by_its_spec_and_strictly(name):
    spec = shipped(name, kind_of(name))
    assert isinstance(spec, kind_of(name)) and spec.weights == f"nano:{name}" and spec.sha256 == index()[name]["sha256"]
    model = load(spec, shipped_folder(spec.weights))
    assert not model.training and not any(p.requires_grad for p in model.parameters())
    assert all(torch.isfinite(p).all() for p in model.parameters())


@pytest.mark.parametrize("name", MODELS)
def test_one_changed_byte_is_refused(name, tmp_path):
    spec = shipped(name, kind_of(name))
    folder = shutil.copytree(shipped_folder(spec.weights), tmp_path / name)
    file = weight_file(folder)
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    with pytest.raises(ValueError, match="has SHA-256"):
        load(spec, folder)


def test_an_unknown_name_is_refused_with_those_there_are():
    with pytest.raises(ValueError, match="no shipped weights 'nano:nanno'. Valid: ") as caught:
        shipped_folder("nano:nanno")
    assert all(f"nano:{name}" in str(caught.value) for name in index())
    with pytest.raises(ValueError, match="no shipped weights 'nano:nanno'. Valid: "):
        shipped("nanno", ModelSpec)


@pytest.mark.parametrize("recipe", [NANO, NANO_WIDE], ids=lambda r: r.name)
def test_the_nano_recipes_take_what_is_shipped(recipe):
    models = [recipe.latents.vae, recipe.conditions.text_encoder, recipe.conditions.image_encoder]
    for stage in recipe.stages:
        models += [stage.backbone, stage.evaluate.clip, stage.evaluate.dino, stage.evaluate.judge]
    for spec in models:
        assert spec == shipped(spec.weights.removeprefix("nano:"), type(spec))
