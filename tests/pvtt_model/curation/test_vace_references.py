"""VACE's reference pictures as diffusers' own WanVACEPipeline makes them: preprocess_conditions, prepare_video_latents, prepare_masks."""

from __future__ import annotations

import io
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKLWan, WanVACEPipeline
from PIL import Image
from safetensors.torch import load

from pvtt_model.backbones.dit import load_transformer
from pvtt_model.backbones.image import opaque
from pvtt_model.backbones.source import frozen, seeded
from pvtt_model.backbones.vae import VideoAutoencoder
from pvtt_model.curation import latents
from pvtt_model.curation.latents import encode_latents, vace_contexts
from pvtt_model.curation.mask_policy import widen
from pvtt_model.curation.vace_references import reference_canvas, reference_latents, with_references
from pvtt_model.curation.variants import control_of
from pvtt_model.data.video_io import PictureUnreadable, png_bytes, write_mp4
from pvtt_model.nano.world import render_clip, render_reference
from pvtt_model.specs import BackboneSpec, LatentSpec, MaskPolicy, ModelSpec, NanoWorldSpec, VideoSpec

SIZE = (64, 96)
WORLD = NanoWorldSpec(num_frames=9, width=96)
SPEC = LatentSpec(
    video=VideoSpec(width=96, height=64, num_frames=9), vae=ModelSpec(architecture="nano-vae", weights="seed:0"),
    mask_policy=MaskPolicy(kind="grow", grow_px=3), fill="original", dtype="float32",
)  # fmt: skip


@pytest.fixture(scope="module")
def vae() -> VideoAutoencoder:
    """Four stages as Wan's, with Wan's own statistics."""
    with seeded(0):
        model: Any = AutoencoderKLWan(base_dim=8, z_dim=16, dim_mult=[1, 2, 4, 4], num_res_blocks=1)
    return VideoAutoencoder(frozen(model), "tiny")


@pytest.fixture(scope="module")
def pipeline(vae: VideoAutoencoder) -> Any:
    transformer = load_transformer(BackboneSpec(architecture="nano-s", weights="seed:0"), None)
    return WanVACEPipeline(tokenizer=None, text_encoder=None, vae=vae.model, scheduler=None, transformer=transformer)


