from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load

from pvtt_model.backbones.source import frozen, seeded
from pvtt_model.backbones.vae import VideoAutoencoder
from pvtt_model.curation import latents
from pvtt_model.curation.frames import frames_and_mask, to_model
from pvtt_model.curation.latents import encode_latents, grey_latents, pack_mask, vace_contexts
from pvtt_model.curation.mask_policy import fill_inside, widen
from pvtt_model.curation.variants import CONTEXT, control_of, count_videos, variant_name, widened_masks
from pvtt_model.curation.video_variants import LeftOut, VideoVariant, clip_variants
from pvtt_model.data.tensor_rows import names_of
from pvtt_model.data.video_io import png_bytes, write_mp4
from pvtt_model.nano.world import render_clip
from pvtt_model.specs import LatentSpec, MaskPolicy, MaskSpec, ModelSpec, NanoWorldSpec, VideoAugmentSpec, VideoSpec

VAE = ModelSpec(architecture="nano-vae", weights="seed:0")
POLICY = MaskPolicy(kind="square", grow_px=3, jitter_px=4)
SPEC = LatentSpec(video=VideoSpec(width=64, height=64, num_frames=5), vae=VAE, mask_policy=POLICY, variants=3, dtype="float32")


@pytest.fixture(scope="module")
def vae() -> VideoAutoencoder:
    from diffusers import AutoencoderKLWan

    with seeded(0):
        model: Any = AutoencoderKLWan(base_dim=8, z_dim=16, dim_mult=[1, 2, 4, 4], num_res_blocks=1)
    return VideoAutoencoder(frozen(model), "tiny")


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    clip = render_clip(NanoWorldSpec(), 0)
    path: Path = tmp_path_factory.mktemp("clip") / "v.mp4"
    write_mp4(path, clip.frames_TCHW, 8)
    mask = {"usable": True, "reason": None, "mask": [png_bytes(m) for m in clip.mask_THW]}
    yield {"clip_key": "a" * 20, "video": path.read_bytes(), "split": "train"}, mask


def close(a: torch.Tensor, b: torch.Tensor) -> bool:
    return torch.allclose(a, b, atol=1e-4, rtol=1e-4)


def test_a_row_holds_every_variant(rows: Any, vae: VideoAutoencoder) -> None:
    row = encode_latents(*rows, SPEC, vae)
    z = load(row["tensors"])
    assert row["usable"] and set(z) == {"latents_CFHW"} | {variant_name(n, i) for n in CONTEXT for i in range(3)}
    assert [variant_name(n, 2) for n in CONTEXT] == ["inactive_2_CFHW", "reactive_2_CFHW", "maskbits_2_KFHW"]
    frames, exact = frames_and_mask(*rows, SPEC.video)
    assert close(z["latents_CFHW"], vae.encode(to_model(frames)[None])[0])
    for i, mask in enumerate(widened_masks(exact, POLICY, "a" * 20, 3)):
        filled = fill_inside(to_model(frames).transpose(0, 1), mask, "neutral").transpose(0, 1)
        assert torch.equal(control_of(z, i)[-64:], pack_mask(mask).float()) and bool((mask | ~exact).all())
        assert close(z[variant_name("inactive_CFHW", i)], vae.encode((filled * ~mask)[None])[0])
    assert torch.equal(widened_masks(exact, POLICY, "a" * 20, 1)[0], widen(exact, POLICY))
    bits = [z[variant_name("mask_MFHW", i)] for i in range(3)]
    assert bits[0].shape == (8, 2, *z["latents_CFHW"].shape[-2:]) and bits[0].dtype == torch.uint8
    assert not torch.equal(bits[0], bits[1]) and not torch.equal(bits[1], bits[2])
    assert control_of(z, 0).dtype == torch.float32 and control_of(z, 3) is None
    assert encode_latents(*rows, SPEC, vae) == row


def test_variants_hang_on_the_clip_alone(rows: Any, vae: VideoAutoencoder) -> None:
    clip, mask = rows
    more = load(encode_latents(clip, mask, SPEC.model_copy(update={"variants": 4}), vae)["tensors"])
    fewer = load(encode_latents(clip, mask, SPEC, vae)["tensors"])
    assert all(torch.equal(more[n], fewer[n]) for n in fewer if n.startswith("mask")) and "maskbits_3_KFHW" in more
    other = load(encode_latents(clip | {"clip_key": "b" * 20}, mask, SPEC, vae)["tensors"])
    assert torch.equal(other["maskbits_KFHW"], fewer["maskbits_KFHW"]) and not torch.equal(other["maskbits_1_KFHW"], fewer["maskbits_1_KFHW"])


@pytest.mark.parametrize("split", ["validation", "eval"])
def test_held_out_clips_have_the_plain_mask_alone(rows: Any, vae: VideoAutoencoder, split: str) -> None:
    z = load(encode_latents(rows[0] | {"split": split}, rows[1], SPEC, vae)["tensors"])
    assert set(z) == {"latents_CFHW", "inactive_CFHW", "reactive_CFHW", "maskbits_KFHW"}


