"""A mask without weights: GrabCut (Rother et al., 2004) on the first frame, carried on by optical flow (Farneback, 2003).

Given a target (target.py: the references' match, or the manifest's point or box), that seeds the cut. Without one it is the last resort:
it believes that the product is near the centre, and stands out from the frame's border by colour or by motion. It cannot
know which of several things is the product: on the kettle-and-mug clip mug_pour it cleanly follows the kettle (IoU 0.0 with the mug), and no
statistic in masks.py can tell. Set masks.image_encoder, look at the overlay, or give masks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import cv2
import numpy as np
import torch

from pvtt_model.curation.grabcut_seeds import Seeds, seeds_of
from pvtt_model.curation.target import Target

Array = np.ndarray
WORK_SIDE_PX = 288  # long side at which it works; the mask is scaled back
BELIEVED = 0.35  # least mean belief of a part of the cut
LEAST_PART = 0.05  # of the cut's pixels; smaller parts are crumbs


def grabcut_masks(frames_TCHW: torch.Tensor, targets: Mapping[int, Target] | None = None) -> torch.Tensor:
    """bool T,H,W of the product in uint8 RGB frames. Deterministic. Frames in which nothing is found are empty, never filled in.

    targets: frame -> where the product is in it, frame 0 at least; it may then be of several parts (three cups). In later frames
    named, the mask is cut anew instead of carried, which ends the flow's drift. None: one part, by the centre of frame 0.
    """
    height, width = frames_TCHW.shape[-2:]
    scale = min(1.0, WORK_SIDE_PX / max(height, width))
    small = (max(8, round(width * scale)), max(8, round(height * scale)))
    frames = [cv2.resize(f.permute(1, 2, 0).contiguous().numpy(), small, interpolation=cv2.INTER_AREA) for f in frames_TCHW]
    greys = [cv2.cvtColor(f, cv2.COLOR_RGB2GRAY) for f in frames]
    cut = {i: seeded_mask(frames[i], seeds_of(target, (height, width), small[::-1])) for i, target in (targets or {}).items()}
    masks = [cut[0] if targets else first_mask(frames, greys)]
    for i in range(1, len(frames)):
        found = i in cut and cut[i].any()
        masks.append(cut[i] if found else _carry(masks[-1], greys[i - 1], greys[i], frames[i], one_part=not targets))
    full = [cv2.resize(m.astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR) > 0.5 for m in masks]
    return torch.from_numpy(np.stack(full))


def seeded_mask(frame: Array, seeds: Seeds) -> Array:
    """The product in a frame by the seeds: GrabCut, and of its parts those that are believed in, or that hold a sure seed."""
    cut = _cut(frame, seeds.trimap.copy(), 6)
    sure = seeds.trimap == cv2.GC_FGD
    return _parts(cut, lambda part: bool(seeds.belief[part].mean() >= BELIEVED or sure[part].any()))


def first_mask(frames: list[Array], greys: list[Array]) -> Array:
    """The product in frame 0: GrabCut seeded where centre, colour contrast and motion of its own agree."""
    height, width = greys[0].shape
    score = _centre(height, width) * (0.5 + _contrast(frames[0]) + _own_motion(greys))
    likely = score >= np.quantile(score, 0.88)
    ring = max(1, round(0.04 * min(height, width)))
    trimap = np.full((height, width), cv2.GC_PR_BGD, np.uint8)
    trimap[score >= np.quantile(score, 0.7)] = cv2.GC_PR_FGD
    trimap[likely & (score >= np.quantile(score, 0.96))] = cv2.GC_FGD
    for edge in (trimap[:ring], trimap[-ring:], trimap[:, :ring], trimap[:, -ring:]):
        edge[:] = cv2.GC_BGD
    return _largest(_cut(frames[0], trimap, 6), score)


def _centre(height: int, width: int) -> Array:
    y, x = np.mgrid[:height, :width]
    return np.exp(-(((x / width - 0.5) / 0.28) ** 2 + ((y / height - 0.5) / 0.28) ** 2) / 2)


def _contrast(frame: Array) -> Array:
    """Distance in Lab from the border's colours, 0 to 1: Mahalanobis against the outer tenth of the frame."""
    lab = cv2.GaussianBlur(cv2.cvtColor(frame, cv2.COLOR_RGB2LAB), (5, 5), 0).astype(np.float64)
    height, width = lab.shape[:2]
    ring = max(1, round(0.1 * min(height, width)))
    inner = np.zeros((height, width), bool)
    inner[ring:-ring, ring:-ring] = True
    border = lab[~inner]
    inverse = np.linalg.inv(np.cov(border.T) + 25.0 * np.eye(3))
    away = lab - border.mean(0)
    distance = np.sqrt(np.einsum("hwi,ij,hwj->hw", away, inverse, away))
    return np.clip(distance / max(1e-6, np.quantile(distance, 0.98)), 0, 1)


