"""The edit put back into its source: inside the mask the edit, outside the source's own pixels, and no seam of colour between them.

A VAE's round trip and a generated background shift colours a little, so the edit is first matched: one gain and one offset a channel for
all frames, by mean and deviation over background that both show (Reinhard et al., 2001, in RGB). Moments, not least squares: noise
in the raw output would lower a fitted gain, and with it the contrast of the product.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from pvtt_model.data.video_io import unfit, unfit_mask
from pvtt_model.specs import VideoSpec

RIM_PX = 8  # next to the mask a latent cell still holds some of the product
LEAST_PIXELS = 256  # of a ring, in all frames, to be believed
FLAT = 1.0  # grey levels (of 255): below this deviation a gain would be noise
MOST_GAIN = 2.0


class ColourMatch(NamedTuple):
    """source = gain raw + offset on the background, a value a channel; offset in grey levels of 255. pixels: they come from, 0 for none."""

    gain_C: Tensor
    offset_C: Tensor
    pixels: int

    def apply(self, raw_TCHW: Tensor) -> Tensor:
        """The matched frames, of the dtype given; uint8 is rounded and clamped to 0 to 255."""
        if self.pixels == 0:
            return raw_TCHW
        gain, offset = (value.to(torch.float32).view(1, -1, 1, 1) for value in (self.gain_C, self.offset_C))
        if raw_TCHW.dtype != torch.uint8:
            return raw_TCHW * gain.to(raw_TCHW) + offset.to(raw_TCHW)
        return torch.cat([(f[None].float() * gain + offset).round().clamp(0, 255).to(torch.uint8) for f in raw_TCHW])


def composite(raw_TCHW: Tensor, source_TCHW: Tensor, mask_THW: Tensor, feather_px: int) -> Tensor:
    """The edit inside the mask, the source's own pixels outside, uint8. The blend lies wholly inside: no pixel outside the mask changes."""
    alpha = mask_THW.float()[:, None]
    if feather_px:
        side = 2 * feather_px + 1
        padded = F.pad(alpha, [feather_px] * 4, mode="replicate")
        alpha = alpha * F.avg_pool2d(padded, side, stride=1).mul(2).sub(1).clamp(0, 1)
    mixed = raw_TCHW.float() * alpha + source_TCHW.float() * (1 - alpha)
    return mixed.round().clamp(0, 255).to(torch.uint8)


def composite_at_source(raw_TCHW: Tensor, source_TCHW: Tensor, mask_THW: Tensor, video: VideoSpec, feather_px: int) -> Iterator[Tensor]:
    """composite() at the source's size, one uint8 frame (3, H, W) after another.

    raw, mask: at the model's size, as VideoSpec's fit made it of the source; feather_px in its pixels. What the fit cut off is the source's own.
    """
    size = source_TCHW.shape[-2], source_TCHW.shape[-1]
    for raw, source, mask in zip(raw_TCHW, source_TCHW, mask_THW, strict=True):
        large, wide = unfit(raw[None], size, video), unfit_mask(mask[None], size, video)
        feather = feather_px and max(1, round(feather_px * size[0] / unfitted_height(size, video)))
        yield composite(large, source[None], wide, feather)[0]


def unfitted_height(size: tuple[int, int], video: VideoSpec) -> float:
    """Pixels that the source's whole height has at the model's scale; size: (H, W) of the source."""
    width, height = video.bucket_of(size[1], size[0])
    return float(height) if video.fit == "stretch" else max(height, width * size[0] / size[1])


def ring(mask_THW: Tensor, width_px: int) -> Tensor:
    """bool T,H,W: the background from RIM_PX to RIM_PX + width_px (by the larger of the two distances along the axes) outside the mask."""

    def grown(by: int) -> Tensor:
        return F.max_pool2d(mask_THW[:, None].float(), 2 * by + 1, 1, by)[:, 0].bool()

    return grown(RIM_PX + width_px) & ~grown(RIM_PX)


def match_colours(raw_TCHW: Tensor, source_TCHW: Tensor, mask_THW: Tensor, where: str = "ring") -> ColourMatch:
    """What takes the raw output's background to the source's.

    where: 'ring', the background near the mask, a quarter of the frame's shorter side wide, or all of it where that is too little; 'background';
    'none' matches nothing. Without background nothing is matched (pixels 0). A gain is held within 1/2 to 2, and is 1 where either is flat. A
    raw background that is the source's by a known gain and offset gives these back exactly. Raises ValueError for unlike shapes.
    """
    if raw_TCHW.shape != source_TCHW.shape or raw_TCHW[:, 0].shape != mask_THW.shape:
        raise ValueError(
            f"raw {tuple(raw_TCHW.shape)}, source {tuple(source_TCHW.shape)} and mask {tuple(mask_THW.shape)} differ. Fit all to the model's size."
        )
    channels = raw_TCHW.shape[1]
    nothing = ColourMatch(torch.ones(channels), torch.zeros(channels), 0)
    if where == "none":
        return nothing
    chosen = ring(mask_THW, max(RIM_PX, min(mask_THW.shape[-2:]) // 4)) if where == "ring" else ~mask_THW
    if int(chosen.sum()) < LEAST_PIXELS:
        chosen = ~mask_THW
    if int(chosen.sum()) < LEAST_PIXELS:
        return nothing
    raw_CN, source_CN = (video.transpose(0, 1)[:, chosen].double() for video in (raw_TCHW, source_TCHW))
    (raw_std, raw_mean), (source_std, source_mean) = (torch.std_mean(values, dim=1, correction=0) for values in (raw_CN, source_CN))
    flat = (raw_std < FLAT) | (source_std < FLAT)
    gain = torch.where(flat, 1.0, (source_std / raw_std.clamp(min=1e-9)).clamp(1 / MOST_GAIN, MOST_GAIN))
    return ColourMatch(gain, source_mean - gain * raw_mean, int(chosen.sum()))
