"""A LoRA's tensors under the names that each tool reads, and back. One layer of block N, rank r, alpha a:

    diffusers   transformer.blocks.N.attn1.to_q.lora_A.weight, .lora_B.weight; rank and alpha in the file's metadata; DoRA's
                .lora_magnitude_vector
    comfyui     diffusion_model.blocks.N.self_attn.q.lora_down.weight, .lora_up.weight, .alpha
    diffsynth   blocks.N.self_attn.q.lora_A.default.weight, .lora_B.default.weight; .alpha where it is not r
    original    blocks.N.self_attn.q.lora_A.weight, .lora_B.weight, .alpha: module names of github.com/Wan-Video/Wan2.1 (and VACE)

Sources: diffusers 0.42 loaders/lora_pipeline.py; ComfyUI comfy/lora.py and comfy/weight_adapter/lora.py; DiffSynth-Studio 2
diffsynth/utils/lora/general.py. No tensor is changed, so that going there and back gives every bit again.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, Literal, TypeVar, get_args

import torch
from torch import Tensor

from pvtt_model.low_rank.layers import LowRankLayer

LoraFormat = Literal["diffusers", "comfyui", "diffsynth", "original"]
Number = TypeVar("Number", int, float)
FORMATS: tuple[LoraFormat, ...] = get_args(LoraFormat)
METADATA = "lora_adapter_metadata"  # diffusers' name for the LoraConfig within a file's metadata
_SHOWN = 8

_PROJECTIONS = {"to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "o"}
_IMAGE = {"add_k_proj": "k_img", "add_v_proj": "v_img"}
#: A block's linear layers: diffusers' name -> the original repository's.
_ORIGINAL = {
    **{f"attn1.{ours}": f"self_attn.{theirs}" for ours, theirs in _PROJECTIONS.items()},
    **{f"attn2.{ours}": f"cross_attn.{theirs}" for ours, theirs in (_PROJECTIONS | _IMAGE).items()},
    **{"ffn.net.0.proj": "ffn.0", "ffn.net.2": "ffn.2"},
    **{"proj_in": "before_proj", "proj_out": "after_proj"},  # of VACE's blocks
}
_DIFFUSERS = {theirs: ours for ours, theirs in _ORIGINAL.items()}
_BLOCK = re.compile(r"((?:vace_)?blocks\.\d+)\.(.+)")
_HALVES = {"lora_A": "down", "lora_down": "down", "lora_B": "up", "lora_up": "up"}
_ENDS = r"(?:lora_A|lora_B|lora_down|lora_up)(?:\.default)?\.weight|alpha|lora_magnitude_vector(?:\.weight)?|dora_scale"
_KEY = re.compile(rf"(transformer\.|diffusion_model\.)?((?:vace_)?blocks\.\d+\..+?)\.({_ENDS})")
_WANTED = (
    "diffusers: transformer.blocks.N.attn1.to_q.lora_A.weight; comfyui: diffusion_model.blocks.N.self_attn.q.lora_down.weight; "
    "diffsynth: blocks.N.self_attn.q.lora_A.default.weight; original: blocks.N.self_attn.q.lora_A.weight"
)


def format_of(keys: Iterable[str]) -> LoraFormat:
    """Whose names the keys of a file are. Raises ValueError that shows keys of none or of several formats, and names all four."""
    by_format: dict[LoraFormat | None, list[str]] = {}
    for key in sorted(keys):
        by_format.setdefault(_format(key), []).append(key)
    if "original" in by_format and "diffsynth" in by_format:  # an alpha has the same name in both
        by_format["diffsynth"] += [k for k in by_format["original"] if k.endswith(".alpha")]
        by_format["original"] = [k for k in by_format["original"] if not k.endswith(".alpha")]
    found = {name: own for name, own in by_format.items() if own}
    if len(found) == 1 and None not in found:
        return next(name for name in found if name is not None)
    seen = {name or "unknown": some(own, 3) for name, own in found.items()}
    raise ValueError(f"LoRA keys are not of one known format: {seen or 'there are none'}. Known: {_WANTED}.")


def read_layers(
    tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None, wanted: LoraFormat | None = None
) -> dict[str, LowRankLayer]:
    """The updates by diffusers' module path (blocks.0.attn1.to_q), of a file in any of the formats.

    Where the file names no alpha it is the rank, as each tool takes it. Raises ValueError for keys of another format than `wanted`, a half
    without its other, halves of two ranks, and a DoRA of another tool (see write_layers).
    """
    format = format_of(tensors)
    if wanted is not None and format != wanted:
        raise ValueError(f"LoRA keys {some(list(tensors), 3)} are the names of {format}, not of {wanted}. Convert the file first: pvtt export.")
    parts: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        _, module, end = _KEY.fullmatch(key).groups()  # type: ignore[union-attr]  # format_of has matched it
        if end == "dora_scale":
            raise ValueError(f"'{key}' is a DoRA of ComfyUI's kind, {_OTHER_NORM}. Load it there.")
        part = _HALVES.get(end.partition(".")[0], end.partition(".")[0])
        parts.setdefault(module if format == "diffusers" else _renamed(module, _DIFFUSERS), {})[part] = tensor
    config = _config(metadata)
    layers = {}
    for module, own in parts.items():
        if not {"down", "up"} <= own.keys():
            raise ValueError(f"LoRA module '{module}' has no partner to its {sorted(own)}. Export both halves of every module.")
        alpha = float(own["alpha"]) if "alpha" in own else _alpha(config, module, own["down"].shape[0])
        layers[module] = LowRankLayer(own["down"], own["up"], alpha, own.get("lora_magnitude_vector"))
        layers[module].refuse_misfit(module)
    return layers


def write_layers(layers: Mapping[str, LowRankLayer], format: LoraFormat) -> tuple[dict[str, Tensor], dict[str, str]]:
    """(tensors, metadata) of a file in `format`. Raises ValueError for a DoRA in a format other than diffusers', and for unknown modules."""
    if not layers:
        raise ValueError("there is no LoRA layer to write. Train or load one first.")
    if format not in FORMATS:
        raise ValueError(f"no LoRA format '{format}'. Formats: {', '.join(FORMATS)}.")
    if format != "diffusers" and any(layer.magnitude_O is not None for layer in layers.values()):
        why = f"ComfyUI has a place for magnitudes (dora_scale), {_OTHER_NORM}" if format == "comfyui" else "its names have no place for magnitudes"
        raise ValueError(f"a DoRA cannot be written in format '{format}': {why}. Export the merged model, or format 'diffusers'.")
    tensors: dict[str, Tensor] = {}
    for module, layer in layers.items():
        other = _renamed(module, _ORIGINAL)
        prefix = {"diffusers": f"transformer.{module}", "comfyui": f"diffusion_model.{other}"}.get(format, other)
        down, up = ("lora_down", "lora_up") if format == "comfyui" else ("lora_A", "lora_B")
        end = ".default.weight" if format == "diffsynth" else ".weight"
        tensors |= {f"{prefix}.{down}{end}": layer.down_RI, f"{prefix}.{up}{end}": layer.up_OR}
        if format in ("comfyui", "original") or (format == "diffsynth" and layer.alpha != layer.rank):
            tensors[f"{prefix}.alpha"] = torch.tensor(layer.alpha, dtype=torch.float32)
        if layer.magnitude_O is not None:
            tensors[f"{prefix}.lora_magnitude_vector"] = layer.magnitude_O
    metadata = {"format": "pt"}
    if format == "diffusers":
        metadata[METADATA] = json.dumps(_lora_config(layers), sort_keys=True)
    return tensors, metadata


