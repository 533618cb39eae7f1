"""Edits rows made by hand, and two small extractors that are real: a colour histogram, and one that also reads colour words."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from pvtt_model.backbones.flow import FlowModel, load_flow
from pvtt_model.backbones.image import ImageEncoder, load_image_encoder
from pvtt_model.backbones.perceptual import PerceptualModel, load_perceptual
from pvtt_model.data.video_io import decode
from pvtt_model.evaluation.frames import decode_frames, decode_masks
from pvtt_model.specs import EvalSpec, ModelSpec

STLPIPS = "b356b382f96010f77d085ee8343ecd9fd322d0a56e8de2b2d0549fafcad8b9ee"
NANO_EVAL = EvalSpec(clip=ModelSpec(architecture="nano-openclip", weights="seed:3"), dino=ModelSpec(architecture="nano-dinov2", weights="seed:2"))
REAL_EVAL = EvalSpec(
    clip=ModelSpec(architecture="openclip-vit-h14", weights="/w/clip"), dino=ModelSpec(architecture="dinov2-vit-l14", weights="/w/dino")
)


class ColourHistogram:
    """Share of pixels in each of 4 x 4 x 4 colour bins: a real, deterministic image embedding."""

    def __init__(self, name: str = "colour-histogram") -> None:
        self.name = name

    def embed(self, images_BCHW: torch.Tensor) -> torch.Tensor:
        bins = (images_BCHW * 3.999).long().clamp(0, 3)
        index = (bins[:, 0] * 16 + bins[:, 1] * 4 + bins[:, 2]).flatten(1)
        return torch.stack([torch.bincount(i, minlength=64).float() for i in index]) / index.shape[1]


class MeanColourClip:
    """Mean colour of a picture against the colours that a text names."""

    WORDS = {"red": (1.0, 0.0, 0.0), "green": (0.0, 1.0, 0.0), "blue": (0.0, 0.0, 1.0)}

    def __init__(self, name: str = "mean-colour") -> None:
        self.name = name

    def embed_images(self, images_BCHW: torch.Tensor) -> torch.Tensor:
        assert images_BCHW.shape[2] == images_BCHW.shape[3], "extractors are shown squares"
        return images_BCHW.mean(dim=(2, 3))

    def embed_texts(self, texts: list[str]) -> torch.Tensor:
        return torch.stack([sum((torch.tensor(c) for w, c in self.WORDS.items() if w in t), torch.full((3,), 0.01)) for t in texts])


def png(array: np.ndarray, mode: str | None = None) -> bytes:
    image = Image.fromarray(array)
    file = io.BytesIO()
    (image.convert(mode) if mode else image).save(file, format="PNG")
    return file.getvalue()


def pngs(video_TCHW: torch.Tensor) -> list[bytes]:
    return [png(frame.permute(1, 2, 0).numpy()) for frame in video_TCHW]


def _edits_row(clip_key: str = "c0", *, frames: int = 5, side: int = 32, noise: int = 6, seed: int = 0, **changes: Any) -> dict[str, Any]:
    """A textured, drifting background; a green square as the old product, a red one as the new; the raw edit's background is noisy."""
    generator = torch.Generator().manual_seed(seed)
    texture = torch.randint(40, 200, (3, side, side + frames), generator=generator, dtype=torch.uint8)
    source = torch.stack([texture[:, :, t : t + side] for t in range(frames)])
    mask = torch.zeros(frames, side, side, dtype=torch.bool)
    mask[:, 8:20, 10:22] = True
    ground = source.clone()
    source = torch.where(mask[:, None], torch.tensor([20, 220, 20], dtype=torch.uint8)[:, None, None], ground)
    red = torch.where(mask[:, None], torch.tensor([220, 20, 20], dtype=torch.uint8)[:, None, None], ground)
    wobble = torch.randint(-noise, noise + 1, source.shape, generator=generator) if noise else torch.zeros(source.shape, dtype=torch.long)
    raw = (red.long() + wobble).clamp(0, 255).to(torch.uint8)
    reference = np.full((24, 40, 3), (220, 20, 20), dtype=np.uint8)
    row: dict[str, Any] = {
        "clip_key": clip_key,
        "reference_key": "r0",
        "usable": True,
        "reason": None,
        "prompt": "a red box on a table",
        "source": pngs(source),
        "mask": [png(m.numpy().astype(np.uint8) * 255, "1") for m in mask],
        "raw": pngs(raw),
        "composited": pngs(torch.where(mask[:, None], raw, source)),
        "round_trip": pngs((source.long() + 1).clamp(0, 255).to(torch.uint8)),
        "reference": png(reference),
        "fps": 16.0,
    }
    return {**row, **changes}


