"""The only file that knows DeepSpeed: ZeRO 0 to 3 round the teacher, and its state as safetensors.

DeepSpeed's own checkpoints are pickles; here a step's state is three kinds of file that load without running code: the trained
tensors (rank 0), each rank's share of the optimizer (float32 partition, moments), and a few numbers in JSON. Trainable state only.
"""

from __future__ import annotations

import contextlib
import math
import os
from pathlib import Path
from typing import Any

import deepspeed
import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from pvtt_model.specs import OptimSpec, ParallelSpec
from pvtt_model.training.schedule import lr_at
from pvtt_model.training.teacher import Teacher

#: On CPU DeepSpeed compiles a shared-memory all-reduce at the first start, under a lock file that a killed process leaves behind for the next
#: one to wait on for ever; and its sums would differ in the last bit from gloo's. Off: gloo everywhere.
deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False


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

    def __init__(self, teacher: Teacher, parallel: ParallelSpec, optim: OptimSpec, first_step: int, steps: int) -> None:
        _alone()
        self.teacher = teacher
        self.zero_stage = parallel.zero_stage
        trainable = self.trainable = [p for p in teacher.parameters() if p.requires_grad]
        self._plain_norm: float | None = None
        self._dropped = False
        adamw = torch.optim.AdamW(trainable, lr=optim.lr, betas=(optim.beta1, optim.beta2), weight_decay=optim.weight_decay)
        self.engine, *_ = deepspeed.initialize(model=teacher, model_parameters=trainable, optimizer=adamw, config=deepspeed_config(parallel, optim))
        self.optim, self.steps = optim, steps
        self.set_lr(first_step)

    @property
    def device(self) -> torch.device:
        return torch.device(self.engine.device)

    @property
    def adamw(self) -> torch.optim.Optimizer:
        """The torch optimizer inside, which holds this rank's partition."""
        outer = self.engine.optimizer
        return getattr(outer, "optimizer", outer)

    def _masters(self) -> list[tuple[str, Tensor]]:
        """What AdamW steps on, named group.index: the parameters, or this rank's float32 partitions of them.

        Between steps ZeRO-3 leaves the param_groups empty and keeps its partitions beside them.
        """
        if self.zero_stage == 3:
            return [(f"0.{i}", p) for i, p in enumerate(self.engine.optimizer.fp32_partitioned_groups_flat)]
        return [(f"{g}.{i}", p) for g, group in enumerate(self.adamw.param_groups) for i, p in enumerate(group["params"])]

    def set_lr(self, step: int) -> float:
        """The rate of step `step`, set on the optimizer."""
        lr = lr_at(step, self.optim, self.steps)
        for group in self.adamw.param_groups:
            group["lr"] = lr
        return lr

    def forward(self, *args: Any) -> Tensor:
        return self.engine(*args)

    def backward(self, loss: Tensor) -> None:
        """One micro-batch; DeepSpeed divides by the accumulation. The last one of a step steps the optimizer, unless the gradients are not finite."""
        self.engine.backward(loss)
        self._dropped = False
        if self.zero_stage == 0 and self.engine.is_gradient_accumulation_boundary():
            grads = [p.grad for p in self.trainable if p.grad is not None]
            self._plain_norm = float(torch.nn.utils.get_total_norm(grads)) if grads else None  # DeepSpeed keeps none without ZeRO and bf16
            if self._plain_norm is not None and not math.isfinite(self._plain_norm):
                return self._drop_plain()
        self.engine.step()  # steps at the accumulation's boundary only

    def backward_and_drop(self, loss: Tensor) -> None:
        """The last micro-batch of a step that is to change nothing: no parameter, no moment, no count of steps. Every rank must call it.

        With ZeRO this is DeepSpeed's own way with gradients that are not finite, which it drops on all ranks; without, they are dropped here.
        """
        if self.zero_stage == 0:
            self.engine.backward(loss)
            return self._drop_plain()
        self.backward(loss * math.nan)

    def _drop_plain(self) -> None:
        self._dropped = True
        self.engine.set_gradient_accumulation_boundary(False)
        self.engine.step()  # counts the micro-batch and does no more
        self.engine.set_gradient_accumulation_boundary(None)
        for p in self.trainable:
            p.grad = None
        if hasattr(self.engine.optimizer, "clear_hp_grads"):
            self.engine.optimizer.clear_hp_grads()

    @property
    def dropped(self) -> bool:
        """Whether the step just taken changed nothing; the same on every rank."""
        return self._dropped or bool(getattr(self.engine.optimizer, "overflow", False))

    def grad_norm(self) -> float:
        """Norm before clipping of the step just taken, over all ranks."""
        norm = self.engine.get_global_grad_norm()
        norm = self._plain_norm if norm is None else norm
        return float(norm) if norm is not None else float("nan")

    def rank_state(self) -> dict[str, Tensor]:
        """This rank's share of the optimizer, as named tensors."""
        tensors: dict[str, Tensor] = {}
        for name, p in self._masters():
            tensors[f"{name}.param"] = p.detach().cpu().contiguous().clone()
            for key, value in self.adamw.state.get(p, {}).items():
                tensors[f"{name}.state.{key}"] = torch.as_tensor(value).detach().cpu().contiguous().clone()
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
        masters = dict(self._masters())
        unlike = {n: (saved[f"{n}.param"].shape if f"{n}.param" in saved else None, p.shape) for n, p in masters.items()}
        unlike = {n: shapes for n, shapes in unlike.items() if shapes[0] != shapes[1]}
        extra = sorted({key.split(".param")[0] for key in saved if key.endswith(".param")} - set(masters))
        if unlike or extra:
            raise ValueError(
                f"{path.name} does not fit this run: partitions saved and here {unlike}, not known here {extra}. "
                "Resume with the same num_workers, zero_stage and LoRA settings."
            )
        with torch.no_grad():
            for name, p in masters.items():
                p.copy_(saved[f"{name}.param"])
                state = self.adamw.state[p]
                for key, value in saved.items():
                    if key.startswith(f"{name}.state."):
                        part = key.removeprefix(f"{name}.state.")
                        state[part] = value.clone() if part == "step" else value.to(p.device, p.dtype, copy=True)
