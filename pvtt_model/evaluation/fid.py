"""FID a frame: the Fréchet distance of real and edited frames in the features of an image network. Lower is better; 0 or more.

arXiv:1706.08500 (survey 9.2), features of Inception-v3 (2048). The bare name belongs to FID's own network; any other extractor's distance
carries its name. Frames of one video are alike, so N frames tell less than N pictures would: the number of videos stands beside it.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch.nn import functional as F

from pvtt_model.evaluation.frames import to_unit
from pvtt_model.evaluation.frechet import Distance, Moments, distance_of
from pvtt_model.evaluation.similarity import ImageExtractor, metric_name
from pvtt_model.specs import ModelSpec

LEAST_FRAMES = 2048  # as many as features, below which the covariance has no full rank
_FRAMES_AT_ONCE = 16


def frame_moments(network: ImageExtractor, width: int, videos: Iterable[torch.Tensor]) -> Moments:
    """The moments of all frames' features, of uint8 videos T,3,H,W; one video is held at a time."""
    moments = Moments(width)
    for video_TCHW in videos:
        moments.add(frame_features(network, video_TCHW))
    return moments


def frame_features(network: ImageExtractor, video_TCHW: torch.Tensor) -> torch.Tensor:
    """(T, D) of the frames of one uint8 video."""
    side = getattr(network, "side", None)
    return torch.cat([network.embed(_squeezed(to_unit(part), side)).cpu() for part in video_TCHW.split(_FRAMES_AT_ONCE)])


def _squeezed(frames_BCHW: torch.Tensor, side: int | None) -> torch.Tensor:
    """At the square that an image encoder works on; FID's own networks (no side) squeeze by themselves."""
    if side is None:
        return frames_BCHW
    return F.interpolate(frames_BCHW, size=(side, side), mode="bilinear", align_corners=False, antialias=True).clamp(0, 1)


def fid(network: ImageExtractor, spec: ModelSpec, real: Moments, made: Moments) -> Distance:
    """The distance of two gathered sets of frames. Raises ValueError for fewer than two frames on a side."""
    fewest = min(real.n, made.n)
    warning = "" if fewest >= LEAST_FRAMES else f"{fewest} frames: below {LEAST_FRAMES} the distance is biased upwards and orders nothing"
    return Distance(metric_name("fid", "fid", network.name, spec), distance_of(real, made), network.name, real.n, made.n, warning)
