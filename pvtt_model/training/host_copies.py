"""Copies of what is trained in the CPU's memory, which is used again by the next checkpoint.

Memory that a process touches for the first time costs several times what copying into it does, and training waits for the copy.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

#: (name, tensor on any device) -> the same numbers in float32, contiguous, in the CPU's memory.
Copy = Callable[[str, Tensor], Tensor]


def fresh(name: str, tensor: Tensor) -> Tensor:
    """A copy in memory of its own."""
    return tensor.detach().to("cpu", torch.float32, copy=True).contiguous()


class HostCopies:
    """Copies in memory that is kept by file and name; pinned where they come from a GPU, as such memory is copied into faster.

    Whoever asks for a name again overwrites the copy before.
    """

    def __init__(self) -> None:
        self._kept: dict[tuple[str, str], Tensor] = {}

    def of(self, file: str) -> Copy:
        def copy(name: str, tensor: Tensor) -> Tensor:
            kept = self._kept.get((file, name))
            if kept is None or kept.shape != tensor.shape:
                kept = self._kept[file, name] = torch.empty(tensor.shape, dtype=torch.float32, pin_memory=tensor.is_cuda)
            return kept.copy_(tensor.detach())

        return copy