#: Checked in comfy/weight_adapter/base.py, weight_decompose, of ComfyUI 0.3.77.
_OTHER_NORM = "whose update is divided by the length of the base's weight; arXiv:2402.09353 and peft divide by that of the updated one"


def _format(key: str) -> LoraFormat | None:
    found = _KEY.fullmatch(key)
    if found is None:
        return None
    prefix, module, end = found.groups()
    layer = _BLOCK.fullmatch(module)[2]  # type: ignore[index]
    if prefix == "transformer.":
        halves = ("lora_A.weight", "lora_B.weight", "lora_magnitude_vector", "lora_magnitude_vector.weight")
        return "diffusers" if layer in _ORIGINAL and end in halves else None
    if layer not in _DIFFUSERS or end.startswith("lora_magnitude_vector"):
        return None
    if prefix == "diffusion_model.":
        return "comfyui"
    return "diffsynth" if ".default." in end else "original"


def _renamed(module: str, names: Mapping[str, str]) -> str:
    block, layer = _BLOCK.fullmatch(module).groups() if _BLOCK.fullmatch(module) else ("", "")  # type: ignore[union-attr]
    if layer not in names:
        raise ValueError(f"'{module}' is no linear layer of a Wan block. Known: {', '.join(names)}.")
    return f"{block}.{names[layer]}"


def _lora_config(layers: Mapping[str, LowRankLayer]) -> dict[str, Any]:
    """peft's LoraConfig as diffusers restores it, each key after 'transformer.'. Commonest rank and alpha for all, others by module."""
    rank, alpha = commonest([layer.rank for layer in layers.values()]), commonest([layer.alpha for layer in layers.values()])
    patterns = {
        "rank_pattern": {f"^{re.escape(m)}": layer.rank for m, layer in layers.items() if layer.rank != rank},
        "alpha_pattern": {f"^{re.escape(m)}": _number(layer.alpha) for m, layer in layers.items() if layer.alpha != alpha},
        "use_dora": any(layer.magnitude_O is not None for layer in layers.values()),
    }
    config = {"r": rank, "lora_alpha": _number(alpha), "target_modules": sorted(layers), **{k: v for k, v in patterns.items() if v}}
    return {f"transformer.{key}": value for key, value in config.items()}


def _config(metadata: Mapping[str, str] | None) -> dict[str, Any]:
    """The LoraConfig in a file's metadata, empty where there is none. Raises ValueError where its scaling is not alpha / rank."""
    text = (metadata or {}).get(METADATA)
    config = {} if text is None else {key.removeprefix("transformer."): value for key, value in json.loads(text).items()}
    if config.get("use_rslora"):
        raise ValueError("the LoRA is scaled by alpha / sqrt(rank) (rsLoRA), which the other tools do not know. Merge it into its base instead.")
    return config


def _alpha(config: Mapping[str, Any], module: str, rank: int) -> float:
    for pattern, alpha in config.get("alpha_pattern", {}).items():
        if re.match(rf"(.*\.)?({pattern})$", module):  # as peft matches
            return float(alpha)
    return float(config.get("lora_alpha", rank))


def commonest(values: list[Number]) -> Number:
    """The value that occurs most often; of several, the greatest, so that order does not matter."""
    counts = Counter(values)
    return max(counts, key=lambda value: (counts[value], value))


def _number(value: float) -> float | int:
    return int(value) if value == int(value) else value


def some(names: list[str], most: int = _SHOWN) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return f"{sorted(names)[:most]}{more}"
