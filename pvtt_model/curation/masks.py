"""The product's mask, a frame each, and how far it can be believed. Who makes it: providers.py.

A mask that cannot be used is kept with its reason; nothing is padded or filled in.
"""

from __future__ import annotations

from typing import Any

import torch

from pvtt_model.curation.mask_policy import box_of
from pvtt_model.curation.providers import MaskModels, MaskRefused, provide, provider_of
from pvtt_model.data import video_io
from pvtt_model.specs import MaskSpec, VideoSpec


def mask_of(clip_row: dict[str, Any], video: VideoSpec, spec: MaskSpec, timeout_s: float = 120.0, models: MaskModels | None = None) -> dict[str, Any]:
    """A row of the masks shard (pvtt_model.data.shards.SCHEMAS['masks']) for a row of the clips shard.

    The mask covers the first video.num_frames frames at the source's size. Unusable, with the reason: no mask where spec says 'reject', a
    mask or video that does not decode within timeout_s (seconds a file), a product that is not found, a frame without product, a mean area out
    of spec's range. models: the loaders of what spec names; raises ValueError where one is needed and not given.
    """
    try:
        found = provide(provider_of(clip_row, spec), clip_row, video.num_frames, spec, timeout_s, models)
    except MaskRefused as error:
        return _row(clip_row, error.provenance, None, spec, str(error))
    return _row(clip_row, found.provenance, found.mask_THW, spec, None)


def _row(clip_row: dict[str, Any], provenance: str, mask_THW: torch.Tensor | None, spec: MaskSpec, reason: str | None) -> dict[str, Any]:
    if mask_THW is None:
        figures: dict[str, Any] = {"area": 0.0, "area_max": 0.0, "jitter_px": 0.0, "gaps": 0, "quality": 0.0}
        pictures: list[bytes] = []
    else:
        figures = measure(mask_THW, spec)
        pictures = [video_io.png_bytes(m) for m in mask_THW]
        reason = reason or _fault(mask_THW, figures, spec)
    return {"clip_key": clip_row["clip_key"], "usable": reason is None, "reason": reason, "mask": pictures, "provenance": provenance, **figures}


def _fault(mask_THW: torch.Tensor, figures: dict[str, Any], spec: MaskSpec) -> str | None:
    count = len(mask_THW)
    if figures["gaps"] == count:
        return f"mask is empty in all {count} frames. Check the mask's polarity (white is product) and masks.threshold={spec.threshold}."
    if figures["gaps"]:
        empty = [i for i, m in enumerate(mask_THW) if not m.any()]
        return f"mask is empty in {len(empty)} of {count} frames, the first {empty[0]}. Cut the clip to where the product is seen."
    if figures["area"] < spec.min_area:
        return f"mask covers {figures['area']:.2%} of the frame on average; less than {spec.min_area:.2%} is not believed. Lower masks.min_area?"
    if figures["area"] > spec.max_area:
        return f"mask covers {figures['area']:.2%} of the frame on average; more than {spec.max_area:.2%} is not believed. Is white the product?"
    return None


def measure(mask_THW: torch.Tensor, spec: MaskSpec) -> dict[str, Any]:
    """area, area_max (shares), jitter_px, gaps, quality.

    jitter_px: mean distance, source pixels, of the box's centre from the midpoint of its neighbours' centres; steady motion has none.
    quality, 0 to 1, higher is better: steady size x steady place x filled x in range, where
      steady size  = mean IoU of neighbouring boxes laid on one centre (motion left out),
      steady place = 1 / (1 + jitter_px / (5 % of the mean box's diagonal)),
      filled       = 1 - gaps / frames,
      in range     = 1 within [min_area, max_area]; area / min_area below; (1 - area) / (1 - max_area) above.
    """
    areas = mask_THW.float().mean((1, 2))
    boxes = [box_of(m) for m in mask_THW]
    gaps = sum(b is None for b in boxes)
    area = float(areas.double().mean())
    centres = [None if b is None else torch.tensor([b[0] + b[2], b[1] + b[3]], dtype=torch.float64) / 2 for b in boxes]
    bends = [
        float(torch.linalg.vector_norm(b - (a + c) / 2))
        for a, b, c in zip(centres, centres[1:], centres[2:], strict=False)
        if a is not None and b is not None and c is not None
    ]
    sizes = [None if b is None else (b[2] - b[0], b[3] - b[1]) for b in boxes]
    overlaps = [_centred_iou(a, b) for a, b in zip(sizes, sizes[1:], strict=False) if a is not None and b is not None]
    known = [s for s in sizes if s is not None]
    jitter = sum(bends) / len(bends) if bends else 0.0
    quality = 0.0
    if known:
        diagonal = sum((h * h + w * w) ** 0.5 for h, w in known) / len(known)
        steady = sum(overlaps) / len(overlaps) if overlaps else 1.0
        quality = steady / (1 + jitter / (0.05 * diagonal)) * (1 - gaps / len(boxes)) * _in_range(area, spec)
    return {"area": area, "area_max": float(areas.max()), "jitter_px": jitter, "gaps": gaps, "quality": quality}


def _centred_iou(a: tuple[int, int], b: tuple[int, int]) -> float:
    both = min(a[0], b[0]) * min(a[1], b[1])
    return both / (a[0] * a[1] + b[0] * b[1] - both)


def _in_range(area: float, spec: MaskSpec) -> float:
    if area < spec.min_area:
        return area / spec.min_area
    return (1 - area) / (1 - spec.max_area) if area > spec.max_area else 1.0


def overlay(frames_TCHW: torch.Tensor, mask_THW: torch.Tensor) -> torch.Tensor:
    """uint8 T,C,H,W: the frames with the masked pixels tinted red by half and the mask's rim drawn, for looking at.

    Raises ValueError where the sizes differ.
    """
    if frames_TCHW[:, 0].shape != mask_THW.shape:
        raise ValueError(f"frames {tuple(frames_TCHW.shape)} and mask {tuple(mask_THW.shape)} differ. Fit both to one size.")
    red = torch.tensor([255.0, 40.0, 40.0]).view(1, 3, 1, 1)
    tinted = torch.where(mask_THW[:, None], 0.5 * frames_TCHW.float() + 0.5 * red, frames_TCHW.float())
    inner = -torch.nn.functional.max_pool2d(-mask_THW[:, None].float(), 3, 1, 1)
    rim = mask_THW[:, None] & (inner == 0)
    return torch.where(rim, red, tinted).round().clamp(0, 255).to(torch.uint8)
