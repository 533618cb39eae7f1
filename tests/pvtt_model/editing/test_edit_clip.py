"""One edits row from rows made by hand, through a nano VAE and a nano teacher."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import AutoencoderKLWan
from safetensors.torch import save

from pvtt_model.backbones.architectures import architecture
from pvtt_model.backbones.source import frozen, seeded
from pvtt_model.backbones.vae import VideoAutoencoder
from pvtt_model.curation.latents import encode_latents
from pvtt_model.data.shards import SCHEMAS, write_shard
from pvtt_model.data.video_io import png_bytes, png_frame, write_mp4
from pvtt_model.editing.edit import edit_clip, prompt_of
from pvtt_model.specs import EditSpec, LatentSpec, MaskPolicy, ModelSpec, VideoSpec

LATENTS = LatentSpec(
    video=VideoSpec(width=32, height=32, num_frames=5),
    vae=ModelSpec(architecture="nano-vae", weights="seed:0"),
    mask_policy=MaskPolicy(kind="box", grow_px=2),
    dtype="float32",
)
EDIT = EditSpec(num_steps=2, shift=3.0, scheduler="flow_euler", reference="swap", feather_px=2)
BASELINES = ("base", "no_reference", "wrong_reference")


@pytest.fixture(scope="module")
def vae():
    """Random weights; the latents' statistics only where the architecture has them."""
    config = architecture("nano-vae").config
    plain = {"latents_mean": [0.0] * config["z_dim"], "latents_std": [1.0] * config["z_dim"]}
    with seeded(0):
        return VideoAutoencoder(frozen(AutoencoderKLWan(**{**plain, **config})), "random")


@pytest.fixture
def make_rows(vae, make_teacher, tmp_path):
    """rows(name, seed, **changes of the clips row): the four rows of one clip."""
    teacher = make_teacher()
    text_width, image_width = teacher.transformer.config.text_dim, teacher.resampler.proj_in.in_features

    def make(name: str, seed: int, **changes: Any) -> dict[str, dict[str, Any]]:
        g = torch.Generator().manual_seed(seed)
        frames = torch.randint(0, 256, (5, 3, 4, 4), generator=g).float().repeat_interleave(8, 2).repeat_interleave(8, 3).to(torch.uint8)
        mask = torch.zeros(5, 32, 32, dtype=torch.bool)
        mask[:, 10:20, 8:22] = True
        write_mp4(tmp_path / "v.mp4", frames, 8)
        write_mp4(tmp_path / "t.mp4", 255 - frames, 8)
        pngs = [png_bytes(m) for m in mask]
        clip = {
            "clip_key": name, "split": "eval", "video": (tmp_path / "v.mp4").read_bytes(), "references": [png_bytes(frames[0])],
            "prompt": f"A {name} cup spins.", "product_words": f"{name} cup",
            "product_id": name, "fps": 8.0, "truth_product_id": None, "truth_mask": None,
            "truth_video": (tmp_path / "t.mp4").read_bytes(),
        }  # fmt: skip
        clip["truth_mask"] = pngs
        masks = {"clip_key": name, "usable": True, "reason": None, "mask": pngs}
        conditions = {"text_LD": torch.randn(6, text_width, generator=g), "reference_NPC": torch.randn(2, 4, image_width, generator=g)}
        return {
            "clips": clip | changes,
            "masks": masks,
            "latents": encode_latents(clip, masks, LATENTS, vae),
            "conditions": {"clip_key": name, "tensors": save(conditions)},
        }

    return make, teacher, torch.zeros(1, text_width)


def test_truth_and_baselines_are_filled(make_rows, vae, tmp_path):
    make, teacher, empty = make_rows
    template, right, wrong = make("red", 0, truth_product_id="blue"), make("blue", 1), make("green", 2)
    edit = EDIT.model_copy(update={"baselines": BASELINES})
    row = edit_clip(teacher, vae, template, right, empty, edit, LATENTS, 8, wrong=wrong, product_hidden=True)
    assert row["prompt"] == "A blue cup spins." and (row["product_id"], row["wrong_product_id"]) == ("blue", "green")
    for name in ("source", "mask", "raw", "composited", "round_trip", "truth", "truth_mask", "truth_round_trip", *BASELINES):
        assert len(row[name]) == 5, name
    source, truth = png_frame(row["source"][0]).float(), png_frame(row["truth"][0]).float()
    assert (source + truth - 255).abs().mean() < 6, "the truth written was the source inverted"
    assert write_shard(tmp_path / "e.parquet", [row], SCHEMAS["edits"]) == 1
    plain = edit_clip(teacher, vae, template, right, empty, EDIT, LATENTS, 8, product_hidden=True)
    for name in ("raw", "composited", "round_trip"):
        gap = (torch.stack([png_frame(p) for p in plain[name]]).int() - torch.stack([png_frame(p) for p in row[name]]).int()).abs().max()
        assert gap <= 1, f"{name}: baselines beside an edit change it"
    assert plain["base"] == [] and plain["wrong_product_id"] is None and plain["truth_round_trip"] == row["truth_round_trip"]


