"""Frame shift: by how many frames does an edit run ahead of its source or behind it? 0 is right; every other metric compares frame with frame.

The shift in -MOST_SHIFT..MOST_SHIFT at which the background of edit and source differ least (mean squared difference of small grey frames, outside
both masks). Ours: a sanity check, not a published metric. It has to be seen on the source itself first: where its own background hardly
differs from one frame to the next, a still camera, no shift can be told.
"""

from __future__ import annotations

import torch
from torch.nn import functional as F

from pvtt_model.evaluation.frames import background_of, same_shape, to_unit

MOST_SHIFT = 2  # frames; an off-by-one is the usual fault
SIDE = 64  # px of the longer side that frames are looked at
LEAST_FRAMES = 4 * MOST_SHIFT + 1  # of 5 frames one is held against all shifts, and a VAE that blurs in time makes it late
CLEARLY = 0.5  # a shift is one where it leaves less than this of the difference at 0: what is blurred, frozen or grey fits none
LEAST_MOTION = 1e-4  # mean squared difference of neighbouring source frames, of the full range squared (1 % of it)


def frame_shift(edit_TCHW: torch.Tensor, source_TCHW: torch.Tensor, mask_THW: torch.Tensor) -> float:
    """Frames, positive where the edit is late. Raises ValueError for unlike shapes, too few frames, or a background that hardly moves."""
    same_shape(edit_TCHW, source_TCHW)
    if len(source_TCHW) < LEAST_FRAMES:
        raise ValueError(
            f"{len(source_TCHW)} frames; a shift of up to {MOST_SHIFT} is looked for, which wants {LEAST_FRAMES}: too few say it by chance."
        )
    scale = min(1.0, SIDE / max(source_TCHW.shape[-2:]))
    ground = _small(background_of(mask_THW, source_TCHW)[:, None].float(), scale) > 0.999
    edit, source = (_small(to_unit(video).mean(dim=1, keepdim=True), scale) for video in (edit_TCHW, source_TCHW))
    own = _difference(source, source, ground, 1)
    if own < LEAST_MOTION:
        raise ValueError(f"the source's background hardly moves (mean squared difference {own:.1e} a frame, under {LEAST_MOTION:g}): no shift shows.")
    found = {shift: _difference(edit, source, ground, shift) for shift in range(-MOST_SHIFT, MOST_SHIFT + 1)}
    best = min(found, key=lambda shift: (found[shift], abs(shift)))
    return float(best if found[best] < CLEARLY * found[0] else 0)


def _small(video_TCHW: torch.Tensor, scale: float) -> torch.Tensor:
    if scale == 1.0:
        return video_TCHW
    return F.interpolate(video_TCHW, scale_factor=scale, mode="area", recompute_scale_factor=True)


def _difference(edit_T1HW: torch.Tensor, source_T1HW: torch.Tensor, ground_T1HW: torch.Tensor, shift: int) -> float:
    """Of the edit's frame t + shift and the source's t, where both show background."""
    count = len(source_T1HW)
    own, late = slice(MOST_SHIFT, count - MOST_SHIFT), slice(MOST_SHIFT + shift, count - MOST_SHIFT + shift)  # the same source frames for every shift
    both = ground_T1HW[late] & ground_T1HW[own]
    if not bool(both.any()):
        raise ValueError("no pixel is background in two neighbouring frames: no shift can be told.")
    return float((edit_T1HW[late] - source_T1HW[own]).square()[both].mean())
