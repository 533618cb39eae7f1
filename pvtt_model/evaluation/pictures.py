"""What the figures share: tensors to PIL, a mask's tint, scaling that keeps small frames legible."""

from __future__ import annotations

from functools import cache

import torch
from PIL import Image, ImageFont

from pvtt_model.evaluation.crops import border_colour

INK, PALE, PAPER, ALARM = (24, 24, 27), (113, 113, 122), (250, 250, 250), (185, 28, 28)
TINT = (255, 0, 96)  # of the product's area in overlays


def to_image(frame_CHW: torch.Tensor) -> Image.Image:
    """PIL RGB from uint8 3,H,W."""
    return Image.fromarray(frame_CHW.permute(1, 2, 0).contiguous().cpu().numpy())


def tinted(frames_TCHW: torch.Tensor, mask_THW: torch.Tensor) -> torch.Tensor:
    """Half red-pink where the mask is True, a third as bright elsewhere, so that it shows on a product of any colour. uint8 T,3,H,W."""
    colour = torch.tensor(TINT, dtype=torch.float32)[None, :, None, None]
    frames = frames_TCHW.to(torch.float32)
    return torch.where(mask_THW[:, None], (frames + colour) / 2, frames / 3).round().to(torch.uint8)


def scaled(image: Image.Image, width_px: int, height_px: int) -> Image.Image:
    """To exactly that size: nearest where it grows (pixels stay pixels), Lanczos where it shrinks."""
    grows = width_px >= image.width
    return image.resize((width_px, height_px), Image.Resampling.NEAREST if grows else Image.Resampling.LANCZOS)


def letterboxed(image: Image.Image, width_px: int, height_px: int) -> Image.Image:
    """The whole picture as large as fits the box, in its middle on the paper; scaled as by `scaled`. A bar of one pixel is rounding: none."""
    scale = min(width_px / image.width, height_px / image.height)
    width, height = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    if width >= width_px - 1 and height >= height_px - 1:
        return scaled(image, width_px, height_px)
    box = Image.new("RGB", (width_px, height_px), PAPER)
    box.paste(scaled(image, width, height), ((width_px - width) // 2, (height_px - height) // 2))
    return box


def fitted(reference_CHW: torch.Tensor, width_px: int, height_px: int) -> Image.Image:
    """The reference letterboxed into the box: white behind transparency, else bars in its border's median colour."""
    if len(reference_CHW) == 4:
        alpha = reference_CHW[3:].to(torch.float32) / 255
        flat = (reference_CHW[:3] * alpha + 255 * (1 - alpha)).round().to(torch.uint8)
    else:
        flat = reference_CHW
    scale = min(width_px / flat.shape[-1], height_px / flat.shape[-2])
    size = max(1, round(flat.shape[-1] * scale)), max(1, round(flat.shape[-2] * scale))
    method = Image.Resampling.NEAREST if scale >= 2 else Image.Resampling.LANCZOS
    box = Image.new("RGB", (width_px, height_px), tuple(int(v) for v in border_colour(flat)))
    box.paste(to_image(flat).resize(size, method), ((width_px - size[0]) // 2, (height_px - size[1]) // 2))
    return box


@cache
def font(size_px: int) -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    """PIL's own font; the same on every machine."""
    return ImageFont.load_default(size=size_px)


def one_line(text: str, most: int) -> str:
    """At most `most` characters, white space joined."""
    text = " ".join(text.split())
    return text if len(text) <= most else text[: most - 1] + "…"
