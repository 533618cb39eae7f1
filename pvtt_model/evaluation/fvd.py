"""FVD: the Fréchet distance of real and edited videos in the features of a video network. Lower is better; 0 or more.

arXiv:1812.01717 (survey 9.2, goal < 100), features of I3D on Kinetics-400 (its 400 logits), as the published PyTorch export takes them:
each video's frames squeezed to 224 x 224 (bilinear), RGB in [-1, 1]. The figure depends on extractor, number and length of videos: it
carries the extractor's name and N, and under 256 videos a warning, since it is biased upwards there. Videos come one at a time and only
moments are kept: memory does not grow with their number.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch.nn import functional as F

from pvtt_model.backbones.video import VideoFeatures
from pvtt_model.evaluation.frames import to_unit
from pvtt_model.evaluation.frechet import Distance, Moments, distance_of
from pvtt_model.evaluation.similarity import metric_name
from pvtt_model.specs import ModelSpec

LEAST_VIDEOS = 256
I3D_SIDE = 224


def video_features(network: VideoFeatures, video_TCHW: torch.Tensor) -> torch.Tensor:
    """(1, D) of one uint8 video, T,3,H,W. For I3D at 224 x 224, for others at its own size."""
    frames = to_unit(video_TCHW)
    if network.name == "i3d":
        frames = F.interpolate(frames, size=(I3D_SIDE, I3D_SIDE), mode="bilinear", align_corners=False)
    return network.embed((frames * 2 - 1).transpose(0, 1)[None])


def video_moments(network: VideoFeatures, videos: Iterable[torch.Tensor]) -> Moments:
    """The moments of all videos' features; one video is held at a time."""
    moments = Moments(network.width)
    for video_TCHW in videos:
        moments.add(video_features(network, video_TCHW))
    return moments


def fvd(network: VideoFeatures, spec: ModelSpec, real: Moments, made: Moments) -> Distance:
    """The distance of two gathered sets. Raises ValueError for fewer than two videos on a side."""
    fewest = min(real.n, made.n)
    warning = "" if fewest >= LEAST_VIDEOS else f"{fewest} videos: below {LEAST_VIDEOS} the distance is biased upwards and orders nothing"
    return Distance(metric_name("fvd", "fvd", network.name, spec), distance_of(real, made), network.name, real.n, made.n, warning)
