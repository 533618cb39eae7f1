"""Wan's video diffusion transformers, with or without VACE's branch, frozen; and any architecture on the meta device.

arXiv:2503.20314, 2503.07598. Loaded from diffusers' folders, and from the original repositories' files, whose keys are renamed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel, WanVACETransformer3DModel
from safetensors import safe_open

from pvtt_model.backbones.architectures import Architecture, architecture, refuse_wrong_expert
from pvtt_model.backbones.original_keys import is_original, to_diffusers
from pvtt_model.backbones.source import (
    architecture_of,
    frozen,
    load_strictly,
    part_folder,
    refuse_mismatch,
    refuse_other_config,
    seeded,
    weight_files,
)
from pvtt_model.specs import BackboneSpec

CLASSES: dict[str, Any] = {f"diffusers.{c.__name__}": c for c in (WanTransformer3DModel, WanVACETransformer3DModel)}
#: A field of the original's config.json, and what it is of ours. The rest (window_size, text_len, eps) is the same in every published one.
_ORIGINAL_FIELDS = {"in_dim": "in_channels", "out_dim": "out_channels", "ffn_dim": "ffn_dim", "freq_dim": "freq_dim", "num_layers": "num_layers"}
_ORIGINAL_FIELDS |= {"num_heads": "num_attention_heads", "vace_layers": "vace_layers", "vace_in_dim": "vace_in_channels"}


def load_transformer(spec: BackboneSpec, folder: Path | None, dtype: torch.dtype = torch.float32) -> Any:
    """The frozen transformer of `spec`, eval mode: random from its seed where `folder` is None (the low expert's from the number after, so
    that two experts differ), else from `folder`.

    folder: a diffusers checkpoint (transformer/, of the low expert transformer_2/), the original repository's (its files, or those below
    high_noise_model/ or low_noise_model/), the part's own folder, or a single .safetensors of either. Norms, time embedder and modulation
    tables stay float32 at any dtype, as diffusers loads them. diffusers starts no layer of Wan at zero (VACE's released training code
    zeroes proj_out), so a random model answers to each of its inputs. Raises ValueError where weights, config and architecture differ.
    """
    refuse_wrong_expert(spec.architecture, spec.expert)
    arch, seed = architecture_of(spec, "dit", folder)
    if seed is not None:
        with seeded(seed + (spec.expert == "low")):
            model = CLASSES[arch.library_class](**arch.config)
        for name, parameter in model.named_parameters():
            parameter.data = parameter.data.to(_dtype_of(name, model, dtype))
        return frozen(model)
    assert folder is not None
    part = part_folder(folder, "dit", spec.expert)
    files = weight_files(part, spec.sha256)
    stored = _stored_in(files)
    if part.is_file() or is_original(stored):
        return frozen(_from_files(arch, stored, part, spec.architecture, dtype))
    model, info = CLASSES[arch.library_class].from_pretrained(
        part, torch_dtype=dtype, use_safetensors=True, local_files_only=True, output_loading_info=True
    )
    refuse_mismatch(info["missing_keys"], info["unexpected_keys"], part)
    refuse_other_config(model.config, arch.config, part, spec.architecture)
    return frozen(model)


def _stored_in(files: Sequence[Path]) -> dict[str, Path]:
    """Every key, and the file that holds it."""
    stored: dict[str, Path] = {}
    for file in files:
        with safe_open(file, framework="pt") as opened:
            stored |= dict.fromkeys(opened.keys(), file)
    return stored


def _from_files(arch: Architecture, stored: Mapping[str, Path], part: Path, name: str, dtype: torch.dtype) -> Any:
    """The architecture filled from files of either naming, a tensor at a time: no second copy of the weights is held.

    Files say nothing of the number of heads; the original's config.json beside them does, and is held against the architecture.
    """
    _refuse_other_original((part.parent if part.is_file() else part) / "config.json", arch, name)
    with torch.device("meta"):
        model = CLASSES[arch.library_class](**arch.config)
    # The table of rotations is computed, not stored: on the meta device there was nothing to compute with.
    model.rope = type(model.rope)(model.config.attention_head_dim, model.config.patch_size, model.config.rope_max_seq_len)
    keys = {key: key for key in stored}
    keys = to_diffusers(keys) if is_original(stored) else keys
    unread = model._keys_to_ignore_on_load_unexpected  # what diffusers itself passes over in published files
    keys = {own: key for own, key in keys.items() if not any(part in own for part in unread)}
    state: dict[str, torch.Tensor] = {}
    for file in sorted(set(stored.values())):
        with safe_open(file, framework="pt") as opened:
            for own, key in keys.items():
                if stored[key] == file:
                    state[own] = opened.get_tensor(key).to(_dtype_of(own, model, dtype))
    load_strictly(model, state, part, assign=True)
    return model


def _refuse_other_original(file: Path, arch: Architecture, name: str) -> None:
    """Raises ValueError where a config.json of the original repository contradicts the architecture; another's says nothing of this file."""
    config = json.loads(file.read_text()) if file.is_file() else {}
    if config.get("_class_name") not in ("WanModel", "VaceWanModel"):
        return
    said = {ours: config[theirs] for theirs, ours in _ORIGINAL_FIELDS.items() if theirs in config}
    refuse_other_config(said, {k: v for k, v in arch.config.items() if k in said}, file, name)


def _dtype_of(name: str, model: Any, dtype: torch.dtype) -> torch.dtype:
    """float32 for what diffusers keeps so, else `dtype`."""
    return torch.float32 if any(part in name.split(".") for part in model._keep_in_fp32_modules) else dtype


def build_on_meta(name: str) -> Any:
    """The architecture's module on the meta device: shapes and names without memory. A 14B takes seconds and no bytes of weights.

    Raises ValueError for SAM 2, whose classes read tensors' values while they are made, and for networks that are exported code.
    """
    arch = architecture(name)
    if arch.family == "sam2":
        raise ValueError(f"'{name}' cannot stand on the meta device: SAM 2 reads values while it is made. Load it (pvtt_model.backbones.sam2).")
    if arch.library_class == "torch.jit.ScriptModule":
        raise ValueError(f"'{name}' is exported code and has no class to build. Load it (pvtt_model.backbones.video, inception).")
    with torch.device("meta"):
        match arch.family:
            case "dit":
                return CLASSES[arch.library_class](**arch.config)
            case "vae":
                return AutoencoderKLWan(**arch.config)
            case "text":
                from transformers import UMT5Config, UMT5EncoderModel

                return UMT5EncoderModel(UMT5Config(**arch.config))
            case "image":
                from pvtt_model.backbones.image import build_image_model

                return build_image_model(arch.config)
            case "clip":
                import open_clip

                from pvtt_model.backbones.clip import clip_config

                return open_clip.CLIP(**clip_config(arch.config))
            case "flow":
                from pvtt_model.backbones.flow import build_flow_model

                return build_flow_model(arch.config)
            case "perceptual":
                from pvtt_model.backbones.perceptual import build_perceptual_model

                return build_perceptual_model(arch.config)
            case "inception":
                from pvtt_model.backbones.inception import build_inception

                return build_inception()
