"""What the benchmark's networks see of a frame, each frame shown once and its embedding used by every column that asks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from PIL import Image

from pvtt_model.backbones.perceptual import PerceptualModel
from pvtt_model.evaluation.benchmark.columns import Network
from pvtt_model.evaluation.similarity import ImageExtractor, embedded, side_of

_AT_ONCE = 16


class Clip(Protocol):
    """CLIP whose vectors can be had as they are, not of unit length: the published direction is of those."""

    name: str
    side: int

    def embed_images(self, images_BCHW: torch.Tensor, unit: bool = True) -> torch.Tensor: ...

    def embed_texts(self, texts: list[str], unit: bool = True) -> torch.Tensor: ...


@dataclass(frozen=True)
class Networks:
    """The three networks; lpips may be absent, its column then too."""

    clip: Clip
    dino: ImageExtractor
    lpips: PerceptualModel | None = None

    def names(self) -> dict[Network, str]:
        return {"clip": self.clip.name, "dino": self.dino.name, "lpips": self.lpips.name if self.lpips else "none"}


def clip_frames(clip: Clip, frames_TCHW: torch.Tensor) -> torch.Tensor:
    """float32 T,D, not of unit length: OpenAI's own preparation, the short side to the network's (224 px), bicubic by PIL, and the middle square."""
    return _by_parts(frames_TCHW, clip.side, clip.side, lambda squares: clip.embed_images(squares, unit=False))


def dino_frames(dino: ImageExtractor, frames_TCHW: torch.Tensor) -> torch.Tensor:
    """float32 T,D class tokens: DINOv2's preparation in transformers, the short side to 256 of 224 parts, bicubic by PIL, and the middle square."""
    side = side_of(dino)
    return _by_parts(frames_TCHW, round(side * 256 / 224), side, lambda squares: embedded(dino, squares))


def _by_parts(frames_TCHW: torch.Tensor, short: int, side: int, embed: object) -> torch.Tensor:
    assert callable(embed)
    squares = torch.stack([middle_square(frame, short, side) for frame in frames_TCHW])
    return torch.cat([embed(part).to(torch.float32).cpu() for part in squares.split(_AT_ONCE)])


def middle_square(frame_CHW: torch.Tensor, short: int, side: int) -> torch.Tensor:
    """float32 3,side,side in [0, 1] of a uint8 frame: its short side made `short` px by PIL's bicubic, then the square in the middle."""
    image = Image.fromarray(np.ascontiguousarray(frame_CHW[:3].permute(1, 2, 0).numpy()))
    width, height = image.size
    scale = short / min(width, height)
    image = image.resize((max(short, int(width * scale)), max(short, int(height * scale))), Image.Resampling.BICUBIC)
    left, top = round((image.width - side) / 2), round((image.height - side) / 2)
    return torch.from_numpy(np.array(image.crop((left, top, left + side, top + side)))).permute(2, 0, 1).float() / 255
