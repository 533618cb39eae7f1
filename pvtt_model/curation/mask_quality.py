"""How good a mask looks without knowing the truth; whether it predicts that the edit will fail: mask_risk.py.

None of these figures can tell the right thing from the wrong one, steadily followed: for that look at `match`, at `agreement`, or at the overlay.
"""

from __future__ import annotations

from typing import Any

import torch

from pvtt_model.curation.mask_policy import box_of
from pvtt_model.specs import MaskSpec

Box = tuple[int, int, int, int]


def measure(mask_THW: torch.Tensor, spec: MaskSpec) -> dict[str, Any]:
    """area, area_max (shares of the frame), jitter_px, gaps, temporal_iou, quality.

    jitter_px: mean distance, source pixels, of the box's centre from the midpoint of its neighbours' centres; steady motion has none. Lower is
      better.
    gaps: frames without product.
    temporal_iou, 0 to 1, higher is better: see temporal_iou().
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
    jitter = _jitter_px(boxes)
    sizes = [None if b is None else (b[2] - b[0], b[3] - b[1]) for b in boxes]
    overlaps = [_centred_iou(a, b) for a, b in zip(sizes, sizes[1:], strict=False) if a is not None and b is not None]
    known = [s for s in sizes if s is not None]
    quality = 0.0
    if known:
        diagonal = sum((h * h + w * w) ** 0.5 for h, w in known) / len(known)
        steady = sum(overlaps) / len(overlaps) if overlaps else 1.0
        quality = steady / (1 + jitter / (0.05 * diagonal)) * (1 - gaps / len(boxes)) * _in_range(area, spec)
    figures: dict[str, Any] = {"area": area, "area_max": float(areas.max()), "jitter_px": jitter, "gaps": gaps}
    return figures | {"temporal_iou": temporal_iou(mask_THW), "quality": quality}


def temporal_iou(mask_THW: torch.Tensor) -> float:
    """Mean IoU of neighbouring frames' masks, motion compensated by one shift: the earlier is moved by whole pixels onto the later's centroid.

    0 to 1, higher is steadier; 1 for a rigid shape in any translation. Turning, nearing, and parts that move apart cost: three shuffled cups,
    masked exactly, have 0.74. Pairs with an empty mask do not count (gaps does); 1 where no pair is left.
    """
    overlaps = []
    for before, after in zip(mask_THW, mask_THW[1:], strict=False):
        if before.any() and after.any():
            down, right = (_centroid(after) - _centroid(before)).round().long().tolist()
            moved = _shifted(before, down, right)
            overlaps.append(iou(moved, after))
    return sum(overlaps) / len(overlaps) if overlaps else 1.0


def iou(a: torch.Tensor, b: torch.Tensor) -> float:
    """Intersection over union of two bool masks of one shape, over all their frames; 1 where both are empty. Raises ValueError."""
    if a.shape != b.shape:
        raise ValueError(f"masks of shapes {tuple(a.shape)} and {tuple(b.shape)} cannot be compared. Give both at the video's size and length.")
    union = int((a | b).sum())
    return int((a & b).sum()) / union if union else 1.0


def fault_of(mask_THW: torch.Tensor, figures: dict[str, Any], spec: MaskSpec) -> str | None:
    """Why the mask cannot be used at all, with a cure; None where it can."""
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


def _jitter_px(boxes: list[Box | None]) -> float:
    centres = [None if b is None else torch.tensor([b[0] + b[2], b[1] + b[3]], dtype=torch.float64) / 2 for b in boxes]
    bends = [
        float(torch.linalg.vector_norm(b - (a + c) / 2))
        for a, b, c in zip(centres, centres[1:], centres[2:], strict=False)
        if a is not None and b is not None and c is not None
    ]
    return sum(bends) / len(bends) if bends else 0.0


def _centred_iou(a: tuple[int, int], b: tuple[int, int]) -> float:
    both = min(a[0], b[0]) * min(a[1], b[1])
    return both / (a[0] * a[1] + b[0] * b[1] - both)


def _in_range(area: float, spec: MaskSpec) -> float:
    if area < spec.min_area:
        return area / spec.min_area
    return (1 - area) / (1 - spec.max_area) if area > spec.max_area else 1.0


def _centroid(mask_HW: torch.Tensor) -> torch.Tensor:
    return torch.nonzero(mask_HW).double().mean(0)


def _shifted(mask_HW: torch.Tensor, down: int, right: int) -> torch.Tensor:
    """The mask moved, what comes in from outside empty."""
    height, width = mask_HW.shape
    moved = torch.zeros_like(mask_HW)
    to_y, to_x = slice(max(0, down), height + min(0, down)), slice(max(0, right), width + min(0, right))
    from_y, from_x = slice(max(0, -down), height + min(0, -down)), slice(max(0, -right), width + min(0, -right))
    moved[to_y, to_x] = mask_HW[from_y, from_x]
    return moved
