"""A release as a working model: the base with LoRA and reference adapter."""

from __future__ import annotations

from pathlib import Path

import torch

from pvtt_model.export.release import read_index, trained_files
from pvtt_model.nano.shipped import shipped_folder
from pvtt_model.specs import BackboneSpec, LoraSpec, ReferenceSpec
from pvtt_model.training.teacher import Teacher, build_teacher, load_trainable, load_trainable_files
from pvtt_model.training.trained_tensors import part_of


def load_teacher(folder: str | Path, base: str | Path | None = None, dtype: torch.dtype = torch.float32) -> Teacher:
    """The teacher of a release folder, in eval mode on the CPU.

    base: the base model's diffusers folder; it may be left out where the release names random or shipped weights. Every trained tensor must find
    its place and every file have its hash. Raises ValueError otherwise, and where a base is wanted and not given.
    """
    index = read_index(folder)
    backbone = BackboneSpec(**index["base_model"])
    reference = ReferenceSpec(**{name: value for name, value in index["reference"].items() if name in ReferenceSpec.model_fields})
    lora = LoraSpec(**{name: value for name, value in index["lora"].items() if name in LoraSpec.model_fields})
    if base is None and backbone.weights.startswith("nano:"):
        base = shipped_folder(backbone.weights)
    if base is None and not backbone.weights.startswith("seed:"):
        raise ValueError(f"the release is of base '{backbone.weights}' (revision {backbone.revision}). Give base=, the folder it was fetched to.")
    image, clip = index["reference"]["image_encoder"]["architecture"], index["reference"].get("clip_encoder")
    teacher = build_teacher(
        backbone, reference, lora, image, None if base is None else Path(base), dtype, seed=0, clip_encoder=clip and clip["architecture"]
    )
    tensors = load_trainable_files(trained_files(folder))
    load_trainable(teacher, tensors, parts={part_of(name) for name in tensors})
    return teacher.eval()
