"""The product cut out of a frame, and the reference picture made comparable: both square, both in [0, 1].

On whole frames the background drowns the product, so similarity is taken on the crop. CROP_RULE is the rule in words and travels with the number.
"""

from __future__ import annotations

import torch
from torch.nn import functional as F

from pvtt_model.evaluation.frames import to_unit

NEUTRAL = 0.5  # mid-grey, in [0, 1]


def crop_rule(margin: float) -> str:
    """The rule of product_crops in words."""
    return (
        f"crop: each frame's mask box, margin {margin:g} of its side, cut at the frame; outside the mask mid-grey; "
        "padded to a square on mid-grey; frames without a mask left out; reference letterboxed on its own border colour"
    )


def product_crops(video_TCHW: torch.Tensor, mask_THW: torch.Tensor, margin: float, side_px: int) -> torch.Tensor:
    """One square crop a frame that has a mask: float32 N,3,side,side in [0, 1], N <= T.

    `margin` is the share of the box's width and height that is added on each side. Raises ValueError where no frame has a mask.
    """
    crops = []
    for frame_CHW, mask_HW in zip(to_unit(video_TCHW), mask_THW, strict=True):
        if not bool(mask_HW.any()):
            continue
        top, bottom, left, right = mask_box(mask_HW, margin)
        on_grey_CHW = torch.where(mask_HW, frame_CHW, torch.tensor(NEUTRAL))[:, top:bottom, left:right]
        crops.append(letterbox(on_grey_CHW, side_px, torch.full((3,), NEUTRAL)))
    if not crops:
        raise ValueError("no frame has a mask: there is no product crop to compare. The clip should have been quarantined by its mask.")
    return torch.stack(crops)


def reference_square(reference_CHW: torch.Tensor, side_px: int) -> torch.Tensor:
    """float32 3,side,side in [0, 1] from uint8 C,H,W: alpha (a fourth channel) laid on mid-grey, then letterboxed, never squashed.

    An opaque picture is padded with its own border's median colour, one with alpha with mid-grey.
    """
    picture = to_unit(reference_CHW)
    if len(picture) == 4:
        alpha = picture[3:]
        return letterbox(picture[:3] * alpha + NEUTRAL * (1 - alpha), side_px, torch.full((3,), NEUTRAL))
    return letterbox(picture, side_px, border_colour(picture))


def border_colour(picture_CHW: torch.Tensor) -> torch.Tensor:
    """Median of the outermost ring's pixels, a channel each (C,), in the picture's own type and range."""
    ring = [picture_CHW[:, 0], picture_CHW[:, -1], picture_CHW[:, :, 0], picture_CHW[:, :, -1]]
    return torch.cat(ring, dim=1).median(dim=1).values


def letterbox(picture_CHW: torch.Tensor, side_px: int, colour_C: torch.Tensor) -> torch.Tensor:
    """The picture scaled to fit a square of `side_px` (antialiased bilinear), centred on `colour_C`. float C,side,side."""
    height, width = picture_CHW.shape[-2:]
    scale = side_px / max(height, width)
    new_h, new_w = max(1, round(height * scale)), max(1, round(width * scale))
    small = F.interpolate(picture_CHW[None], size=(new_h, new_w), mode="bilinear", align_corners=False, antialias=True)[0].clamp(0, 1)
    square = colour_C[:, None, None].expand(len(picture_CHW), side_px, side_px).clone()
    top, left = (side_px - new_h) // 2, (side_px - new_w) // 2
    square[:, top : top + new_h, left : left + new_w] = small
    return square


def mask_box(mask_HW: torch.Tensor, margin: float) -> tuple[int, int, int, int]:
    """top, bottom, left, right (ends exclusive) of the mask's box with its margin, inside the frame."""
    rows, columns = mask_HW.any(dim=1).nonzero()[:, 0], mask_HW.any(dim=0).nonzero()[:, 0]
    (top, bottom), (left, right) = (int(rows[0]), int(rows[-1]) + 1), (int(columns[0]), int(columns[-1]) + 1)
    dy, dx = round((bottom - top) * margin), round((right - left) * margin)
    height, width = mask_HW.shape
    return max(0, top - dy), min(height, bottom + dy), max(0, left - dx), min(width, right + dx)
