"""Wan-VACE, the video diffusion transformer, frozen; and any architecture on the meta device. arXiv:2503.20314, 2503.07598."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel, WanVACETransformer3DModel

from pvtt_model.backbones.architectures import architecture
from pvtt_model.backbones.source import (
    architecture_of,
    frozen,
    part_folder,
    refuse_mismatch,
    refuse_other_config,
    seeded,
    weight_files,
)
from pvtt_model.specs import BackboneSpec


def load_transformer(spec: BackboneSpec, folder: Path | None, dtype: torch.dtype = torch.float32) -> WanVACETransformer3DModel:
    """The frozen transformer of `spec`, eval mode: random from its seed where `folder` is None, else from a diffusers folder
    (transformer/ or the folder itself).

    Norms, time embedder and modulation tables stay float32 at any dtype, as diffusers loads them. diffusers starts no layer of
    Wan-VACE at zero (the released training code zeroes VACE's proj_out), so a random model answers to each of its inputs.
    """
    arch, seed = architecture_of(spec, "dit", folder)
    model: Any  # diffusers' classes come without types
    if seed is not None:
        with seeded(seed):
            model = (WanVACETransformer3DModel if arch.kind == "vace" else WanTransformer3DModel)(**arch.config)
        _cast(model, dtype)
    else:
        assert folder is not None
        part = part_folder(folder, "dit")
        weight_files(part, spec.sha256)
        model, info = WanVACETransformer3DModel.from_pretrained(
            part, torch_dtype=dtype, use_safetensors=True, local_files_only=True, output_loading_info=True
        )
        refuse_mismatch(info["missing_keys"], info["unexpected_keys"], part)
        refuse_other_config(model.config, arch.config, part, spec.architecture)
    return frozen(model)


def _cast(model: Any, dtype: torch.dtype) -> None:
    keep = model._keep_in_fp32_modules
    for name, parameter in model.named_parameters():
        if not any(part in name.split(".") for part in keep):
            parameter.data = parameter.data.to(dtype)


def build_on_meta(name: str) -> Any:
    """The architecture's module on the meta device: shapes and names without memory. A 14B takes seconds and no bytes of weights.

    Raises ValueError for SAM 2, whose classes read tensors' values while they are made, and for video networks, which are exported code.
    """
    arch = architecture(name)
    if arch.family == "sam2":
        raise ValueError(f"'{name}' cannot stand on the meta device: SAM 2 reads values while it is made. Load it (pvtt_model.backbones.sam2).")
    if arch.family == "video":
        raise ValueError(f"'{name}' is exported code and has no class to build. Load it (pvtt_model.backbones.video).")
    with torch.device("meta"):
        match arch.family:
            case "dit":
                return (WanVACETransformer3DModel if arch.kind == "vace" else WanTransformer3DModel)(**arch.config)
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
