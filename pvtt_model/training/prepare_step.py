"""What makes a training step cheaper, laid on a teacher by one call before the engine is built."""

from __future__ import annotations

import logging

from pvtt_model.low_rank.fused import fuse_low_rank
from pvtt_model.specs import ParallelSpec
from pvtt_model.training.recompute import block_runner
from pvtt_model.training.teacher import Teacher


def prepare_step(teacher: Teacher, parallel: ParallelSpec) -> None:
    """Checkpointing, fused LoRA, compiled blocks, wide products: as `parallel` says. LoRA layers that stay with peft are said in the log."""
    transformer = teacher.transformer
    if parallel.fused_lora:
        left = fuse_low_rank(transformer)
        if left:
            path, reason = next(iter(left.items()))
            logging.getLogger(__name__).warning("fused_lora: peft's own forward stays for %d layers, %s among them: %s", len(left), path, reason)
    runner = block_runner(parallel)
    if runner is not None:
        transformer.enable_gradient_checkpointing(runner)  # type: ignore[operator]  # diffusers' hook for how blocks run in training
