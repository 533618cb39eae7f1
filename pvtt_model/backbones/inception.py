"""Inception-v3 features of single frames, 2048 numbers each, whose distribution FID compares. arXiv:1512.00567, arXiv:1706.08500.

FID's published numbers belong to one network: TensorFlow's export of 2015-12-05, to be had as TorchScript (`fid-inception`; code, so by
hash alone). torchvision's Inception has other weights and other pooling (`torchvision-inception`): its distances carry its name.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import inception_v3

from pvtt_model.backbones.source import architecture_of, frozen, label, load_strictly, part_folder, read_safetensors, weight_files
from pvtt_model.backbones.torchscript import load_torchscript
from pvtt_model.specs import ModelSpec

SIDE = 299
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class InceptionFeatures:
    """Frames to features, without gradients. `name` is to stand beside every number made with it."""

    def __init__(self, model: Any, name: str, width: int, exported: bool) -> None:
        self.model, self.name, self.width, self._exported = model, name, width, exported

    def to(self, device: torch.device | str) -> InceptionFeatures:
        self.model.to(device)
        return self

    @torch.no_grad()
    def embed(self, images_BCHW: Tensor) -> Tensor:
        """Frames (B, 3, H, W), RGB in [0, 1], as (B, width) float32. The exported network scales and resizes by itself (0 to 255); to torchvision's
        they are given at 299 x 299 (bilinear, antialiased), normalised. Raises ValueError for another range."""
        if float(images_BCHW.max()) > 1.001:
            raise ValueError(f"frames go up to {float(images_BCHW.max()):.3g}; {self.name} takes [0, 1]. Divide uint8 by 255.")
        device = next((p.device for p in self.model.parameters()), images_BCHW.device)
        images_BCHW = images_BCHW.to(device)
        if self._exported:
            features: Tensor = self.model((images_BCHW * 255).round().clamp(0, 255).to(torch.uint8), return_features=True)
            return features.flatten(1).float()
        images = F.interpolate(images_BCHW.float(), size=(SIDE, SIDE), mode="bilinear", align_corners=False, antialias=True)
        mean, std = (torch.tensor(v).view(1, 3, 1, 1).to(images) for v in (_MEAN, _STD))
        return self.model((images - mean) / std).float()


def build_inception() -> Any:
    """torchvision's Inception-v3, random weights, no classes: it answers with the pooled features."""
    model = inception_v3(weights=None, aux_logits=False, transform_input=False, init_weights=False)
    model.fc = nn.Identity()
    return model


def load_inception(spec: ModelSpec, folder: Path | None) -> InceptionFeatures:
    """The network of `spec`: the export by its hash, or torchvision's from a safetensors. Raises ValueError for a seed or what does not fit."""
    arch, seed = architecture_of(spec, "inception", folder)
    if seed is not None or folder is None:
        raise ValueError(f"'{spec.architecture}' cannot be made from a seed. Set `weights` to a folder.")
    part, width = part_folder(folder, "inception"), int(arch.config["width"])
    if arch.library_class == "torch.jit.ScriptModule":
        return InceptionFeatures(load_torchscript(part, spec.sha256), label(spec), width, exported=True)
    state = read_safetensors(weight_files(part, spec.sha256))
    with torch.device("meta"):
        model = build_inception()
    load_strictly(model, {k: v for k, v in state.items() if not k.startswith(("fc.", "AuxLogits."))}, part, assign=True)
    return InceptionFeatures(frozen(model), label(spec), width, exported=False)
