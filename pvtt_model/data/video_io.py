"""Video and pictures in and out. Frames in memory are uint8 torch tensors T,C,H,W (RGB); masks bool T,H,W, True = product.

Files of others are decoded in a killable child process (decoder.py): decord hangs and crashes on some.
"""

from __future__ import annotations

import io
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, UnidentifiedImageError

from pvtt_model.data.decoder import DECODER, DecodeTimeout, VideoUnreadable
from pvtt_model.data.mp4_writer import Mp4Writer
from pvtt_model.specs import VideoSpec

__all__ = [
    "DecodeTimeout",
    "Look",
    "Picked",
    "PictureUnreadable",
    "VideoFacts",
    "VideoUnreadable",
    "decode",
    "decode_at",
    "fit",
    "fit_mask",
    "look",
    "png_bytes",
    "png_frame",
    "png_mask",
    "probe",
    "probe_ends",
    "read_picture",
    "read_reference",
    "unfit",
    "unfit_mask",
    "write_mp4",
]

MAX_PICTURE_PIXELS = 64_000_000


class PictureUnreadable(ValueError):
    """The bytes are no picture, or one too large to open."""


class Picked(NamedTuple):
    """A video of which these frames alone are seen, in this order; one may stand there twice."""

    data: bytes
    frames: tuple[int, ...]


Source = str | Path | bytes | Picked


class VideoFacts(NamedTuple):
    width: int  # px, as decoded
    height: int
    fps: float
    num_frames: int


class Look(NamedTuple):
    """What a video holds and which of its frames are used."""

    facts: VideoFacts
    starts_s: list[float] | None  # when each frame is first shown, the first at 0; None where the container holds no times
    end_s: float  # when the last frame is no longer shown
    used: list[int]  # frames of the video, in order; fewer than asked for where it is too short
    looked: list[int]  # frames that `thumbs` shows
    thumbs_THWC: np.ndarray  # uint8, RGB, short side 48 to 95 px (or the video's own)


def probe(source: Source, timeout_s: float = 120.0) -> VideoFacts:
    """Size, rate and length of a video, with its first frame really decoded. Raises VideoUnreadable, DecodeTimeout."""
    header, _ = _ask(source, {"want": "probe"}, timeout_s)
    return _facts(header)


def probe_ends(source: Source, num_frames: int, timeout_s: float = 120.0) -> VideoFacts:
    """As `probe`, and the last frame and the last of the first `num_frames` are really decoded too. Raises VideoUnreadable, DecodeTimeout."""
    header, _ = _ask(source, {"want": "ends", "num_frames": num_frames}, timeout_s)
    return _facts(header)


def look(source: Source, num_frames: int, fps: float | None = None, whole: bool = False, timeout_s: float = 120.0) -> Look:
    """Decode the `num_frames` frames that are used, and the last of the video, and keep them small.

    fps None: the first num_frames; else those shown at times k / fps by the presentation timestamps, each the last that starts by then.
    whole: every frame is looked at. Raises VideoUnreadable, DecodeTimeout.
    """
    header, thumbs = _ask(source, {"want": "look", "num_frames": num_frames, "fps": fps, "whole": whole}, timeout_s)
    empty = np.empty((0, 0, 0, 3), np.uint8)
    used, looked = header["used"], header["looked"]
    return Look(_facts(header), header["starts_s"], header["end_s"], used, looked, empty if thumbs is None else thumbs)


def decode(source: Source, num_frames: int | None = None, timeout_s: float = 120.0) -> torch.Tensor:
    """The first `num_frames` frames (None: all) as uint8 T,C,H,W at the source's size; in memory they lie T,H,W,C.

    `source` is a path, the file's bytes, or the frames picked of them. timeout_s bounds the whole call, seconds. Raises VideoUnreadable where
    the file cannot be decoded or holds fewer frames (nothing is padded), DecodeTimeout where the decoder hung.
    """
    if isinstance(source, Picked):
        return _picked(source, source.frames[:num_frames], num_frames, timeout_s)
    _, frames = _ask(source, {"want": "frames", "indices": None, "num_frames": num_frames}, timeout_s)
    return _tensor(frames)


def _picked(source: Picked, frames: tuple[int, ...], num_frames: int | None, timeout_s: float) -> torch.Tensor:
    if len(frames) < (num_frames or 1):
        raise VideoUnreadable(f"{len(source.frames)} frames of the video are used; {num_frames} are asked for. Ingest it again with that number.")
    each = sorted(set(frames))
    _, decoded = decode_at(source.data, each, timeout_s)
    return decoded if tuple(each) == frames else decoded[[each.index(i) for i in frames]]


