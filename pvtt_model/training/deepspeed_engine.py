"""The only file that knows DeepSpeed: ZeRO 0 to 3 round the teacher, and its state as safetensors.

DeepSpeed's own checkpoints are pickles; here a step's state is three kinds of file that load without running code: the trained
tensors (rank 0), each rank's share of the optimizer (float32 partition, moments), and a few numbers in JSON. Trainable state only.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any

import deepspeed
import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from pvtt_model.specs import OptimSpec, ParallelSpec
from pvtt_model.training.schedule import warmup


def deepspeed_config(parallel: ParallelSpec, optim: OptimSpec) -> dict[str, Any]:
    """Computed values throughout: raw DeepSpeed refuses "auto"."""
    zero: dict[str, Any] = {
        "stage": parallel.zero_stage,
        "overlap_comm": parallel.accelerator == "gpu",
        "contiguous_gradients": True,
        "reduce_bucket_size": 50_000_000,
        "allgather_bucket_size": 50_000_000,
    }
    if parallel.offload_optimizer:
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": parallel.accelerator == "gpu"}
    if parallel.offload_params:
        zero["offload_param"] = {"device": "cpu", "pin_memory": parallel.accelerator == "gpu"}
    return {
        "train_micro_batch_size_per_gpu": parallel.micro_batch,
        "gradient_accumulation_steps": parallel.grad_accum,
        "train_batch_size": parallel.global_batch,
        "gradient_clipping": optim.grad_clip,
        "bf16": {"enabled": parallel.precision == "bfloat16"},
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "wall_clock_breakdown": False,
        "steps_per_print": 1_000_000_000,
    }


def _alone() -> None:
    """Outside a launcher (a notebook, a script): the process group of one and the LOCAL_RANK that DeepSpeed insists on."""
    os.environ.setdefault("LOCAL_RANK", "0")
    if not dist.is_initialized():
        dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo", store=dist.HashStore(), rank=0, world_size=1)


class Engine:
    """A teacher under DeepSpeed: forward, backward, step, and the state of both."""

    def __init__(self, teacher: nn.Module, parallel: ParallelSpec, optim: OptimSpec, first_step: int) -> None:
        _alone()
        self.zero_stage = parallel.zero_stage
        trainable = [p for p in teacher.parameters() if p.requires_grad]
        adamw = torch.optim.AdamW(trainable, lr=optim.lr, betas=(optim.beta1, optim.beta2), weight_decay=optim.weight_decay)
        self.engine, *_ = deepspeed.initialize(
            model=teacher, model_parameters=trainable, optimizer=adamw, config=deepspeed_config(parallel, optim)
        )
        self.optim = optim
        self.set_lr(first_step)

    @property
    def device(self) -> torch.device:
        return torch.device(self.engine.device)

    @property
    def adamw(self) -> torch.optim.Optimizer:
        """The torch optimizer inside, which holds this rank's partition."""
        outer = self.engine.optimizer
        return getattr(outer, "optimizer", outer)

    def set_lr(self, step: int) -> float:
        """The rate of step `step`, set on the optimizer."""
        lr = self.optim.lr * warmup(step, self.optim.warmup_steps)
        for group in self.adamw.param_groups:
            group["lr"] = lr
        return lr

    def forward(self, *args: Any) -> Tensor:
        return self.engine(*args)

    def backward(self, loss: Tensor) -> None:
        """One micro-batch; DeepSpeed divides by the accumulation."""
        self.engine.backward(loss)
        self.engine.step()  # steps at the accumulation's boundary only

    def grad_norm(self) -> float:
        """Norm before clipping of the step just taken, over all ranks."""
        norm = self.engine.get_global_grad_norm()
        return float(norm) if norm is not None else float("nan")

    def rank_state(self) -> dict[str, Tensor]:
        """This rank's share of the optimizer, as named tensors."""
        tensors: dict[str, Tensor] = {}
        for g, group in enumerate(self.adamw.param_groups):
            for i, p in enumerate(group["params"]):
                tensors[f"{g}.{i}.param"] = p.detach().cpu().contiguous().clone()
                for key, value in self.adamw.state.get(p, {}).items():
                    tensors[f"{g}.{i}.state.{key}"] = torch.as_tensor(value).detach().cpu().contiguous().clone()
        return tensors

    def trained(self, teacher: nn.Module) -> dict[str, Tensor]:
        """The trained tensors, whole, on the CPU; every rank must call it (ZeRO-3 gathers)."""
        named = {n: p for n, p in teacher.named_parameters() if p.requires_grad}
        gather = deepspeed.zero.GatheredParameters(list(named.values())) if self.zero_stage == 3 else contextlib.nullcontext()
        with gather:
            return {n: p.detach().float().cpu().contiguous().clone() for n, p in named.items()}

    def save_rank(self, path: Path) -> None:
        save_file(self.rank_state(), path)

    def load_rank(self, path: Path) -> None:
        """Restore this rank's share. Raises ValueError where it is of another layout (world size, ZeRO stage, rank or targets)."""
        saved = load_file(path)
        with torch.no_grad():
            for g, group in enumerate(self.adamw.param_groups):
                for i, p in enumerate(group["params"]):
                    mine = saved.get(f"{g}.{i}.param")
                    if mine is None or mine.shape != p.shape:
                        raise ValueError(
                            f"{path.name} holds {None if mine is None else tuple(mine.shape)} for partition {g}.{i}, this run has {tuple(p.shape)}. "
                            "Resume with the same num_workers, zero_stage and LoRA settings."
                        )
                    p.copy_(mine)
                    state = self.adamw.state[p]
                    for key, value in saved.items():
                        if key.startswith(f"{g}.{i}.state."):
                            name = key.removeprefix(f"{g}.{i}.state.")
                            state[name] = value.clone() if name == "step" else value.to(p.device, p.dtype, copy=True)
