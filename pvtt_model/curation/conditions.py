"""The frozen embeddings of a clip: its prompt and its reference pictures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from pvtt_model.backbones.clip import ClipModel
from pvtt_model.backbones.image import ImageEncoder, letterbox
from pvtt_model.backbones.text import TextEncoder
from pvtt_model.curation.augment import augmented
from pvtt_model.curation.frames import DTYPES
from pvtt_model.curation.prompts import replaced
from pvtt_model.curation.variants import variant_name
from pvtt_model.data.captions import Caption, caption_of
from pvtt_model.data.video_io import read_picture
from pvtt_model.specs import ConditionSpec

CLIP_TOKENS, CLIP_EMBEDDING = "clip_NPC", "clip_ND"  # of variant 0; variant_name tells the others'
CLASS_TOKENS = "reference_NC"  # where spec.class_tokens asks for it; of variant 0 too
CLIPS_A_BATCH = 16  # whose pictures go through the image encoder together
NAMELESS = "product"


def embedded_caption(clip: dict[str, Any], spec: ConditionSpec) -> Caption:
    """The caption that spec.captions chooses, as the manifest has it. Where its product's words are to be hidden, it is one that holds them."""
    hidden = clip.get("product_words") if spec.product_words == "hide" else None  # shards of before have no such column
    return caption_of(clip, spec.captions, hidden)


def embedded_prompt(clip: dict[str, Any], spec: ConditionSpec) -> str:
    """The text to embed. 'hide' puts 'product' for the manifest's product_words, with the article that goes with it.

    A clip whose manifest names no such words keeps its prompt.
    """
    prompt, words = embedded_caption(clip, spec).text, clip.get("product_words")
    if spec.product_words == "keep" or not words:
        return prompt
    return replaced(prompt, words, NAMELESS)


def reference_tensors(
    clips: Sequence[dict[str, Any]], spec: ConditionSpec, encoder: ImageEncoder, clip_model: ClipModel | None = None
) -> list[dict[str, Tensor]]:
    """Of each clip, by variant of its N pictures, each letterboxed on its own ground: the patch tokens (N, P, C) of the image encoder, and its class
    tokens (N, C) where asked; and where there is a CLIP its tokens (N, 1 + P, C) and unit vectors (N, D). One call of each encoder."""
    of = [(place, variant) for place, clip in enumerate(clips) for variant in range(variants_of(clip, spec))]
    counts = [len(clips[place]["references"]) for place, _ in of]

    def pictures(side: int) -> Tensor:
        return torch.cat([reference_pictures(clips[place], variant, spec, side) for place, variant in of])

    made: dict[str, Tensor] = {}
    made["reference_NPC"], class_tokens = encoder.reference_tokens(pictures(spec.image_size))
    if spec.class_tokens:
        made[CLASS_TOKENS] = class_tokens
    if clip_model is not None:
        made[CLIP_TOKENS], made[CLIP_EMBEDDING] = clip_model.reference_tokens(pictures(clip_model.side))
    found: list[dict[str, Tensor]] = [{} for _ in clips]
    for name, tensor in made.items():
        for (place, variant), part in zip(of, tensor.split(counts), strict=True):
            found[place][variant_name(name, variant)] = part
    return found


def variants_of(clip: dict[str, Any], spec: ConditionSpec) -> int:
    """Clips that the manifest holds out are never trained on: they get the pictures as they are."""
    return 1 if clip.get("split") in ("validation", "eval") else spec.reference_variants


def reference_pictures(clip: dict[str, Any], variant: int, spec: ConditionSpec, side: int | None = None) -> Tensor:
    """A variant of a clip's reference pictures, letterboxed: (N, 3, side, side), RGB in [0, 1]. side: spec.image_size unless given."""
    pictures = [augmented(read_picture(data), spec.augment, clip["clip_key"], variant, i) for i, data in enumerate(clip["references"])]
    return torch.stack([letterbox(picture, side or spec.image_size) for picture in pictures])


def embed_conditions(
    clips: Sequence[dict[str, Any]], spec: ConditionSpec, text: TextEncoder, image: ImageEncoder, clip_model: ClipModel | None = None
) -> list[dict[str, Any]]:
    """The conditions rows of clips: text_LD without padding, reference_NPC and its augmented variants, where asked reference_NC and theirs, with a
    CLIP clip_NPC and clip_ND and theirs, and words_LD, the product's words alone, where the manifest names them. Equal texts are embedded once.

    Raises ValueError where spec.clip_encoder names a CLIP and none is given, or the other way round.
    """
    if (spec.clip_encoder is None) != (clip_model is None):
        raise ValueError(f"conditions.clip_encoder is {spec.clip_encoder}, and the CLIP given {clip_model}. Give the one that it names.")
    dtype = DTYPES[spec.dtype]
    prompts = [embedded_prompt(clip, spec) for clip in clips]
    each = list(dict.fromkeys([*prompts, *(words for clip in clips if (words := clip.get("product_words")))]))
    texts = dict(zip(each, (t.to(dtype).cpu().contiguous() for t in text.embed(each, spec.max_text_tokens)), strict=True))
    rows = []
    for start in range(0, len(clips), CLIPS_A_BATCH):
        batch = clips[start : start + CLIPS_A_BATCH]
        references = reference_tensors(batch, spec, image, clip_model)
        for clip, prompt, tokens in zip(batch, prompts[start:], references, strict=False):
            tensors = {
                "text_LD": texts[prompt],
                "text_length": torch.tensor(len(texts[prompt])),
                **{name: tensor.to(dtype).cpu().clone() for name, tensor in tokens.items()},
            }
            if words := clip.get("product_words"):
                tensors["words_LD"] = texts[words].clone()  # safetensors refuses two names for one tensor
            rows.append({"clip_key": clip["clip_key"], "usable": True, "reason": None, "tensors": save(tensors)})
    return rows
