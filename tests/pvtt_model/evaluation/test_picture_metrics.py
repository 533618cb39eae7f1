"""Background LPIPS, flicker, motion, structure and direction: closed forms, masks, and the packages' own values."""

from __future__ import annotations

import pytest
import torch
import transformers
from torch.nn import functional as F
from torchmetrics.functional.multimodal import clip_score

from pvtt_model.backbones.image import load_image_encoder
from pvtt_model.evaluation.background_lpips import background_lpips
from pvtt_model.evaluation.dynamic_degree import dynamic_degree
from pvtt_model.evaluation.edit_direction import direction_of, edit_direction
from pvtt_model.evaluation.flicker import added_flicker, temporal_flicker
from pvtt_model.evaluation.similarity import text_similarity
from pvtt_model.evaluation.structure_distance import self_similarity, structure_distance
from pvtt_model.nano.shipped import FOLDER, shipped
from pvtt_model.specs import ModelSpec


def video(frames: int = 3, height: int = 64, width: int = 80, seed: int = 0) -> torch.Tensor:
    return torch.randint(60, 190, (frames, 3, height, width), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


def masked(source: torch.Tensor) -> torch.Tensor:
    mask = torch.zeros(len(source), *source.shape[-2:], dtype=torch.bool)
    mask[:, 20:44, 30:60] = True
    return mask


def test_lpips_without_mask_is_the_plain_one_and_with_one_does_not_see_the_product(stlpips) -> None:
    source, edit = video(), video(seed=1)
    nothing = torch.zeros(3, 64, 80, dtype=torch.bool)
    plain = sum(layer.mean((1, 2, 3)) for layer in stlpips.layer_distances(edit / 255.0, source / 255.0)).mean()
    assert background_lpips(stlpips, edit, source, nothing) == pytest.approx(float(plain), abs=1e-5)
    mask = masked(source)
    near = (source.int() + 4).to(torch.uint8)
    loud = torch.where(mask[:, None], torch.tensor(255, dtype=torch.uint8), near)
    assert background_lpips(stlpips, loud, source, mask) == background_lpips(stlpips, near, source, mask) > 0
    only_inside = torch.where(mask[:, None], edit, source)
    assert background_lpips(stlpips, only_inside, source, mask) == 0.0


def test_flicker_of_known_steps() -> None:
    source = torch.full((4, 3, 16, 16), 100, dtype=torch.uint8)
    mask = torch.zeros(4, 16, 16, dtype=torch.bool)
    mask[:, 4:8, 4:8] = True
    blinking = source.clone()
    blinking[1::2] += 51
    assert temporal_flicker(source) == 1.0 and temporal_flicker(blinking) == pytest.approx(0.8)
    assert added_flicker(blinking, source, mask) == pytest.approx(0.2) and added_flicker(source, source, mask) == 0.0
    assert added_flicker(source, blinking, mask) == pytest.approx(0.2)  # freezing what moves costs as much
    assert added_flicker(source + 30, source, mask) == 0.0  # a steady change is none
    inside = torch.where(mask[:, None], blinking, source)
    assert added_flicker(inside, source, mask) == 0.0
    with pytest.raises(ValueError, match="in two frames in a row"):
        turns = torch.zeros(2, 16, 16, dtype=torch.bool)
        turns[0, :8], turns[1, 8:] = True, True
        added_flicker(source[:2], source[:2], turns)


def test_motion_of_a_known_shift() -> None:
    wide = F.interpolate(video(1, 12, 40), size=(96, 320), mode="bicubic")[0].clamp(0, 255).to(torch.uint8)
    moving = torch.stack([wide[:, :, 2 * t : 2 * t + 160] for t in range(4)])
    assert dynamic_degree(moving) == pytest.approx(2.0, abs=0.25)
    assert dynamic_degree(moving[:1].expand(3, -1, -1, -1)) < 0.01
    with pytest.raises(ValueError, match="T of 2"):
        dynamic_degree(moving[:1])


def test_structure_is_layout_not_brightness() -> None:
    network = load_image_encoder(shipped("dinov2", ModelSpec), FOLDER / "dinov2")
    source = torch.full((2, 3, 64, 64), 60, dtype=torch.uint8)
    source[:, :, 8:30, 8:30] = 200
    moved = source.roll(24, 3)
    assert structure_distance(network, source, source) == 0.0
    assert structure_distance(network, moved, source) > 2 * structure_distance(network, source + 12, source)
    similar = self_similarity(network, source)
    assert similar.shape == (2, 65, 65) and torch.allclose(similar.diagonal(dim1=1, dim2=2), torch.ones(2, 65), atol=1e-5)


def test_the_keys_are_those_of_the_last_attention() -> None:
    network = load_image_encoder(shipped("dinov2", ModelSpec), FOLDER / "dinov2")
    images = video(1, 64, 64) / 255.0
    seen: list[torch.Tensor] = []
    block = network.model.blocks[-1]
    hook = block.norm1.register_forward_hook(lambda _, __, out: seen.append(out))
    keys = network.last_keys(images)
    hook.remove()
    width = network.width
    wanted = F.linear(seen[0], block.attn.qkv.weight[width : 2 * width], block.attn.qkv.bias[width : 2 * width])
    torch.testing.assert_close(keys, wanted, rtol=1e-5, atol=1e-5)


def test_direction_is_a_cosine(mean_colour) -> None:
    words = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    source = torch.tensor([[1.0, 0.0, 0.0]]).expand(3, -1)
    there, away, still = torch.tensor([[0.0, 1.0, 0.0]]), torch.tensor([[0.0, 0.0, 1.0]]), source[:1]
    assert direction_of(there, source[:1], words) == pytest.approx(1.0)
    assert direction_of(away, source[:1], words) == pytest.approx(0.5)
    assert direction_of(torch.cat([there, away, still]), source, words) == pytest.approx(0.5)
    red, green = (torch.zeros(2, 3, 40, 48, dtype=torch.uint8) for _ in range(2))
    red[:, 0], green[:, 1] = 255, 255
    assert edit_direction(mean_colour, green, red, "a red box", "a green box") > 0.99
    assert edit_direction(mean_colour, red, green, "a red box", "a green box") < -0.99
    with pytest.raises(ValueError, match="have no direction"):
        edit_direction(mean_colour, green, red, "a red box", "one red box")


class PlainClip(transformers.CLIPModel):
    """transformers 5 answers with a record, torchmetrics 1.9 takes a tensor."""

    def get_image_features(self, *args, **more):
        return super().get_image_features(*args, **more).pooler_output

    def get_text_features(self, *args, **more):
        return super().get_text_features(*args, **more).pooler_output


class TinyClip:
    """A random CLIP of transformers' own class, and the processor that torchmetrics asks: one for it and for us."""

    name = "tiny-clip"

    def __init__(self) -> None:
        torch.manual_seed(0)
        tower = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
        text = {**tower, "vocab_size": 300, "max_position_embeddings": 16, "eos_token_id": 299, "bos_token_id": 0, "pad_token_id": 1}
        config = transformers.CLIPConfig(text_config=text, vision_config={**tower, "image_size": 32, "patch_size": 8}, projection_dim=24)
        self.model = PlainClip(config).eval()
        self.model.text_projection.weight.data.neg_()  # above 0, where torchmetrics cuts

    def __call__(self, text=None, images=None, **_):
        if images is not None:
            return {"pixel_values": torch.stack(list(images)).float() / 255.0}
        ids = torch.tensor([[0, *(2 + ord(c) % 256 for c in t[:12].ljust(12)), 299] for t in text])
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}

    def embed_images(self, images_BCHW: torch.Tensor) -> torch.Tensor:
        return self.model.get_image_features(images_BCHW)

    def embed_texts(self, texts: list[str]) -> torch.Tensor:
        return self.model.get_text_features(**self(text=texts))


def test_clip_score_is_torchmetrics() -> None:
    clip = TinyClip()
    frames = video(4, 32, 32)
    with torch.no_grad():
        theirs = float(clip_score(frames, ["a red mug"] * 4, model_name_or_path=lambda: (clip.model, clip)))
    assert theirs > 1 and 100 * text_similarity(clip, frames, "a red mug") == pytest.approx(theirs, abs=1e-4)
