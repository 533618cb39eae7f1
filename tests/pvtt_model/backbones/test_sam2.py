"""The real sam2 package at a nano size from a seed; its published configs, its state and its checkpoints' layout."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from pvtt_model.artifacts import sha256_of_file
from pvtt_model.backbones.architectures import ARCHITECTURES
from pvtt_model.backbones.sam2 import VideoSegmenter, load_sam2
from pvtt_model.nano.world import render_clip
from pvtt_model.specs import ModelSpec, NanoWorldSpec

NANO = ModelSpec(architecture="nano-sam2", weights="seed:6")  # of eight seeds tried, the one whose masks are neither empty nor full
SIZES = [name for name, a in ARCHITECTURES.items() if a.family == "sam2" and not a.nano]


@pytest.fixture(scope="module")
def segmenter() -> VideoSegmenter:
    return load_sam2(NANO, None)


@pytest.fixture(scope="module")
def frames() -> torch.Tensor:
    return render_clip(NanoWorldSpec(num_frames=6), 0).frames_TCHW


def on_disk(path: Path, **more: Any) -> ModelSpec:
    return ModelSpec(architecture="nano-sam2", weights=str(path), **more)


def test_a_seed_gives_the_same_bits_and_says_that_it_is_random(segmenter: VideoSegmenter) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    again, other = load_sam2(NANO, None), load_sam2(ModelSpec(architecture="nano-sam2", weights="seed:1"), None)
    assert torch.equal(torch.rand(3), expected)
    a, b, c = (s.model.state_dict() for s in (segmenter, again, other))
    assert all(torch.equal(a[k], b[k]) for k in a) and not all(torch.equal(a[k], c[k]) for k in a)
    assert segmenter.name == "nano-sam2 (random weights, seed 6)" and not any(p.requires_grad for p in segmenter.model.parameters())
    assert type(segmenter.model).__module__ == "sam2.sam2_video_predictor"


@pytest.mark.parametrize(
    "prompt", [{"points": ((30.0, 30.0),)}, {"box": (10.0, 12.0, 50.0, 52.0)}, {"points": ((9.0, 9.0),), "box": (2.0, 2.0, 40.0, 40.0)}]
)
def test_frames_and_prompts_go_the_packages_own_way(segmenter: VideoSegmenter, frames: torch.Tensor, prompt: Any, tmp_path: Path) -> None:
    """Bit for bit what the package gives for the same frames as a folder of pictures."""
    for i, frame in enumerate(frames):
        Image.fromarray(frame.permute(1, 2, 0).numpy()).save(tmp_path / f"{i}.jpg", quality=90)
    read = torch.stack([torch.from_numpy(np.array(Image.open(tmp_path / f"{i}.jpg"))).permute(2, 0, 1) for i in range(len(frames))])
    model = segmenter.model
    state = model.init_state(str(tmp_path))
    points = prompt.get("points")
    model.add_new_points_or_box(
        state, 0, 1, points and torch.tensor(points), points and torch.ones(len(points), dtype=torch.int32), box=prompt.get("box")
    )
    theirs = torch.stack([logits[0, 0] > 0 for _, _, logits in model.propagate_in_video(state)])
    ours = segmenter.segment(read, **prompt)
    assert ours.shape == frames[:, 0].shape and torch.equal(ours, theirs) and 0.2 < ours.float().mean() < 0.9


def test_a_mask_prompts_too_and_nothing_does_not(segmenter: VideoSegmenter, frames: torch.Tensor) -> None:
    disc = torch.zeros(64, 64, dtype=torch.bool)
    disc[16:48, 16:48] = True
    found = segmenter.segment(frames, mask_HW=disc)
    assert (found[0] & disc).sum() / (found[0] | disc).sum() > 0.9
    with pytest.raises(ValueError, match="no prompt"):
        segmenter.segment(frames)


def test_checkpoints_are_read_by_hash_and_whole(segmenter: VideoSegmenter, tmp_path: Path) -> None:
    state = {k: v.clone() for k, v in segmenter.model.state_dict().items()}
    pickle = tmp_path / "sam2.1_hiera_nano.pt"
    torch.save({"model": state}, pickle)
    sha = sha256_of_file(pickle)
    for place in (pickle, tmp_path):  # the file, or the folder it lies in
        loaded = load_sam2(on_disk(place, sha256=sha), place)
        assert loaded.name == "nano-sam2" and all(torch.equal(v, state[k]) for k, v in loaded.model.state_dict().items())
    with pytest.raises(ValueError, match="only by its hash"):
        load_sam2(on_disk(pickle), pickle)
    with pytest.raises(ValueError, match="has SHA-256"):
        load_sam2(on_disk(pickle, sha256="0" * 64), pickle)
    save_file(state, tmp_path / "sam2_own.safetensors")
    assert load_sam2(on_disk(tmp_path), tmp_path).name == "nano-sam2"  # goes before the pickle, and needs no hash
    save_file({k: v for k, v in state.items() if k != "no_mem_embed"}, tmp_path / "sam2_own.safetensors")
    with pytest.raises(ValueError, match="missing \\[no_mem_embed\\]"):
        load_sam2(on_disk(tmp_path), tmp_path)


def test_a_pickle_that_runs_code_is_refused(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> Any:
            return (exec, (f"open({str(tmp_path / 'ran')!r}, 'w').close()",))

    bomb = tmp_path / "sam2.pt"
    torch.save({"model": Bomb()}, bomb)
    with pytest.raises(Exception, match="[Ww]eights"):
        load_sam2(on_disk(bomb, sha256=sha256_of_file(bomb)), bomb)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", SIZES)
def test_the_published_sizes_are_configs_of_the_package(name: str) -> None:
    import sam2  # noqa: F401 - starts Hydra with the package's configs
    from hydra import compose

    assert len(SIZES) == 4 and compose(config_name=ARCHITECTURES[name].config["config"]).model.image_size == 1024
    with pytest.raises(ValueError, match="only nano architectures"):
        load_sam2(ModelSpec(architecture=name, weights="seed:0"), None)


def test_the_published_tiny_size_loads_from_its_layout(tmp_path: Path) -> None:
    from sam2.build_sam import build_sam2

    torch.manual_seed(0)
    published = build_sam2("configs/sam2.1/sam2.1_hiera_t.yaml", None, device="cpu")
    torch.save({"model": published.state_dict()}, tmp_path / "sam2.1_hiera_tiny.pt")
    sha = sha256_of_file(tmp_path / "sam2.1_hiera_tiny.pt")
    loaded = load_sam2(ModelSpec(architecture="sam2.1-hiera-t", weights=str(tmp_path), sha256=sha), tmp_path)
    assert loaded.name == "sam2.1-hiera-t" and sum(p.numel() for p in loaded.model.parameters()) == 38_962_498
