"""VACE's context as diffusers' own WanVACEPipeline makes it: prepare_video_latents and prepare_masks, on the same frames and mask."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import AutoencoderKLWan, WanVACEPipeline
from PIL import Image

from pvtt_model.backbones.dit import load_transformer
from pvtt_model.backbones.source import frozen, seeded
from pvtt_model.backbones.vae import VideoAutoencoder, load_vae
from pvtt_model.curation import latents
from pvtt_model.curation.frames import to_model
from pvtt_model.curation.latents import vace_contexts
from pvtt_model.curation.mask_policy import fill_inside, widen
from pvtt_model.nano.shipped import shipped, shipped_folder
from pvtt_model.nano.world import render_clip
from pvtt_model.specs import BackboneSpec, LatentSpec, MaskPolicy, ModelSpec, NanoWorldSpec, VideoSpec

NANO = shipped("vae", ModelSpec)
POLICY = MaskPolicy(kind="grow", grow_px=3)


@pytest.fixture(scope="module", params=["shipped nano-vae", "four stages, Wan's own statistics"])
def vae(request: pytest.FixtureRequest) -> VideoAutoencoder:
    if request.param.startswith("shipped"):
        return load_vae(NANO, shipped_folder(NANO.weights))
    with seeded(0):
        model: Any = AutoencoderKLWan(base_dim=8, z_dim=16, dim_mult=[1, 2, 4, 4], num_res_blocks=1)
    return VideoAutoencoder(frozen(model), "tiny")


@pytest.fixture(scope="module")
def pipeline(vae: VideoAutoencoder) -> Any:
    transformer = load_transformer(BackboneSpec(architecture="nano-s", weights="seed:0"), None)
    pipe = WanVACEPipeline(tokenizer=None, text_encoder=None, vae=vae.model, scheduler=None, transformer=transformer)
    # The pipeline counts the VAE's stages, and misses that the nano VAE also folds 2 x 2 pixels into channels: 8 pixels a cell, as for Wan's.
    pipe.vae_scale_factor_spatial = 8
    return pipe


@pytest.fixture(scope="module")
def clip() -> tuple[torch.Tensor, torch.Tensor]:
    world = render_clip(NanoWorldSpec(num_frames=9, width=96), 0)
    return world.frames_TCHW, widen(world.mask_THW, POLICY)


def context(frames: torch.Tensor, mask: torch.Tensor, fill: Any, vae: VideoAutoencoder) -> dict[str, torch.Tensor]:
    video = VideoSpec(width=96, height=64, num_frames=9)
    return vace_contexts(frames, [mask], LatentSpec(video=video, vae=NANO, mask_policy=POLICY, fill=fill), vae)[1][0]


@pytest.mark.parametrize("fill", ["original", "neutral", "black", "scaled"])
def test_the_halves_and_the_mask_are_the_pipelines(vae: VideoAutoencoder, pipeline: Any, clip: Any, fill: Any, monkeypatch: Any) -> None:
    """The mask is equal to the bit. So are the latents but for one rounding: the pipeline multiplies by 1 / std where we divide by std."""
    monkeypatch.setattr(latents, "PIXELS_A_CALL", 1)  # one clip a call, as the pipeline does
    frames, mask = clip
    filled = fill_inside(to_model(frames).transpose(0, 1), mask, fill).transpose(0, 1)[None]
    mask_BCTHW = mask.float()[None, None].expand(1, 3, -1, -1, -1)
    with torch.no_grad():
        theirs = pipeline.prepare_video_latents(filled, mask_BCTHW, [[]], device=torch.device("cpu"))[0]
        packed = pipeline.prepare_masks(mask_BCTHW, [[]])[0]
    ours = context(frames, mask, fill, vae)
    halves = torch.cat([ours["inactive_CFHW"], ours["reactive_CFHW"]])
    assert halves.shape == theirs.shape and float(theirs.std()) > 0.1
    torch.testing.assert_close(halves, theirs, rtol=1e-6, atol=1e-6)
    assert ours["mask_MFHW"].shape == packed.shape and torch.equal(ours["mask_MFHW"].float(), packed) and 0 < packed.mean() < 1


def test_pictures_through_the_whole_preprocessing(vae: VideoAutoencoder, pipeline: Any, clip: Any) -> None:
    """From PIL frames, as a user calls the pipeline. Its users write 'neutral' as the grey (128, 128, 128), which is +0.004, not 0."""
    frames, mask = clip
    grey = torch.where(mask[:, None], torch.tensor(128, dtype=torch.uint8), frames)
    for fill, given, most in (("original", frames, 1e-4), ("neutral", grey, 0.1)):
        pictures = [Image.fromarray(f.permute(1, 2, 0).numpy()) for f in given]
        masks = [Image.fromarray((m.numpy() * 255).astype("uint8")).convert("RGB") for m in mask]
        size = {"height": 64, "width": 96, "num_frames": 9, "dtype": torch.float32, "device": torch.device("cpu")}
        video, mask_BCTHW, _ = pipeline.preprocess_conditions(pictures, masks, None, 1, **size)
        with torch.no_grad():
            theirs = pipeline.prepare_video_latents(video, mask_BCTHW, [[]], device=torch.device("cpu"))[0]
        ours = context(frames, mask, fill, vae)
        assert (torch.cat([ours["inactive_CFHW"], ours["reactive_CFHW"]]) - theirs).abs().max() < most
        assert torch.equal(ours["mask_MFHW"].float(), pipeline.prepare_masks(mask_BCTHW, [[]])[0])
