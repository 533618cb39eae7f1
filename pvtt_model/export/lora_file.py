"""A LoRA as a safetensors file, in any tool's format; bytes repeat for equal input."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save

from pvtt_model.export.lora_formats import LoraFormat, format_of, read_layers, some, write_layers
from pvtt_model.low_rank.layers import LowRankLayer
from pvtt_model.specs import LoraSpec


def read_tensors(path: str | Path) -> dict[str, torch.Tensor]:
    """Tensors of a safetensors file. Raises ValueError where it is not one, is empty, or holds a value that is not finite."""
    try:
        tensors = load_file(str(path))
    except SafetensorError as error:
        raise ValueError(f"{path} is not a safetensors file ({error}). Pickled weights are not read: they can run code.") from None
    if not tensors:
        raise ValueError(f"{path} holds no tensor. Export the trained weights again.")
    bad = [key for key, tensor in tensors.items() if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all())]
    if bad:
        raise ValueError(f"{path} holds values that are not finite in {some(bad)}. A diverged checkpoint is not released; use an earlier one.")
    return tensors


def read_lora(path: str | Path) -> tuple[LoraFormat, dict[str, LowRankLayer]]:
    """(the file's format, its updates by diffusers' module path). Raises ValueError like read_tensors and read_layers."""
    tensors = read_tensors(path)
    with safe_open(str(path), "pt") as file:
        metadata = file.metadata()
    return format_of(tensors), read_layers(tensors, metadata)


def lora_bytes(layers: Mapping[str, LowRankLayer], format: LoraFormat) -> bytes:
    """The file's bytes. Raises ValueError like write_layers."""
    tensors, metadata = write_layers(layers, format)
    return _sorted_header(save({k: v.contiguous() for k, v in tensors.items()}, metadata=metadata))


def trained_layers(tensors: Mapping[str, torch.Tensor], spec: LoraSpec) -> dict[str, LowRankLayer]:
    """The updates of a checkpoint (diffusers' names, no alpha of its own) that was trained by `spec`, with the alphas of that.

    Raises ValueError for other names, and where a module's rank or kind is not the recipe's.
    """
    layers = read_layers(tensors, wanted="diffusers")
    wanted = {module: spec.layer_of(module) for module in layers}
    strange = [module for module, layer in wanted.items() if layer is None]
    if strange:
        raise ValueError(f"LoRA modules {some(strange)} are none of the recipe's targets {list(spec.targets)}.")
    others = [f"{module}: {layers[module].rank}" for module, layer in wanted.items() if layer and layers[module].rank != spec.rank_of(layer)]
    if others:
        raise ValueError(f"LoRA ranks in the file differ from the recipe's {spec.rank}: {some(others)}.")
    if any((layer.magnitude_O is not None) != (spec.kind == "dora") for layer in layers.values()):
        raise ValueError(f"the recipe's low rank is of kind '{spec.kind}', the file's is not. Release it with its own recipe.")
    return {module: layers[module]._replace(alpha=float(spec.alpha_of(str(wanted[module])))) for module in layers}


def _sorted_header(data: bytes) -> bytes:
    """The same file with its metadata in order: safetensors writes it in a hash map's order, which changes from run to run."""
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    ordered = {"__metadata__": header.pop("__metadata__"), **header}
    text = json.dumps(ordered, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + data[8 + length :]
