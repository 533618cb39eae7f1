"""Augmented reference pictures: drawn from the clip and the variant alone, and safe for products unless asked otherwise."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load

from pvtt_model.backbones.image import load_image_encoder
from pvtt_model.backbones.text import load_text_encoder
from pvtt_model.curation.augment import augmented
from pvtt_model.curation.conditions import embed_conditions, reference_pictures
from pvtt_model.specs import AugmentSpec, ConditionSpec, ModelSpec

OFF = AugmentSpec(crop=0, scale=0, rotate_deg=0, brightness=0, contrast=0)
SPEC = ConditionSpec(
    text_encoder=ModelSpec(architecture="nano-umt5", weights="seed:1"),
    image_encoder=ModelSpec(architecture="nano-dinov2", weights="seed:2"),
    image_size=64,
    reference_variants=3,
    dtype="float32",
)


def mug() -> Image.Image:
    """A red square with a blue mark at its right, on grey."""
    pixels = np.full((80, 120, 3), 128, np.uint8)
    pixels[20:60, 40:80], pixels[30:40, 70:80] = (200, 30, 30), (30, 30, 200)
    return Image.fromarray(pixels)


def rgb(image: Image.Image) -> np.ndarray:
    return np.asarray(image.convert("RGB")).astype(int)


def clip(**changes: Any) -> dict[str, Any]:
    data = io.BytesIO()
    mug().save(data, "PNG")
    return {"clip_key": "ab" * 10, "prompt": "a mug", "references": [data.getvalue(), data.getvalue()], **changes}


def test_variant_0_is_the_picture_and_no_change_is_no_change():
    assert augmented(mug(), AugmentSpec(), "a", 0, 0) == mug()
    assert np.array_equal(rgb(augmented(mug(), OFF, "a", 1, 0)), rgb(mug()))


def test_a_variant_hangs_on_seed_clip_variant_and_picture():
    def drawn(spec: AugmentSpec = AugmentSpec(), key: str = "a", variant: int = 1, number: int = 0) -> bytes:  # noqa: B008 - frozen
        return augmented(mug(), spec, key, variant, number).tobytes()

    assert drawn() == drawn()
    others = [drawn(key="b"), drawn(variant=2), drawn(number=1), drawn(AugmentSpec(seed=1))]
    assert len({drawn(), *others}) == 5


@pytest.mark.parametrize("variant", range(1, 9))
def test_the_defaults_neither_mirror_nor_change_the_hue(variant):
    hsv = np.asarray(augmented(mug(), AugmentSpec(), "a", variant, 0).convert("RGB").convert("HSV")).astype(int)
    strong = hsv[..., 1] > 150
    red, blue = strong & ((hsv[..., 0] < 12) | (hsv[..., 0] > 243)), strong & (abs(hsv[..., 0] - 170) < 12)
    assert red.sum() > 500 and blue.sum() > 30
    assert (red | blue)[strong].mean() > 0.9, "no third hue"
    assert np.nonzero(blue)[1].mean() > np.nonzero(red)[1].mean(), "the mark is still at the right"


def test_each_change_does_what_it_says():
    def only(**change: float) -> np.ndarray:
        return rgb(augmented(mug(), OFF.model_copy(update=change), "a", 1, 0))

    mirrored = only(mirror=1)
    assert np.array_equal(mirrored, rgb(mug())[:, ::-1])
    assert only(crop=0.2).shape < rgb(mug()).shape
    small = only(scale=0.5)
    assert small.shape == rgb(mug()).shape and (small[..., 0] > 190).sum() < (rgb(mug())[..., 0] > 190).sum() and (small[0] == 128).all()
    assert only(brightness=0.5).mean() != pytest.approx(rgb(mug()).mean(), abs=1)
    assert not np.array_equal(only(hue=0.5)[30, 50], rgb(mug())[30, 50])
    turned = augmented(mug(), OFF.model_copy(update={"rotate_deg": 30}), "a", 1, 0)
    assert turned.size > mug().size and (rgb(turned)[0, 0] == 128).all(), "corners take the ground's colour"


def test_transparency_and_one_pixel_pictures_survive():
    clear = Image.new("RGBA", (40, 40), (0, 0, 0, 0))
    clear.paste((255, 0, 0, 255), (10, 10, 30, 30))
    assert (rgb(augmented(clear, AugmentSpec(), "a", 1, 0))[0, 0] > 200).all(), "a transparent border is white, not black"
    assert augmented(Image.new("L", (1, 1), 9), AugmentSpec(crop=0.49), "a", 1, 0).size >= (1, 1)


def test_rows_hold_the_variants_and_held_out_clips_the_pictures_alone():
    text, image = load_text_encoder(SPEC.text_encoder, None), load_image_encoder(SPEC.image_encoder, None)
    train, held = (load(row["tensors"]) for row in embed_conditions([clip(), clip(split="eval")], SPEC, text, image))
    names = ("reference_NPC", "reference_1_NPC", "reference_2_NPC")
    assert set(names) < set(train) and set(names) & set(held) == {"reference_NPC"}
    assert torch.allclose(held["reference_NPC"], train["reference_NPC"], atol=1e-5)
    for i, name in enumerate(names):
        assert torch.allclose(train[name].flatten(0, 1), image.patch_tokens(reference_pictures(clip(), i, SPEC)).flatten(0, 1), atol=1e-5)
    assert not torch.allclose(train["reference_1_NPC"][0], train["reference_1_NPC"][1], atol=1e-3), "two pictures, two draws"
