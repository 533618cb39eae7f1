"""The trained tensors by name: LoRA with diffusers' keys and reference adapter apart, or together. Light: any array will do."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TypeVar

Array = TypeVar("Array")
PROBE = "reference_probe."  # names of the tensors that a stage trains for its loss alone
#: What stands beside the transformer, of every injection (pvtt_model/reference/injection.py: Injection.parts).
PARTS = ("resampler.", "class_projection.", "semantic_resampler.", "reference_net.")


def split_trainable(tensors: Mapping[str, Array]) -> tuple[dict[str, Array], dict[str, Array]]:
    """(LoRA with diffusers' names, reference adapter) of the teacher's trainable tensors. Raises ValueError for a name that is neither.

    The probe of objective.reference_recon_weight is trained beside them and left out here: nothing after training reads it.
    """
    lora: dict[str, Array] = {}
    adapter: dict[str, Array] = {}
    for name, tensor in tensors.items():
        if name.startswith(PROBE):
            continue
        if ".lora_" in name:  # diffusers' names: DoRA's magnitudes end without .weight
            lora[re.sub(r"(\.lora_magnitude_vector)\.default\.weight$|\.default(?=\.)", r"\1", name)] = tensor
        elif name.startswith(PARTS):
            adapter[name] = tensor
        elif ".processor." in name:
            adapter[name.removeprefix("transformer.")] = tensor
        else:
            raise ValueError(f"'{name}' is trained but is neither LoRA nor reference adapter.")
    return lora, adapter


def join_trainable(lora: Mapping[str, Array], adapter: Mapping[str, Array]) -> dict[str, Array]:
    """The inverse of split_trainable."""
    joined = {}
    for name, tensor in lora.items():
        name = re.sub(r"(\.lora_magnitude_vector)$", r"\1.weight", name)
        joined[re.sub(r"\.(lora_[AB]|lora_magnitude_vector)\.", r".\1.default.", name)] = tensor
    for name, tensor in adapter.items():
        joined[name if name.startswith(PARTS) else f"transformer.{name}"] = tensor
    return joined
