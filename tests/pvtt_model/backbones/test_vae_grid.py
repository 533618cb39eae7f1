"""Wan2.2's autoencoder, 16 x 16 pixels a cell: shapes, what a latents row holds, and who may be paired with it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from safetensors.torch import load, save

from pvtt_model.backbones.architectures import ARCHITECTURES, architecture, latent_grid
from pvtt_model.backbones.dit import load_transformer
from pvtt_model.backbones.vae import VideoAutoencoder, load_vae
from pvtt_model.curation.latents import encode_latents, pack_mask
from pvtt_model.curation.variants import cell_of, control_of
from pvtt_model.data.shards import SCHEMAS, write_shard
from pvtt_model.data.video_io import png_bytes, write_mp4
from pvtt_model.editing.sample import latent_mask
from pvtt_model.nano.world import render_clip
from pvtt_model.plan import plan_recipe
from pvtt_model.recipes import recipe_by_name
from pvtt_model.specs import BackboneSpec, LatentSpec, MaskPolicy, ModelSpec, NanoWorldSpec, VideoSpec
from pvtt_model.training.samples import Place, read_sample

torch.set_num_threads(1)
SPEC = ModelSpec(architecture="nano-vae22", weights="seed:0")
TI2V: dict[str, Any] = {
    "latents.vae": {"architecture": "nano-vae22", "weights": "seed:0"},
    "stages.*.backbone": {"architecture": "nano-ti2v", "weights": "seed:0"},
    "stages.*.reference.vace_blocks": False,
}


@pytest.fixture(scope="module")
def vae() -> VideoAutoencoder:
    return load_vae(SPEC, None)


def test_shapes_there_and_back(vae, tmp_path):
    frames = torch.rand(1, 3, 5, 64, 96) * 2 - 1
    latents = vae.encode(frames)
    assert latents.shape == (1, 48, 2, 4, 6) == (1, *vae.latent_shape(5, 64, 96)) and latents.std() > 0
    assert vae.decode(latents).shape == frames.shape
    with pytest.raises(ValueError, match="40 x 64 pixels; the VAE takes sides in 16s. Resize to multiples of 32"):
        vae.latent_shape(5, 64, 40)
    vae.model.save_pretrained(tmp_path / "vae")
    again = load_vae(ModelSpec(architecture="nano-vae22", weights=str(tmp_path)), tmp_path)
    assert torch.equal(again.encode(frames), latents)
    with pytest.raises(ValueError, match="is not of architecture 'nano-vae'"):
        load_vae(ModelSpec(architecture="nano-vae", weights=str(tmp_path)), tmp_path)


def test_the_grids_by_name():
    assert latent_grid("wan2.1-vae") == (16, 4, 8) and latent_grid("wan2.2-vae") == (48, 4, 16)
    assert latent_grid("nano-vae") == (32, 4, 8) and latent_grid("nano-vae22") == (48, 4, 16)
    for name, arch in ARCHITECTURES.items():
        if arch.family == "dit":
            assert arch.config["out_channels"] == latent_grid(arch.vae)[0], name
            if arch.kind == "vace":
                channels, _, cell = latent_grid(arch.vae)
                assert arch.config["vace_in_channels"] == 2 * channels + cell**2, name


@pytest.mark.parametrize("cell", [8, 16])
def test_a_packed_masks_channels_are_the_pixels_of_a_cell(cell):
    mask = torch.rand(5, 32, 48) > 0.5
    packed = pack_mask(mask, cell)
    assert packed.shape == (cell**2, 2, 32 // cell, 48 // cell)
    for frame, of_clip in ((0, 1), (1, 3)):  # the middle frame of those a latent frame stands for, as VACE takes it
        row, column, i, j = 3, 5, 1, 2
        assert packed[row * cell + column, frame, i, j] == mask[of_clip, i * cell + row, j * cell + column]
    assert torch.equal(latent_mask(mask, cell)[0], mask[0].view(32 // cell, cell, 48 // cell, cell).any(3).any(1))


def test_a_row_of_it_is_read_back(vae, tmp_path):
    clip = render_clip(NanoWorldSpec(), 0)
    write_mp4(tmp_path / "v.mp4", clip.frames_TCHW, 8)
    spec = LatentSpec(video=VideoSpec(width=64, height=64, num_frames=5), vae=SPEC, mask_policy=MaskPolicy(kind="square"), dtype="float32")
    row = encode_latents(
        {"clip_key": "a" * 20, "video": (tmp_path / "v.mp4").read_bytes(), "split": "train"},
        {"usable": True, "reason": None, "mask": [png_bytes(m) for m in clip.mask_THW]},
        spec,
        vae,
    )
    z = load(row["tensors"])
    assert z["latents_CFHW"].shape == (48, 2, 4, 4) and z["maskbits_KFHW"].shape == (32, 2, 4, 4) and cell_of(z) == 16
    assert control_of(z, 0).shape == (2 * 48 + 256, 2, 4, 4)
    write_shard(tmp_path / "latents.parquet", [row], SCHEMAS["latents"])
    text = {"text_LD": torch.zeros(1, 4), "reference_NPC": torch.zeros(1, 2, 4)}
    condition = {"clip_key": "a" * 20, "usable": True, "reason": None, "tensors": save(text)}
    write_shard(tmp_path / "conditions.parquet", [condition], SCHEMAS["conditions"])
    place = Place("a" * 20, tmp_path / "latents.parquet", tmp_path / "conditions.parquet", 0, (64, 64))
    assert read_sample(place).x0_CFHW.shape == (48, 2, 4, 4)
    with pytest.raises(ValueError, match="was encoded at 64x64, its bucket is"):
        read_sample(place._replace(bucket=(128, 128)))


def test_the_transformer_takes_its_latents(vae):
    model = load_transformer(BackboneSpec(architecture="nano-ti2v", weights="seed:0"), None)
    latents = vae.encode(torch.zeros(1, 3, 5, 64, 64))
    times = torch.full((1, 2 * 2 * 2), 500.0)  # one a token, as TI2V-5B is sampled
    text = torch.zeros(1, 4, architecture("nano-ti2v").config["text_dim"])
    out = model(hidden_states=latents, timestep=times, encoder_hidden_states=text, return_dict=False)[0]
    assert out.shape == latents.shape
    other = model(hidden_states=latents, timestep=times[:, 0], encoder_hidden_states=text, return_dict=False)[0]
    assert torch.allclose(out, other, atol=1e-5)


def test_a_recipe_pairs_backbone_and_vae():
    plan = plan_recipe(recipe_by_name("nano", TI2V), "x")
    assert plan.tokens == 2 * 2 * 2 and plan.data.latents == 2 * 4 * 4 * (5 * 48 * 4 + 2 * 32)
    with pytest.raises(ValueError, match="works on latents of 48 channels, 16 x 16 pixels a cell; 'nano-vae' makes 32 and 8 x 8. Set latents.vae to"):
        recipe_by_name("nano", {k: v for k, v in TI2V.items() if k != "latents.vae"})
    with pytest.raises(ValueError, match="80x64 is not in multiples of 32 pixels, as backbone 'nano-ti2v' wants. Use 64x64"):
        recipe_by_name("nano", TI2V | {"latents.video.width": 80})


def test_a_recipe_names_one_expert():
    two: dict[str, Any] = {"architecture": "nano-t2v-a14b", "weights": "seed:0", "expert": None}
    plain = {"stages.*.backbone": two, "stages.*.reference.vace_blocks": False}
    with pytest.raises(ValueError, match="is two experts, split at noise level 0.875.*Set backbone.expert to 'high'"):
        recipe_by_name("nano", plain)
    recipe = recipe_by_name("nano", plain | {"stages.*.backbone": two | {"expert": "low"}})
    assert plan_recipe(recipe, "x").stages[0].backbone == "nano-t2v-a14b (low expert)"
    with pytest.raises(ValueError, match="'nano-s' is one network, but `expert` is 'high'"):
        recipe_by_name("nano", {"stages.verify.backbone.expert": "high"})
    assert "expert" not in recipe_by_name("nano").stages[0].backbone.identity() and recipe.stages[0].backbone.identity()["expert"] == "low"
