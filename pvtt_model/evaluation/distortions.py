"""Known faults put into a real video, to see whether a metric moves the right way and by how much. All take and give uint8 T,3,H,W."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torchvision.transforms.functional import adjust_hue, gaussian_blur

from pvtt_model.evaluation.in_product_psnr import flat_grey
from pvtt_model.evaluation.pasted import pasted

NOISE = 20.0  # standard deviation, of 255
BLUR_PX = 2.0  # standard deviation of the Gaussian
HUE_TURN = 0.33  # of a full turn: blue becomes red


def noise(video_TCHW: Tensor) -> Tensor:
    """White noise, another in each frame, the same for the same shape."""
    drawn = torch.randn(video_TCHW.shape, generator=torch.Generator().manual_seed(0)) * NOISE
    return (video_TCHW + drawn).round().clamp(0, 255).to(torch.uint8)


def blur(video_TCHW: Tensor) -> Tensor:
    return gaussian_blur(video_TCHW, [4 * round(BLUR_PX) + 1] * 2, [BLUR_PX] * 2)


def hue(video_TCHW: Tensor) -> Tensor:
    return adjust_hue(video_TCHW, HUE_TURN)


def shuffled(video_TCHW: Tensor) -> Tensor:
    """The frames in another order: each neighbour is at least two frames away (even ones, then odd ones backwards)."""
    order = list(range(0, len(video_TCHW), 2)) + list(range(1, len(video_TCHW), 2))[::-1]
    return video_TCHW[order]


def frozen(video_TCHW: Tensor) -> Tensor:
    return video_TCHW[:1].expand_as(video_TCHW).contiguous()


PIXELS: dict[str, Callable[[Tensor], Tensor]] = {"noise": noise, "blur": blur, "hue": hue}
FRAMES: dict[str, Callable[[Tensor], Tensor]] = {"shuffled": shuffled, "frozen": frozen}


def distorted(video_TCHW: Tensor, mask_THW: Tensor, other_CHW: Tensor) -> dict[str, Tensor]:
    """Every fault by name: 'noise inside', 'noise outside', ..., 'shuffled', 'frozen', 'swapped product'.

    The last has the picture `other`, uint8 3,H,W or with alpha, on grey in the mask's place.
    """
    inside = mask_THW[:, None]
    found: dict[str, Tensor] = {}
    for name, change in PIXELS.items():
        changed = change(video_TCHW)
        found[f"{name} inside"] = torch.where(inside, changed, video_TCHW)
        found[f"{name} outside"] = torch.where(inside, video_TCHW, changed)
    found |= {name: change(video_TCHW) for name, change in FRAMES.items()}
    found["swapped product"] = torch.where(inside, pasted(flat_grey(video_TCHW, mask_THW), mask_THW, other_CHW), video_TCHW)
    return found
