"""How a product mask is widened before the model sees it, and what stands inside it.

A precise mask keeps the old product's silhouette, which the model then fills again; a box forgets it, but for how wide and high
the product was, and costs background; a square forgets that too.
VACE: arXiv:2503.07598.
"""

from __future__ import annotations

from math import isqrt
from typing import Literal

import torch
import torch.nn.functional as F

from pvtt_model.specs import MaskPolicy


def widen(mask_THW: torch.Tensor, policy: MaskPolicy) -> torch.Tensor:
    """bool T,H,W, a superset of `mask_THW`. grow_px is in pixels of this mask.

    precise: as it is. grow: every pixel within grow_px (Euclidean) of the product. blocks: the blocks of side grow_px, counted from the
    upper left corner, that hold any product. box: the box round the frame's product, grow_px wider on each side. square: that
    box widened about its centre to a square of its longer side, moved inside the frame as far as it fits and cut where it does not. full:
    everything, in frames without product too; the other kinds leave these empty. precise, blocks, full, and grow, box and square at 0 are
    idempotent.
    Raises ValueError for a mask that is not bool T,H,W, and for blocks of side 0.
    """
    if mask_THW.dtype != torch.bool or mask_THW.ndim != 3:
        raise ValueError(f"widen wants a bool mask T,H,W; got {mask_THW.dtype} {tuple(mask_THW.shape)}. Threshold it first.")
    if policy.kind == "full":
        return torch.ones_like(mask_THW)
    if policy.kind == "precise" or (policy.grow_px == 0 and policy.kind == "grow"):
        return mask_THW.clone()
    if policy.kind == "grow":
        return _grow(mask_THW, policy.grow_px)
    if policy.kind == "blocks":
        return _blocks(mask_THW, policy.grow_px)
    if policy.kind == "square":
        return _square(mask_THW, policy.grow_px)
    return _box(mask_THW, policy.grow_px)


def jittered(mask_THW: torch.Tensor, policy: MaskPolicy, generator: torch.Generator) -> torch.Tensor:
    """`widen`, but by a radius drawn from grow_px - erode_px to grow_px + jitter_px, and moved by up to jitter_px either way.

    Training's augmentation; one draw for all frames. Still a superset of `mask_THW`: a frame's move ends at the frame's edge and where the
    product's box would come out, so a box stays a box. But where the radius falls below 0, as it can with erode_px above grow_px, the mask, its
    box or its square is eroded by what is missing, and not moved. An empty frame stays empty, a full one full. 'precise' grows by a disc from 0,
    'blocks' and 'full' neither grow nor shrink. The same state of `generator` gives the same mask. Raises as `widen`.
    """
    most = policy.jitter_px
    extra, down, right = (int(torch.randint(low, most + 1, (), generator=generator)) for low in (-policy.erode_px, -most, -most))
    radius = extra if policy.kind == "precise" else policy.grow_px + extra
    grown = policy
    if policy.kind not in ("blocks", "full"):
        grown = policy.model_copy(update={"kind": "grow" if policy.kind == "precise" else policy.kind, "grow_px": max(0, radius)})
        if radius < 0:
            return eroded(widen(mask_THW, grown), -radius)
    wide = widen(mask_THW, grown)
    return mask_THW | (wide if policy.kind == "full" else _moved(wide, mask_THW, down, right))


def eroded(mask_THW: torch.Tensor, radius: int) -> torch.Tensor:
    """The pixels of which everything within `radius` (Euclidean, pixels) is in the mask: a square of side s becomes one of s - 2 radius.

    What lies outside the frame counts as masked: a product cut by the frame's edge is not eroded there. A frame that would come out empty stays
    as it is.
    """
    inner = ~_grow(~mask_THW, radius)
    return torch.where(inner.flatten(1).any(1)[:, None, None], inner, mask_THW)


def _grow(mask_THW: torch.Tensor, radius: int) -> torch.Tensor:
    """Dilation by a disc: for each row offset, a run as long as the disc is wide there."""
    height, width = mask_THW.shape[1:]
    grown = mask_THW.clone()
    for dy in range(min(radius, height - 1) + 1):
        half = min(isqrt(radius * radius - dy * dy), width - 1)
        run = F.max_pool2d(mask_THW[:, None].float(), (1, 2 * half + 1), 1, (0, half))[:, 0].bool() if half else mask_THW
        grown[:, dy:] |= run[:, : height - dy]
        grown[:, : height - dy] |= run[:, dy:]
    return grown


