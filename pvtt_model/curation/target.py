"""Which thing in frame 0 is the product: what the manifest points at, or what the reference pictures are found at."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from torch import Tensor

if TYPE_CHECKING:
    from pvtt_model.backbones.image import ImageEncoder

Point = tuple[float, float]


class PromptUnreadable(ValueError):
    """The manifest's point or box is none, or lies outside the frame."""


class Target(NamedTuple):
    """The product in frame 0. At least one of the three; positions are pixels of the frame, x to the right, y down."""

    found_by: str  # 'manifest', or the encoder's name: stands in the mask's provenance
    points: tuple[Point, ...] = ()  # on the product
    box: tuple[float, float, float, float] | None = None  # left, top, right, bottom
    score_hw: Tensor | None = None  # of match(), cells


def find_target(clip_row: dict[str, Any], frame_CHW: Tensor, encoder: ImageEncoder | None) -> Target | None:
    """The manifest's metadata.point ([x, y], or a list of them) and metadata.box; else the references' match; None without an encoder.

    Point and box are of the file's first frame, so a later shot of it has none.
    Raises PromptUnreadable for a point or box that is none, PictureUnreadable for a reference.
    """
    height, width = frame_CHW.shape[-2:]
    later_shot = bool(clip_row.get("start_s"))
    metadata = {} if later_shot else json.loads(clip_row.get("metadata") or "{}")
    point, box = metadata.get("point"), metadata.get("box")
    if point is not None or box is not None:
        points = [] if point is None else point if point and isinstance(point, list) and isinstance(point[0], list) else [point]
        return Target("manifest", tuple(_inside(p, 2, width, height, "point") for p in points), None if box is None else _box(box, width, height))
    if encoder is None:
        return None
    return match_target(clip_row["references"], frame_CHW, encoder)


def match_target(references: Sequence[bytes], frame_CHW: Tensor, encoder: ImageEncoder) -> Target:
    """Where the references' product is in a frame, at its best. Raises as match()."""
    from pvtt_model.curation.match import best_points, match  # timm: seconds that given masks need not pay

    score = match(frame_CHW, references, encoder)
    return Target(encoder.name, best_points(score, (frame_CHW.shape[-2], frame_CHW.shape[-1])), None, score)


def _box(value: Any, width: int, height: int) -> Any:
    left, top, right, bottom = _inside(value, 4, width, height, "box")
    if left >= right or top >= bottom:
        raise PromptUnreadable(f"metadata.box is {value}; it must be [left, top, right, bottom] with left < right and top < bottom.")
    return left, top, right, bottom


def _inside(value: Any, count: int, width: int, height: int, name: str) -> Any:
    numbers = isinstance(value, list) and len(value) == count and all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in value)
    if not numbers or not all(0 <= v <= (height if i % 2 else width) for i, v in enumerate(value)):
        form = "[x, y]" if count == 2 else "[left, top, right, bottom]"
        raise PromptUnreadable(f"metadata.{name} holds {json.dumps(value)[:80]}; it must be {form} in pixels of the first frame, {width}x{height}.")
    return tuple(float(v) for v in value)
