"""Augmentation of reference pictures (the survey's 10.6), made before the image encoder sees them: a stated number of variants a picture.

Safe for products by default: a small crop, scale and turn, and a little light. Mirroring turns logos round and another hue is another product,
so both are off unless asked for. Each draw hangs on (seed, clip, variant, picture) alone.
"""

from __future__ import annotations

import hashlib
import random

from PIL import Image, ImageEnhance, ImageOps

from pvtt_model.backbones.image import border_colour
from pvtt_model.specs import AugmentSpec


def reference_name(i: int) -> str:
    """What a conditions row calls the tokens of variant `i`: reference_NPC, reference_1_NPC, ..."""
    return "reference_NPC" if i == 0 else f"reference_{i}_NPC"


def augmented(picture: Image.Image, spec: AugmentSpec, clip_key: str, variant: int, number: int) -> Image.Image:
    """The picture's variant as 8-bit RGBA; variant 0 is the picture itself. number: which of the clip's pictures.

    In this order: EXIF turn, crop (up to spec.crop of each side, drawn a side), turn (up to spec.rotate_deg either way, its corners transparent),
    scale (down to 1 - spec.scale, on a ground of the border's colour), mirror, brightness, contrast, saturation, hue.
    """
    if variant == 0:
        return picture
    drawn = int.from_bytes(hashlib.sha256(f"{spec.seed} {clip_key} reference {variant} {number}".encode()).digest()[:8], "big")
    rng = random.Random(drawn)
    image = ImageOps.exif_transpose(picture).convert("RGBA")
    ground = border_colour(image)
    left, top, right, bottom = (rng.uniform(0, spec.crop) for _ in range(4))
    width, height = image.size
    box = (round(left * width), round(top * height), width - round(right * width), height - round(bottom * height))
    image = image.crop(box if box[2] > box[0] and box[3] > box[1] else None)
    image = image.rotate(rng.uniform(-spec.rotate_deg, spec.rotate_deg), Image.Resampling.BICUBIC, expand=True)
    image = _shrunk(image, 1 - rng.uniform(0, spec.scale), ground)
    if rng.random() < spec.mirror:
        image = ImageOps.mirror(image)
    return _lit(image, spec, rng)


def _shrunk(image: Image.Image, factor: float, ground: tuple[int, int, int]) -> Image.Image:
    """The image at `factor` of its size in a frame of its own size, anything transparent on `ground`."""
    frame = Image.new("RGBA", image.size, (*ground, 255))
    size = max(1, round(image.width * factor)), max(1, round(image.height * factor))
    small = image.resize(size, Image.Resampling.LANCZOS)
    frame.alpha_composite(small, ((image.width - size[0]) // 2, (image.height - size[1]) // 2))
    return frame


def _lit(image: Image.Image, spec: AugmentSpec, rng: random.Random) -> Image.Image:
    rgb = image.convert("RGB")
    for change, most in ((ImageEnhance.Brightness, spec.brightness), (ImageEnhance.Contrast, spec.contrast), (ImageEnhance.Color, spec.saturation)):
        factor = 1 + rng.uniform(-most, most)
        rgb = change(rgb).enhance(factor) if most else rgb
    if spec.hue:
        turn = round(rng.uniform(-spec.hue, spec.hue) * 255)
        hue, saturation, value = rgb.convert("HSV").split()
        rgb = Image.merge("HSV", (hue.point(lambda v: (v + turn) % 256), saturation, value)).convert("RGB")
    return rgb.convert("RGBA")