def noise(mode: str, width: int, height: int, seed: int = 0) -> Image.Image:
    channels = len(mode)
    values = torch.randint(0, 256, (height, width, channels), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
    return Image.fromarray(values.numpy().squeeze())


def png(picture: Image.Image) -> bytes:
    out = io.BytesIO()
    picture.save(out, "PNG")
    return out.getvalue()


def theirs(pipeline: Any, pictures: list[Image.Image]) -> list[torch.Tensor]:
    """The canvases of RGB pictures by the pipeline's own preprocessing."""
    return pipeline.preprocess_conditions(None, None, [pictures], 1, *SIZE, 9, torch.float32, torch.device("cpu"))[2][0]


PICTURES = {
    "nano product": Image.open(io.BytesIO(png_bytes(render_reference(WORLD, render_clip(WORLD, 0).product, 0)))),
    "portrait": noise("RGB", 75, 131),
    "landscape": noise("RGB", 301, 100),
    "larger": noise("RGB", 400, 398),
    "smaller": noise("RGB", 17, 9),
}


@pytest.mark.parametrize("name", PICTURES)
def test_a_canvas_is_the_pipelines_to_the_bit(name: str, pipeline: Any) -> None:
    ours = reference_canvas(PICTURES[name], SIZE, "white")
    assert ours.shape == (3, *SIZE) and torch.equal(ours, theirs(pipeline, [PICTURES[name].convert("RGB")])[0])


def test_latents_and_context_are_the_pipelines(vae: VideoAutoencoder, pipeline: Any, monkeypatch: Any) -> None:
    """Two pictures: the second is put before the first. Latents differ by one rounding: the pipeline multiplies by 1 / std where we divide."""
    monkeypatch.setattr(latents, "PIXELS_A_CALL", 1)
    pictures = [PICTURES["nano product"].convert("RGB"), PICTURES["portrait"]]
    world = render_clip(WORLD, 0)
    mask = widen(world.mask_THW, SPEC.mask_policy)
    video = (world.frames_TCHW.float() / 127.5 - 1).transpose(0, 1)[None]
    mask_BCTHW = mask.float()[None, None].expand(1, 3, -1, -1, -1)
    canvases = theirs(pipeline, pictures)
    with torch.no_grad():
        halves = pipeline.prepare_video_latents(video, mask_BCTHW, [canvases], device=torch.device("cpu"))[0]
        packed = pipeline.prepare_masks(mask_BCTHW, [canvases])[0]
    context = vace_contexts(world.frames_TCHW, [mask], SPEC, vae)[1][0]
    control = torch.cat([context["inactive_CFHW"], context["reactive_CFHW"], context["mask_MFHW"].float()])
    stored = reference_latents([png(p) for p in pictures], SIZE, "white", vae)
    assert stored.shape == (2, 16, 1, 8, 12) and float(stored.std()) > 0.1 and not torch.allclose(stored[0], stored[1], atol=0.05)
    ours = with_references(control, stored)
    assert ours.shape == (96, 2 + 3, 8, 12)
    torch.testing.assert_close(ours[:32], halves, rtol=1e-6, atol=1e-6)
    assert torch.equal(ours[32:], packed) and not ours[16:, :2].any() and torch.equal(ours[:, 2:], control)


def test_transparency_lies_on_the_ground(pipeline: Any) -> None:
    cut = noise("RGBA", 80, 64, seed=1)
    white = Image.new("RGBA", cut.size, (255, 255, 255, 255))
    white.alpha_composite(cut)
    assert torch.equal(reference_canvas(cut, SIZE, "white"), theirs(pipeline, [white.convert("RGB")])[0])
    bare = Image.new("RGBA", (64, 64), (10, 200, 30, 0))  # the colour under what is transparent is nobody's
    assert torch.equal(reference_canvas(bare, SIZE, "white"), torch.ones(3, *SIZE))
    green = Image.new("RGBA", (64, 64), (10, 200, 30, 255))
    green.paste((0, 0, 0, 0), (16, 16, 48, 48))
    colour = (2 * (torch.tensor([10, 200, 30]) / 255) - 1).view(3, 1, 1)
    assert torch.equal(reference_canvas(green, SIZE, "own"), colour.expand(3, *SIZE))
    on_white = reference_canvas(green, SIZE, "white")
    assert torch.equal(on_white[:, :, :16], torch.ones(3, 64, 16)) and torch.equal(on_white[:, 32, 48], torch.ones(3))
    torch.testing.assert_close(on_white[:, 2, 20], colour[:, 0, 0])


def test_odd_pictures() -> None:
    for picture in (noise("L", 40, 30), noise("RGB", 30, 40).convert("CMYK"), noise("RGB", 40, 30).convert("P"), noise("RGB", 2, 3)):
        canvas = reference_canvas(picture, SIZE, "own")
        assert canvas.shape == (3, *SIZE) and float(canvas.min()) >= -1 and float(canvas.max()) <= 1
    assert reference_canvas(noise("RGB", 4000, 8), SIZE, "white").shape == (3, *SIZE)
    turned = noise("RGB", 64, 48)
    exif = turned.getexif()
    exif[0x0112] = 6
    out = io.BytesIO()
    turned.save(out, "PNG", exif=exif)
    upright = reference_canvas(Image.open(out), SIZE, "white")
    assert torch.equal(upright, reference_canvas(turned.transpose(Image.Transpose.ROTATE_270), SIZE, "white"))
    deep = Image.new("I;16", (40, 40))
    with pytest.raises(ValueError, match="8-bit RGB"):
        reference_canvas(deep, SIZE, "white")
    with pytest.raises(PictureUnreadable, match="8-bit RGB"):
        reference_latents([png(deep)], SIZE, "white", None)  # type: ignore[arg-type]  # refused before the VAE is asked
    assert opaque(noise("RGB", 3, 3))[0].mode == "RGB"


def test_a_row_keeps_them_and_is_read_as_before(tmp_path: Any, vae: VideoAutoencoder) -> None:
    world = render_clip(WORLD, 0)
    write_mp4(tmp_path / "v.mp4", world.frames_TCHW, 8)
    pictures = [png(PICTURES["nano product"]), png(noise("RGBA", 80, 64))]
    clip = {"clip_key": "a" * 20, "video": (tmp_path / "v.mp4").read_bytes(), "split": "eval", "references": pictures}
    mask = {"usable": True, "reason": None, "mask": [png_bytes(m) for m in world.mask_THW]}
    plain = load(encode_latents(clip, mask, SPEC, vae)["tensors"])
    for ground in ("white", "own"):
        z = load(encode_latents(clip, mask, SPEC.model_copy(update={"references": ground}), vae)["tensors"])
        assert set(z) - set(plain) == {"references_NCFHW"} and all(torch.equal(z[name], plain[name]) for name in plain)
        assert torch.equal(z["references_NCFHW"], reference_latents(pictures, SIZE, ground, vae))
        assert torch.equal(control_of(z, 0), control_of(plain, 0)) and control_of(z, 1) is None
    asked = SPEC.model_copy(update={"references": "white"})
    row = encode_latents(clip | {"references": [png(Image.new("I;16", (40, 40)))]}, mask, asked, vae)
    assert not row["usable"] and row["tensors"] == b"" and "8-bit RGB" in row["reason"]
    assert SPEC.identity() == LatentSpec.model_validate(SPEC.model_dump()).identity() and "references" not in SPEC.identity()
    assert asked.identity()["references"] == "white"
