from __future__ import annotations

import io
import json
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load

from pvtt_model.backbones.clip import load_clip
from pvtt_model.backbones.image import load_image_encoder
from pvtt_model.backbones.text import load_text_encoder
from pvtt_model.curation import conditions
from pvtt_model.curation.conditions import embed_conditions, embedded_caption, embedded_prompt, reference_pictures
from pvtt_model.data.video_io import png_bytes
from pvtt_model.specs import ConditionSpec, ModelSpec

SPEC = ConditionSpec(
    text_encoder=ModelSpec(architecture="nano-umt5", weights="seed:1"),
    max_text_tokens=96,
    image_encoder=ModelSpec(architecture="nano-dinov2", weights="seed:2"),
    image_size=56,
    dtype="float32",
)


def clip(i: int, prompt: str, words: str | None, pictures: int = 1) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(i)
    references = [png_bytes(torch.randint(0, 256, (3, 40, 64), generator=generator, dtype=torch.uint8)) for _ in range(pictures)]
    return {"clip_key": f"{i:020x}", "prompt": prompt, "product_words": words, "references": references}


@pytest.fixture(scope="module")
def encoders() -> tuple[Any, Any]:
    return load_text_encoder(SPEC.text_encoder, None), load_image_encoder(SPEC.image_encoder, None)


@pytest.mark.parametrize(
    ("prompt", "words", "hidden"),
    [
        ("A red mug with dots moves right over sand.", "red mug with dots", "A product moves right over sand."),
        ("An orange mug moves.", "orange mug", "A product moves."),
        ("He fills an orange mug with an apple.", "orange mug", "He fills a product with an apple."),
        ("A mug (red) by a mug (red).", "mug (red)", "A product by a product."),
        ("A mug.", None, "A mug."),
        ("Banana mug by a mug.", "mug", "Banana product by a product."),
    ],
)
def test_hiding_leaves_the_sentence_whole(prompt: str, words: str | None, hidden: str) -> None:
    assert embedded_prompt(clip(0, prompt, words, 0), SPEC.model_copy(update={"product_words": "hide"})) == hidden
    assert embedded_prompt(clip(0, prompt, words, 0), SPEC) == prompt


def test_rows_are_as_if_each_clip_came_alone(encoders: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conditions, "CLIPS_A_BATCH", 2)
    clips = [clip(i, "A red mug moves." if i % 2 else "A ball lies.", "red mug" if i % 2 else None, pictures=1 + i % 3) for i in range(5)]
    rows = embed_conditions(clips, SPEC, *encoders)
    assert [r["clip_key"] for r in rows] == [c["clip_key"] for c in clips] and all(r["usable"] for r in rows)
    for one, row in zip(clips, rows, strict=True):
        (alone,) = embed_conditions([one], SPEC, *encoders)
        together, single = load(row["tensors"]), load(alone["tensors"])
        assert set(together) == {"text_LD", "text_length", "reference_NPC", *(["words_LD"] if one["product_words"] else [])}
        if one["product_words"]:
            assert torch.equal(together["words_LD"], encoders[0].embed([one["product_words"]], SPEC.max_text_tokens)[0])
        assert len(together["reference_NPC"]) == len(one["references"])
        assert torch.equal(together["text_LD"], single["text_LD"]) and int(together["text_length"]) == len(together["text_LD"])
        assert torch.allclose(together["reference_NPC"], single["reference_NPC"], atol=1e-5)


def test_what_is_hidden_does_not_reach_the_text(encoders: tuple[Any, Any]) -> None:
    clips = [clip(0, "A red mug moves.", "red mug"), clip(1, "An orange bag moves.", "orange bag")]
    kept, hidden = (
        [load(r["tensors"])["text_LD"] for r in embed_conditions(clips, SPEC.model_copy(update={"product_words": how}), *encoders)]
        for how in ("keep", "hide")
    )
    assert torch.equal(hidden[0], hidden[1]) and not torch.equal(kept[0], kept[1])
    assert embed_conditions([], SPEC, *encoders) == []


CLIP = ModelSpec(architecture="nano-openclip", weights="seed:3")


