"""Frames out of a shard row: lists of PNG bytes to tensors. Counts and sizes are checked; nothing is padded or resized here."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image


def decode_frames(pngs: Sequence[bytes]) -> torch.Tensor:
    """uint8 T,C,H,W (RGB, 0 to 255) from one encoded image a frame. Raises ValueError for no frames or for frames of several sizes."""
    images = [_rgb(data) for data in pngs]
    _one_size([image.size for image in images], "frames")
    return torch.stack([_to_tensor(image) for image in images])


def decode_masks(pngs: Sequence[bytes]) -> torch.Tensor:
    """bool T,H,W, True = product, from one 1-bit (or 8-bit, > 127) image a frame. Raises ValueError like decode_frames."""
    images = [Image.open(io.BytesIO(data)).convert("L") for data in pngs]
    _one_size([image.size for image in images], "masks")
    return torch.stack([torch.from_numpy(np.array(image)) > 127 for image in images])


def decode_reference(data: bytes) -> torch.Tensor:
    """uint8 C,H,W from an encoded picture: C = 3, or 4 where it has transparency (the fourth is alpha, 255 = opaque)."""
    image = Image.open(io.BytesIO(data))
    mode = "RGBA" if "A" in image.getbands() or "transparency" in image.info else "RGB"
    return _to_tensor(image.convert(mode))


OPTIONAL_VIDEOS = ("truth", "truth_round_trip", "base", "no_reference", "wrong_reference")


def edit_frames(row: Mapping[str, Any], optional: Sequence[str] = ()) -> dict[str, torch.Tensor]:
    """Every picture of an edits row: source, raw, composited, round_trip (uint8 T,3,H,W), mask (bool T,H,W), reference (uint8 C,H,W).

    optional: those of OPTIONAL_VIDEOS that are wanted too; a video that the row has not is left out. With 'truth' comes truth_mask (bool
    T,H,W). Raises ValueError where the counts or sizes of the videos differ, naming each.
    """
    names = ["source", "raw", "composited", "round_trip", *(name for name in optional if row.get(name))]
    frames = {name: decode_frames(row[name]) for name in names}
    frames["mask"] = decode_masks(row["mask"])
    if "truth" in frames:
        frames["truth_mask"] = decode_masks(row["truth_mask"])
    shapes = {name: (video.shape[0], *video.shape[-2:]) for name, video in frames.items()}
    if len(set(shapes.values())) > 1:
        raise ValueError(f"edit {row.get('clip_key')} has videos of several shapes (frames, height, width): {shapes}. Run the editing again.")
    frames["reference"] = decode_reference(row["reference"])
    return frames


def to_unit(frames: torch.Tensor) -> torch.Tensor:
    """uint8 0 to 255 as float32 0 to 1."""
    return frames.to(torch.float32) / 255.0


def same_shape(one_TCHW: torch.Tensor, other_TCHW: torch.Tensor) -> None:
    """Raises ValueError unless both videos are uint8 T,C,H,W of one shape."""
    for video in (one_TCHW, other_TCHW):
        if video.dtype != torch.uint8 or video.ndim != 4:
            raise ValueError(f"a video is {video.dtype} {tuple(video.shape)}; metrics take uint8 T,C,H,W.")
    if one_TCHW.shape != other_TCHW.shape:
        raise ValueError(f"videos differ in shape: {tuple(one_TCHW.shape)} and {tuple(other_TCHW.shape)}. Align frames and sizes first.")


def background_of(mask_THW: torch.Tensor, video_TCHW: torch.Tensor) -> torch.Tensor:
    """bool T,H,W, True = not product. Raises ValueError where the mask is not one bool a pixel of the video, or leaves no background."""
    wanted = (video_TCHW.shape[0], *video_TCHW.shape[-2:])
    if mask_THW.dtype != torch.bool or tuple(mask_THW.shape) != wanted:
        raise ValueError(f"mask is {mask_THW.dtype} {tuple(mask_THW.shape)}; the video wants bool {wanted}.")
    if bool(mask_THW.all()):
        raise ValueError("the mask covers every pixel: there is no background to measure. Use a mask policy narrower than 'full'.")
    return ~mask_THW


def _rgb(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data)).convert("RGB")


def _to_tensor(image: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()


def _one_size(sizes: list[tuple[int, int]], what: str) -> None:
    if not sizes:
        raise ValueError(f"no {what}: the row holds an empty list. A usable edit has one picture a frame.")
    if len(set(sizes)) > 1:
        raise ValueError(f"{what} of several sizes (width, height): {sorted(set(sizes))}. All of one video must agree.")
