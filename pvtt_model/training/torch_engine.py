"""One plain process under torch alone, and what DDP and FSDP2 share with it: float32 masters, accumulation, clipping, AdamW.

The network computes in parallel.precision. AdamW steps on float32 masters: in float32 these are the parameters themselves, in bfloat16 copies, of
which the parameters are the rounded values. Gradients are summed over the micro-batches in float32.
"""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pvtt_model.specs import OptimSpec, ParallelSpec
from pvtt_model.training.engine import StatefulEngine, adamw_of
from pvtt_model.training.host_copies import Copy, fresh
from pvtt_model.training.pieces import Master, whole
from pvtt_model.training.teacher import Teacher


class TorchEngine(StatefulEngine):
    """strategy 'one': a teacher on one device."""

    replicated = True

    def __init__(self, teacher: Teacher, parallel: ParallelSpec, optim: OptimSpec, first_step: int, steps: int) -> None:
        self.teacher, self.optim, self.steps = teacher, optim, steps
        self.dtype = torch.bfloat16 if parallel.precision == "bfloat16" else torch.float32
        self.grad_accum, self.seen, self.norm, self.dropped = parallel.grad_accum, 0, float("nan"), False
        self.device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0"))) if parallel.accelerator == "gpu" else torch.device("cpu")
        teacher.to(self.device)
        self.parameters = teacher.trainable()
        started = {name: p.detach().float() for name, p in self.parameters.items()}  # LoRA's start is float32 in any case
        self.module = self.laid_out()
        self.parameters = teacher.trainable()  # FSDP2 puts others in their place
        self.steps_on = self.masters_of(started)
        self.adamw = adamw_of([nn.Parameter(master.tensor) for master in self.steps_on], optim)
        own = [p for group in self.adamw.param_groups for p in group["params"]]
        self.steps_on = [master._replace(tensor=p) for master, p in zip(self.steps_on, own, strict=True)]
        self.set_lr(first_step)

    def laid_out(self) -> nn.Module:
        """What forward() calls: the teacher, all of it in the precision of the recipe."""
        return self.teacher.to(self.dtype)

    def masters_of(self, started: dict[str, Tensor]) -> list[Master]:
        """A master a trained parameter: itself where it is float32, else what it was before it was rounded."""
        same = self.dtype == torch.float32
        return [whole(name, p.detach() if same else started[name].clone()) for name, p in self.parameters.items()]

    def masters(self) -> list[Master]:
        return self.steps_on

    def forward(self, *args: Any) -> Tensor:
        return self.module(*args)

    def _accumulate(self, loss: Tensor, drop: bool = False) -> None:
        (loss / self.grad_accum).backward()
        for master, p in zip(self.steps_on, self.parameters.values(), strict=True):
            if p.grad is not None:
                grad = self.local(p.grad).float()
                master.tensor.grad = grad if master.tensor.grad is None else master.tensor.grad.add_(grad)
                p.grad = None
        self.seen += 1
        if self.seen % self.grad_accum == 0 and not drop:
            self.step()
        self.dropped = drop or self.dropped
        if drop:
            self.adamw.zero_grad(set_to_none=True)

    def backward(self, loss: Tensor) -> None:
        self.dropped = False
        self._accumulate(loss)

    def backward_and_drop(self, loss: Tensor) -> None:
        self._accumulate(loss, drop=True)

    def step(self) -> None:
        """Clip by the norm over all ranks, step, and round the parameters anew; drop gradients that are not finite."""
        steps_on = [master.tensor for master in self.steps_on]
        norm = self.over_ranks(nn.utils.get_total_norm([p.grad for p in steps_on if p.grad is not None]))
        self.norm = float(norm)
        if not math.isfinite(self.norm):
            self.dropped = True
            self.adamw.zero_grad(set_to_none=True)
            return
        nn.utils.clip_grads_with_norm_(steps_on, self.optim.grad_clip, norm)
        self.adamw.step()
        self.adamw.zero_grad(set_to_none=True)
        self.lay_down()

    def lay_down(self) -> None:
        """The masters' values into the network's parameters, where those are not the same memory."""
        with torch.no_grad():
            for master, p in zip(self.steps_on, self.parameters.values(), strict=True):
                if master.tensor.data_ptr() != p.data_ptr():
                    p.copy_(master.tensor)

    def local(self, tensor: Tensor) -> Tensor:
        """What of a gradient lies on this rank: all."""
        return tensor

    def over_ranks(self, norm: Tensor) -> Tensor:
        """The norm of all that is trained, from that of this rank's gradients: the same, where every rank holds them all."""
        return norm

    def grad_norm(self) -> float:
        return self.norm

    def trained(self, teacher: nn.Module, copy: Copy = fresh) -> dict[str, Tensor]:
        return {name: copy(name, p) for name, p in self.parameters.items()}

    def load_rank(self, path: Path) -> None:
        super().load_rank(path)
        self.lay_down()