def _known_row(clip_key: str = "c0", **changes: Any) -> dict[str, Any]:
    """_edits_row whose right edit is known (a flat red square), with all baselines: a blue square, a grey one, a green one."""
    row = _edits_row(clip_key, **changes)
    source, mask = decode_frames(row["source"]), decode_masks(row["mask"])

    def square(*rgb: int) -> list[bytes]:
        return pngs(torch.where(mask[:, None], torch.tensor(rgb, dtype=torch.uint8)[:, None, None], source))

    made = {"truth": square(220, 20, 20), "truth_round_trip": square(221, 21, 21), "truth_mask": row["mask"], "base": square(20, 20, 220)}
    made |= {"no_reference": square(120, 120, 120), "wrong_reference": square(220, 220, 20)}
    return {**row, **made, "product_id": "red", "wrong_product_id": "yellow", **changes}


def _failed_row(clip_key: str, reason: str) -> dict[str, Any]:
    empty = {name: [] for name in ("source", "mask", "raw", "composited", "round_trip")}
    return {"clip_key": clip_key, "reference_key": "r0", "usable": False, "reason": reason, "prompt": "p", "reference": b"", "fps": 16.0, **empty}


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def edits_row() -> Callable[..., dict[str, Any]]:
    return _edits_row


@pytest.fixture
def known_row() -> Callable[..., dict[str, Any]]:
    return _known_row


@pytest.fixture
def failed_row() -> Callable[[str, str], dict[str, Any]]:
    return _failed_row


@pytest.fixture
def nano_eval() -> EvalSpec:
    return NANO_EVAL


@pytest.fixture
def real_eval() -> EvalSpec:
    return REAL_EVAL


@pytest.fixture
def histogram() -> ColourHistogram:
    return ColourHistogram()


@pytest.fixture
def mean_colour() -> MeanColourClip:
    return MeanColourClip()


@pytest.fixture(scope="session")
def raft_small(shared_data: Path) -> FlowModel:
    """RAFT-small with its published weights."""
    path = shared_data / "weights" / "raft_small_torchvision.safetensors"
    return load_flow(ModelSpec(architecture="raft-small", weights=str(path)), path)


@pytest.fixture(scope="session")
def lite0(shared_data: Path) -> ImageEncoder:
    """EfficientNet-Lite0 on ImageNet classes: a small real image network; it carries its own name."""
    path = shared_data / "weights" / "tf_efficientnet_lite0_timm.safetensors"
    return load_image_encoder(ModelSpec(architecture="tf-efficientnet-lite0", weights=str(path)), path)


@pytest.fixture(scope="session")
def stlpips(shared_data: Path) -> PerceptualModel:
    """Shift-tolerant LPIPS with its published weights; its scores are not those of LPIPS."""
    path = shared_data / "weights" / "stlpips_alex_shift_tolerant.pth"
    return load_perceptual(ModelSpec(architecture="stlpips-alex", weights=str(path), sha256=STLPIPS), path)


@pytest.fixture(scope="session")
def mug_pour(shared_data: Path) -> Callable[..., tuple[torch.Tensor, torch.Tensor]]:
    """(frames, height, width, every) -> the video's frames uint8 T,3,H,W and the mug's masks bool T,H,W, both made smaller."""

    def read(frames: int, height: int = 120, width: int = 208, every: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
        video, mask = (decode((shared_data / "videos" / f"mug_pour{end}.mp4").read_bytes())[::every][:frames] for end in ("", "_mask"))
        small = F.interpolate(video.float(), size=(height, width), mode="bilinear", antialias=True).round().clamp(0, 255).to(torch.uint8)
        covered = F.interpolate((mask.float().mean(1, keepdim=True) > 127).float(), size=(height, width), mode="area")
        return small, covered[:, 0] > 0.5

    return read
