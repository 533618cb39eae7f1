"""The product's mask, a frame each, and how far it can be believed. Who makes it: providers.py; how good it is: mask_quality.py.

A mask that cannot be used is kept with its reason; nothing is padded or filled in.
"""

from __future__ import annotations

from typing import Any

import torch

from pvtt_model.curation.mask_quality import fault_of, iou, measure
from pvtt_model.curation.providers import Found, MaskModels, MaskRefused, provide, provider_of
from pvtt_model.data import video_io
from pvtt_model.specs import MaskSpec, VideoSpec

_NOTHING: dict[str, Any] = {
    "mask": [], "area": 0.0, "area_max": 0.0, "jitter_px": 0.0, "gaps": 0, "temporal_iou": 0.0, "quality": 0.0, "match": None, "compared_with": None,
    "agreement": None,
}  # fmt: skip


def mask_of(clip_row: dict[str, Any], video: VideoSpec, spec: MaskSpec, timeout_s: float = 120.0, models: MaskModels | None = None) -> dict[str, Any]:
    """A row of the masks shard (pvtt_model.data.shards.SCHEMAS['masks']) for a row of the clips shard.

    The mask covers the first video.num_frames frames at the source's size. Unusable, with the reason: no mask where spec says 'reject', a
    mask or video that does not decode within timeout_s (seconds a file), a product that is not found, a frame without product, a mean area out
    of spec's range. models: the loaders of what spec names; raises ValueError where one is needed and not given.
    """
    row = {"clip_key": clip_row["clip_key"]}
    provider = provider_of(clip_row, spec)
    try:
        found = provide(provider, clip_row, video.num_frames, spec, timeout_s, models)
    except MaskRefused as error:
        return row | {"usable": False, "reason": str(error), "provenance": error.provenance} | _NOTHING
    figures = measure(found.mask_THW, spec) | {"match": found.match}
    reason = fault_of(found.mask_THW, figures, spec)
    figures |= _second_opinion(provider, found, clip_row, spec, timeout_s, models)
    pictures = [video_io.png_bytes(m) for m in found.mask_THW]
    return row | {"usable": reason is None, "reason": reason, "mask": pictures, "provenance": found.provenance} | figures


def _second_opinion(
    provider: str, found: Found, clip_row: dict[str, Any], spec: MaskSpec, timeout_s: float, models: MaskModels | None
) -> dict[str, Any]:
    """compared_with, and agreement: the IoU over all frames with the provider of spec.compare.

    Nothing where that is the same one, or 'given' and nothing is. One that refuses is named with its reason; there is then no agreement.
    """
    if spec.compare in ("none", provider) or (spec.compare == "given" and clip_row["mask_format"] == "none"):
        return {"compared_with": None, "agreement": None}
    try:
        other = provide(spec.compare, clip_row, len(found.mask_THW), spec, timeout_s, models)
    except MaskRefused as error:
        return {"compared_with": f"{error.provenance}, which gave none: {error}", "agreement": None}
    if other.mask_THW.shape != found.mask_THW.shape:
        sizes = " and ".join(f"{m.shape[2]}x{m.shape[1]}" for m in (found.mask_THW, other.mask_THW))
        return {"compared_with": f"{other.provenance}, which differs in size: {sizes}", "agreement": None}
    return {"compared_with": other.provenance, "agreement": iou(found.mask_THW, other.mask_THW)}


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
