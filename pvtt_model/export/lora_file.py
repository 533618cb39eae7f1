"""The LoRA file that diffusers reads: key names, ranks, and alpha in the file's metadata. Safetensors only; bytes repeat for equal input."""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save

#: transformer.blocks.N.attn1.to_q.lora_A.weight and its like; VACE's own blocks are vace_blocks.N.
_KEY = re.compile(r"transformer\.((?:vace_)?blocks\.\d+\.(?:attn[12]\.(?:to_[qkv]|to_out\.0)|ffn\.net\.(?:0\.proj|2)))\.lora_([AB])\.weight")
_SHOWN = 8


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
        raise ValueError(f"{path} holds values that are not finite in {_some(bad)}. A diverged checkpoint is not released; use an earlier one.")
    return tensors


def lora_modules(tensors: Mapping[str, torch.Tensor]) -> dict[str, int]:
    """Rank by module path (blocks.0.attn1.to_q). Raises ValueError naming the keys that are not diffusers', have no partner, or differ in rank."""
    bad = [key for key in tensors if "default" in key or not _KEY.fullmatch(key)]
    if bad:
        raise ValueError(
            f"LoRA keys {_some(bad)} are not diffusers' names for Wan. Wanted: transformer.blocks.N.attn1.to_q.lora_A.weight "
            "(attn1, attn2: to_q, to_k, to_v, to_out.0; ffn: net.0.proj, net.2), without 'default'."
        )
    ranks: dict[str, int] = {}
    for key, tensor in tensors.items():
        module, half = _KEY.fullmatch(key).groups()  # type: ignore[union-attr]
        partner = f"transformer.{module}.lora_{'B' if half == 'A' else 'A'}.weight"
        if partner not in tensors:
            raise ValueError(f"LoRA key '{key}' has no partner '{partner}'. Export both halves of every module.")
        if tensor.ndim != 2:
            raise ValueError(f"LoRA tensor '{key}' has shape {tuple(tensor.shape)}; a linear layer's is a matrix.")
        rank = tensor.shape[0 if half == "A" else 1]
        if ranks.setdefault(module, rank) != rank:
            raise ValueError(f"LoRA module '{module}' has ranks {ranks[module]} and {rank} in its halves. Export it again.")
    return ranks


def lora_bytes(tensors: Mapping[str, torch.Tensor], rank: int, alpha: int) -> bytes:
    """The file's bytes with the LoraConfig that diffusers restores (r, lora_alpha, target_modules), so that alpha unlike rank is not lost.

    Raises ValueError for wrong keys, or where a module's rank is not `rank`.
    """
    ranks = lora_modules(tensors)
    others = {module: r for module, r in ranks.items() if r != rank}
    if others:
        raise ValueError(f"LoRA ranks in the file differ from the recipe's {rank}: {_some([f'{m}: {r}' for m, r in others.items()])}.")
    config = {"transformer.r": rank, "transformer.lora_alpha": alpha, "transformer.target_modules": sorted(ranks)}
    metadata = {"format": "pt", "lora_adapter_metadata": json.dumps(config, sort_keys=True)}
    return _sorted_header(save({k: v.contiguous() for k, v in tensors.items()}, metadata=metadata))


def _sorted_header(data: bytes) -> bytes:
    """The same file with its metadata in order: safetensors writes it in a hash map's order, which changes from run to run."""
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    ordered = {"__metadata__": header.pop("__metadata__"), **header}
    text = json.dumps(ordered, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + data[8 + length :]


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{sorted(names)[:_SHOWN]}{more}"
