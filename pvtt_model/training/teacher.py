"""The teacher: a Wan transformer of any kind with LoRA and the reference adapter. Those two are trained, or what TrainSpec.trained names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from pvtt_model.backbones.architectures import Kind, architecture, clip_channels
from pvtt_model.backbones.conditioning import kind_of, velocity
from pvtt_model.backbones.dit import load_transformer
from pvtt_model.low_rank.attach import attach_low_rank
from pvtt_model.objectives.rectified_flow import TIMESTEPS
from pvtt_model.reference.features import ReferenceFeatures
from pvtt_model.reference.injection import Encoded, build_injection
from pvtt_model.specs import BackboneSpec, LoraSpec, ReferenceSpec
from pvtt_model.training.trained_tensors import ADAPTER, BACKBONE, LORA, Part, join_trainable, part_of, parts_of, plain


class Teacher(nn.Module):
    """forward(noisy latents, noise level, text, the kind's context, reference features) -> velocity.

    reference_scale: of what the reference adds in the layers; 0 leaves the base's answer (with LoRA). path_scales: times that, the scales of the
    injection dual_path's two sets of tokens. trained: what gets gradients, as TrainSpec.trained says; LoRA and adapter are there in any case, and
    do nothing until they are trained. kind: None takes what the transformer's class and channels tell; TI2V-5B's 'ti2v' has to be said.
    """

    reconstructed_B2C: Tensor  # of the last forward pass, where objectives.reference_reconstruction.attach_probe was here

    def __init__(
        self,
        transformer: nn.Module,
        reference: ReferenceSpec,
        lora: LoraSpec,
        image_width: int,
        seed: int,
        trained: Iterable[str] = ("lora", "adapter"),
        kind: Kind | None = None,
        *,
        clip_width: int | None = None,
    ) -> None:
        super().__init__()
        self.reference_scale, self.path_scales = 1.0, (1.0, 1.0)
        self.kind: Kind = kind or kind_of(transformer)
        self.reads_image = transformer.config.image_dim is not None  # type: ignore[union-attr]
        self.trained_parts = parts_of(trained)
        if "vace" in trained and self.kind != "vace":
            raise ValueError(f"train.trained names 'vace', but a {self.kind} transformer has no VACE blocks. Name 'all', or leave it out.")
        transformer.requires_grad_(False)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.words = reference.space == "words"
            self.injection = build_injection(transformer, reference, image_width, clip_width)
            for name, part in self.injection.parts.items():
                self.add_module(name, part)
            attach_low_rank(transformer, lora)
        self.transformer = transformer
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(part_of(name) in self.trained_parts)
        self.published: dict[str, Tensor] = {}  # the backbone's own values where a checkpoint brought others; see load_trainable

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

    @torch.no_grad()
    def swap_published(self) -> None:
        """Put the backbone's values of before the checkpoint back, and keep the checkpoint's in their stead; again, and it is as it was."""
        own = {plain(name): p for name, p in self.named_parameters()} if self.published else {}
        for name, values in self.published.items():
            self.published[name] = own[name].detach().cpu().clone()
            own[name].copy_(values)

    def forward(
        self,
        noisy_BCFHW: Tensor,
        sigma_B: Tensor,
        text_BLD: Tensor,
        control_BMFHW: Tensor,
        reference: ReferenceFeatures,
        has_reference_B: Tensor,
        image_BNC: Tensor | None = None,
    ) -> Tensor:
        """The predicted velocity, shaped as the latents.

        control, image: as backbones.conditioning.velocity takes them, e.g. VACE's context, inactive and reactive latents and 64 mask channels
        (M = 2 z + 64). reference: what the injection reads of all pictures of a clip. has_reference 0 drops the reference of a sample, so
        the base model answers.
        """
        self.give_reference(self.encode_reference(reference, text_BLD, noisy_BCFHW.shape[2]), has_reference_B)
        return velocity(self.transformer, self.kind, noisy_BCFHW, sigma_B * TIMESTEPS, text_BLD, control_BMFHW, image_BNC)


def build_teacher(
    backbone: BackboneSpec,
    reference: ReferenceSpec,
    lora: LoraSpec,
    image_encoder: str,
    folder: Path | None,
    dtype: torch.dtype,
    seed: int,
    trained: Iterable[str] = ("lora", "adapter"),
    clip_encoder: str | None = None,
) -> Teacher:
    """A fresh teacher: the frozen backbone (from `folder`, or from its seed where that is None), adapter and LoRA at their start.

    image_encoder, clip_encoder: names of the architectures whose tokens the injection reads. dtype: of all but LoRA, which peft keeps in float32.
    """
    image_width = architecture(image_encoder, "image").config["width"]
    clip_width = None if clip_encoder is None else clip_channels(clip_encoder)
    teacher = Teacher(
        load_transformer(backbone, folder, dtype), reference, lora, image_width, seed, trained, architecture(backbone.architecture).kind,
        clip_width=clip_width,
    )  # fmt: skip
    for name, parameter in teacher.named_parameters():
        if part_of(name) == "adapter":
            parameter.data = parameter.data.to(dtype)
    return teacher


def load_trainable(
    teacher: Teacher, tensors: Mapping[str, Tensor], *, partial: bool = False, parts: Iterable[Part] | None = None, keep_published: bool = False
) -> dict[str, list[str]]:
    """Copy `tensors` into the teacher's parameters of `parts`: those that it trains and those that `tensors` are of, unless said.

    Every parameter of them must be met by name and shape, else ValueError naming those that are not. With `partial` (the
    stage before was of another size) what fits is taken, and the answer lists what was 'loaded', 'fresh' and 'unused'.
    keep_published: what the backbone's own weights were is kept on the CPU, so that editing.sample.bare_backbone can put it back.
    """
    wanted = teacher.trained_parts | {part_of(name) for name in tensors} if parts is None else frozenset(parts)
    own = {plain(name): p for name, p in teacher.named_parameters() if part_of(name) in wanted}
    tensors = {plain(name): tensor for name, tensor in tensors.items()}
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
            if keep_published and part_of(name) in ("vace", "base"):
                teacher.published[name] = own[name].detach().cpu().clone()
            own[name].copy_(tensors[name])
    return {"loaded": sorted(fits), "fresh": fresh, "unused": unused}


def load_trainable_files(paths: Mapping[str, Any]) -> dict[str, Tensor]:
    """The tensors of a checkpoint artifact's safetensors files, by the files' names (trained_tensors)."""
    return join_trainable(*(load_file(paths[name]) if name in paths else None for name in (LORA, ADAPTER, BACKBONE)))