def _blocks(mask_THW: torch.Tensor, side: int) -> torch.Tensor:
    if side < 1:
        raise ValueError("mask policy 'blocks' has grow_px 0; a block needs a side. Set mask_policy.grow_px to 1 or more.")
    height, width = mask_THW.shape[1:]
    any_in_block = F.max_pool2d(mask_THW[:, None].float(), side, side, ceil_mode=True)
    filled = any_in_block.repeat_interleave(side, -2).repeat_interleave(side, -1)
    return filled[:, 0, :height, :width].bool()


def _box(mask_THW: torch.Tensor, margin: int) -> torch.Tensor:
    boxed = torch.zeros_like(mask_THW)
    for frame, mask in zip(boxed, mask_THW, strict=True):
        found = box_of(mask)
        if found is not None:
            top, left, bottom, right = found
            frame[max(0, top - margin) : bottom + margin, max(0, left - margin) : right + margin] = True
    return boxed


def _square(mask_THW: torch.Tensor, margin: int) -> torch.Tensor:
    """A pixel is a whole, so a square may lie half a pixel beside the box's centre; then towards the upper left."""
    squared = torch.zeros_like(mask_THW)
    height, width = mask_THW.shape[1:]
    for frame, mask in zip(squared, mask_THW, strict=True):
        found = box_of(mask)
        if found is not None:
            top, left, bottom, right = found
            side = max(bottom - top, right - left) + 2 * margin
            first, last = _inside((top + bottom - side) // 2, side, height), _inside((left + right - side) // 2, side, width)
            frame[slice(*first), slice(*last)] = True
    return squared


def _inside(start: int, side: int, length: int) -> tuple[int, int]:
    """A run of `side` from `start`, moved into 0 to `length`; all of that where it is longer."""
    start = min(max(start, 0), max(length - side, 0))
    return start, min(start + side, length)


def _moved(wide_THW: torch.Tensor, mask_THW: torch.Tensor, down: int, right: int) -> torch.Tensor:
    """Every frame's wide mask moved, its box within the frame and round the box of the mask."""
    moved = torch.zeros_like(wide_THW)
    height, width = mask_THW.shape[1:]
    for frame, wide, mask in zip(moved, wide_THW, mask_THW, strict=True):
        outer, inner = box_of(wide), box_of(mask)
        if outer is not None and inner is not None:
            top, left, bottom, end = outer
            dy = min(max(down, -top, inner[2] - bottom), height - bottom, inner[0] - top)
            dx = min(max(right, -left, inner[3] - end), width - end, inner[1] - left)
            frame[top + dy : bottom + dy, left + dx : end + dx] = wide[top:bottom, left:end]
    return moved


def box_of(mask_HW: torch.Tensor) -> tuple[int, int, int, int] | None:
    """top, left, bottom, right of the product in pixels, the last two exclusive; None in an empty mask."""
    rows, columns = torch.nonzero(mask_HW.any(1)), torch.nonzero(mask_HW.any(0))
    if not len(rows):
        return None
    return int(rows[0]), int(columns[0]), int(rows[-1]) + 1, int(columns[-1]) + 1


def fill_inside(
    frames_TCHW: torch.Tensor, mask_THW: torch.Tensor, fill: Literal["neutral", "black", "original", "scaled"], scale: float = 0.5
) -> torch.Tensor:
    """`frames_TCHW` (float, in [-1, 1]) with the masked pixels x replaced: neutral by 0 (mid grey), black by -1, original by x, scaled by scale * x.

    Defined in normalised space, where 0 is neutral: on uint8 pixels 0 would be black, and their own mid grey, 128, is +0.004. scaled lowers the
    contrast of what stood there about mid grey: 0 is neutral, 1 is original; between, shape and shading of the old product remain, so it can
    come back. Raises ValueError for shapes that do not match, integer frames, an unknown fill, and a scale outside 0 to 1.
    """
    if not frames_TCHW.is_floating_point() or frames_TCHW[:, 0].shape != mask_THW.shape:
        raise ValueError(
            f"fill_inside wants float frames T,C,H,W and a mask T,H,W; got {frames_TCHW.dtype} {tuple(frames_TCHW.shape)} and "
            f"{tuple(mask_THW.shape)}. Normalise the frames to [-1, 1] and fit both to one size."
        )
    if not 0 <= scale <= 1:
        raise ValueError(f"fill scale {scale} is outside 0 to 1. 0 is neutral, 1 is original: set fill_scale between.")
    values = {"neutral": 0.0, "black": -1.0}
    if fill == "original":
        return frames_TCHW.clone()
    if fill == "scaled":
        return torch.where(mask_THW[:, None], frames_TCHW * scale, frames_TCHW)
    if fill not in values:
        raise ValueError(f"no fill '{fill}'. Valid: neutral, black, original, scaled.")
    return frames_TCHW.masked_fill(mask_THW[:, None], values[fill])
