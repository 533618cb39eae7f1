"""The child process that touches untrusted video. Run by path, so that it imports numpy and decord only and starts fast.

It reads one JSON request a line on stdin and answers on stdout with one JSON line. Where that names `bytes`, the uint8 frames lie in
memory that both processes see (a memfd, nothing is copied), open here under the descriptor `fd` until the next line; the parent sends an empty
one when it has it. A request is {"path", "want": "probe" | "ends" | "frames" | "look", "indices": [..] | null, "num_frames": n | null}.
probe decodes the first frame; ends also the last one and the last of the first n; both answer with the facts alone.
look also takes "fps" and "whole": it answers with every frame's time, with the indices of the n frames that are used, and with small
pictures of those (whole: of all); the last frame is decoded too.
"""

from __future__ import annotations

import json
import mmap
import os
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

MAX_BYTES = 6 << 30  # of decoded frames in one answer
THUMB_PX = 48  # least short side of the small pictures of `look`
SLACK_S = 0.001  # containers round times to their own clock, Matroska to milliseconds
#: What our containers start with: (offset, bytes). A playlist, which could make ffmpeg open other files, has none of these.
CONTAINERS = ((4, b"ftyp"), (4, b"moov"), (4, b"mdat"), (4, b"free"), (4, b"wide"), (0, b"\x1a\x45\xdf\xa3"), (0, b"RIFF"))


class Shared:
    """uint8 memory of `shape` that another process can map by the descriptor `fd`."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        size = int(np.prod(shape))
        self.fd = os.memfd_create("frames")
        try:
            os.ftruncate(self.fd, size)
            self.array = np.frombuffer(mmap.mmap(self.fd, size), np.uint8).reshape(shape)
        except BaseException:
            os.close(self.fd)
            raise


def answer(request: dict[str, Any]) -> tuple[dict[str, Any], Shared | None]:
    """The JSON header and the frames (uint8 T,H,W,C). Raises what decord raises."""
    import decord

    with open(request["path"], "rb") as file:
        head = file.read(16)
    if not any(head[at : at + len(magic)] == magic for at, magic in CONTAINERS):
        raise ValueError(f"starts with {head[:8]!r}, which is no mp4, mov, mkv, webm or avi")
    reader = decord.VideoReader(request["path"], num_threads=1)
    total = len(reader)
    if total < 1:
        raise ValueError("holds no frame")
    first = rgb(reader[0].asnumpy())
    height, width, _ = first.shape
    facts = {"width": width, "height": height, "fps": float(reader.get_avg_fps()), "num_frames": total}
    if request["want"] == "ends":
        for i in sorted({min(request["num_frames"] or total, total) - 1, total - 1} - {0}):
            reader[i].asnumpy()
    if request["want"] == "look":
        return look(reader, first, facts, request)
    if request["want"] != "frames":
        return facts, None
    indices = request["indices"]
    if indices is None:
        wanted = total if request["num_frames"] is None else int(request["num_frames"])
        indices = range(wanted)
    indices = [i + total if i < 0 else i for i in indices]
    if not indices or min(indices) < 0 or max(indices) >= total:
        raise ValueError(f"holds {total} frames; {max(indices, default=-1) + 1} are asked for")
    size = len(indices) * first.size
    if size > MAX_BYTES:
        raise ValueError(f"{len(indices)} frames of {width}x{height} are {size} bytes; at most {MAX_BYTES} are decoded at once")
    frames = Shared((len(indices), *first.shape))
    places: dict[int, list[int]] = {}
    for place, i in enumerate(indices):
        places.setdefault(i, []).append(place)
    for i, frame in in_order(reader, first, sorted(places)):
        frames.array[places[i]] = frame
    return {**facts, **said(frames)}, frames


def said(frames: Shared) -> dict[str, Any]:
    """The header's part of the frames."""
    return {"shape": frames.array.shape, "bytes": frames.array.nbytes, "fd": frames.fd}


