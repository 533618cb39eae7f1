"""The frozen embeddings of a clip: its prompt and its reference pictures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from pvtt_model.backbones.image import ImageEncoder, letterbox
from pvtt_model.backbones.text import TextEncoder
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


def reference_tokens(clips: Sequence[Sequence[bytes]], image_size: int, encoder: ImageEncoder) -> list[Tensor]:
    """Patch tokens (N_i, P, C) of each clip's N_i pictures, each letterboxed on its own ground to image_size; one call of the encoder."""
    pictures = [letterbox(read_picture(data), image_size) for references in clips for data in references]
    return list(encoder.patch_tokens(torch.stack(pictures)).split([len(references) for references in clips]))


def embed_conditions(clips: Sequence[dict[str, Any]], spec: ConditionSpec, text: TextEncoder, image: ImageEncoder) -> list[dict[str, Any]]:
    """The conditions rows of clips: text_LD without padding, reference_NPC, and words_LD, the product's words alone, where the manifest
    names them. Equal texts are embedded once."""
    dtype = DTYPES[spec.dtype]
    prompts = [embedded_prompt(clip, spec.product_words) for clip in clips]
    each = list(dict.fromkeys([*prompts, *(words for clip in clips if (words := clip.get("product_words")))]))
    texts = dict(zip(each, (t.to(dtype).cpu().contiguous() for t in text.embed(each, spec.max_text_tokens)), strict=True))
    rows = []
    for start in range(0, len(clips), CLIPS_A_BATCH):
        batch = clips[start : start + CLIPS_A_BATCH]
        references = reference_tokens([clip["references"] for clip in batch], spec.image_size, image)
        for clip, prompt, tokens in zip(batch, prompts[start:], references, strict=False):
            tensors = {
                "text_LD": texts[prompt],
                "text_length": torch.tensor(len(texts[prompt])),
                "reference_NPC": tokens.to(dtype).cpu().clone(),
            }
            if words := clip.get("product_words"):
                tensors["words_LD"] = texts[words].clone()  # safetensors refuses two names for one tensor
            rows.append({"clip_key": clip["clip_key"], "usable": True, "reason": None, "tensors": save(tensors)})
    return rows
