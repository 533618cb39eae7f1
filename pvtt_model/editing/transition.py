"""Where a video that began with something else (a collage, a still) has arrived: the frames before are dropped.

By the difference of neighbouring frames: a cut or a short fade near the start stands out against the video's own motion.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

HEAD = 0.5  # share of the video that a transition may take
JUMP = 3.0  # times the video's median difference
LEAST = 6.0  # grey levels (of 255): a still video has no motion to compare with
SIDE_PX = 64


def transition_frames(frames_TCHW: Tensor) -> int:
    """How many frames at the start to drop: those before the last jump in the first half; 0 where there is none.

    A jump is a mean difference to the frame before of more than LEAST grey levels and JUMP times the median one. frames: uint8 or float in
    0 to 255. Deterministic.
    """
    if len(frames_TCHW) < 3:
        return 0
    small = torch.cat([F.adaptive_avg_pool2d(frame[None].float(), SIDE_PX) for frame in frames_TCHW])
    difference = (small[1:] - small[:-1]).abs().flatten(1).mean(1)
    head = max(1, int(len(frames_TCHW) * HEAD))
    bound = max(LEAST, JUMP * float(difference[head:].median() if len(difference) > head else difference.median()))
    jumps = (difference[:head] > bound).nonzero().flatten()
    return int(jumps[-1]) + 1 if len(jumps) else 0
