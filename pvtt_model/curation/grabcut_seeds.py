"""A target as GrabCut's seeds: sure and likely product and ground, and how far each pixel is believed to be the product."""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np

from pvtt_model.curation.target import Target

SURE, LIKELY, GROUND = 0.85, 0.55, 0.1  # of belief: at least, at least, below
POINT_REACH = 0.08  # of the longer side: how far from a point belief falls to 0.6


class Seeds(NamedTuple):
    trimap: np.ndarray  # H,W uint8, cv2.GC_*
    belief: np.ndarray  # H,W float, about 0 to 1


def seeds_of(target: Target, frame_size: tuple[int, int], work_size: tuple[int, int]) -> Seeds:
    """The seeds at work_size (height, width) for a target in a frame of frame_size.

    A match: belief is the score between its median (0) and its best (1). A box: 1 inside, its inner half sure, all outside ground. Points: a hill
    about each; how far the product reaches they do not say, so nothing but the frame's rim is sure ground.
    """
    height, width = work_size
    scale = height / frame_size[0], width / frame_size[1]
    if target.box is not None:
        return _box(target, scale, work_size)
    if target.score_hw is not None:
        score = cv2.resize(target.score_hw.numpy(), (width, height), interpolation=cv2.INTER_CUBIC)
        best, median = float(np.quantile(score, 0.998)), float(np.median(score))
        belief = (score - median) / max(1e-6, best - median)
        return Seeds(_trimap(belief, GROUND), belief)
    y, x = np.mgrid[:height, :width] + 0.5
    reach = POINT_REACH * max(height, width)
    hills = [np.exp(-((x - px * scale[1]) ** 2 + (y - py * scale[0]) ** 2) / (2 * reach**2)) for px, py in target.points]
    belief = np.max(hills, axis=0)
    trimap = _trimap(belief, -1)
    for edge in (trimap[:2], trimap[-2:], trimap[:, :2], trimap[:, -2:]):
        edge[edge == cv2.GC_PR_BGD] = cv2.GC_BGD
    return Seeds(trimap, belief)


def _trimap(belief: np.ndarray, ground: float) -> np.ndarray:
    trimap = np.full(belief.shape, cv2.GC_PR_BGD, np.uint8)
    trimap[belief < ground] = cv2.GC_BGD
    trimap[belief >= LIKELY] = cv2.GC_PR_FGD
    trimap[belief >= SURE] = cv2.GC_FGD
    return trimap


def _box(target: Target, scale: tuple[float, float], size: tuple[int, int]) -> Seeds:
    assert target.box is not None
    left, top, right, bottom = (v * scale[(i + 1) % 2] for i, v in enumerate(target.box))
    y, x = np.mgrid[: size[0], : size[1]] + 0.5
    off = np.maximum(np.abs(x - (left + right) / 2) / max(1.0, (right - left) / 2), np.abs(y - (top + bottom) / 2) / max(1.0, (bottom - top) / 2))
    trimap = np.where(off <= 1, cv2.GC_PR_FGD, cv2.GC_BGD).astype(np.uint8)
    trimap[off <= 0.5] = cv2.GC_FGD
    return Seeds(trimap, (off <= 1).astype(float))
