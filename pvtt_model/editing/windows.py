"""A video longer than the model's in overlapping windows, each going on from the one before.

The first frames of a window are those that the window before made, given to the model as context that is kept; what it makes of them is
faded into what was there, so that neither picture nor motion jumps. Two windows are in memory at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import torch
from torch import Tensor


class Window(NamedTuple):
    """Frames start to stop - 1 of the video. The first `overlap` are the window's before too; the first `given` of these are its context."""

    start: int
    stop: int
    overlap: int
    given: int


def plan_windows(num_frames: int, model_frames: int, overlap: int | None = None) -> list[Window]:
    """Windows of 4k+1 frames that cover num_frames; the last ends with the video, so its overlap may be larger. No frame is padded.

    model_frames: 4k+1, a window's length; a shorter video has windows of its largest 4k+1. overlap: of neighbours, None: a quarter of the
    window; at most all of it but 4. given is of the form 4j+1, whole latent frames, where there is an overlap. Raises ValueError for 2 to 4
    frames, or a negative overlap.
    """
    if num_frames < 1 or 2 <= num_frames <= 4:
        raise ValueError(f"the video has {num_frames} frames; Wan's VAE takes 4k+1 and none is padded. Give at least 5, or a single one.")
    length = min(model_frames, (num_frames - 1) // 4 * 4 + 1)
    if overlap is None:
        overlap = (length + 3) // 4
    if overlap < 0:
        raise ValueError(f"overlap is {overlap} frames; it cannot be negative. Use 0 (no fade) or more.")
    step = length - min(overlap, max(0, length - 4))
    starts = list(range(0, num_frames - length, step)) + [num_frames - length]
    windows = [Window(0, length, 0, 0)]
    for start in starts[1:]:
        shared = windows[-1].stop - start
        windows.append(Window(start, start + length, shared, (shared - 1) // 4 * 4 + 1 if shared else 0))
    return windows


#: What a window is made of: (window, the frames of its overlap as they stand, by name, or None) -> its frames by name, uint8 T,C,H,W.
Make = Callable[[Window, Mapping[str, Tensor] | None], Mapping[str, Tensor]]


def joined(windows: list[Window], make: Make) -> Iterator[tuple[int, dict[str, Tensor]]]:
    """(first frame, the frames from there on, by name) of the whole video, in order and without a gap, as soon as they are final."""
    tail: dict[str, Tensor] | None = None
    for i, window in enumerate(windows):
        made = make(window, tail)
        whole = {name: frames if tail is None else _faded(tail[name], frames, window.overlap) for name, frames in made.items()}
        final = windows[i + 1].start - window.start if i + 1 < len(windows) else window.stop - window.start
        yield window.start, {name: frames[:final] for name, frames in whole.items()}
        tail = {name: frames[final:] for name, frames in whole.items()}


def _faded(before_TCHW: Tensor, after_TCHW: Tensor, overlap: int) -> Tensor:
    """The frames of `after`, the first `overlap` mixed with those of `before`: the share of `after` rises by 1 / (overlap + 1) a frame."""
    share = (torch.arange(1, overlap + 1, dtype=torch.float32) / (overlap + 1)).view(-1, 1, 1, 1)
    mixed = [(b.float() + s * (a.float() - b.float())).round().to(after_TCHW.dtype) for b, a, s in zip(before_TCHW, after_TCHW, share, strict=False)]
    return torch.cat([*(frame[None] for frame in mixed), after_TCHW[overlap:]])
