"""The edit without a model: the reference's product, cut out by its border's colour and pasted into each frame's mask box.

What a teacher has to beat: the right colours and pattern, but neither pose nor light.
"""

from __future__ import annotations

import torch
from torch.nn import functional as F

from pvtt_model.evaluation.crops import border_colour, mask_box
from pvtt_model.evaluation.frames import to_unit

KEY_DISTANCE = 0.08  # a pixel further than this from the border's colour, in any channel of [0, 1], is the product


def pasted(source_TCHW: torch.Tensor, mask_THW: torch.Tensor, reference_CHW: torch.Tensor) -> torch.Tensor:
    """uint8 T,3,H,W: the source with the cut-out, aspect kept, as large as fits each frame's mask box, at its centre.

    reference: uint8 3,H,W, keyed by its border's median colour, or 4,H,W, whose alpha is the cut-out. Frames without a mask are the source's.
    """
    picture_4HW = cut_out(reference_CHW)
    frames = []
    for frame_CHW, mask_HW in zip(to_unit(source_TCHW), mask_THW, strict=True):
        if bool(mask_HW.any()):
            frame_CHW = _paste(frame_CHW, mask_box(mask_HW, 0.0), picture_4HW)
        frames.append((frame_CHW * 255).round().to(torch.uint8))
    return torch.stack(frames)


def cut_out(reference_CHW: torch.Tensor) -> torch.Tensor:
    """float 4,h,w in [0, 1], the fourth channel the product's cover; cut to its box. The whole picture where nothing differs from the border."""
    picture = to_unit(reference_CHW)
    if len(picture) == 4:
        cover = picture[3]
    else:
        colour = border_colour(picture)
        cover = ((picture - colour[:, None, None]).abs().amax(dim=0) > KEY_DISTANCE).float()
    if not bool((cover > 0).any()):
        cover = torch.ones_like(cover)
    top, bottom, left, right = mask_box(cover > 0, 0.0)
    # Colours weighted by the cover, so that shrinking draws none of the ground into the edge.
    return torch.cat([picture[:3] * cover, cover[None]])[:, top:bottom, left:right]


def _paste(frame_CHW: torch.Tensor, box: tuple[int, int, int, int], picture_4HW: torch.Tensor) -> torch.Tensor:
    top, bottom, left, right = box
    height, width = picture_4HW.shape[-2:]
    scale = min((bottom - top) / height, (right - left) / width)
    new_h, new_w = max(1, round(height * scale)), max(1, round(width * scale))
    small = F.interpolate(picture_4HW[None], size=(new_h, new_w), mode="bilinear", align_corners=False, antialias=True)[0].clamp(0, 1)
    y, x = top + (bottom - top - new_h) // 2, left + (right - left - new_w) // 2
    out = frame_CHW.clone()
    out[:, y : y + new_h, x : x + new_w] = small[:3] + out[:, y : y + new_h, x : x + new_w] * (1 - small[3:])
    return out
