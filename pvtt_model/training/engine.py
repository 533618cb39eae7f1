"""What a strategy does for the loop, and the choice of one: DeepSpeed's ZeRO, FSDP2, DDP, or one plain process. The loop is the same for all.

    engine = build_engine(teacher, parallel, optim, first_step, steps)
    for each step:  engine.set_lr(step);  for each micro-batch:  engine.backward(loss of engine.forward(...));  engine.grad_norm()

Each library is imported by its own strategy alone: DDP and FSDP2 do not load DeepSpeed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from pvtt_model.specs import OptimSpec, ParallelSpec
from pvtt_model.training.host_copies import Copy, fresh
from pvtt_model.training.pieces import Master, load_pieces, pieces_of
from pvtt_model.training.schedule import lr_at
from pvtt_model.training.teacher import Teacher


class Engine(Protocol):
    """A teacher under a strategy: forward, backward, step, and the state of both."""

    teacher: Teacher

    @property
    def device(self) -> torch.device: ...

    @property
    def replicated(self) -> bool:
        """Whether every rank holds the whole state of the optimizer; then rank 0 alone writes it."""
        ...

    def set_lr(self, step: int) -> float:
        """The rate of step `step`, set on the optimizer."""
        ...

    def forward(self, *args: Any) -> Tensor: ...

    def backward(self, loss: Tensor) -> None:
        """One micro-batch, its loss divided by the accumulation; with the last of a step clip, and step."""
        ...

    def grad_norm(self) -> float:
        """Norm before clipping of the step just taken, over all ranks."""
        ...

    def trained(self, teacher: torch.nn.Module, copy: Copy = fresh) -> dict[str, Tensor]:
        """The trained tensors as the network computes with them, whole, float32 on the CPU; every rank must call it."""
        ...

    def masters(self) -> list[Master]:
        """What this rank's AdamW steps on."""
        ...

    def backward_and_drop(self, loss: Tensor) -> None:
        """The last micro-batch of a step that is to change nothing: no parameter, no moment, no count of steps. Every rank must call it."""
        ...

    @property
    def dropped(self) -> bool:
        """Whether the step just taken changed nothing, by backward_and_drop or as its gradient is not finite; the same on every rank."""
        ...

    def rank_state(self, copy: Copy = fresh) -> dict[str, Tensor]:
        """Copies of this rank's share of masters and moments, by the parameters' names; see pieces.py."""
        ...

    def load_rank(self, path: Path) -> None:
        """Restore this rank's share from its file `path`, and from those of other ranks beside it where the layout was another one.

        Raises ValueError where they do not hold all of it.
        """
        ...


class StatefulEngine:
    """What all strategies do alike: the rate, and the state by the parameters' names."""

    adamw: torch.optim.Optimizer
    replicated: bool
    optim: OptimSpec
    steps: int

    def masters(self) -> list[Master]:
        raise TypeError(f"{type(self).__name__} does not say what its AdamW steps on")

    def set_lr(self, step: int) -> float:
        lr = lr_at(step, self.optim, self.steps)
        for group in self.adamw.param_groups:
            group["lr"] = lr
        return lr

    def rank_state(self, copy: Copy = fresh) -> dict[str, Tensor]:
        idle = self.replicated and torch.distributed.is_initialized() and torch.distributed.get_rank() > 0
        return pieces_of([] if idle else self.masters(), self.adamw, copy)

    def load_rank(self, path: Path) -> None:
        load_pieces(self.masters(), self.adamw, sorted(path.parent.glob("rank*.safetensors")))


def adamw_of(parameters: list[torch.nn.Parameter], optim: OptimSpec) -> torch.optim.AdamW:
    """torch's AdamW; fused where the recipe says so (one kernel for all parameters: other last bits, fewer passes over memory)."""
    return torch.optim.AdamW(
        parameters, lr=optim.lr, betas=(optim.beta1, optim.beta2), weight_decay=optim.weight_decay, fused=True if optim.fused else None
    )


def build_engine(teacher: Teacher, parallel: ParallelSpec, optim: OptimSpec, first_step: int, steps: int) -> Engine:
    """The teacher under parallel.strategy, about to take step `first_step` of `steps`. Every rank must call it."""
    match parallel.strategy:
        case "deepspeed":
            from pvtt_model.training.deepspeed_engine import DeepSpeedEngine

            return DeepSpeedEngine(teacher, parallel, optim, first_step, steps)
        case "fsdp2":
            from pvtt_model.training.fsdp_engine import FsdpEngine

            return FsdpEngine(teacher, parallel, optim, first_step, steps)
        case "ddp":
            from pvtt_model.training.ddp_engine import DdpEngine

            return DdpEngine(teacher, parallel, optim, first_step, steps)
        case "one":
            from pvtt_model.training.torch_engine import TorchEngine

            return TorchEngine(teacher, parallel, optim, first_step, steps)
