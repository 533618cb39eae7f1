"""The teacher: a frozen Wan-VACE transformer with LoRA and the reference adapter; only those two are trained."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from pvtt_model.backbones.architectures import architecture
from pvtt_model.backbones.dit import load_transformer
from pvtt_model.low_rank.attach import attach_low_rank
from pvtt_model.objectives.rectified_flow import TIMESTEPS
from pvtt_model.reference.attention import attach_reference
from pvtt_model.reference.resampler import PerceiverResampler
from pvtt_model.specs import BackboneSpec, LoraSpec, ReferenceSpec
from pvtt_model.training.trained_tensors import join_trainable


class Teacher(nn.Module):
    """forward(noisy latents, noise level, text, VACE context, reference tokens) -> velocity."""

    def __init__(self, transformer: nn.Module, reference: ReferenceSpec, lora: LoraSpec, image_width: int, seed: int) -> None:
        super().__init__()
        transformer.requires_grad_(False)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.words = reference.space == "words"
            out_width = int(transformer.config.text_dim) if self.words else None  # type: ignore[union-attr,arg-type]
            self.resampler = PerceiverResampler(image_width, reference.width, reference.num_tokens, reference.depth, reference.num_heads, out_width)
            self.shared = attach_reference(
                transformer, None if self.words else reference.width, reference.every_nth_layer, vace_blocks=reference.vace_blocks
            )
            attach_low_rank(transformer, lora)
        self.transformer = transformer
        for name, parameter in transformer.named_parameters():
            if ".processor." in name:
                parameter.requires_grad_(True)

    def trainable(self) -> dict[str, nn.Parameter]:
        """Everything trained, by name."""
        return {name: p for name, p in self.named_parameters() if p.requires_grad}

    def give_reference(self, resampled_BND: Tensor | None, present_B: Tensor | None) -> None:
        """Lay the resampler's answer where the transformer's layers read it, for the samples where present_B is not 0; None: no reference."""
        self.resampled_BND = resampled_BND
        tokens = resampled_BND
        if tokens is not None and self.words:
            tokens = self.transformer.condition_embedder.text_embedder(tokens)  # type: ignore[union-attr,operator]
        self.shared.tokens_BND, self.shared.present_B = tokens, present_B

    def forward(
        self,
        noisy_BCFHW: Tensor,
        sigma_B: Tensor,
        text_BLD: Tensor,
        control_BMFHW: Tensor,
        reference_BPC: Tensor,
        reference_keep_BP: Tensor,
        has_reference_B: Tensor,
    ) -> Tensor:
        """The predicted velocity, shaped as the latents.

        control: VACE's context, inactive and reactive latents and 64 mask channels (M = 2 z + 64). reference: patch tokens of all
        pictures of a clip behind one another, `reference_keep` marking the real ones. has_reference 0 drops the reference of a
        sample, so the base model answers.
        """
        self.give_reference(self.resampler(reference_BPC, reference_keep_BP), has_reference_B)
        return self.transformer(
            hidden_states=noisy_BCFHW,
            timestep=sigma_B * TIMESTEPS,
            encoder_hidden_states=text_BLD,
            control_hidden_states=control_BMFHW,
            return_dict=False,
        )[0]


def build_teacher(
    backbone: BackboneSpec, reference: ReferenceSpec, lora: LoraSpec, image_encoder: str, folder: Path | None, dtype: torch.dtype, seed: int
) -> Teacher:
    """A fresh teacher: the frozen backbone (from `folder`, or from its seed where that is None), adapter and LoRA at their start.

    image_encoder: name of the architecture whose patch tokens the resampler reads.
    """
    image_width = architecture(image_encoder, "image").config["width"]
    return Teacher(load_transformer(backbone, folder, dtype), reference, lora, image_width, seed)


def load_trainable(teacher: Teacher, tensors: Mapping[str, Tensor], *, partial: bool = False) -> dict[str, list[str]]:
    """Copy `tensors` into the teacher's trained parameters.

    Every trained parameter must be met by name and shape, else ValueError naming those that are not. With `partial` (the
    stage before was of another size) what fits is taken, and the answer lists what was 'loaded', 'fresh' and 'unused'.
    """
    own = teacher.trainable()
    fits = {name for name, p in own.items() if name in tensors and tensors[name].shape == p.shape}
    fresh, unused = sorted(set(own) - fits), sorted(set(tensors) - fits)
    if not partial and (fresh or unused):
        raise ValueError(
            f"{len(fits)} of {len(own)} trained tensors match. Missing or of another shape: {fresh[:5]}; not known here: {unused[:5]}. "
            "The checkpoint was made with other reference or LoRA settings; use its own recipe."
        )
    if not fits:
        raise ValueError("no tensor of the stage before fits this one, not even the resampler. Give both stages the same reference.width and depth.")
    with torch.no_grad():
        for name in fits:
            own[name].copy_(tensors[name])
    return {"loaded": sorted(fits), "fresh": fresh, "unused": unused}


def load_trainable_files(lora_path: Any, adapter_path: Any) -> dict[str, Tensor]:
    """The trained tensors of a checkpoint artifact's two safetensors files."""
    return join_trainable(load_file(lora_path), load_file(adapter_path))
