"""The trained tensors by name: LoRA with diffusers' keys and reference adapter apart, or together. Light: any array will do."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TypeVar

Array = TypeVar("Array")


def split_trainable(tensors: Mapping[str, Array]) -> tuple[dict[str, Array], dict[str, Array]]:
    """(LoRA with diffusers' names, reference adapter) of the teacher's trainable tensors. Raises ValueError for a name that is neither."""
    lora: dict[str, Array] = {}
    adapter: dict[str, Array] = {}
    for name, tensor in tensors.items():
        if ".lora_" in name:  # diffusers' names: DoRA's magnitudes end without .weight
            lora[re.sub(r"(\.lora_magnitude_vector)\.default\.weight$|\.default(?=\.)", r"\1", name)] = tensor
        elif name.startswith("resampler."):
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
        joined[name if name.startswith("resampler.") else f"transformer.{name}"] = tensor
    return joined
