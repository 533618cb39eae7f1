"""The image-to-video context as diffusers' WanImageToVideoPipeline.prepare_latents makes it; and from the clip to the batch by way of a row."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import WanImageToVideoPipeline
from safetensors.torch import load, save

from pvtt_model.backbones.clip import load_clip
from pvtt_model.backbones.vae import VideoAutoencoder, load_vae
from pvtt_model.curation.frames import to_model
from pvtt_model.curation.i2v_context import FIRST, IMAGE, given_first, i2v_context
from pvtt_model.curation.latents import encode_latents
from pvtt_model.data.shards import SCHEMAS, write_shard
from pvtt_model.data.video_io import png_bytes, write_mp4
from pvtt_model.nano.shipped import shipped, shipped_folder
from pvtt_model.nano.world import render_clip
from pvtt_model.recipes import recipe_by_name
from pvtt_model.specs import LatentSpec, ModelSpec, NanoWorldSpec, VideoSpec
from pvtt_model.training.samples import Place, collate, read_sample

NANO, CLIP = shipped("vae", ModelSpec), shipped("clip", ModelSpec)
SPEC = LatentSpec(video=VideoSpec(width=64, height=64, num_frames=5), vae=NANO, first_frame=True, first_frame_clip=CLIP, dtype="float32")


@pytest.fixture(scope="module")
def vae() -> VideoAutoencoder:
    return load_vae(NANO, shipped_folder(NANO.weights))


def test_it_is_the_pipelines(vae: VideoAutoencoder) -> None:
    frames = to_model(render_clip(NanoWorldSpec(num_frames=9), 0).frames_TCHW)
    size = {"batch_size": 1, "num_channels_latents": 32, "height": 64, "width": 64, "num_frames": 9}
    size |= {"dtype": torch.float32, "device": torch.device("cpu")}
    for expand in (False, True):
        pipe: Any = WanImageToVideoPipeline(tokenizer=None, text_encoder=None, vae=vae.model, scheduler=None, expand_timesteps=expand)
        pipe.vae_scale_factor_spatial = 8  # as in test_vace_preprocessing
        with torch.no_grad():
            _, theirs, *mask = pipe.prepare_latents(frames[None, :, 0], **size)
        if expand:  # TI2V-5B: the picture alone, for the first latent frame; its mask is 1 where nothing is given
            ours = given_first(vae.encode(frames[None])[0])
            torch.testing.assert_close(ours[:-1, :1], theirs[0], rtol=1e-5, atol=1e-5)
            assert torch.equal(1 - ours[-1:], mask[0][0]) and not ours[:-1, 1:].any()
        else:
            ours = i2v_context(vae, frames[:, 0], 9)
            assert ours.shape == (36, 3, 8, 8) and torch.equal(ours[:4], theirs[0, :4])
            torch.testing.assert_close(ours, theirs[0], rtol=1e-5, atol=1e-5)


def test_a_row_keeps_it_and_a_batch_has_it(tmp_path: Any, vae: VideoAutoencoder) -> None:
    world = render_clip(NanoWorldSpec(), 0)
    write_mp4(tmp_path / "v.mp4", world.frames_TCHW, 8)
    clip = {"clip_key": "a" * 20, "video": (tmp_path / "v.mp4").read_bytes(), "split": "train"}
    mask = {"usable": True, "reason": None, "mask": [png_bytes(m) for m in world.mask_THW]}
    eyes = load_clip(CLIP, shipped_folder(CLIP.weights))
    row = encode_latents(clip, mask, SPEC, vae, clip_model=eyes)
    z = load(row["tensors"])
    plain = load(encode_latents(clip, mask, SPEC.model_copy(update={"first_frame": False, "first_frame_clip": None}), vae)["tensors"])
    assert set(z) - set(plain) == {FIRST, IMAGE} and all(torch.equal(z[n], plain[n]) for n in plain)
    assert z[FIRST].shape == z["latents_CFHW"].shape and z[IMAGE].shape == (65, 96)
    torch.testing.assert_close(z[FIRST][:, 0], z["latents_CFHW"][:, 0], rtol=1e-4, atol=1e-4)  # the VAE is causal
    assert not torch.allclose(z[FIRST][:, 1], z["latents_CFHW"][:, 1], atol=1e-2)

    conditions = {"text_LD": torch.zeros(2, 96), "reference_NPC": torch.zeros(1, 4, 8)}
    common = {"clip_key": "a" * 20, "usable": True, "reason": None}
    write_shard(tmp_path / "c", [common | {"tensors": save(conditions)}], SCHEMAS["conditions"])
    for name, tensors in (("with", z), ("without", plain)):
        write_shard(tmp_path / name, [common | {"tensors": save(tensors)}], SCHEMAS["latents"])
    samples = {name: read_sample(Place("a" * 20, tmp_path / name, tmp_path / "c", 0)) for name in ("with", "without")}
    batch = collate([samples["with"]] * 2, 4, torch.zeros(1, 96), [True] * 2)
    torch.testing.assert_close(batch.context("i2v")[1][4:], z[FIRST])
    assert batch.context("i2v").shape == (2, 36, 2, 8, 8) and torch.equal(batch.image[0], z[IMAGE])
    assert torch.equal(batch.context("ti2v")[0], given_first(z["latents_CFHW"])) and batch.context("t2v").shape == (2, 0, 2, 8, 8)
    assert batch.context("vace") is batch.control_BMFHW and torch.equal(batch.mask_BMFHW, batch.control_BMFHW[:, -64:])
    other = collate([samples["without"]], 4, torch.zeros(1, 96), [True])
    assert other.image is None
    with pytest.raises(ValueError, match="first_frame=true"):
        other.context("i2v")


I2V = {
    "stages.*.backbone.architecture": "nano-i2v", "stages.*.backbone.weights": "seed:0", "stages.*.backbone.sha256": None,
    "stages.*.reference.vace_blocks": False,
}  # fmt: skip


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({}, r"starts from a first frame. Set latents.first_frame=true"),
        ({"latents.first_frame": True}, r"reads the first frame's CLIP tokens. Set latents.first_frame_clip to a CLIP"),
        ({"latents.first_frame_clip": CLIP.model_dump()}, "first_frame_clip is set and first_frame is not"),
        ({"latents.first_frame": True, "latents.first_frame_clip": {"architecture": "openclip-vit-h14", "weights": "/x"}}, "width 96; .* makes 1280"),
        ({"latents.first_frame": True, "latents.first_frame_clip": CLIP.model_dump(), "stages.*.train.trained": ["vace"]}, "has no VACE blocks"),
        (
            {"latents.first_frame": True, "latents.first_frame_clip": CLIP.model_dump(), "stages.*.reference.vace_blocks": True},
            "reference.vace_blocks is true, but backbone 'nano-i2v' has no VACE blocks. Set it to false",
        ),
    ],
)
def test_recipes_that_lack_what_the_backbone_starts_from_are_refused(more: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        recipe_by_name("nano", I2V | more)


def test_a_recipe_with_an_image_to_video_backbone_stands() -> None:
    recipe = recipe_by_name("nano", I2V | {"latents.first_frame": True, "latents.first_frame_clip": CLIP.model_dump()})
    assert {"first_frame", "first_frame_clip"} <= set(recipe.latents.identity())
    assert not {"first_frame", "first_frame_clip"} & set(recipe_by_name("nano").latents.identity())
