"""Files as cameras, phones, shops and broken copies leave them: made here by FFmpeg and PIL, each with what must become of it."""

from __future__ import annotations

import io
import struct
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image

CORNERS = ((250, 0, 0), (0, 250, 0), (0, 0, 250), (250, 250, 250))  # top left, top right, bottom left, bottom right


def frame(t: int, width: int, height: int) -> np.ndarray:
    """uint8 H,W,3: a corner a colour, so that a turn is seen, and a grey square in the middle, lighter in each frame: 10 t + 20."""
    picture = np.zeros((height, width, 3), np.uint8)
    h, w = height // 2, width // 2
    for place, colour in zip((np.s_[:h, :w], np.s_[:h, w:], np.s_[h:, :w], np.s_[h:, w:]), CORNERS, strict=True):
        picture[place] = colour
    picture[h // 2 : h + h // 2, w // 2 : w + w // 2] = 20 + 10 * (t % 20)
    return picture


def number_of(picture_CHW: Any) -> int:
    """Which frame it is, from the square in the middle."""
    height, width = picture_CHW.shape[-2:]
    middle = picture_CHW[:, height // 2 - 2 : height // 2 + 2, width // 2 - 2 : width // 2 + 2].float().mean()
    return round((float(middle) - 20) / 10)


def write(
    path: Path,
    num_frames: int = 12,
    width: int = 64,
    height: int = 48,
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    times_ms: list[int] | None = None,
    fps: int = 16,
    fmt: str | None = None,
    seed: int = 0,
    options: dict[str, str] | None = None,
) -> None:
    """A video of `frame`s; times_ms: when each is shown, where the rate varies. seed: another picture size of one corner, so that bytes differ."""
    with av.open(str(path), "w", format=fmt) as container:
        stream = container.add_stream(codec, rate=fps)
        stream.width, stream.height, stream.pix_fmt = width, height, pix_fmt
        stream.options = options or ({"x265-params": "log-level=none:pools=1"} if codec == "libx265" else {})
        if times_ms is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        for t in range(num_frames):
            picture = frame(t, width, height)
            picture[:1, : 1 + seed] = 128
            shot = av.VideoFrame.from_ndarray(picture, format="rgb24")
            if times_ms is not None:
                shot.pts, shot.time_base = times_ms[t], Fraction(1, 1000)
            container.mux(stream.encode(shot))
        container.mux(stream.encode())


def turn(path: Path, degrees: int, width: int = 64, height: int = 48) -> None:
    """Rewrite an mp4's display matrix, as a phone held upright does: 90, 180 or 270 degrees clockwise."""
    data, one = bytearray(path.read_bytes()), 1 << 16
    at = data.find(b"tkhd") + 4 + 40
    matrix = {
        90: (0, one, 0, -one, 0, 0, height << 16, 0, 1 << 30),
        180: (-one, 0, 0, 0, -one, 0, width << 16, height << 16, 1 << 30),
        270: (0, -one, 0, one, 0, 0, 0, width << 16, 1 << 30),
    }[degrees]
    data[at : at + 36] = struct.pack(">9i", *matrix)
    path.write_bytes(data)


def sound(path: Path) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=44100)
        for i in range(20):
            samples = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            samples.rate, samples.pts = 44100, i * 1024
            container.mux(stream.encode(samples))
        container.mux(stream.encode())


def picture(mode: str, **how: Any) -> bytes:
    """A 40 x 20 picture, left half red and right half blue, as a file."""
    image = Image.new("RGB", (40, 20), (200, 30, 30))
    image.paste((30, 30, 200), (20, 0, 40, 20))
    out = io.BytesIO()
    image.convert(mode).save(out, **how)
    return out.getvalue()


def turned_jpeg() -> bytes:
    """The picture with EXIF orientation 6: to be turned by 90 degrees clockwise before it is shown."""
    exif = Image.Exif()
    exif[274] = 6
    return picture("RGB", format="JPEG", quality=95, exif=exif)


def cut_out() -> bytes:
    """A red square on nothing; the transparent pixels hold black, as tools leave it."""
    image = Image.new("RGBA", (40, 40), (0, 0, 0, 0))
    image.paste((200, 30, 30, 255), (10, 10, 30, 30))
    out = io.BytesIO()
    image.save(out, "PNG")
    return out.getvalue()


def deep_grey() -> bytes:
    out = io.BytesIO()
    Image.fromarray(np.full((20, 20), 40_000, np.uint16)).save(out, "PNG")
    return out.getvalue()
