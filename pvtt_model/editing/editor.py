"""The editor: a teacher and the frozen models round it, loaded once; and one window of frames edited by them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load
from torch import Tensor

from pvtt_model.backbones.architectures import architecture
from pvtt_model.backbones.clip import ClipModel, load_clip
from pvtt_model.backbones.image import ImageEncoder, load_image_encoder
from pvtt_model.backbones.sam2 import load_sam2
from pvtt_model.backbones.text import TextEncoder, load_text_encoder
from pvtt_model.backbones.vae import VideoAutoencoder, load_vae
from pvtt_model.curation.conditions import embed_conditions
from pvtt_model.curation.frames import DTYPES, to_frames, to_model
from pvtt_model.curation.i2v_context import FIRST, IMAGE, first_latents, first_tokens
from pvtt_model.curation.latents import vace_contexts
from pvtt_model.curation.providers import MaskModels
from pvtt_model.curation.variants import stored_context
from pvtt_model.editing.edit import edit_inputs, read_pictures
from pvtt_model.editing.sample import EditInputs, Experts, each_of, latent_mask, sample_variants
from pvtt_model.nano.shipped import shipped_folder
from pvtt_model.reference.features import PictureFeatures
from pvtt_model.specs import EditorSpec, EditSpec, ModelSpec, PartnerSpec
from pvtt_model.training.teacher import Teacher, build_teacher, load_trainable
from pvtt_model.training.trained_tensors import part_of

Weights = Callable[[ModelSpec], Path | None]


def local_folder(spec: ModelSpec) -> Path | None:
    """Weights that are on this machine: shipped ones, a folder, None for a seed. Raises ValueError for what would have to be fetched."""
    if spec.weights.startswith("nano:"):
        return shipped_folder(spec.weights)
    if spec.weights.startswith("seed:"):
        return None
    if "://" in spec.weights:
        raise ValueError(
            f"weights '{spec.weights}' are not on this machine. Set `weights` to a folder, or pass weights=a function that fetches them."
        )
    return Path(spec.weights).expanduser()


@dataclass(frozen=True)
class Editor:
    """Everything that is loaded. trained: what the adapter is, e.g. 'releases/3f..' or 'untrained', for the record."""

    spec: EditorSpec
    teacher: Teacher | Experts
    vae: VideoAutoencoder
    text: TextEncoder
    image: ImageEncoder
    clip: ClipModel | None
    first_frame_clip: ClipModel | None
    masks: MaskModels
    trained: str

    @property
    def device(self) -> torch.device:
        return next(each_of(self.teacher)[0].parameters()).device

    def conditions(self, references: Sequence[bytes], prompt: str, product_words: str | None = None) -> dict[str, Tensor]:
        """The tensors of a conditions row, as curation makes it: text_LD, reference_NPC and what else the spec asks for."""
        clip = {
            "clip_key": "edit",
            "split": "eval",
            "prompt": prompt,
            "product_words": product_words,
            "metadata": "{}",
            "references": list(references),
        }
        (row,) = embed_conditions([clip], self.spec.conditions, self.text, self.image, self.clip)
        return load(row["tensors"])

    def text_LD(self, prompt: str) -> Tensor:
        """The embedding of a text, e.g. of the empty or the negative prompt."""
        (tokens,) = self.text.embed([prompt], self.spec.conditions.max_text_tokens)
        return tokens.to(DTYPES[self.spec.conditions.dtype]).cpu()

    def pictures(self, conditions: Mapping[str, Tensor], references: Sequence[bytes], size: tuple[int, int]) -> PictureFeatures:
        """What the teacher reads of the pictures that `conditions` are of, for frames of `size` (H, W): once an edit, whatever its windows."""
        return read_pictures(self.teacher, conditions, references, size, self.spec.latents, self.vae)

    def inputs(self, frames_TCHW: Tensor, mask_THW: Tensor, text_LD: Tensor, pictures: PictureFeatures, empty_text_LD: Tensor) -> EditInputs:
        """Of frames at the model's size (uint8) and the widened mask, through the VAE and the storage's precision as in training."""
        spec = self.spec.latents
        latents, (context,) = vace_contexts(frames_TCHW, [mask_THW], spec, self.vae)
        tensors = {"latents_CFHW": latents, **stored_context({name: t.cpu() for name, t in context.items()}, 0)}
        if spec.first_frame:
            tensors[FIRST] = first_latents(self.vae, to_model(frames_TCHW)[:, 0], len(frames_TCHW))
        if self.first_frame_clip is not None:
            tensors[IMAGE] = first_tokens(self.first_frame_clip, frames_TCHW[0])
        stored = {name: (t if t.dtype == torch.uint8 else t.to(DTYPES[spec.dtype])).cpu() for name, t in tensors.items()}
        made = latent_mask(mask_THW, self.vae.space_stride)
        return edit_inputs(self.teacher, stored, text_LD, empty_text_LD, made, pictures)

    def sample(self, inputs: EditInputs, edit: EditSpec, seed: int, on_step: Callable[[], None] | None = None) -> Tensor:
        """The edited frames at the model's size, uint8 T,C,H,W. Raises FloatingPointError where they are not finite."""
        sampled = sample_variants(self.teacher, inputs, ("edit",), edit, self.spec.conditions.max_text_tokens, seed, on_step)
        return to_frames(self.vae.decode(sampled["edit"][None])[0].cpu())