def decode_at(source: Source, indices: Sequence[int], timeout_s: float = 120.0) -> tuple[VideoFacts, torch.Tensor]:
    """The facts, and the frames at `indices` (negative ones count from the end) as uint8 T,C,H,W. Raises as `decode`."""
    if isinstance(source, Picked):
        indices = [source.frames[i] for i in indices]
    header, frames = _ask(source, {"want": "frames", "indices": list(indices), "num_frames": None}, timeout_s)
    return _facts(header), _tensor(frames)


def _ask(source: Source, request: dict[str, Any], timeout_s: float) -> tuple[dict[str, Any], np.ndarray | None]:
    if isinstance(source, Picked):
        source = source.data  # its facts are the file's
    if not isinstance(source, bytes):
        return DECODER.ask(os.path.abspath(source), request, timeout_s, str(source))
    with tempfile.NamedTemporaryFile(prefix="pvtt-", suffix=".video") as file:
        file.write(source)
        file.flush()
        return DECODER.ask(file.name, request, timeout_s, "the video")


def read_reference(data: bytes) -> Image.Image:
    """A picture that can be shown to a model: as `read_picture`, and 8 bits a channel. Raises PictureUnreadable."""
    image = read_picture(data)
    if image.mode.startswith("I") or image.mode == "F":
        raise PictureUnreadable(f"picture has mode {image.mode}, whose range is not known. Save it as 8-bit RGB or RGBA.")
    return image


def _facts(header: dict[str, Any]) -> VideoFacts:
    return VideoFacts(header["width"], header["height"], header["fps"], header["num_frames"])


def _tensor(frames_THWC: np.ndarray | None) -> torch.Tensor:
    assert frames_THWC is not None
    return torch.from_numpy(frames_THWC).permute(0, 3, 1, 2)


def fit(frames_TCHW: torch.Tensor, video: VideoSpec) -> torch.Tensor:
    """uint8 frames resized to the bucket of their own aspect (VideoSpec.bucket_of), T unchanged.

    crop: cover the frame and cut the centre; stretch: change the aspect. Antialiased bilinear (an area filter when shrinking), one frame at a
    time so that memory stays small.
    """
    bucket = video.bucket_of(frames_TCHW.shape[-1], frames_TCHW.shape[-2])
    height, width = _inner_size(frames_TCHW.shape[-2:], bucket, video)
    if (height, width) != tuple(frames_TCHW.shape[-2:]):
        resized = [
            F.interpolate(f[None].float().contiguous(), (height, width), mode="bilinear", antialias=True, align_corners=False) for f in frames_TCHW
        ]
        frames_TCHW = torch.cat([f.round_().clamp_(0, 255).to(torch.uint8) for f in resized])
    return _cut(frames_TCHW, bucket)


def fit_mask(mask_THW: torch.Tensor, video: VideoSpec) -> torch.Tensor:
    """bool mask by nearest neighbour, with the geometry of `fit`."""
    bucket = video.bucket_of(mask_THW.shape[-1], mask_THW.shape[-2])
    height, width = _inner_size(mask_THW.shape[-2:], bucket, video)
    if (height, width) != tuple(mask_THW.shape[-2:]):
        mask_THW = F.interpolate(mask_THW[:, None].to(torch.uint8), (height, width), mode="nearest-exact")[:, 0].bool()
    return _cut(mask_THW, bucket)


def unfit(frames_TCHW: torch.Tensor, size: tuple[int, int], video: VideoSpec) -> torch.Tensor:
    """uint8 frames at a bucket's size back at `size` (H, W) of the source that `fit` made them of, bicubic.

    What `fit` cut off is not known: the frame's edge is carried on there. The inverse of `fit` in place, not in detail.
    """
    height, width, *sides = _outer(size, video)
    if (height, width) == size and not any(sides):
        return frames_TCHW
    padded = [F.pad(f[None].float(), sides, mode="replicate") for f in frames_TCHW]
    if (height, width) != size:
        padded = [F.interpolate(f, size, mode="bicubic", antialias=True, align_corners=False) for f in padded]
    return torch.cat([f.round_().clamp_(0, 255).to(torch.uint8) for f in padded])


