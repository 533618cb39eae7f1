"""OpenCLIP for CLIP-I and CLIP-T, and for reference tokens. arXiv:2103.00020, 2212.07143."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import open_clip
import torch
from torch import Tensor
from torch.nn.functional import interpolate, normalize

from pvtt_model.backbones.source import architecture_of, frozen, label, load_strictly, part_folder, read_safetensors, seeded, weight_files
from pvtt_model.specs import ModelSpec


class ClipModel:
    """Images and texts into one space of unit vectors, without gradients. `name` is to stand beside every number made with it."""

    def __init__(self, model: Any, name: str, side: int, context_length: int) -> None:
        self.model, self.name, self.side = model, name, side
        self._tokenize = open_clip.SimpleTokenizer(context_length=context_length)
        self._mean = torch.tensor(open_clip.OPENAI_DATASET_MEAN).view(1, 3, 1, 1)
        self._std = torch.tensor(open_clip.OPENAI_DATASET_STD).view(1, 3, 1, 1)

    def to(self, device: torch.device | str) -> ClipModel:
        self.model.to(device)
        return self

    @torch.no_grad()
    def embed_images(self, images_BCHW: Tensor, unit: bool = True) -> Tensor:
        """Square images (B, 3, S, S), RGB in [0, 1], as vectors (B, D), of length 1 where `unit`; resized to the model's side (bicubic, antialiased).

        Raises ValueError for images that are not square: the caller chooses between cutting and letterbox.
        """
        images = self._prepared(images_BCHW)
        found = self.model.encode_image(images)
        return normalize(found, dim=-1) if unit else found

    @torch.no_grad()
    def reference_tokens(self, images_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """Of images as `embed_images` takes them, the tokens before the last block (B, 1 + P, C), class token first and the P patches in rows,
        and `embed_images` (B, D), in one pass.

        The tokens are what IP-Adapter-Plus reads (arXiv:2308.06721; hidden_states[-2] in transformers), no norm applied: more of the picture is
        left in them than after the block that gathers it into the embedding.
        """
        before_last = len(self.model.visual.transformer.resblocks) - 2
        found = self.model.forward_intermediates(
            self._prepared(images_BCHW), image_indices=[before_last], image_output_fmt="NLC", image_output_extra_tokens=True
        )
        return torch.cat([found["image_intermediates_prefix"][0], found["image_intermediates"][0]], dim=1), found["image_features"]

    def _prepared(self, images_BCHW: Tensor) -> Tensor:
        if images_BCHW.dim() != 4 or images_BCHW.shape[1] != 3 or images_BCHW.shape[2] != images_BCHW.shape[3]:
            raise ValueError(f"images have shape {tuple(images_BCHW.shape)}; {self.name} takes (B, 3, S, S). Use letterbox(image, {self.side}).")
        low, high = images_BCHW.aminmax()
        if low < -0.001 or high > 1.001:
            raise ValueError(f"images lie in [{low:.3g}, {high:.3g}]; {self.name} takes [0, 1]. Divide uint8 by 255.")
        images = images_BCHW.to(self.model.logit_scale)
        if images.shape[-1] != self.side:
            images = interpolate(images, size=(self.side, self.side), mode="bicubic", antialias=True).clamp(0, 1)
        return (images - self._mean.to(images)) / self._std.to(images)

    @torch.no_grad()
    def embed_texts(self, texts: list[str], unit: bool = True) -> Tensor:
        """Texts as vectors (N, D), of length 1 where `unit`. CLIP reads 77 tokens; what is longer is cut, as in every CLIP score."""
        found = self.model.encode_text(self._tokenize(texts).to(self.model.logit_scale.device))
        return normalize(found, dim=-1) if unit else found


def clip_config(config: dict[str, Any]) -> dict[str, Any]:
    """open_clip's keyword arguments: its own by model_name, or those of a nano architecture as they are."""
    if "model_name" not in config:
        return config
    known = open_clip.get_model_config(config["model_name"])
    if known is None:
        raise ValueError(f"open_clip knows no model '{config['model_name']}'. Valid: {', '.join(open_clip.list_models())}.")
    return known


def load_clip(spec: ModelSpec, folder: Path | None, dtype: torch.dtype = torch.float32) -> ClipModel:
    """The model of `spec`: random from its seed where `folder` is None, else from the folder's open_clip safetensors."""
    arch, seed = architecture_of(spec, "clip", folder)
    config = clip_config(arch.config)
    if seed is not None:
        with seeded(seed):
            model = open_clip.CLIP(**config)
    else:
        assert folder is not None
        part = part_folder(folder, "clip")
        state = read_safetensors(weight_files(part, spec.sha256))
        model = open_clip.CLIP(**config)
        load_strictly(model, state, part)
    context = int(config["text_cfg"].get("context_length", 77))
    return ClipModel(frozen(model.to(dtype)), label(spec), int(config["vision_cfg"]["image_size"]), context)
