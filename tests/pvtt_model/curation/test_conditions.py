from __future__ import annotations

from typing import Any

import pytest
import torch
from safetensors.torch import load

from pvtt_model.backbones.image import load_image_encoder
from pvtt_model.backbones.text import load_text_encoder
from pvtt_model.curation import conditions
from pvtt_model.curation.conditions import embed_conditions, embedded_prompt
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
    assert embedded_prompt(clip(0, prompt, words, 0), "hide") == hidden
    assert embedded_prompt(clip(0, prompt, words, 0), "keep") == prompt


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
