"""The only file that knows DeepSpeed: ZeRO 0 to 3 round the teacher, and its state as safetensors.

DeepSpeed's own checkpoints are pickles; here a step's state is three kinds of file that load without running code: the trained
tensors (rank 0), each rank's share of the optimizer (pieces.py), and a few numbers in JSON. Trainable state only.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from functools import partial
from typing import Any

import deepspeed
import torch
from torch import Tensor, nn

from pvtt_model.specs import OptimSpec, ParallelSpec
from pvtt_model.training.engine import StatefulEngine, adamw_of
from pvtt_model.training.host_copies import Copy, fresh
from pvtt_model.training.pieces import Master, Piece, whole
from pvtt_model.training.process_group import ensure_group
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
    place: dict[str, Any] = {"device": "cpu", "pin_memory": parallel.accelerator == "gpu"}
    if parallel.offload_folder is not None:
        place |= {"device": "nvme", "nvme_path": parallel.offload_folder}
    if parallel.offload_optimizer:
        zero["offload_optimizer"] = place
    if parallel.offload_params:
        zero["offload_param"] = place
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


class DeepSpeedEngine(StatefulEngine):
    """strategy 'deepspeed': a teacher under ZeRO 0 to 3."""

    def __init__(self, teacher: Teacher, parallel: ParallelSpec, optim: OptimSpec, first_step: int, steps: int) -> None:
        ensure_group()
        self.teacher = teacher
        self.zero_stage = parallel.zero_stage
        self.replicated = parallel.replicated
        trainable = self.trainable = [p for p in teacher.parameters() if p.requires_grad]
        self._plain_norm: float | None = None
        self._dropped = False
        config = deepspeed_config(parallel, optim)
        self.engine, *_ = deepspeed.initialize(model=teacher, model_parameters=trainable, optimizer=adamw_of(trainable, optim), config=config)
        self._forget_first_step()
        self.optim, self.steps = optim, steps
        self.set_lr(first_step)

    def _forget_first_step(self) -> None:
        """In bfloat16 without ZeRO, DeepSpeed takes a step with gradients of 0 to have AdamW's state made (FP16_UnfusedOptimizer, 0.19): AdamW then
        counts one step too many, which makes the first update 0.74 of what it should be at beta2 = 0.99, and has decayed the masters once."""
        outer = self.engine.optimizer
        if self.zero_stage or outer is self.adamw:
            return
        self.adamw.state.clear()
        for own, masters in zip(outer.fp16_groups, outer.fp32_groups, strict=True):
            for p, master in zip(own, masters, strict=True):
                master.data.copy_(p.data)

    @property
    def device(self) -> torch.device:
        return torch.device(self.engine.device)

    @property
    def adamw(self) -> torch.optim.Optimizer:  # type: ignore[override]
        """The torch optimizer inside, which holds this rank's partition."""
        outer = self.engine.optimizer
        return getattr(outer, "optimizer", outer)

    def masters(self) -> list[Master]:
        """The parameters at ZeRO-0 (in bfloat16 their float32 copies), else this rank's flat partitions of them."""
        named, outer = {id(p): name for name, p in self.teacher.named_parameters()}, self.engine.optimizer
        match self.zero_stage:
            case 0 if outer is self.adamw:
                return [whole(named[id(p)], p) for group in self.adamw.param_groups for p in group["params"]]
            case 0:
                pairs = zip(outer.fp16_groups, self.adamw.param_groups, strict=True)
                return [whole(named[id(p)], m) for own, group in pairs for p, m in zip(own, group["params"], strict=True)]
            case 3:
                flats = zip(outer.fp32_partitioned_groups_flat, outer.fp16_groups, strict=True)
                return [Master(flat, tuple(_zero3_pieces(group, named)), partial(_swapped_in, outer, i)) for i, (flat, group) in enumerate(flats)]
        flats = zip(outer.single_partition_of_fp32_groups, outer.bit16_groups, strict=True)
        return [Master(flat, tuple(_zero2_pieces(group, named))) for flat, group in flats]

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
        norm = self.engine.get_global_grad_norm()
        norm = self._plain_norm if norm is None else norm
        return float(norm) if norm is not None else float("nan")

    def trained(self, teacher: nn.Module, copy: Copy = fresh) -> dict[str, Tensor]:
        """ZeRO-3 gathers them."""
        named = {n: p for n, p in teacher.named_parameters() if p.requires_grad}
        gather = deepspeed.zero.GatheredParameters(list(named.values())) if self.zero_stage == 3 else contextlib.nullcontext()
        with gather:
            return {n: copy(n, p) for n, p in named.items()}


@contextlib.contextmanager
def _swapped_in(outer: Any, index: int) -> Iterator[None]:
    """ZeRO-3's group `index` with its moments in memory, where they lie on a disk; written back at the end."""
    if not outer._swappable_optimizer_subgroup(index):
        yield
        return
    flat = outer.fp32_partitioned_groups_flat[index]
    outer.optimizer_swapper.swap_in_optimizer_state(parameter=flat)
    yield
    outer.optimizer_swapper.swap_out_optimizer_state(parameter=flat)


def _zero2_pieces(group: list[Any], named: dict[int, str]) -> list[Piece]:
    """ZeRO-1 and 2: the group's parameters one after the other, cut into a part a rank wherever that falls."""
    mapped = [(named[id(p)], p._hp_mapping) for p in group if p._hp_mapping is not None]
    return [Piece(name, m.lp_fragment_address.start, m.lp_fragment_address.numel, m.hp_fragment_address.start) for name, m in mapped]


def _zero3_pieces(group: list[Any], named: dict[int, str]) -> list[Piece]:
    """ZeRO-3: each parameter laid flat and cut into equal parts, the last ones padded; a rank's parts one after the other."""
    pieces, at = [], 0
    for p in group:
        size = p.partition_numel()
        start = size * torch.distributed.get_rank()
        if start < p.ds_numel:
            pieces.append(Piece(named[id(p)], start, min(size, p.ds_numel - start), at))
        at += size
    return pieces
