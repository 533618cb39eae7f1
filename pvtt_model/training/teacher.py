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
from pvtt_model.reference.features import ReferenceFeatures
from pvtt_model.reference.injection import Encoded, build_injection
from pvtt_model.specs import BackboneSpec, LoraSpec, ReferenceSpec
from pvtt_model.training.trained_tensors import join_trainable


class Teacher(nn.Module):
    """forward(noisy latents, noise level, text, VACE context, reference features) -> velocity.

    reference_scale: of what the reference adds in the layers; 0 leaves the base's answer (with LoRA). path_scales: times that, the scales of the
    injection dual_path's two sets of tokens.
    """

    def __init__(
        self, transformer: nn.Module, reference: ReferenceSpec, lora: LoraSpec, image_width: int, seed: int, *, clip_width: int | None = None
    ) -> None:
        super().__init__()
        self.reference_scale, self.path_scales = 1.0, (1.0, 1.0)
        transformer.requires_grad_(False)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.words = reference.space == "words"
            self.injection = build_injection(transformer, reference, image_width, clip_width)
            for name, part in self.injection.parts.items():
                self.add_module(name, part)
            attach_low_rank(transformer, lora)
        self.transformer = transformer
        for name, parameter in transformer.named_parameters():
            if ".processor." in name:
                parameter.requires_grad_(True)

    def trainable(self) -> dict[str, nn.Parameter]:
        """Everything trained, by name."""
        return {name: p for name, p in self.named_parameters() if p.requires_grad}

    def encode_reference(self, reference: ReferenceFeatures, text_BLD: Tensor, num_frames: int) -> Encoded:
        """What no denoising step changes of the references, for give_reference: tensors with a row a sample.

        text_BLD: as the transformer takes it; num_frames: latent frames of the video.
        """
        return self.injection.encode(self.transformer, reference, text_BLD, num_frames)

    def give_reference(self, encoded: Encoded | None, present_B: Tensor | None) -> None:
        """Lay it where the transformer's layers read it, for the samples where present_B is not 0; None: no reference."""
        self.resampled_BND = encoded[0] if encoded is not None and self.words else None
        scales = (self.reference_scale * self.path_scales[0], self.reference_scale * self.path_scales[1])
        self.injection.lay(self.transformer, encoded, present_B, scales)

    def forward(
        self,
        noisy_BCFHW: Tensor,
        sigma_B: Tensor,
        text_BLD: Tensor,
        control_BMFHW: Tensor,
        reference: ReferenceFeatures,
        has_reference_B: Tensor,
    ) -> Tensor:
        """The predicted velocity, shaped as the latents.

        control: VACE's context, inactive and reactive latents and 64 mask channels (M = 2 z + 64). reference: what the injection reads
        of all pictures of a clip. has_reference 0 drops the reference of a sample, so the base model answers.
        """
        self.give_reference(self.encode_reference(reference, text_BLD, noisy_BCFHW.shape[2]), has_reference_B)
        return self.transformer(
            hidden_states=noisy_BCFHW,
            timestep=sigma_B * TIMESTEPS,
            encoder_hidden_states=text_BLD,
            control_hidden_states=control_BMFHW,
            return_dict=False,
        )[0]


def build_teacher(
    backbone: BackboneSpec,
    reference: ReferenceSpec,
    lora: LoraSpec,
    image_encoder: str,
    folder: Path | None,
    dtype: torch.dtype,
    seed: int,
    clip_encoder: str | None = None,
) -> Teacher:
    """A fresh teacher: the frozen backbone (from `folder`, or from its seed where that is None), adapter and LoRA at their start.

    image_encoder, clip_encoder: names of the architectures whose tokens the injection reads. dtype: of all but LoRA, which peft keeps in float32.
    """
    image_width = architecture(image_encoder, "image").config["width"]
    clip_width = None if clip_encoder is None else architecture(clip_encoder, "clip").config["vision_cfg"]["width"]
    teacher = Teacher(load_transformer(backbone, folder, dtype), reference, lora, image_width, seed, clip_width=clip_width)
    for name, parameter in teacher.trainable().items():
        if ".lora_" not in name:
            parameter.data = parameter.data.to(dtype)
    return teacher


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
