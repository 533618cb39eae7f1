"""The frozen embeddings of a clip: its prompt and its reference pictures."""

from __future__ import annotations

from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from pvtt_model.backbones.image import ImageEncoder, letterbox
from pvtt_model.backbones.text import TextEncoder
from pvtt_model.data.video_io import read_picture
from pvtt_model.specs import ConditionSpec

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def reference_tokens(references: list[bytes], image_size: int, encoder: ImageEncoder) -> Tensor:
    """Patch tokens (N, P, C) of a product's N pictures, each letterboxed on its own ground to image_size."""
    return encoder.patch_tokens(torch.stack([letterbox(read_picture(data), image_size) for data in references]))


def embed_conditions(clip: dict[str, Any], spec: ConditionSpec, text: TextEncoder, image: ImageEncoder) -> dict[str, Any]:
    """The conditions row of one clip: text_LD without padding, and reference_NPC."""
    dtype = _DTYPES[spec.dtype]
    (text_LD,) = text.embed([clip["prompt"]], spec.max_text_tokens)
    tensors = {
        "text_LD": text_LD.to(dtype).cpu().contiguous(),
        "text_length": torch.tensor(len(text_LD)),
        "reference_NPC": reference_tokens(clip["references"], spec.image_size, image).to(dtype).cpu().contiguous(),
    }
    return {"clip_key": clip["clip_key"], "usable": True, "reason": None, "tensors": save(tensors)}
