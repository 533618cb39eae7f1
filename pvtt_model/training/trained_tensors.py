"""The trained tensors by name: LoRA with diffusers' keys, reference adapter and the backbone's own apart, or together. Light: any array will do."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Literal, NamedTuple, TypeVar

Array = TypeVar("Array")
Part = Literal["lora", "adapter", "vace", "base"]
PROBE = "reference_probe."  # names of the tensors that a stage trains for its loss alone: no file keeps them

#: A checkpoint artifact's files. The backbone's is there where its own weights were trained.
ADAPTER, LORA, BACKBONE = "reference_adapter.safetensors", "pytorch_lora_weights.safetensors", "backbone.safetensors"


class Split(NamedTuple):
    """lora: diffusers' names. adapter: this project's. backbone: names of the diffusers transformer, VACE's blocks or all of it."""

    lora: dict
    adapter: dict
    backbone: dict

    def files(self) -> dict[str, dict]:
        """The tensors by file; a part without tensors has no file."""
        return {name: tensors for name, tensors in zip((LORA, ADAPTER, BACKBONE), self, strict=True) if tensors}


def part_of(name: str) -> Part:
    """What a teacher's parameter belongs to. vace: VACE's blocks and their embedding; base: all else of the transformer."""
    if ".lora_" in name:
        return "lora"
    if not name.startswith("transformer.") or ".processor." in name:
        return "adapter"
    return "vace" if name.startswith("transformer.vace_") else "base"


def parts_of(trained: Iterable[str]) -> frozenset[Part]:
    """The parts that the setting `trained` names: 'all' is the adapter-free transformer whole, vace and base."""
    named = {"lora": ("lora",), "adapter": ("adapter",), "vace": ("vace",), "all": ("vace", "base")}
    return frozenset(part for choice in trained for part in named[choice])  # type: ignore[misc]


def plain(name: str) -> str:
    """The parameter's name without the layer that peft wraps round it."""
    return name.replace(".base_layer.", ".")


def split_trainable(tensors: Mapping[str, Array]) -> Split:
    """The teacher's trained tensors by the file that they are kept in."""
    found = Split({}, {}, {})
    for name, tensor in tensors.items():
        if name.startswith(PROBE):
            continue
        match part_of(name):
            case "lora":
                # diffusers' names: DoRA's magnitudes end without .weight
                found.lora[re.sub(r"(\.lora_magnitude_vector)\.default\.weight$|\.default(?=\.)", r"\1", name)] = tensor
            case "adapter":
                found.adapter[name.removeprefix("transformer.")] = tensor
            case _:
                found.backbone[plain(name).removeprefix("transformer.")] = tensor
    return found


def join_trainable(
    lora: Mapping[str, Array] | None = None, adapter: Mapping[str, Array] | None = None, backbone: Mapping[str, Array] | None = None
) -> dict[str, Array]:
    """The inverse of split_trainable, but for `base_layer`, which plain() takes out."""
    joined: dict[str, Array] = {}
    for name, tensor in (lora or {}).items():
        name = re.sub(r"(\.lora_magnitude_vector)$", r"\1.weight", name)
        joined[re.sub(r"\.(lora_[AB]|lora_magnitude_vector)\.", r".\1.default.", name)] = tensor
    for name, tensor in (adapter or {}).items():
        joined[f"transformer.{name}" if name.startswith(("blocks.", "vace_blocks.")) else name] = tensor
    return joined | {f"transformer.{name}": tensor for name, tensor in (backbone or {}).items()}
