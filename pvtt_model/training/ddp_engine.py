"""torch's DistributedDataParallel: every rank holds all weights and all of the optimizer; gradients are averaged while the backward pass runs."""

from __future__ import annotations

from torch import nn
from torch.nn.parallel import DistributedDataParallel

from pvtt_model.training.process_group import ensure_group
from pvtt_model.training.torch_engine import TorchEngine


class DdpEngine(TorchEngine):
    """strategy 'ddp'. Every micro-batch's gradients are averaged, so that they are summed over micro-batches in float32; those of LoRA and
    adapter are few beside a video model's work.

    static_graph: what gets a gradient is the same in every step, also what the loss reaches beside the output (words, reconstruction), and what is
    recomputed by gradient checkpointing.
    """

    def laid_out(self) -> nn.Module:
        ensure_group()
        module = super().laid_out()
        ids = [self.device] if self.device.type == "cuda" else None
        return DistributedDataParallel(module, device_ids=ids, forward_sync_buffers=False, static_graph=True)
