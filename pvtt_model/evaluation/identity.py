"""identity_top1: does the edit show the right product, and not one that looks like it? Higher is better; 1 or 0 an edit, so the mean is a share.

A judge (EvalSpec.judge), an image encoder that had no part in the training of the teacher, embeds the square round the mask of
each frame; the mean direction of a video is held against the mean direction of the reference pictures of each candidate product, and
the nearest is what the video shows. Chance is 1 / candidates. Unlike clip_i there is no scale to be fooled by: the candidates include
products of the same colours. Beside it the same question of the real frames (the ceiling), the base and other videos.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from pvtt_model.evaluation.crops import NEUTRAL, letterbox, mask_box
from pvtt_model.evaluation.frames import to_unit
from pvtt_model.evaluation.gallery import Candidates, Gallery, mean_direction
from pvtt_model.evaluation.similarity import ImageExtractor, embedded, side_of


def square_crops(video_TCHW: torch.Tensor, mask_THW: torch.Tensor, side_px: int) -> torch.Tensor:
    """float N,3,side,side in [0, 1], one a frame with a mask: the smallest square round the mask's box, its background in it.

    The square is moved into the frame where it sticks out, and stands on mid grey where the frame is too small for it. uint8 in. Raises
    ValueError where no frame has a mask.
    """
    crops = []
    for frame_CHW, mask_HW in zip(to_unit(video_TCHW), mask_THW, strict=True):
        if not bool(mask_HW.any()):
            continue
        (top, bottom), (left, right) = _square(mask_HW)
        crops.append(letterbox(frame_CHW[:, top:bottom, left:right], side_px, torch.full((3,), NEUTRAL)))
    if not crops:
        raise ValueError("no frame has a mask: there is no crop to judge. The clip should have been quarantined by its mask.")
    return torch.stack(crops)


@torch.no_grad()
def shown_products(
    judge: ImageExtractor, videos: Mapping[str, torch.Tensor], mask_THW: torch.Tensor, gallery: Gallery, candidates: Candidates
) -> dict[str, str]:
    """Name of the video -> the candidate it shows most. All crops of all videos are embedded together."""
    crops = {name: square_crops(video, mask_THW, side_of(judge)) for name, video in videos.items()}
    vectors = embedded(judge, torch.cat(list(crops.values()))).split([len(c) for c in crops.values()])
    known_ND = torch.stack([gallery.embeddings[p] for p in candidates.products])
    return {name: candidates.products[int((known_ND @ mean_direction(v)).argmax())] for name, v in zip(crops, vectors, strict=True)}


def _square(mask_HW: torch.Tensor) -> tuple[tuple[int, int], tuple[int, int]]:
    top, bottom, left, right = mask_box(mask_HW, 0.0)
    side = max(bottom - top, right - left)
    height, width = mask_HW.shape
    return _span(top, bottom, side, height), _span(left, right, side, width)


def _span(low: int, high: int, side: int, room: int) -> tuple[int, int]:
    """`side` pixels about the middle of low..high, moved into 0..room; all of 0..room where it is smaller."""
    start = min(max(0, (low + high - side) // 2), max(0, room - side))
    return start, min(room, start + side)
