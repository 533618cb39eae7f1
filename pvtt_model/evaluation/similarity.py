"""Product and prompt similarity by a frozen extractor: cosines, -1 to 1, higher is better.

clip_i: product crop against the reference, OpenCLIP ViT-H/14 image towers (survey 9.1, arXiv:2103.00020; goal > 0.85).
dino_i: the same with DINOv2 ViT-L/14 (arXiv:2304.07193; goal > 0.50).
clip_t: prompt against frames, OpenCLIP ViT-H/14 (survey 9.5; goal > 0.25); the centre square of each, as OpenCLIP's own preprocessing takes it.

A published name belongs to the published extractor with real weights alone. Any other extractor's number is called e.g.
`clip_i[nano-openclip]`, so a gate on `clip_i` finds it not measured. Cosines of different extractors or crop rules must not be compared.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch.nn import functional as F

from pvtt_model.evaluation.crops import product_crops, reference_square
from pvtt_model.evaluation.frames import to_unit
from pvtt_model.specs import ModelSpec

PUBLISHED = {
    "clip_i": "openclip-vit-h14",
    "clip_t": "openclip-vit-h14",
    "dino_i": "dinov2-vit-l14",
    "fvd": "i3d",
    "fid": "fid-inception",
    "bg_lpips": "lpips-alex",
    "warp_error": "raft-large",
    "structure_distance": "dino-vit-b8",
    "edit_direction": "openclip-vit-h14",
}
_IMAGES_AT_ONCE = 16


class ImageExtractor(Protocol):
    name: str

    def embed(self, images_BCHW: torch.Tensor) -> torch.Tensor:
        """float B,D from square pictures, float B,3,S,S in [0, 1]; it normalises as its network wants."""


class ClipExtractor(Protocol):
    name: str

    def embed_images(self, images_BCHW: torch.Tensor) -> torch.Tensor: ...

    def embed_texts(self, texts: list[str]) -> torch.Tensor: ...


def metric_name(metric: str, family: str, extractor_name: str, spec: ModelSpec) -> str:
    """`metric` where the extractor is the published one of `family` with real weights, else `metric[stand-in]`.

    The bracket holds the extractor's name up to its first ' (': 'nano-openclip (random weights, seed 3)' gives clip_i[nano-openclip].
    """
    return metric if is_published(family, extractor_name, spec) else f"{metric}[{extractor_name.split(' (')[0]}]"


def is_published(family: str, extractor_name: str, spec: ModelSpec) -> bool:
    """True for the published architecture of a family (PUBLISHED) whose weights are not random. No other family has a published one."""
    return spec.architecture == extractor_name == PUBLISHED.get(family) and not spec.weights.startswith("seed:")


@torch.no_grad()
def embed_reference(extractor: ImageExtractor | ClipExtractor, reference_CHW: torch.Tensor) -> torch.Tensor:
    """Embedding 1,D of a reference picture, uint8 C,H,W with or without alpha."""
    return embedded(extractor, reference_square(reference_CHW, side_of(extractor))[None])


@torch.no_grad()
def product_similarity(
    extractor: ImageExtractor | ClipExtractor, video_TCHW: torch.Tensor, mask_THW: torch.Tensor, reference_1D: torch.Tensor, margin: float
) -> float:
    """Mean cosine of the masked product crops with the reference's embedding. Raises ValueError for an empty mask or a non-finite embedding."""
    crops_BD = embedded(extractor, product_crops(video_TCHW, mask_THW, margin, side_of(extractor)))
    return float(F.cosine_similarity(crops_BD, reference_1D).mean())


@torch.no_grad()
def text_similarity(clip: ClipExtractor, video_TCHW: torch.Tensor, prompt: str) -> float:
    """Mean cosine of the prompt with the frames' centre squares. Raises ValueError for an empty prompt or a non-finite embedding."""
    if not prompt.strip():
        raise ValueError("the prompt is empty: text similarity cannot be measured.")
    text_1D = _finite(clip.embed_texts([prompt]), clip.name)
    return float(F.cosine_similarity(embedded(clip, to_unit(centre_squares(video_TCHW))), text_1D).mean())


def centre_squares(video_TCHW: torch.Tensor) -> torch.Tensor:
    """The largest square in the middle of each frame."""
    height, width = video_TCHW.shape[-2:]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return video_TCHW[:, :, top : top + side, left : left + side]


def embedded(extractor: ImageExtractor | ClipExtractor, images_BCHW: torch.Tensor) -> torch.Tensor:
    """float32 B,D on the CPU, of square pictures in [0, 1]. Raises ValueError for an embedding that is not finite."""
    embed = getattr(extractor, "embed_images", None) or extractor.embed  # type: ignore[union-attr]
    return torch.cat([_finite(embed(part), extractor.name) for part in images_BCHW.split(_IMAGES_AT_ONCE)])


def _finite(embedding_BD: torch.Tensor, name: str) -> torch.Tensor:
    if not bool(torch.isfinite(embedding_BD).all()):
        raise ValueError(f"extractor '{name}' gave an embedding that is not finite. Check its weights and precision.")
    return embedding_BD.to(torch.float32).cpu()


def side_of(extractor: object) -> int:
    """Side of the square it is shown: its own `side` where it says so, else 224 px (16 patches of 14)."""
    return int(getattr(extractor, "side", 224))