def load_editor(
    spec: EditorSpec,
    tensors: Mapping[str, Tensor] | None = None,
    *,
    partner: Mapping[str, Tensor] | None = None,
    trained: str = "untrained",
    weights: Weights = local_folder,
    device: torch.device | str = "cpu",
) -> Editor:
    """The editor of `spec`. tensors: the trained ones by name (trained_tensors.join_trainable); None leaves adapter and LoRA at their start,
    where the base answers. partner: the same of the other expert, where there are two. weights: where a frozen model's files
    are. Raises ValueError where tensors and spec do not fit."""
    clip = spec.conditions.clip_encoder

    def network(of: EditorSpec | PartnerSpec, trained_tensors: Mapping[str, Tensor] | None) -> Teacher:
        dtype = torch.bfloat16 if spec.precision == "bfloat16" else torch.float32
        names = spec.conditions.image_encoder.architecture, clip.architecture if clip else None
        made = build_teacher(of.backbone, of.reference, of.lora, names[0], weights(of.backbone), dtype, seed=0, clip_encoder=names[1])
        if trained_tensors is not None:
            load_trainable(made, trained_tensors, parts={part_of(name) for name in trained_tensors})
        return made.to(device).eval()

    teacher: Teacher | Experts = network(spec, tensors)
    if spec.partner is not None:
        boundary = architecture(spec.backbone.architecture, "dit").boundary
        assert boundary is not None and isinstance(teacher, Teacher)
        pair = (teacher, network(spec.partner, partner))
        teacher = Experts(*(pair if spec.backbone.expert == "high" else pair[::-1]), boundary)

    def loaded(load_model: Callable[[Any, Path | None], Any]) -> Callable[[ModelSpec], Any]:
        return cache(lambda model: load_model(model, weights(model)).to(device))

    image, clips, conditions = loaded(load_image_encoder), loaded(load_clip), spec.conditions
    return Editor(
        spec=spec,
        teacher=teacher,
        vae=loaded(load_vae)(spec.latents.vae),
        text=loaded(load_text_encoder)(conditions.text_encoder),
        image=image(conditions.image_encoder),
        clip=clips(clip) if clip else None,
        first_frame_clip=clips(spec.latents.first_frame_clip) if spec.latents.first_frame_clip else None,
        masks=MaskModels(image, loaded(load_sam2)),
        trained=trained,
    )
