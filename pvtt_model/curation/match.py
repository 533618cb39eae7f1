"""Where a reference picture's product is in a frame: the frozen image encoder's features of both, cell by cell.

Cosine of features from which the frame's mean is taken (what all of the frame has in common says nothing), each cell of the frame by the mean
of its three most alike cells of the reference; the best of two reference sizes and of all pictures. As in DINO-ViT correspondence,
arXiv:2112.05814.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from pvtt_model.backbones.image import ImageEncoder, letterbox
from pvtt_model.data.video_io import PictureUnreadable, read_picture

FRAME_CELLS = 40  # along the frame's longer side
REFERENCE_CELLS = (10, 14)  # along the letterboxed picture's side: a product is rarely as large in the frame as in its picture
MOST_ALIKE = 3


def match(frame_CHW: Tensor, references: Sequence[bytes], encoder: ImageEncoder) -> Tensor:
    """How alike each cell of a uint8 frame is to the references' product: (h, w), cosine, -1 to 1, higher is more alike; 40 cells the longer side.

    The outer sixth of a reference picture, either side, is taken for its ground and left out. Raises ValueError without references, and
    PictureUnreadable.
    """
    if not references:
        raise ValueError("no reference picture to match. Give reference_image in the manifest.")
    height, width = frame_CHW.shape[-2:]
    cells = [max(1, round(FRAME_CELLS * side / max(height, width))) for side in (height, width)]
    size = (cells[0] * encoder.cell, cells[1] * encoder.cell)
    frame = F.interpolate(frame_CHW[None].float() / 255, size, mode="bilinear", antialias=True).clamp(0, 1)
    here = encoder.feature_map(frame)[0].float().flatten(1).T.cpu()
    common = here.mean(0)
    here = F.normalize(here - common, dim=1)
    scores = [here @ F.normalize(there - common, dim=1).T for data in references for there in _inner_cells(data, encoder)]
    return torch.stack([s.topk(min(MOST_ALIKE, s.shape[1]), 1).values.mean(1) for s in scores]).amax(0).view(cells[0], cells[1])


def _inner_cells(data: bytes, encoder: ImageEncoder) -> list[Tensor]:
    """Features (cells, C) of a picture within its ground, at each size."""
    found = []
    for cells in REFERENCE_CELLS:
        try:
            picture = letterbox(read_picture(data), cells * encoder.cell)
        except ValueError as error:
            raise PictureUnreadable(f"reference picture: {error}") from None
        features = encoder.feature_map(picture[None])[0].float().cpu()
        ground = cells // 6
        found.append(features[:, ground : cells - ground, ground : cells - ground].flatten(1).T)
    return found


def best_points(score_hw: Tensor, size: tuple[int, int], most: int = 3, near_best: float = 0.15) -> tuple[tuple[float, float], ...]:
    """Up to `most` points (x, y) in pixels of a frame of `size` (height, width): the centres of the best cells, best first.

    Not two within three cells of one another, and none further below the best than near_best, as a share of best minus median.
    """
    rows, columns = score_hw.shape
    best, median = float(score_hw.max()), float(score_hw.median())
    points: list[tuple[float, float]] = []
    left = score_hw.clone()
    while len(points) < most and float(left.max()) >= best - near_best * (best - median):
        row, column = divmod(int(left.argmax()), columns)
        points.append(((column + 0.5) * size[1] / columns, (row + 0.5) * size[0] / rows))
        left[max(0, row - 3) : row + 4, max(0, column - 3) : column + 4] = -2
    return tuple(points)
