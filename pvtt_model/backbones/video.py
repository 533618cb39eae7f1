"""Video networks exported as TorchScript, whose features a Fréchet video distance is taken between: I3D elsewhere, nano-video here."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from pvtt_model.backbones.source import architecture_of, label
from pvtt_model.backbones.torchscript import load_torchscript
from pvtt_model.specs import ModelSpec

#: The published I3D export answers with class probabilities unless asked for features, and would scale and resize once more.
I3D_FLAGS = {"rescale": False, "resize": False, "return_features": True}


class VideoFeatures:
    """Clips to features, without gradients. `name` is to stand beside every number made with it."""

    def __init__(self, model: torch.jit.ScriptModule, name: str, width: int, least_frames: int) -> None:
        self.model, self.name, self.width, self.least_frames = model, name, width, least_frames
        known = {argument.name for argument in model.forward.schema.arguments}  # type: ignore[attr-defined]
        self._flags = {flag: value for flag, value in I3D_FLAGS.items() if flag in known}

    def to(self, device: torch.device | str) -> VideoFeatures:
        self.model.to(device)
        return self

    @torch.no_grad()
    def embed(self, clips_NCTHW: Tensor) -> Tensor:
        """Clips (N, 3, T, H, W), RGB in [-1, 1], as (N, width) float32. Raises ValueError for other shapes, too few frames, or another range."""
        shape = tuple(clips_NCTHW.shape)
        if len(shape) != 5 or shape[1] != 3 or shape[2] < self.least_frames:
            raise ValueError(f"clips have shape {shape}; {self.name} takes (N, 3, T, H, W) with T of {self.least_frames} or more.")
        if clips_NCTHW.abs().max() > 1.001:
            raise ValueError(f"clips go up to {float(clips_NCTHW.abs().max()):.3g}; {self.name} takes [-1, 1]. Divide uint8 by 127.5, less 1.")
        device = next((p.device for p in self.model.parameters()), clips_NCTHW.device)
        features: Tensor = self.model(clips_NCTHW.to(device), **self._flags)
        return features.float()


def load_video_features(spec: ModelSpec, folder: Path | None) -> VideoFeatures:
    """The TorchScript network of `spec`. Raises ValueError without a hash or with a wrong one, FileNotFoundError where the folder has not one .pt."""
    arch, seed = architecture_of(spec, "video", folder)
    if seed is not None or folder is None:
        raise ValueError(f"'{spec.architecture}' is exported code and cannot be made from a seed. Set `weights`, e.g. 'nano:video'.")
    model = load_torchscript(Path(folder), spec.sha256)
    return VideoFeatures(model, label(spec), int(arch.config["width"]), int(arch.config["least_frames"]))