def in_order(reader: Any, first: Any, indices: list[int]) -> Iterator[tuple[int, Any]]:
    """(i, frame) of ascending indices. first: frame 0, behind which the reader stands.

    Every frame up to the last is decoded: where decord seeks or skips in HEVC with open groups of pictures, it gives the next frame instead.
    """
    wanted, frame = set(indices), first
    for i in range(max(indices, default=-1) + 1):
        if i:
            raw = reader.next()
            frame = rgb(raw.asnumpy()) if i in wanted else None
        if i in wanted:
            yield i, frame


def look(reader: Any, first: Any, facts: dict[str, Any], request: dict[str, Any]) -> tuple[dict[str, Any], Shared | None]:
    """facts and starts_s (None where they are no times), end_s, used (fewer than asked for where the video ends before), looked; thumbs T,h,w,3."""
    total, wanted = facts["num_frames"], int(request["num_frames"])
    shown = np.asarray(reader.get_frame_timestamp(range(total)), np.float64).reshape(total, 2)
    starts, end = shown[:, 0] - shown[0, 0], float(shown[-1, 1] - shown[0, 0])
    timed = bool(np.isfinite(shown).all() and (np.diff(starts) > 0).all() and abs(starts[-1]) < 1e6)
    if timed:
        end = max(end, float(starts[-1] + (np.median(np.diff(starts)) if total > 1 else 0)))  # some containers know no last duration
    if request["fps"] is None:
        used = list(range(min(wanted, total)))
    else:
        used = frames_at(starts, end, request["fps"], wanted) if timed else []
    looked = list(range(total)) if request["whole"] else sorted(set(used))
    shrink = max(1, min(facts["width"], facts["height"]) // THUMB_PX)
    thumbs = [shrunk(frame, shrink) for _, frame in in_order(reader, first, looked)]
    if total - 1 not in looked:
        reader[total - 1].asnumpy()
    header = facts | {"starts_s": starts.round(6).tolist() if timed else None, "end_s": end, "used": used, "looked": looked}
    if not thumbs:
        return header, None
    pictures = Shared((len(thumbs), *thumbs[0].shape))
    np.stack(thumbs, out=pictures.array)
    return header | said(pictures), pictures


def frames_at(starts_s: Any, end_s: float, fps: float, num_frames: int, from_s: float = 0.0) -> list[int]:
    """Indices of the frames shown at from_s + k / fps, k = 0 to num_frames - 1: each the last that starts by then. Ends where the video does."""
    times = from_s + np.arange(num_frames) / fps
    times = times[times < end_s - SLACK_S]
    return [int(i) for i in np.searchsorted(starts_s, times + SLACK_S, side="right") - 1]


def shrunk(frame: Any, factor: int) -> Any:
    """uint8 h,w,3 of uint8 H,W,3: the mean of factor x factor pixels."""
    from PIL import Image

    return np.asarray(Image.fromarray(frame).reduce(factor)) if factor > 1 else frame


def rgb(frame: Any) -> Any:
    """uint8 H,W,3. decord 0.6 takes the padded rows of widths 16, 32 and 48 for four channels (and get_batch then raises): undo that."""
    height, width, channels = frame.shape
    return frame.reshape(height, width * channels)[:, : width * 3].reshape(height, width, 3)


def die_with_parent(parent: int) -> None:
    """End this process when its parent is gone, even while decord hangs (it releases the GIL)."""
    while os.getppid() == parent:
        time.sleep(1.0)
    os._exit(0)


def main() -> None:
    out = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # what a library prints must not mix with the frames
    threading.Thread(target=die_with_parent, args=(os.getppid(),), daemon=True).start()
    import decord

    decord.logging.set_level(decord.logging.QUIET)
    frames: Shared | None = None
    for line in sys.stdin.buffer:
        if frames is not None:
            os.close(frames.fd)
            frames = None
        if not line.strip():
            continue
        try:
            header, frames = answer(json.loads(line))
        except Exception as error:
            why = str(error).strip() or type(error).__name__
            header = {"error": "holds no video stream, sound alone perhaps" if "cannot find video stream" in why else why}
        write_all(out, json.dumps(header).encode() + b"\n")


def write_all(out: Any, data: Any) -> None:
    left = memoryview(data)
    while left:
        left = left[out.write(left) :]


if __name__ == "__main__":
    main()
