"""The process group of one, outside a launcher: a notebook, a script."""

from __future__ import annotations

import os

import torch
import torch.distributed as dist


def ensure_group() -> None:
    """A process group of this process alone where there is none, and the LOCAL_RANK that DeepSpeed insists on."""
    os.environ.setdefault("LOCAL_RANK", "0")
    if not dist.is_initialized():
        dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo", store=dist.HashStore(), rank=0, world_size=1)