def test_grey_is_encoded_once_and_to_the_last_bit(rows: Any, vae: VideoAutoencoder, monkeypatch: pytest.MonkeyPatch) -> None:
    frames, exact = frames_and_mask(*rows, SPEC.video)
    mask = widen(exact, POLICY)
    filled = fill_inside(to_model(frames).transpose(0, 1), mask, "neutral").transpose(0, 1)
    truly = vae.encode((filled * mask)[None])[0]  # what stood here before: zeros, some of them negative
    grey_latents.cache_clear()
    calls: list[int] = []
    encode = vae.encode
    monkeypatch.setattr(vae, "encode", lambda x: calls.append(len(x)) or encode(x))
    (first,), (second,) = vace_contexts(frames, [mask], SPEC, vae)[1], vace_contexts(frames, [mask], SPEC, vae)[1]
    assert torch.equal(first["reactive_CFHW"], truly) and torch.equal(second["reactive_CFHW"], truly)
    assert sorted(calls) == [1, 2, 2]


@pytest.mark.parametrize("fill", ["black", "original", "scaled"])
def test_other_fills_are_encoded_for_each_mask(rows: Any, vae: VideoAutoencoder, fill: Any) -> None:
    frames, exact = frames_and_mask(*rows, SPEC.video)
    spec = SPEC.model_copy(update={"fill": fill})
    masks = widened_masks(exact, POLICY, "a", 2)
    filled = fill_inside(to_model(frames).transpose(0, 1), masks[1], fill).transpose(0, 1)
    context = vace_contexts(frames, masks, spec, vae)[1][1]
    assert close(context["reactive_CFHW"], vae.encode((filled * masks[1])[None])[0])
    assert close(context["inactive_CFHW"], vae.encode((filled * ~masks[1])[None])[0])


def test_large_clips_go_through_one_by_one(rows: Any, vae: VideoAutoencoder, monkeypatch: pytest.MonkeyPatch) -> None:
    together = encode_latents(*rows, SPEC, vae)
    monkeypatch.setattr(latents, "PIXELS_A_CALL", 1)
    alone = encode_latents(*rows, SPEC, vae)
    a, b = load(together["tensors"]), load(alone["tensors"])
    assert all(close(a[n].float(), b[n].float()) for n in a)


def test_unusable_masks_stay_in_their_row(rows: Any, vae: VideoAutoencoder) -> None:
    refused = encode_latents(rows[0], {"usable": False, "reason": "why", "mask": []}, SPEC, vae)
    assert refused == {"clip_key": "a" * 20, "usable": False, "reason": "why", "tensors": b""}
    empty = rows[1] | {"mask": [png_bytes(torch.zeros(64, 64, dtype=torch.bool))] * 5}
    assert "stretch" in encode_latents(rows[0], empty, SPEC, vae)["reason"]


def test_a_row_holds_the_video_variants_without_a_gap(tmp_path: Path, vae: VideoAutoencoder) -> None:
    world = render_clip(NanoWorldSpec(num_frames=13), 0)
    write_mp4(tmp_path / "v.mp4", world.frames_TCHW, 8)
    pictures = [png_bytes(m) for m in world.mask_THW]
    clip = {"clip_key": "a" * 20, "video": (tmp_path / "v.mp4").read_bytes(), "split": "train", "mask_format": "png", "mask": pictures}
    mask = {"usable": True, "reason": None, "mask": pictures[:5], "provenance": "manifest"}
    spec = SPEC.model_copy(update={"video_variants": 7, "augment_video": VideoAugmentSpec(offset_s=0.5)})
    row = encode_latents(clip, mask, spec, vae)
    z, found = load(row["tensors"]), list(clip_variants(clip, mask, spec, MaskSpec(), None, 60))
    kept = [f for f in found if isinstance(f, VideoVariant)]
    assert 3 <= len(kept) < 7 == len(found) and row["usable"]
    assert row["reason"] == "; ".join(f"video variant {f.number} is left out: {f.reason}" for f in found if isinstance(f, LeftOut))
    assert count_videos(names_of(row["tensors"])) == count_videos(z) == len(kept)
    assert variant_name("latents_CFHW", 0, 1) == "latents_v1_CFHW" and variant_name("mask_MFHW", 2, 1) == "maskbits_v1_2_KFHW" in z
    for video, variant in enumerate(kept):
        assert close(z[variant_name("latents_CFHW", 0, video)], vae.encode(to_model(variant.frames_TCHW)[None])[0])
        for i in range(3):
            assert torch.equal(control_of(z, i, video)[-64:], pack_mask(variant.masks[i]).float())
        assert control_of(z, 3, video) is None
    assert len({z[variant_name("mask_MFHW", 1, video)].numpy().tobytes() for video in range(len(kept))}) == len(kept), "each has draws of its own"
    alone = load(encode_latents(clip, mask, SPEC, vae)["tensors"])
    assert set(alone) == {name for name in z if "_v" not in name} and all(torch.equal(alone[name], z[name]) for name in alone)
    held_out = encode_latents(clip | {"split": "eval"}, mask, spec, vae)
    assert count_videos(names_of(held_out["tensors"])) == 1 and held_out["reason"] is None


def test_what_was_made_before_keeps_its_name() -> None:
    assert not {"video_variants", "augment_video"} & set(SPEC.identity()) and "erode_px" not in SPEC.identity()["mask_policy"]
    more = SPEC.model_copy(update={"video_variants": 2, "mask_policy": POLICY.model_copy(update={"erode_px": 1})}).identity()
    assert more["video_variants"] == 2 and more["mask_policy"]["erode_px"] == 1
    assert names_of(b"") == set()
