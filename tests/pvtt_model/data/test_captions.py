"""Captions with what they are from: which one is taken, and whether many are one template. Malformed ones: test_manifest.py."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pytest

from pvtt_model.data.captions import UNSTATED, Caption, caption_of, check_captions, templates
from pvtt_model.data.ingest import inspect
from pvtt_model.data.manifest import read_manifest
from pvtt_model.data.refusals import Refusal
from pvtt_model.specs import ClipSpec, VideoSpec

QWEN = "qwen2.5-vl-7b@cc594898137f460bfe9f0759e9844b3ce807cfb5"
GIVEN = [
    {"text": "A red mug turns on oak.", "source": QWEN},
    {"text": "Product video.", "source": "template", "fallback": True},
    {"text": "Somebody turns a red mug.", "source": "human"},
    {"text": "The red mug.", "source": "human"},
]


def clip(prompt: str = "A mug.", **metadata: Any) -> dict[str, Any]:
    return {"prompt": prompt, "metadata": json.dumps(metadata)}


@pytest.mark.parametrize(
    ("preferred", "taken"),
    [
        ((), Caption("A mug.", UNSTATED, False)),
        ((QWEN,), Caption("A red mug turns on oak.", QWEN, False)),
        (("qwen2.5-vl-7b",), Caption("A red mug turns on oak.", QWEN, False)),
        (("qwen2.5-vl-7b@another", "human"), Caption("Somebody turns a red mug.", "human", False)),
        (("template", "human"), Caption("Product video.", "template", True)),
        (("gpt",), Caption("A mug.", UNSTATED, True)),
    ],
)
def test_the_first_preferred_source_that_the_clip_has(preferred: tuple[str, ...], taken: Caption) -> None:
    assert caption_of(clip(captions=GIVEN), preferred) == taken


def test_the_prompts_own_source() -> None:
    assert caption_of(clip(provenance={"text_prompt": "a.txt"})) == Caption("A mug.", "a.txt", False)
    assert caption_of(clip(provenance={"text_prompt": "the file name"})) == Caption("A mug.", "file name", True)
    assert caption_of(clip("The red mug.", captions=GIVEN)) == Caption("The red mug.", "human", False), "a caption says what its text is from"
    assert caption_of(clip("Product video.", captions=GIVEN)) == Caption("Product video.", "template", True)
    assert caption_of(clip(provenance={"text_prompt": "target_prompt"}), ("target_prompt", "human")) == Caption("A mug.", "target_prompt", False)
    for odd in ("text", ["x"], {"text_prompt": None}, {"text_prompt": 3}, {"text_prompt": " "}, None):
        assert caption_of(clip(provenance=odd, captions=None)) == Caption("A mug.", UNSTATED, False)
    assert caption_of({"prompt": "A mug."}) == Caption("A mug.", UNSTATED, False), "rows of before"


def test_a_caption_must_hold_what_is_to_be_hidden_in_it() -> None:
    assert caption_of(clip(captions=GIVEN), ("template", "human"), "red mug").text == "Somebody turns a red mug."
    assert caption_of(clip("A blue mug.", captions=GIVEN), ("human",), "blue mug") == Caption("A blue mug.", UNSTATED, True)


def test_good_captions_pass_and_are_kept_with_the_clip(folder: Any, no_fetch: Any) -> None:
    check_captions(None)
    check_captions([])
    dated = {"text": "x", "source": "gpt-4o@2024-08-06", "fallback": False}
    path = folder.manifest([folder.line(metadata={"captions": [*GIVEN, dated, {"text": "x", "source": "file name"}]})])
    scan = read_manifest(path, str(path), ClipSpec(), no_fetch)
    row = inspect(scan.lines[0], ClipSpec(), VideoSpec(width=64, height=48, num_frames=9))[0]
    assert not isinstance(row, Refusal) and caption_of(row, ("gpt-4o",)).source == "gpt-4o@2024-08-06"
    assert json.loads(row["metadata"])["captions"][:4] == GIVEN and row["prompt"] == "A red square."


def said(captions: list[str], words: list[str | None] | None = None) -> list[str | None]:
    """Of each caption its template."""
    pairs = list(zip(captions, words or [None] * len(captions), strict=True))
    found = templates(Counter(pairs))
    return [found[pair] for pair in pairs]


def test_one_template_is_seen_through_its_slots() -> None:
    things = ["mug", "red bag", "watch", "gold ring", "shoe", "green lamp", "sofa", "cap", "old pen", "vase"]
    slotted = [f"A product video of a {thing}, on a white table." for thing in things]
    assert set(said(slotted)) == {"a product video of a * on a white table"}
    two = [f"Product video: a {thing} on a white table." for thing in ("mug", "bag")]
    assert set(said(two, ["mug", "bag"])) == {"product video a * on a white table"}, "so few that no word is rare: by the product's words"
    assert len(set(said(two))) == 2


def test_what_differs_or_is_too_short_is_no_template() -> None:
    natural = [
        "A hand lifts a red mug off the oak table while steam rises.", "Rain runs down the window behind a leather bag.",
        "Two rings spin slowly in front of a candle, then stop.", "The camera circles a green lamp on a crowded desk.",
        "Someone ties the laces of a shoe and walks out of the frame.", "A watch lies in wet sand; waves come close.",
        "On a shelf stands a vase with dry flowers, dust in the light.", "An old pen writes a name on thick paper.",
    ]  # fmt: skip
    found = said(natural)
    assert all(found.count(one) == 1 for one in found if one)
    assert said([f"a mug number {i}" for i in range(10)]) == [None] * 10
    assert said([]) == []
