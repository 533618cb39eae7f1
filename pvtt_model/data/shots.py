"""Where a video cuts from one shot to another. PySceneDetect's content value, and its adaptive detector's rule, also at the ends of a clip.

The content value of a frame is the mean change of hue, saturation and value to the frame before, 0 to 255. A cut stands out: it is at least
`threshold`, and at least twice the mean of its neighbours (2 either side), so that a quick move, whose frames all change, is none. In the nano
world, where some clips move at 35 for all their frames, no frame is more than 1.7 times its neighbours, and cuts between clips lie at 3 times and
more, 25 and up: hence 20, below PySceneDetect's own 27. Two shots of much the same colours, dissolves and fades are not found; a flash of one
frame counts as a cut.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scenedetect import ContentDetector, StatsManager

from pvtt_model.data.decode_worker import frames_at
from pvtt_model.data.video_io import Look
from pvtt_model.specs import VideoSpec

WINDOW = 2  # frames either side
STANDS_OUT = 2.0


class Shot(NamedTuple):
    first: int  # frame of the video
    start_s: float
    end_s: float
    used: list[int]  # frames of the video, in order; fewer than the model sees where the shot is too short


def content_values(frames_THWC: np.ndarray) -> np.ndarray:
    """PySceneDetect's content value of each frame against the one before (uint8 RGB frames); the first is 0."""
    detector, stats = ContentDetector(min_scene_len=1), StatsManager()
    detector.stats_manager = stats
    for t, frame in enumerate(frames_THWC):
        detector.process_frame(t, np.ascontiguousarray(frame[..., ::-1]))
    values = [stats.get_metrics(t, [ContentDetector.FRAME_SCORE_KEY])[0] for t in range(1, len(frames_THWC))]
    return np.array([0.0, *values])


def cuts(frames_THWC: np.ndarray, threshold: float) -> list[int]:
    """The frames that begin a new shot."""
    values = content_values(frames_THWC)
    found = []
    for t in range(1, len(values)):
        beside = np.delete(values[max(1, t - WINDOW) : t + WINDOW + 1], t - max(1, t - WINDOW))
        if values[t] >= threshold and (not len(beside) or values[t] >= STANDS_OUT * beside.mean()):
            found.append(t)
    return found


def first_cut_s(found: Look, threshold: float) -> float | None:
    """When the first new shot begins within the frames looked at, seconds; None where they are one shot."""
    at = cuts(found.thumbs_THWC, threshold)
    return time_of(found, found.looked[at[0]]) if at else None


def split(found: Look, threshold: float, video: VideoSpec) -> list[Shot]:
    """The shots of a video that was looked at whole, each with the frames that the model would see of it: from its first frame on."""
    starts = [0, *cuts(found.thumbs_THWC, threshold)]
    ends = [*starts[1:], found.facts.num_frames]
    shots = []
    for first, end in zip(starts, ends, strict=True):
        start_s = time_of(found, first)
        end_s = found.end_s if end == found.facts.num_frames else time_of(found, end)
        if video.fps is None:
            used = list(range(first, min(end, first + video.num_frames)))
        else:
            used = frames_at(found.starts_s, end_s, video.fps, video.num_frames, start_s) if found.starts_s else []
        shots.append(Shot(first, start_s, end_s, used))
    return shots


def time_of(found: Look, frame: int) -> float:
    """When the frame is first shown, seconds: by the file's times, or by its rate where it holds none."""
    return found.starts_s[frame] if found.starts_s is not None else frame / found.facts.fps
