"""One layer's low-rank update as tensors. A mapping from module paths (blocks.0.attn1.to_q) to these is a whole adapter."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class LowRankLayer(NamedTuple):
    """The update of a linear layer with weight W (O, I): W + (alpha / r) up_OR down_RI. LoRA, arXiv:2106.09685.

    With a magnitude (DoRA, arXiv:2402.09353) the new weight is magnitude_O times the direction of that sum, each output's row scaled to
    length 1.
    """

    down_RI: Tensor
    up_OR: Tensor
    alpha: float
    magnitude_O: Tensor | None = None

    @property
    def rank(self) -> int:
        return self.down_RI.shape[0]

    @property
    def scaling(self) -> float:
        return self.alpha / self.rank

    def updated(self, weight_OI: Tensor) -> Tensor:
        """The layer's new weight, computed in float32 and rounded once to the type of `weight_OI`."""
        whole = weight_OI.float() + self.scaling * (self.up_OR.float() @ self.down_RI.float())
        if self.magnitude_O is not None:
            whole = whole * (self.magnitude_O.float() / torch.linalg.vector_norm(whole, dim=1))[:, None]
        return whole.to(weight_OI.dtype)

    def refuse_misfit(self, module: str) -> None:
        """Raises ValueError where the halves are no matrices of one rank, or the magnitude is not one number an output."""
        shapes = tuple(self.down_RI.shape), tuple(self.up_OR.shape)
        if self.down_RI.ndim != 2 or self.up_OR.ndim != 2:
            raise ValueError(f"LoRA of '{module}' has halves of shape {shapes[0]} and {shapes[1]}; a linear layer's are matrices.")
        if self.up_OR.shape[1] != self.rank:
            raise ValueError(f"LoRA module '{module}' has ranks {self.rank} and {self.up_OR.shape[1]} in its halves. Export it again.")
        if self.magnitude_O is not None and tuple(self.magnitude_O.shape) != (self.up_OR.shape[0],):
            raise ValueError(f"DoRA magnitude of '{module}' has shape {tuple(self.magnitude_O.shape)}; wanted one number an output: {shapes[1][0]}.")