def test_clips_tokens_of_every_picture_and_variant(encoders: tuple[Any, Any]) -> None:
    spec = SPEC.model_copy(update={"clip_encoder": CLIP, "reference_variants": 2})
    clip_model = load_clip(CLIP, None)
    clips = [clip(0, "A mug.", None, pictures=2) | {"split": "train"}, clip(1, "A bag.", None, pictures=3) | {"split": "eval"}]
    first, second = (load(row["tensors"]) for row in embed_conditions(clips, spec, *encoders, clip_model))
    names = {"clip_NPC", "clip_ND", "clip_1_NPC", "clip_1_ND"}
    assert {n for n in first if n.startswith("clip")} == names and {n for n in second if n.startswith("clip")} == {"clip_NPC", "clip_ND"}
    for i in range(2):
        tokens, vectors = clip_model.reference_tokens(reference_pictures(clips[0], i, spec, clip_model.side))
        stem = "clip_" if i == 0 else f"clip_{i}_"
        assert first[f"{stem}NPC"].shape == (2, 65, 96) and torch.allclose(first[f"{stem}NPC"], tokens, atol=1e-5)
        assert first[f"{stem}ND"].shape == (2, 64) and torch.allclose(first[f"{stem}ND"], vectors, atol=1e-6)
    assert second["clip_NPC"].shape == (3, 65, 96) and not torch.allclose(first["clip_ND"], first["clip_1_ND"], atol=1e-4)
    plain = [load(row["tensors"]) for row in embed_conditions(clips, spec.model_copy(update={"clip_encoder": None}), *encoders)]
    for with_clip, without in zip((first, second), plain, strict=True):
        assert all(torch.equal(with_clip[name], without[name]) for name in without) and set(with_clip) - set(without) <= names


def test_clip_reads_a_cut_out_on_its_own_ground(encoders: tuple[Any, Any]) -> None:
    cut = Image.new("RGBA", (40, 64), (255, 0, 0, 0))
    cut.paste((0, 0, 255, 255), (10, 10, 30, 30))
    flat = Image.new("RGBA", cut.size, (255, 255, 255, 255))
    flat.alpha_composite(cut)
    spec = SPEC.model_copy(update={"clip_encoder": CLIP})
    clips = [clip(0, "A mug.", None) | {"references": [png(picture)]} for picture in (cut, flat.convert("RGB"))]
    one, other = (load(row["tensors"]) for row in embed_conditions(clips, spec, *encoders, load_clip(CLIP, None)))
    assert all(torch.allclose(one[name], other[name], atol=1e-5) for name in ("clip_NPC", "clip_ND", "reference_NPC"))
    with pytest.raises(ValueError, match="8-bit RGB"):
        embed_conditions([clips[0] | {"references": [png(Image.new("I;16", (40, 40)))]}], spec, *encoders, load_clip(CLIP, None))


def test_a_clip_is_given_where_it_is_named_and_only_there(encoders: tuple[Any, Any]) -> None:
    with pytest.raises(ValueError, match="conditions.clip_encoder is None, and the CLIP given"):
        embed_conditions([clip(0, "A mug.", None)], SPEC, *encoders, load_clip(CLIP, None))
    with pytest.raises(ValueError, match="nano-openclip.* and the CLIP given None"):
        embed_conditions([clip(0, "A mug.", None)], SPEC.model_copy(update={"clip_encoder": CLIP}), *encoders)


def test_the_caption_that_the_setting_chooses_is_embedded(encoders: tuple[Any, Any]) -> None:
    captions = [{"text": "Steam over a red mug.", "source": "qwen2.5-vl-7b@abc1"}, {"text": "A cup.", "source": "human"}]
    one = clip(0, "A red mug moves.", "red mug") | {"metadata": json.dumps({"captions": captions})}
    for order, hide, text in (
        ((), "keep", "A red mug moves."), (("human",), "keep", "A cup."), (("qwen2.5-vl-7b", "human"), "keep", "Steam over a red mug."),
        (("human", "qwen2.5-vl-7b"), "hide", "Steam over a product."), (("human",), "hide", "A product moves."),
    ):  # fmt: skip
        spec = SPEC.model_copy(update={"captions": order, "product_words": hide})
        (row,) = embed_conditions([one], spec, *encoders)
        assert embedded_prompt(one, spec) == text
        assert torch.equal(load(row["tensors"])["text_LD"], encoders[0].embed([text], SPEC.max_text_tokens)[0])
    assert embedded_caption(one, spec) == ("A red mug moves.", "the manifest, which does not say", True), "no human caption holds the words"


def png(picture: Image.Image) -> bytes:
    out = io.BytesIO()
    picture.save(out, "PNG")
    return out.getvalue()


def test_class_tokens_where_asked_change_nothing_else(encoders: tuple[Any, Any]) -> None:
    clips = [clip(i, "A mug.", None, pictures=1 + i) for i in range(2)]
    spec = SPEC.model_copy(update={"class_tokens": True, "reference_variants": 2})
    plain = [load(row["tensors"]) for row in embed_conditions(clips, spec.model_copy(update={"class_tokens": False}), *encoders)]
    more = [load(row["tensors"]) for row in embed_conditions(clips, spec, *encoders)]
    for i, (one, both) in enumerate(zip(plain, more, strict=True)):
        assert both.keys() - one.keys() == {"reference_NC", "reference_1_NC"} and all(torch.equal(one[n], both[n]) for n in one)
        for variant, name in enumerate(("reference_NC", "reference_1_NC")):
            assert both[name].shape == (1 + i, encoders[1].width)
            torch.testing.assert_close(both[name], encoders[1].embed(reference_pictures(clips[i], variant, spec)), rtol=1e-4, atol=1e-5)
    assert SPEC.identity().keys() & {"class_tokens"} == set()
