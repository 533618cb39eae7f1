"""The frozen embeddings of a clip: its prompt and its reference pictures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from pvtt_model.backbones.image import ImageEncoder, letterbox
from pvtt_model.backbones.text import TextEncoder
from pvtt_model.curation.augment import augmented, reference_name
from pvtt_model.curation.frames import DTYPES
from pvtt_model.curation.prompts import replaced
from pvtt_model.data.video_io import read_picture
from pvtt_model.specs import ConditionSpec

CLIPS_A_BATCH = 16  # whose pictures go through the image encoder together
NAMELESS = "product"


def embedded_prompt(clip: dict[str, Any], product_words: str) -> str:
    """The prompt to embed. 'hide' puts 'product' for the manifest's product_words, with the article that goes with it.

    A clip whose manifest names no such words keeps its prompt.
    """
    prompt, words = clip["prompt"], clip.get("product_words")  # shards of before have no such column
    if product_words == "keep" or not words:
        return str(prompt)
    return replaced(prompt, words, NAMELESS)


def reference_tokens(clips: Sequence[dict[str, Any]], spec: ConditionSpec, encoder: ImageEncoder) -> list[list[Tensor]]:
    """Of each clip, by variant, the patch tokens (N, P, C) of its N pictures, each letterboxed on its own ground; one call of the encoder."""
    pictures = [reference_pictures(clip, variant, spec) for clip in clips for variant in range(variants_of(clip, spec))]
    tokens = iter(encoder.patch_tokens(torch.cat(pictures)).split([len(p) for p in pictures]))
    return [[next(tokens) for _ in range(variants_of(clip, spec))] for clip in clips]


def variants_of(clip: dict[str, Any], spec: ConditionSpec) -> int:
    """Clips that the manifest holds out are never trained on: they get the pictures as they are."""
    return 1 if clip.get("split") in ("validation", "eval") else spec.reference_variants


def reference_pictures(clip: dict[str, Any], variant: int, spec: ConditionSpec) -> Tensor:
    """A variant of a clip's reference pictures, letterboxed: (N, 3, side, side), RGB in [0, 1]."""
    pictures = [augmented(read_picture(data), spec.augment, clip["clip_key"], variant, i) for i, data in enumerate(clip["references"])]
    return torch.stack([letterbox(picture, spec.image_size) for picture in pictures])


def embed_conditions(clips: Sequence[dict[str, Any]], spec: ConditionSpec, text: TextEncoder, image: ImageEncoder) -> list[dict[str, Any]]:
    """The conditions rows of clips: text_LD without padding, reference_NPC and its augmented variants, and words_LD, the product's words
    alone, where the manifest names them. Equal texts are embedded once."""
    dtype = DTYPES[spec.dtype]
    prompts = [embedded_prompt(clip, spec.product_words) for clip in clips]
    each = list(dict.fromkeys([*prompts, *(words for clip in clips if (words := clip.get("product_words")))]))
    texts = dict(zip(each, (t.to(dtype).cpu().contiguous() for t in text.embed(each, spec.max_text_tokens)), strict=True))
    rows = []
    for start in range(0, len(clips), CLIPS_A_BATCH):
        batch = clips[start : start + CLIPS_A_BATCH]
        references = reference_tokens(batch, spec, image)
        for clip, prompt, variants in zip(batch, prompts[start:], references, strict=False):
            tensors = {
                "text_LD": texts[prompt],
                "text_length": torch.tensor(len(texts[prompt])),
                **{reference_name(i): tokens.to(dtype).cpu().clone() for i, tokens in enumerate(variants)},
            }
            if words := clip.get("product_words"):
                tensors["words_LD"] = texts[words].clone()  # safetensors refuses two names for one tensor
            rows.append({"clip_key": clip["clip_key"], "usable": True, "reason": None, "tensors": save(tensors)})
    return rows
