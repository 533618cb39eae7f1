"""The shipped video network: loaded by its hash alone, and it knows one clip from another."""

from __future__ import annotations

import shutil

import pytest
import torch

from pvtt_model.backbones.video import load_video_features
from pvtt_model.nano.pretrain.stream import clips
from pvtt_model.nano.shipped import FOLDER, shipped
from pvtt_model.specs import ModelSpec

SPEC = shipped("video", ModelSpec)


def test_clips_of_one_ground_and_way_are_nearer_than_others():
    net = load_video_features(SPEC, FOLDER / "video")
    batch = clips(99, 0, 64, 5, "eval")
    features = net.embed(batch.frames_NCTHW)
    assert features.shape == (64, net.width) and features.dtype == torch.float32 and not features.requires_grad
    assert net.name == "nano-video"
    near = torch.cdist(features, features) + 1e9 * torch.eye(64)
    grounds = torch.tensor([s.ground for s in batch.scenes])
    agree = (grounds[near.argmin(1)] == grounds).float().mean()
    chance = (grounds[:, None] == grounds[None]).float().mean()
    assert agree > chance + 0.15, (agree, chance)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sha256": None}, "names no hash"),
        ({"sha256": "0" * 64}, "has SHA-256"),
        ({"architecture": "nano-judge"}, "no video architecture 'nano-judge'"),
    ],
)
def test_code_is_loaded_by_its_hash_alone(change, message):
    with pytest.raises(ValueError, match=message):
        load_video_features(SPEC.model_copy(update=change), FOLDER / "video")


def test_a_folder_without_or_with_two_files_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds 0 .pt files"):
        load_video_features(SPEC, tmp_path)
    for name in ("a.pt", "b.pt"):
        shutil.copy(FOLDER / "video" / "video_features.pt", tmp_path / name)
    with pytest.raises(FileNotFoundError, match="holds 2 .pt files"):
        load_video_features(SPEC, tmp_path)


def test_seeds_shapes_and_ranges_are_refused():
    with pytest.raises(ValueError, match="cannot be made from a seed"):
        load_video_features(ModelSpec(architecture="nano-video", weights="seed:0"), None)
    net = load_video_features(SPEC, FOLDER / "video")
    with pytest.raises(ValueError, match="T of 3 or more"):
        net.embed(torch.zeros(1, 3, 2, 64, 64))
    with pytest.raises(ValueError, match=r"takes \[-1, 1\]"):
        net.embed(torch.full((1, 3, 5, 64, 64), 255.0))
