"""The child process that touches untrusted video. Run by path, so that it imports numpy and decord only and starts fast.

It reads one JSON request a line on stdin and answers on stdout with one JSON line, followed by raw uint8 frames where the
answer names `bytes`. A request is {"path", "want": "probe" | "ends" | "frames", "indices": [..] | null, "num_frames": n | null}.
probe decodes the first frame; ends also the last one and the last of the first n; both answer with the facts alone.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from typing import Any

import numpy as np

MAX_BYTES = 6 << 30  # of decoded frames in one answer
#: What our containers start with: (offset, bytes). A playlist, which could make ffmpeg open other files, has none of these.
CONTAINERS = ((4, b"ftyp"), (4, b"moov"), (4, b"mdat"), (4, b"free"), (4, b"wide"), (0, b"\x1a\x45\xdf\xa3"), (0, b"RIFF"))


def answer(request: dict[str, Any]) -> tuple[dict[str, Any], Any]:
    """The JSON header and the frames (uint8 T,H,W,C, or None). Raises what decord raises."""
    import decord

    with open(request["path"], "rb") as file:
        head = file.read(16)
    if not any(head[at : at + len(magic)] == magic for at, magic in CONTAINERS):
        raise ValueError(f"starts with {head[:8]!r}, which is no mp4, mov, mkv, webm or avi")
    reader = decord.VideoReader(request["path"], num_threads=1)
    total = len(reader)
    if total < 1:
        raise ValueError("holds no frame")
    raw = reader[0].asnumpy()
    first = rgb(raw)
    height, width, _ = first.shape
    facts = {"width": width, "height": height, "fps": float(reader.get_avg_fps()), "num_frames": total}
    if request["want"] == "ends":
        for i in sorted({min(request["num_frames"] or total, total) - 1, total - 1} - {0}):
            reader[i].asnumpy()
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
    whole = raw.shape[2] == 3
    if indices == list(range(len(indices))):  # the first frame is there already, and the reader stands behind it
        frames = np.empty((len(indices), *first.shape), np.uint8)
        frames[0] = first
        for i in indices[1:]:
            frames[i] = rgb(reader.next().asnumpy())
    else:
        frames = reader.get_batch(indices).asnumpy() if whole else np.stack([rgb(reader[i].asnumpy()) for i in indices])
    return {**facts, "shape": frames.shape, "bytes": frames.nbytes}, frames


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
    for line in sys.stdin.buffer:
        try:
            header, frames = answer(json.loads(line))
        except Exception as error:
            header, frames = {"error": str(error).strip() or type(error).__name__}, None
        write_all(out, json.dumps(header).encode() + b"\n")
        if frames is not None:
            write_all(out, memoryview(frames).cast("B"))


def write_all(out: Any, data: Any) -> None:
    left = memoryview(data)
    while left:
        left = left[out.write(left) :]


if __name__ == "__main__":
    main()
