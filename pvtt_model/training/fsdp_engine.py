"""torch's fully_shard (FSDP2): every tensor of the network, frozen or trained, is cut among the ranks by its first dimension, and a transformer
block is put together when it computes. Gradients and the optimizer are cut likewise: as ZeRO-3, without DeepSpeed."""

from __future__ import annotations

import warnings
from typing import cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor

from pvtt_model.training.host_copies import Copy, fresh
from pvtt_model.training.pieces import Master, Piece
from pvtt_model.training.process_group import ensure_group
from pvtt_model.training.torch_engine import TorchEngine


class FsdpEngine(TorchEngine):
    """strategy 'fsdp2'. Trained parameters are float32 shards, which AdamW steps on as they are; what is gathered for a block is rounded to the
    precision on its way. Frozen ones are kept in the precision. Gradients are averaged in float32."""

    replicated = False

    def laid_out(self) -> nn.Module:
        ensure_group()
        warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view")  # nothing here writes to it
        teacher = self.teacher.to(self.dtype)
        for p in self.parameters.values():
            p.data = p.data.float()
        mesh = init_device_mesh(self.device.type, (dist.get_world_size(),))
        policy = MixedPrecisionPolicy(param_dtype=self.dtype, reduce_dtype=torch.float32, cast_forward_inputs=False)
        for name, module in list(teacher.named_modules()):
            if isinstance(module, nn.ModuleList) and name.rpartition(".")[2] in ("blocks", "vace_blocks"):
                for block in module:
                    fully_shard(block, mesh=mesh, mp_policy=policy)
        fully_shard(teacher, mesh=mesh, mp_policy=policy)
        return teacher

    def masters_of(self, started: dict[str, Tensor]) -> list[Master]:
        """This rank's rows of each trained parameter, the shards' own memory; of one with fewer rows than ranks some ranks hold nothing."""
        rank, found = dist.get_rank(), []
        for name, p in self.parameters.items():
            shard = cast(DTensor, p.detach()).to_local()
            rows = -(-p.shape[0] // dist.get_world_size())
            of_row = p.numel() // p.shape[0]
            start = min(rank * rows, p.shape[0]) * of_row
            shard.copy_(started[name].flatten()[start : start + shard.numel()].view_as(shard))
            found.append(Master(shard, (Piece(name, start, shard.numel(), 0),) if shard.numel() else ()))
        return found

    def lay_down(self) -> None:
        """The masters are the parameters' own memory."""

    def local(self, tensor: Tensor) -> Tensor:
        return cast(DTensor, tensor).to_local()

    def over_ranks(self, norm: Tensor) -> Tensor:
        squares = norm.double().square().to(self.device)
        dist.all_reduce(squares)
        return squares.sqrt().to(norm)

    def trained(self, teacher: nn.Module, copy: Copy = fresh) -> dict[str, Tensor]:
        return {name: copy(name, cast(DTensor, p.detach()).full_tensor().to(self.dtype)) for name, p in self.parameters.items()}