def test_rows_without_words_or_truth_are_edited_as_ever(make_rows, vae, tmp_path):
    make, teacher, empty = make_rows
    template, right = make("red", 0, product_words=None, truth_video=None, truth_mask=None), make("blue", 1, product_words=None)
    for clip in (template["clips"], right["clips"]):
        del clip["truth_product_id"]  # shards of before the column
    row = edit_clip(teacher, vae, template, right, empty, EDIT.model_copy(update={"baselines": BASELINES}), LATENTS, 8)
    assert row["prompt"] == "A blue cup spins." and row["truth"] == row["truth_round_trip"] == row["wrong_reference"] == []
    assert len(row["base"]) == len(row["no_reference"]) == 5
    assert write_shard(tmp_path / "e.parquet", [row], SCHEMAS["edits"]) == 1


def test_a_truth_of_another_product_is_none(make_rows, vae):
    make, teacher, empty = make_rows
    row = edit_clip(teacher, vae, make("red", 0, truth_product_id="green"), make("blue", 1), empty, EDIT, LATENTS, 8)
    assert row["truth"] == [] == row["truth_mask"]


def test_the_templates_own_prompt_conditions_only_where_it_names_no_product(make_rows, vae):
    make, teacher, empty = make_rows
    template, right = make("red", 0), make("blue", 1)
    other_text = template | {"conditions": make("red", 9)["conditions"]}

    def raw(rows, hidden: bool):
        return edit_clip(teacher, vae, rows, right, empty, EDIT, LATENTS, 8, product_hidden=hidden)["raw"]

    assert raw(template, True) != raw(other_text, True) and raw(template, False) == raw(other_text, False)


def test_an_unusable_clip_gives_a_row_with_its_reason(make_rows, vae, tmp_path):
    make, teacher, empty = make_rows
    template = make("red", 0) | {"latents": {"clip_key": "red", "usable": False, "reason": "no mask", "tensors": b""}}
    row = edit_clip(teacher, vae, template, make("blue", 1), empty, EDIT, LATENTS, 8)
    assert not row["usable"] and row["reason"] == "no mask" and write_shard(tmp_path / "e.parquet", [row], SCHEMAS["edits"]) == 1


def test_prompt_of():
    cup, pot = {"prompt": "A red cup turns.", "product_words": "red cup"}, {"prompt": "A tin pot rests.", "product_words": "tin pot"}
    assert prompt_of(cup, pot) == "A tin pot turns."
    assert prompt_of(pot, {"prompt": "", "product_words": "old tin pot"}) == "An old tin pot rests."
    assert prompt_of({"prompt": "Something turns.", "product_words": "red cup"}, pot) == prompt_of({"prompt": "x"}, pot) == "A tin pot rests."


def test_a_reference_nets_pictures_are_encoded_at_the_edited_clips_size(make_rows, make_teacher, vae):
    make, _, empty = make_rows
    teacher = make_teacher(injection="reference_net")
    for block in teacher.transformer.blocks[:2]:
        torch.nn.init.constant_(block.attn1.processor.gate, 0.1)
    template, right = make("red", 0), make("blue", 1)
    other = right | {"clips": right["clips"] | {"references": make("green", 2)["clips"]["references"]}}
    asked = LATENTS.model_copy(update={"references": "own"})
    one, two = (edit_clip(teacher, vae, template, r, empty, EDIT, asked, 8)["raw"] for r in (right, other))
    assert len(one) == 5 and one != two
    with pytest.raises(ValueError, match="latents.references is 'none'. Set it to 'white' or 'own'"):
        edit_clip(teacher, vae, template, right, empty, EDIT, LATENTS, 8)
