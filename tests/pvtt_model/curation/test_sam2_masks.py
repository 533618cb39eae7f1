"""SAM 2 as a provider: windows by a segmenter that writes down what it is asked, and the real package at a nano size, end to end."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from pvtt_model.backbones import sam2
from pvtt_model.backbones.image import load_image_encoder
from pvtt_model.curation.masks import mask_of
from pvtt_model.curation.providers import MaskModels
from pvtt_model.curation.sam2_masks import sam2_masks
from pvtt_model.curation.target import Target
from pvtt_model.data.video_io import png_bytes, write_mp4
from pvtt_model.nano.shipped import shipped, shipped_folder
from pvtt_model.nano.world import render_clip, render_reference
from pvtt_model.specs import MaskSpec, ModelSpec, NanoWorldSpec, VideoSpec

NANO, ENCODER = ModelSpec(architecture="nano-sam2", weights="seed:6"), shipped("dinov2", ModelSpec)
TARGET = Target("manifest", ((3.0, 3.0),))


class Scripted:
    """Sees the product where a frame's first red value is odd; its mask is then the one row of that number."""

    name = "scripted"

    def __init__(self) -> None:
        self.asked: list[tuple[list[int], Any]] = []

    def segment(self, frames_TCHW: torch.Tensor, points: Any = (), box: Any = None, mask_HW: Any = None) -> torch.Tensor:
        numbers = [int(f[0, 0, 0]) for f in frames_TCHW]
        self.asked.append((numbers, points if mask_HW is None else int(torch.nonzero(mask_HW)[0, 0])))
        masks = torch.zeros(len(numbers), 32, 4, dtype=torch.bool)
        for mask, number in zip(masks, numbers, strict=True):
            mask[number] = number % 2 == 1
        return masks


def numbered(numbers: list[int]) -> torch.Tensor:
    return torch.tensor(numbers, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 32, 4)


def test_a_window_starts_with_the_last_mask_seen() -> None:
    segmenter = Scripted()
    numbers = [1, 3, 5, 2, 4, 6, 7, 8]  # not seen in 2, 4, 6: the second window sees nothing
    masks = sam2_masks(numbered(numbers), TARGET, segmenter, 3)
    assert segmenter.asked == [([1, 3, 5], TARGET.points), ([5, 2, 4, 6], 5), ([5, 7, 8], 5)]
    assert masks.flatten(1).any(1).tolist() == [n % 2 == 1 for n in numbers]


def test_what_was_never_seen_is_not_looked_for_again() -> None:
    segmenter = Scripted()
    assert not sam2_masks(numbered([2, 4, 6, 1]), TARGET, segmenter, 2).any() and len(segmenter.asked) == 1


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    spec = NanoWorldSpec(num_frames=9, fps=8)
    world = render_clip(spec, 0)
    path = tmp_path_factory.mktemp("clip") / "v.mp4"
    write_mp4(path, world.frames_TCHW, 8)
    reference = png_bytes(render_reference(spec, world.product, 0))
    return {"clip_key": "a", "video": path.read_bytes(), "mask_format": "none", "mask": [], "references": [reference], "metadata": "{}"}


@pytest.fixture(scope="module")
def models() -> MaskModels:
    segmenter, encoder = sam2.load_sam2(NANO, None), load_image_encoder(ENCODER, shipped_folder(ENCODER.weights))
    return MaskModels(lambda _: encoder, lambda _: segmenter)


def test_the_real_package_runs_end_to_end(clip: dict[str, Any], models: MaskModels, monkeypatch: pytest.MonkeyPatch) -> None:
    """Random weights: the mask is of no worth, the way through is the real one. No state ever holds more than a window and its prompt."""
    states: list[dict[str, Any]] = []
    new_state = sam2.new_state
    monkeypatch.setattr(sam2, "new_state", lambda model, frames: states.append(new_state(model, frames)) or states[-1])
    spec = MaskSpec(provider="sam2", sam2=NANO, image_encoder=ENCODER, window_frames=4, min_area=0.0, max_area=1.0)
    video = VideoSpec(width=64, height=64, num_frames=9)
    row = mask_of(clip, video, spec, models=models)
    assert row["provenance"] == "nano-sam2 (random weights, seed 6) by nano-dinov2" and len(row["mask"]) == 9
    held = [[len(outputs) for outputs in state["output_dict_per_obj"][0].values()] for state in states]
    assert [s["num_frames"] for s in states] == [4, 5, 2] and all(sum(counts) == s["num_frames"] for counts, s in zip(held, states, strict=True))
    assert mask_of(clip, video, spec, models=models) == row
    pointed = mask_of(clip | {"metadata": '{"box": [10, 10, 50, 50]}'}, video, spec, models=models)
    assert pointed["provenance"] == "nano-sam2 (random weights, seed 6) by manifest"


def test_without_a_prompt_it_says_so(clip: dict[str, Any], models: MaskModels) -> None:
    video = VideoSpec(width=64, height=64, num_frames=9)
    row = mask_of(clip, video, MaskSpec(when_missing="sam2", sam2=NANO), models=models)
    assert not row["usable"] and "metadata.point or box" in row["reason"] and "random weights" in row["provenance"]
    with pytest.raises(ValueError, match="MaskModels"):
        mask_of(clip, video, MaskSpec(provider="sam2", sam2=NANO))
    with pytest.raises(ValueError, match="masks.sam2 names no model"):
        MaskSpec(provider="sam2")
    given = clip | {"mask_format": "png", "mask": [png_bytes(m) for m in render_clip(NanoWorldSpec(num_frames=9, fps=8), 0).mask_THW]}
    assert mask_of(given, video, MaskSpec(when_missing="sam2", sam2=NANO))["provenance"] == "manifest"
