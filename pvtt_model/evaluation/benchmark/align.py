"""Which frames are held against which, and at what size: the published way with its faults, and the right one.

compat  the first SKIP generated frames are dropped, the source's are not; both squeezed to 832 x 480 (Lanczos), cut to the shorter; the
        mask of generated frame i is the source's number i, and the last one again where masks are too few. So frame 0 stands against
        frame 4, portrait becomes landscape, and a product that moves leaves its mask.
fixed   frame by time: generated frame i stands against the source frame shown at the same moment, the dropped ones dropped on both
        sides; both at the source's own aspect; a mask a source frame, or none is used.
"""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np
import torch
from torch.nn import functional as F

from pvtt_model.evaluation.benchmark.columns import Mode
from pvtt_model.evaluation.benchmark.task_files import TaskFrames

SKIP = 4  # frames of transition from collage to video in the first-frame paradigm
SIZE = (480, 832)  # height, width


class Aligned(NamedTuple):
    generated_TCHW: torch.Tensor  # uint8, one size with the next
    source_TCHW: torch.Tensor
    mask_THW: torch.Tensor | None  # bool, of the same size; None: there are no masks. compat: `boxes` is used in its place
    boxes: tuple[tuple[int, int, int, int] | None, ...]  # compat: top, bottom, left, right of the mask held to be that frame's; None: no mask


def align(frames: TaskFrames, mode: Mode, skip: int = SKIP, size: tuple[int, int] = SIZE) -> Aligned:
    """Frames of a task as the mode holds them against each other. size: (height, width) of compat; fixed keeps to its area.

    Raises ValueError where nothing is left after the dropped frames; in fixed mode also where the source is shorter than the generated video or
    masks are neither absent nor one a source frame.
    """
    if len(frames.generated_TCHW) <= skip:
        raise ValueError(f"{len(frames.generated_TCHW)} generated frames, of which the first {skip} are dropped: none is left.")
    return _compat(frames, skip, size) if mode == "compat" else _fixed(frames, skip, size)


def _compat(frames: TaskFrames, skip: int, size: tuple[int, int]) -> Aligned:
    generated, source = frames.generated_TCHW[skip:], frames.source_TCHW
    count = min(len(generated), len(source))
    boxes = []
    for index in range(count):
        mask = frames.masks[min(index, len(frames.masks) - 1)] if frames.masks else None
        boxes.append(_scaled_box(mask, size) if mask is not None else None)
    if frames.masks:
        first = _scaled_box(frames.masks[0], size)
        boxes = [first if box is None else box for box in boxes]
    return Aligned(lanczos(generated[:count], size), lanczos(source[:count], size), None, tuple(boxes))


def _fixed(frames: TaskFrames, skip: int, size: tuple[int, int]) -> Aligned:
    generated = frames.generated_TCHW[skip:]
    rate = frames.source_fps / frames.generated_fps if frames.source_fps > 0 and frames.generated_fps > 0 else 1.0
    shown = [round((skip + i) * (rate if abs(rate - 1) > 0.01 else 1.0)) for i in range(len(generated))]
    if shown[-1] >= len(frames.source_TCHW):
        raise ValueError(
            f"generated frame {skip + len(generated) - 1} is shown with source frame {shown[-1]}, but the source has {len(frames.source_TCHW)}. "
            "Generate as many frames as the source shows in that time."
        )
    if frames.masks and len(frames.masks) != len(frames.source_TCHW):
        raise ValueError(f"{len(frames.masks)} masks for {len(frames.source_TCHW)} source frames. Give one a frame; none is repeated.")
    source = frames.source_TCHW[shown]
    target = _same_aspect((source.shape[-2], source.shape[-1]), size)
    mask = None
    if frames.masks:
        covered = torch.stack([frames.masks[i] for i in shown])[:, None].float()
        mask = F.interpolate(covered, size=target, mode="area")[:, 0] > 0.5
    return Aligned(_resized(generated, target), _resized(source, target), mask, ())


def lanczos(video_TCHW: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """uint8 T,C,*size by OpenCV's Lanczos over 8 x 8, squeezed without regard to aspect."""
    height, width = size
    if video_TCHW.shape[-2:] == torch.Size(size):
        return video_TCHW
    resized = [cv2.resize(np.ascontiguousarray(f.permute(1, 2, 0).numpy()), (width, height), interpolation=cv2.INTER_LANCZOS4) for f in video_TCHW]
    return torch.from_numpy(np.stack(resized)).permute(0, 3, 1, 2).contiguous()


def _resized(video_TCHW: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    if video_TCHW.shape[-2:] == torch.Size(size):
        return video_TCHW
    parts = [F.interpolate(part.float(), size=size, mode="bicubic", antialias=True) for part in video_TCHW.split(8)]
    return torch.cat([part.round().clamp(0, 255).to(torch.uint8) for part in parts])


def _same_aspect(own: tuple[int, int], size: tuple[int, int]) -> tuple[int, int]:
    """The source's size, made smaller at its own aspect where it has more pixels than `size`; even sides."""
    scale = min(1.0, (size[0] * size[1] / (own[0] * own[1])) ** 0.5)
    return (own[0], own[1]) if scale == 1.0 else (round(own[0] * scale / 2) * 2, round(own[1] * scale / 2) * 2)


def _scaled_box(mask_HW: torch.Tensor, size: tuple[int, int]) -> tuple[int, int, int, int] | None:
    """The mask's box on a picture of `size`, its edges cut down to whole pixels; None where nothing is left."""
    if not bool(mask_HW.any()):
        return None
    rows, columns = mask_HW.any(dim=1).nonzero()[:, 0], mask_HW.any(dim=0).nonzero()[:, 0]
    down, across = size[0] / mask_HW.shape[0], size[1] / mask_HW.shape[1]
    top, bottom = int(int(rows[0]) * down), min(size[0], int((int(rows[-1]) + 1) * down))
    left, right = int(int(columns[0]) * across), min(size[1], int((int(columns[-1]) + 1) * across))
    return (top, bottom, left, right) if bottom > top and right > left else None
