"""Reference pictures as VACE itself takes them: letterboxed to the video's size, through the VAE, before the video in time. arXiv:2503.07598.

As diffusers' WanVACEPipeline does with `reference_images` (tests/pvtt_model/curation/test_vace_references.py), which lays them on white and
knows no alpha. Its bilinear resize has no antialiasing, so that a picture much larger than the video is coarse: VACE was published so.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from diffusers.video_processor import VideoProcessor
from PIL import Image
from torch import Tensor

from pvtt_model.backbones.image import WHITE, opaque
from pvtt_model.backbones.vae import VideoAutoencoder
from pvtt_model.data.video_io import read_reference

Ground = Literal["white", "own"]


def reference_latents(references: Sequence[bytes], size: tuple[int, int], ground: Ground, vae: VideoAutoencoder) -> Tensor:
    """Normalised latents (N, C, 1, h, w) of N picture files, each alone; size: (H, W), pixels, in whole cells. Raises PictureUnreadable."""
    canvases = [reference_canvas(read_reference(data), size, ground, vae.space_stride) for data in references]
    return torch.cat([vae.encode(canvas[None, :, None]) for canvas in canvases])


def reference_canvas(picture: Image.Image, size: tuple[int, int], ground: Ground, cell: int = 8) -> Tensor:
    """The whole picture, upright, in the middle of a canvas (3, H, W), RGB in [-1, 1], aspect kept but for the cut of its sides to
    multiples of `cell`.

    ground: of the canvas, and under what is transparent: white, or own, the picture's border colour. Raises ValueError for 16-bit pictures.
    """
    flat, colour = opaque(picture, WHITE if ground == "white" else None)
    sides = {"height": max(cell, flat.height), "width": max(cell, flat.width)}  # a smaller picture would vanish
    image_1CHW = VideoProcessor(vae_scale_factor=cell).preprocess(flat, **sides)
    scale = min(side / given for side, given in zip(size, image_1CHW.shape[-2:], strict=True))
    height, width = (max(1, int(given * scale)) for given in image_1CHW.shape[-2:])
    resized = F.interpolate(image_1CHW, size=(height, width), mode="bilinear", align_corners=False)[0]
    canvas = (2 * (torch.tensor(colour) / 255) - 1).view(3, 1, 1).repeat(1, *size)
    top, left = (size[0] - height) // 2, (size[1] - width) // 2
    canvas[:, top : top + height, left : left + width] = resized
    return canvas


def with_references(control_MFHW: Tensor, references_NCFHW: Tensor) -> Tensor:
    """VACE's context (M, N + F, H, W) with the references' latents (N, C, 1, H, W) before it: reactive half and mask are zero there.

    Each is put before what is there, so the last picture comes first, as in diffusers. The video's own latents get N frames before
    them that are thrown away after sampling.
    """
    kept = references_NCFHW.flip(0).squeeze(2).transpose(0, 1).to(control_MFHW)
    nothing = kept.new_zeros(len(control_MFHW) - len(kept), *kept.shape[1:])
    return torch.cat([torch.cat([kept, nothing]), control_MFHW], dim=1)
