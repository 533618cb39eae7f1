"""RAFT by torchvision: where each pixel of a frame goes in the next. arXiv:2003.12039."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.models import optical_flow

from pvtt_model.backbones.source import architecture_of, frozen, label, load_strictly, part_folder, read_safetensors, weight_files
from pvtt_model.specs import ModelSpec

CELL = 8  # px: RAFT works on an eighth of the picture
LEAST_SIDE = 128  # px: four halvings of its correlation volume


class FlowModel:
    """Pairs of frames to flow, without gradients. `name` is to stand beside every number made with it."""

    def __init__(self, model: Any, name: str, updates: int = 12) -> None:
        self.model, self.name, self.updates = model, name, updates

    def to(self, device: torch.device | str) -> FlowModel:
        self.model.to(device)
        return self

    @torch.no_grad()
    def flow(self, from_BCHW: Tensor, to_BCHW: Tensor) -> Tensor:
        """(B, 2, H, W): x and y in pixels by which what stands at a pixel of `from` has moved in `to`. Frames: RGB in [0, 1], any size.

        Sides that are no eighths, or under 128 px, are padded by their edge (RAFT's own InputPadder), and the padding is cut off again.
        Raises ValueError for unlike shapes or another range.
        """
        if from_BCHW.shape != to_BCHW.shape or from_BCHW.dim() != 4 or from_BCHW.shape[1] != 3:
            raise ValueError(f"frames have shapes {tuple(from_BCHW.shape)} and {tuple(to_BCHW.shape)}; {self.name} takes (B, 3, H, W) twice.")
        if max(float(from_BCHW.max()), float(to_BCHW.max())) > 1.001:
            raise ValueError(f"frames go up to {float(from_BCHW.max()):.3g}; {self.name} takes [0, 1]. Divide uint8 by 255.")
        height, width = from_BCHW.shape[-2:]
        down, across = (max(LEAST_SIDE, -(-side // CELL) * CELL) - side for side in (height, width))
        edges = (across // 2, across - across // 2, down // 2, down - down // 2)
        one, other = (F.pad(frames.to(next(self.model.parameters())) * 2 - 1, edges, mode="replicate") for frames in (from_BCHW, to_BCHW))
        flow = self.model(one, other, num_flow_updates=self.updates)[-1]
        return flow[..., edges[2] : edges[2] + height, edges[0] : edges[0] + width].float()


def build_flow_model(config: dict[str, Any]) -> Any:
    """torchvision's RAFT of an architecture's config, random weights."""
    return getattr(optical_flow, config["model_name"])(weights=None)


def load_flow(spec: ModelSpec, folder: Path | None) -> FlowModel:
    """The model of `spec` from a safetensors with torchvision's names. Raises ValueError for a seed: random flow says nothing."""
    arch, seed = architecture_of(spec, "flow", folder)
    if seed is not None or folder is None:
        raise ValueError(f"'{spec.architecture}' cannot be made from a seed: a random network's flow says nothing. Set `weights` to a folder.")
    part = part_folder(folder, "flow")
    with torch.device("meta"):
        model = build_flow_model(arch.config)
    load_strictly(model, read_safetensors(weight_files(part, spec.sha256)), part, assign=True)
    return FlowModel(frozen(model), label(spec))
