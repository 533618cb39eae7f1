"""Dynamic degree: how much a video moves. px a frame, 0 or more; neither higher nor lower is better: an edit should be near its source.

Mean length of Farneback's flow (2003; OpenCV: pyramid 0.5, 3 levels, window 15, 3 iterations, neighbourhood 5, sigma 1.2) between neighbouring
grey frames, as the PVTT benchmark takes it. It grows with the picture's size: compare videos of one size. VBench's metric of the same name
(arXiv:2311.17982) is another: the share of videos that move at all, by RAFT.
"""

from __future__ import annotations

import cv2
import numpy as np
import torch

FARNEBACK = (0.5, 3, 15, 3, 5, 1.2, 0)  # scale of the pyramid, levels, window, iterations, neighbourhood, its sigma, flags


def dynamic_degree(video_TCHW: torch.Tensor) -> float:
    """Of a uint8 video, T,3,H,W. Raises ValueError for fewer than two frames."""
    if video_TCHW.ndim != 4 or len(video_TCHW) < 2:
        raise ValueError(f"video is {tuple(video_TCHW.shape)}; motion wants T,C,H,W with T of 2 or more.")
    grey = [cv2.cvtColor(np.ascontiguousarray(frame.permute(1, 2, 0).numpy()), cv2.COLOR_RGB2GRAY) for frame in video_TCHW]
    lengths = []
    for one, other in zip(grey[:-1], grey[1:], strict=True):
        flow = cv2.calcOpticalFlowFarneback(one, other, np.zeros((*one.shape, 2), np.float32), *FARNEBACK)
        lengths.append(float(np.linalg.norm(flow, axis=-1).mean(dtype=np.float64)))
    return sum(lengths) / len(lengths)
