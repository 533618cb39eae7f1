"""H.264 in an mp4, frame by frame, so that a long video need not be in memory."""

from __future__ import annotations

import os
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import av
import torch


class Mp4Writer:
    """H.264 (BT.601), faststart. One encoder thread: the same frames give the same bytes. The file is there when the writer is left, or not at all.

    crf: 0 (lossless) to 51; 12 is visually lossless. preset: x264's, 'veryfast' takes half the time. chroma: '420' halves the colour
    planes, plays in every browser and wants even sides; '444' keeps them.
    """

    def __init__(self, path: str | Path, fps: float, crf: int = 12, preset: str = "medium", chroma: Literal["420", "444"] = "420") -> None:
        self.path, self.part = Path(path), Path(f"{path}.part")
        self.rate = Fraction(fps).limit_denominator(1001)
        # With mbtree on an AVX-512 machine, 74 of 800 encodings of the same frames differed; without mbtree (or with asm=avx2) none did.
        self.options = {"crf": str(crf), "preset": preset, "threads": "1", "x264-params": "mbtree=0"}
        self.pix_fmt, self.num_frames = f"yuv{chroma}p", 0
        self._container: Any = None
        self._stream: Any = None

    def __enter__(self) -> Mp4Writer:
        return self

    def add(self, frames_TCHW: torch.Tensor) -> None:
        """Raises ValueError for frames that are not uint8 T,3,H,W, of another size than the first, or with an odd side in 4:2:0."""
        if frames_TCHW.dtype != torch.uint8 or frames_TCHW.ndim != 4 or frames_TCHW.shape[1] != 3:
            raise ValueError(f"an mp4 wants uint8 frames T,3,H,W; got {frames_TCHW.dtype} {tuple(frames_TCHW.shape)}. Convert them first.")
        height, width = frames_TCHW.shape[-2:]
        if self._container is None:
            self._open(width, height)
        elif (width, height) != (self._stream.width, self._stream.height):
            raise ValueError(f"frames are {width}x{height}, those before {self._stream.width}x{self._stream.height}. A video has one size.")
        for frame_HWC in frames_TCHW.permute(0, 2, 3, 1).contiguous().numpy():
            self._container.mux(self._stream.encode(av.VideoFrame.from_ndarray(frame_HWC, format="rgb24")))
            self.num_frames += 1

    def _open(self, width: int, height: int) -> None:
        if (height % 2 or width % 2) and self.pix_fmt == "yuv420p":
            raise ValueError(f"frames are {width}x{height}; video wants even sides. Crop to {width // 2 * 2}x{height // 2 * 2}, or use chroma='444'.")
        self._container = av.open(str(self.part), "w", format="mp4", options={"movflags": "+faststart"})
        self._stream = stream = self._container.add_stream("libx264", rate=self.rate)
        stream.width, stream.height, stream.pix_fmt = width, height, self.pix_fmt
        stream.options = self.options
        context = stream.codec_context
        context.colorspace, context.color_primaries, context.color_trc, context.color_range = 6, 6, 6, 1  # BT.601, limited

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._container is None:
            return
        if kind is None:
            self._container.mux(self._stream.encode())
        self._container.close()
        if kind is None:
            os.replace(self.part, self.path)
        else:
            self.part.unlink(missing_ok=True)