def unfit_mask(mask_THW: torch.Tensor, size: tuple[int, int], video: VideoSpec) -> torch.Tensor:
    """bool mask by nearest neighbour, with the geometry of `unfit`; False where `fit` cut."""
    height, width, *sides = _outer(size, video)
    padded = F.pad(mask_THW[:, None].to(torch.uint8), sides)
    if (height, width) != size:
        padded = F.interpolate(padded, size, mode="nearest-exact")
    return padded[:, 0].bool()


def _outer(size: tuple[int, int], video: VideoSpec) -> tuple[int, int, int, int, int, int]:
    """Height and width of the whole picture at the model's scale, and what was cut: left, right, top, bottom."""
    bucket = video.bucket_of(size[1], size[0])
    height, width = _inner_size(size, bucket, video)
    left, top = (width - bucket[0]) // 2, (height - bucket[1]) // 2
    return height, width, left, width - bucket[0] - left, top, height - bucket[1] - top


def _inner_size(size: Sequence[int], bucket: tuple[int, int], video: VideoSpec) -> tuple[int, int]:
    """Height and width of the whole picture after resizing and before the cut to the bucket (width, height)."""
    width, height = bucket
    if video.fit == "stretch":
        return height, width
    scale = max(height / size[0], width / size[1])
    return max(height, round(size[0] * scale)), max(width, round(size[1] * scale))


def _cut(x: torch.Tensor, bucket: tuple[int, int]) -> torch.Tensor:
    width, height = bucket
    top, left = (x.shape[-2] - height) // 2, (x.shape[-1] - width) // 2
    return x[..., top : top + height, left : left + width].contiguous()


def write_mp4(
    path: str | Path, frames_TCHW: torch.Tensor, fps: float, crf: int = 12, preset: str = "medium", chroma: Literal["420", "444"] = "420"
) -> None:
    """Mp4Writer with all frames at once. Raises ValueError as that, and for no frame at all."""
    if not len(frames_TCHW):
        raise ValueError("write_mp4 got no frame; a video has at least one.")
    with Mp4Writer(path, fps, crf, preset, chroma) as writer:
        writer.add(frames_TCHW)


def png_bytes(picture: torch.Tensor) -> bytes:
    """PNG of a uint8 frame C,H,W (RGB), or a 1-bit PNG of a bool mask H,W. Lossless. Raises ValueError for anything else."""
    if picture.dtype == torch.bool and picture.ndim == 2:
        image = Image.fromarray(picture.numpy().astype(np.uint8) * 255).convert("1", dither=Image.Dither.NONE)
    elif picture.dtype == torch.uint8 and picture.ndim == 3 and picture.shape[0] == 3:
        image = Image.fromarray(picture.permute(1, 2, 0).contiguous().numpy())
    else:
        raise ValueError(f"png_bytes wants uint8 3,H,W or bool H,W; got {picture.dtype} {tuple(picture.shape)}.")
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=6)
    return buffer.getvalue()


def png_frame(data: bytes) -> torch.Tensor:
    """uint8 3,H,W (RGB) of a picture's bytes. Raises PictureUnreadable."""
    return torch.from_numpy(np.array(read_picture(data).convert("RGB"))).permute(2, 0, 1).contiguous()


def png_mask(data: bytes, threshold: int = 127) -> torch.Tensor:
    """bool H,W: True where the picture's grey value is above `threshold` (of 255). Raises PictureUnreadable."""
    return torch.from_numpy(np.array(read_picture(data).convert("L")) > threshold)


def read_picture(data: bytes) -> Image.Image:
    """The picture, fully loaded, in its own mode. Raises PictureUnreadable for no picture, or one above 64 million pixels (checked first)."""
    try:
        image = Image.open(io.BytesIO(data))
        pixels = image.width * image.height
        if pixels > MAX_PICTURE_PIXELS:
            raise PictureUnreadable(f"picture is {image.width}x{image.height}, above {MAX_PICTURE_PIXELS} pixels. Scale it down.")
        image.load()
    except PictureUnreadable:
        raise
    except Image.DecompressionBombError as error:
        raise PictureUnreadable(f"picture is a decompression bomb ({error}). Scale it down.") from None
    except Exception as error:  # PIL's plugins raise OSError, SyntaxError, ValueError, struct.error and more on bad bytes
        said = "its bytes begin as no picture's" if isinstance(error, UnidentifiedImageError) else error  # that error names a memory address
        raise PictureUnreadable(f"no readable picture ({said}). Save it as PNG or JPEG.") from None
    return image
