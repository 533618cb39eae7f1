"""Train one nano model from its seed and save it as its loader reads it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

Progress = Callable[[int, dict[str, float]], None]


def save_model(model: Any, folder: Path, dtype: torch.dtype | None = None) -> None:
    """model.safetensors of a timm model."""
    folder.mkdir(parents=True, exist_ok=True)
    state = {k: (v.to(dtype) if dtype and v.is_floating_point() else v).contiguous() for k, v in model.state_dict().items()}
    save_file(state, folder / "model.safetensors")


def train_dinov2(seed: int, steps: int, folder: Path, progress: Progress) -> dict[str, float]:
    """The ViT that conditions the adapter. Score: unseen products found among 20."""
    from pvtt_model.backbones.architectures import architecture
    from pvtt_model.backbones.image import build_image_model
    from pvtt_model.nano.pretrain.vision import MEAN, STD, retrieval, train_vision

    torch.manual_seed(seed)
    model = build_image_model(architecture("nano-dinov2").config, init_values=1.0)
    train_vision(model, 8, seed, steps, 1e-3, progress)
    save_model(model, folder)
    return retrieval(lambda x: model.forward_features((x - MEAN) / STD)[:, 0], seed)


def train_judge(seed: int, steps: int, folder: Path, progress: Progress) -> dict[str, float]:
    """The ConvNeXt that judges identity. Score: unseen products found among 20."""
    from pvtt_model.backbones.architectures import architecture
    from pvtt_model.backbones.image import build_image_model
    from pvtt_model.nano.pretrain.vision import MEAN, STD, retrieval, train_vision

    torch.manual_seed(seed)
    model = build_image_model(architecture("nano-judge").config)
    train_vision(model, None, seed, steps, 2e-3, progress)
    save_model(model, folder)
    return retrieval(lambda x: model((x - MEAN) / STD), seed)


def train_text(seed: int, steps: int, folder: Path, progress: Progress) -> dict[str, float]:
    """Tokenizer and UMT5 encoder."""
    from pvtt_model.nano.pretrain import text

    return text.train_text(seed, steps, folder, progress)


def train_clip(seed: int, steps: int, folder: Path, progress: Progress) -> dict[str, float]:
    """The CLIP of clip_i and clip_t."""
    from pvtt_model.nano.pretrain import clip

    return clip.train_clip(seed, steps, folder, progress)


def train_video(seed: int, steps: int, folder: Path, progress: Progress) -> dict[str, float]:
    """The network of the Fréchet video distance."""
    from pvtt_model.nano.pretrain import video

    return video.train_video(seed, steps, folder, progress)
