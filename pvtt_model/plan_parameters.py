"""Parameters of a stage, counted on the meta device: shapes of the published classes and of the teacher itself, no weights and no memory."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import nn

from pvtt_model.backbones.architectures import architecture
from pvtt_model.backbones.dit import build_on_meta
from pvtt_model.low_rank.nf4 import QUANTISED
from pvtt_model.specs import LoraSpec, ReferenceSpec, StageSpec
from pvtt_model.training.teacher import Teacher
from pvtt_model.training.trained_tensors import part_of


@dataclass(frozen=True)
class Trained:
    """Counts of what is trained. reference_encoder: beside the backbone, what makes of the pictures what its layers read (the resampler).
    reference_kv: in its layers, what reads it. backbone: its own weights, where those are trained."""

    lora: int
    reference_encoder: int
    reference_kv: int
    backbone: int = 0

    @property
    def total(self) -> int:
        return self.lora + self.reference_encoder + self.reference_kv + self.backbone


@dataclass(frozen=True)
class Parameters:
    """Counts of one stage. Frozen: base and vace, without what of them is trained. block_linear: of the published ones, the weights of the
    blocks' linear layers, which QLoRA keeps in 4 bits."""

    base: int
    vace: int
    lora: int
    reference_encoder: int
    reference_kv: int
    backbone: int
    largest_block: int
    block_linear: int = 0

    @property
    def frozen(self) -> int:
        return self.base + self.vace

    @property
    def trained(self) -> int:
        return self.lora + self.reference_encoder + self.reference_kv + self.backbone


def count_parameters(stage: StageSpec, image_width: int, clip_width: int | None = None) -> Parameters:
    """All counts of a stage; image_width and clip_width are the channel counts of the image encoder and of conditions.clip_encoder."""
    counted = _counted(stage.backbone.architecture, stage.reference, stage.lora, image_width, clip_width, stage.train.trained)
    t = counted.trained
    return Parameters(*counted.frozen, t.lora, t.reference_encoder, t.reference_kv, t.backbone, counted.largest_block, counted.block_linear)


def trained_parameters(
    backbone: str,
    reference: ReferenceSpec,
    lora: LoraSpec,
    image_width: int,
    clip_width: int | None = None,
    trained: tuple[str, ...] = ("lora", "adapter"),
) -> Trained:
    """What a teacher of that backbone trains, counted on the teacher itself. Raises ValueError where it cannot be built so."""
    return _counted(backbone, reference, lora, image_width, clip_width, trained).trained


def frozen_parameters(backbone: str) -> tuple[int, int]:
    """(base, VACE's branch) of a published backbone, nothing of it trained."""
    counts = {True: 0, False: 0}
    for name, parameter in build_on_meta(backbone).named_parameters():
        counts[name.startswith("vace_")] += parameter.numel()
    return counts[False], counts[True]


@dataclass(frozen=True)
class _Counted:
    trained: Trained
    frozen: tuple[int, int]
    largest_block: int
    block_linear: int


@lru_cache(maxsize=64)
def _counted(backbone: str, reference: ReferenceSpec, lora: LoraSpec, image_width: int, clip_width: int | None, trained: tuple[str, ...]) -> _Counted:
    """The teacher of a backbone, built on the meta device and counted by its parameters' names. A 4-bit base counts as what it stands for."""
    transformer = build_on_meta(backbone)
    blocks = [*transformer.blocks, *getattr(transformer, "vace_blocks", ())]
    largest = max(sum(p.numel() for p in block.parameters()) for block in blocks)
    linear = sum(m.weight.numel() for name, m in transformer.named_modules() if isinstance(m, nn.Linear) and QUANTISED.match(name))
    with torch.device("meta"):
        whole = lora.model_copy(update={"quantize": None})
        teacher = Teacher(transformer, reference, whole, image_width, 0, trained, architecture(backbone).kind, clip_width=clip_width)
    counts = dict.fromkeys(("base", "vace", "lora", "reference_encoder", "reference_kv", "backbone"), 0)
    for name, parameter in teacher.named_parameters():
        if parameter.requires_grad or part_of(name) in ("base", "vace"):
            counts[_column(name, parameter.requires_grad)] += parameter.numel()
    base, vace = counts.pop("base"), counts.pop("vace")
    return _Counted(Trained(**counts), (base, vace), largest, linear)


def _column(name: str, trained: bool) -> str:
    part = part_of(name)
    if part in ("base", "vace"):
        return "backbone" if trained else part
    if part == "adapter":
        return "reference_kv" if name.startswith("transformer.") else "reference_encoder"
    return part


def dit_width(config: dict[str, Any]) -> int:
    return int(config["num_attention_heads"] * config["attention_head_dim"])
