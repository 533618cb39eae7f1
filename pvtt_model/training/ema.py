"""An exponential moving average of the trained tensors, in float32, each rank keeping that of its own share of them.

Of step t, from 0: average += (1 - d_t) (value - average), with d_t = min(decay, (1 + t) / (10 + t)), so that the start, which nobody wants, is
forgotten in short trainings too (the warm-up of TensorFlow's ExponentialMovingAverage with num_updates). The values are AdamW's float32 masters.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from pvtt_model.training.engine import Engine
from pvtt_model.training.pieces import gathered


def decay_at(step: int, decay: float) -> float:
    """The share of the average that step `step` (from 0) leaves: 0.1, 0.18, 0.25, ... up to `decay`."""
    return min(decay, (1 + step) / (10 + step))


class Ema:
    """The average of what `engine` trains, from its values now on. `path`: a file that save's tensors were written to, to go on from."""

    def __init__(self, engine: Engine, decay: float, path: Path | None = None) -> None:
        self.engine, self.decay = engine, decay
        self.averages = [master.tensor.detach().float().clone() for master in engine.masters()]
        if path is not None:
            self._load(path)

    @torch.no_grad()
    def update(self, step: int) -> None:
        """After the optimizer's step `step`."""
        for average, master in zip(self.averages, self.engine.masters(), strict=True):
            average.lerp_(master.tensor.detach(), 1 - decay_at(step, self.decay))

    def tensors(self) -> dict[str, Tensor]:
        """The averages by the parameters' names, whole, float32 on the CPU; every rank must call it."""
        return dict(gathered(self.engine.masters(), self.averages, self.engine.teacher.trainable(), self.engine.device, self.engine.replicated))

    def _load(self, path: Path) -> None:
        with safe_open(path, framework="pt") as file:
            for average, master in zip(self.averages, self.engine.masters(), strict=True):
                flat = average.view(-1)
                for piece in master.pieces:
                    flat[piece.at : piece.at + piece.size] = file.get_tensor(piece.name).flatten()[piece.start : piece.start + piece.size]