def _own_motion(greys: list[Array]) -> Array:
    """Motion unlike the camera's (the median flow), over a few steps from frame 0, 0 to 1; zero where there is none above half a pixel."""
    total = np.zeros(greys[0].shape)
    for later in greys[1:8:2]:
        flow = _flow(greys[0], later)
        total += np.hypot(*np.moveaxis(flow - np.median(flow, (0, 1)), -1, 0))
    top = np.quantile(total, 0.98)
    return np.clip(total / top, 0, 1) if top > 0.5 else np.zeros_like(total)


def _flow(start: Array, end: Array) -> Array:
    """H,W,2 in pixels: where each pixel of `start` is in `end`. Pyramid 0.5 x 3 levels, window 15, 3 rounds, neighbourhood 5, sigma 1.2."""
    return np.asarray(cv2.calcOpticalFlowFarneback(start, end, np.zeros((*start.shape, 2), np.float32), 0.5, 3, 15, 3, 5, 1.2, 0))


def _carry(mask: Array, before: Array, now: Array, frame: Array, one_part: bool) -> Array:
    """The mask of the next frame: moved by the flow from it back to this one, then cut anew within a narrow band."""
    if not mask.any():
        return mask
    back = _flow(now, before)
    y, x = np.mgrid[: mask.shape[0], : mask.shape[1]].astype(np.float32)
    moved = cv2.remap(mask.astype(np.float32), x + back[..., 0], y + back[..., 1], cv2.INTER_LINEAR, borderValue=0) > 0.5
    if not moved.any():
        return moved
    band = max(2, round(0.02 * max(mask.shape)))
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * band + 1, 2 * band + 1))
    sure, maybe = cv2.erode(moved.astype(np.uint8), disc, borderValue=0), cv2.dilate(moved.astype(np.uint8), disc)
    trimap = np.where(maybe > 0, np.where(moved, cv2.GC_PR_FGD, cv2.GC_PR_BGD), cv2.GC_BGD).astype(np.uint8)
    trimap[sure > 0] = cv2.GC_FGD
    cut = _cut(frame, trimap, 1)
    cut = _largest(cut, moved.astype(float)) if one_part else _parts(cut, lambda part: bool(moved[part].mean() >= 0.5))
    return cut if 0.6 <= cut.sum() / moved.sum() <= 1.6 else moved  # the cut lost its way: keep what the flow says


def _cut(frame: Array, trimap: Array, rounds: int) -> Array:
    foreground = np.isin(trimap, (cv2.GC_FGD, cv2.GC_PR_FGD))
    if foreground.sum() < 8 or (~foreground).sum() < 8:  # fewer pixels than the colour models have parts
        return foreground
    cv2.setRNGSeed(0)
    bgr = np.ascontiguousarray(frame[..., ::-1])
    cv2.grabCut(bgr, trimap, (0, 0, 0, 0), np.zeros((1, 65)), np.zeros((1, 65)), rounds, cv2.GC_INIT_WITH_MASK)
    return np.isin(trimap, (cv2.GC_FGD, cv2.GC_PR_FGD))


def _largest(mask: Array, weight: Array) -> Array:
    """The connected part with the highest summed weight, its holes as they are."""
    count, labels = cv2.connectedComponents(mask.astype(np.uint8))
    if count < 2:
        return mask
    sums = np.bincount(labels.ravel(), weight.ravel(), count)
    return labels == 1 + int(np.argmax(sums[1:]))


def _parts(mask: Array, keep: Callable[[Array], bool]) -> Array:
    """The connected parts that are no crumbs and that `keep` (given each as a bool array) takes."""
    count, labels = cv2.connectedComponents(mask.astype(np.uint8))
    kept = np.zeros(mask.shape, bool)
    for i in range(1, count):
        part = labels == i
        if part.sum() >= LEAST_PART * mask.sum() and keep(part):
            kept |= part
    return kept
