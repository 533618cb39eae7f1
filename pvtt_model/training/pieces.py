"""The optimizer's state by the trained parameters' names, so that no strategy or number of workers owns a checkpoint.

Every strategy steps on float32 tensors of its own making: whole parameters, rows of them, or one flat tensor cut through the middle of several. What
they have in common is that each holds pieces of parameters. So a rank's file holds, for each piece, `name@start/param`, its master numbers, and
`name@start/exp_avg`, `name@start/exp_avg_sq`, its moments: numbers start, start + 1, ... of the parameter laid flat. A run of the same layout reads
its own pieces again to the last bit; one of another layout cuts what it needs out of all ranks' files, which is exact too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from safetensors import safe_open
from torch import Tensor, nn

from pvtt_model.training.host_copies import Copy, fresh

STEP = "step"  # of the state, how many steps AdamW has taken
MASTER = "param"


class Piece(NamedTuple):
    """Numbers [start, start + size) of the parameter `name` laid flat; they lie at [at, at + size) of a master laid flat."""

    name: str
    start: int
    size: int
    at: int


class Master(NamedTuple):
    """A float32 tensor that AdamW steps on, and what it holds. What no piece names is padding. here: within it, tensor and state are in memory."""

    tensor: Tensor
    pieces: tuple[Piece, ...]
    here: Callable[[], AbstractContextManager[Any]] = nullcontext


def whole(name: str, tensor: Tensor) -> Master:
    return Master(tensor, (Piece(name, 0, tensor.numel(), 0),))


def pieces_of(masters: Sequence[Master], adamw: torch.optim.Optimizer, copy: Copy = fresh) -> dict[str, Tensor]:
    """The masters' numbers and AdamW's state of them on this rank, copied. Of no masters none, which says that others hold all."""
    tensors: dict[str, Tensor] = {}
    for master in masters:
        with master.here():
            for key, value in {MASTER: master.tensor, **adamw.state.get(master.tensor, {})}.items():
                if key == STEP:
                    tensors[STEP] = torch.as_tensor(value).detach().float().cpu().clone()
                    continue
                flat = value.detach().flatten()
                for piece in master.pieces:
                    name = f"{piece.name}@{piece.start}/{key}"
                    tensors[name] = copy(name, flat[piece.at : piece.at + piece.size])
    return tensors


class _Stored(NamedTuple):
    start: int
    size: int
    file: Any
    key: str


def load_pieces(masters: Sequence[Master], adamw: torch.optim.Optimizer, paths: Sequence[Path]) -> None:
    """Restore masters and AdamW's state from the ranks' files; only what is needed is read.

    Raises ValueError where the files are of another format or do not hold every number: a rank's file is missing, or the run trained others.
    """
    with ExitStack() as stack:
        files = [stack.enter_context(safe_open(path, framework="pt")) for path in paths]
        stored: dict[tuple[str, str], list[_Stored]] = {}
        step: Tensor | None = None
        for path, file in zip(paths, files, strict=True):
            for key in file.keys():  # noqa: SIM118
                if key == STEP:
                    step = file.get_tensor(key)
                    continue
                piece, _, part = key.partition("/")
                name, at, start = piece.rpartition("@")
                if not at or not part:
                    raise ValueError(
                        f"{path.name} holds '{key}', no piece of a parameter: an earlier version of this program wrote it. "
                        "End that training with the version that began it, or delete the artifact's folder steps/ to begin it anew."
                    )
                stored.setdefault((name, part), []).append(_Stored(int(start), file.get_slice(key).get_shape()[0], file, key))
        _refuse_unknown(masters, stored, paths)
        with torch.no_grad():
            for master in masters:
                with master.here():
                    _restore(master, adamw, stored, step, paths)


def _restore(
    master: Master, adamw: torch.optim.Optimizer, stored: Mapping[tuple[str, str], list[_Stored]], step: Tensor | None, paths: Sequence[Path]
) -> None:
    tensor = master.tensor
    parts = {part for name, part in stored if name in {piece.name for piece in master.pieces}}
    for part in sorted(parts | {MASTER}, key=lambda part: part != MASTER):
        values = torch.zeros(tensor.numel(), dtype=tensor.dtype)
        for piece in master.pieces:
            values[piece.at : piece.at + piece.size] = _cut(piece, part, stored.get((piece.name, part), []), paths)
        kept = tensor if part == MASTER else adamw.state[tensor].get(part)
        if kept is None:
            adamw.state[tensor][part] = values.view_as(tensor).to(tensor.device)
        else:
            kept.copy_(values.view_as(kept))
    if step is not None and len(parts) > 1:
        fused = any(group.get("fused") for group in adamw.param_groups)  # whose count lies with the numbers, where else it stays on the CPU
        adamw.state[tensor][STEP] = step.clone().to(tensor.device if fused else "cpu")


def _cut(wanted: Piece, part: str, stored: Iterable[_Stored], paths: Sequence[Path]) -> Tensor:
    """The wanted numbers, put together of what the files hold of them."""
    values, missing = torch.zeros(wanted.size), wanted.size
    files = ", ".join(path.name for path in paths)
    for one in stored:
        low, high = max(wanted.start, one.start), min(wanted.start + wanted.size, one.start + one.size)
        if low < high:
            values[low - wanted.start : high - wanted.start] = one.file.get_slice(one.key)[low - one.start : high - one.start]
            missing -= high - low
    if missing:
        raise ValueError(
            f"{files} do not fit this run: {missing} of {wanted.size} numbers of {wanted.name}/{part} are not there. "
            "Give the files of all ranks of one checkpoint, and resume with the same LoRA, reference and train.trained settings."
        )
    return values


def _refuse_unknown(masters: Sequence[Master], stored: Mapping[tuple[str, str], list[_Stored]], paths: Sequence[Path]) -> None:
    """A file of one rank may hold other ranks' parameters: it is the sizes that tell a run of other settings."""
    most = {name: max(one.start + one.size for one in found) for (name, part), found in stored.items() if part == MASTER}
    for piece in (piece for master in masters for piece in master.pieces):
        if piece.name not in most:
            raise ValueError(
                f"{', '.join(path.name for path in paths)} do not fit this run: nothing of {piece.name} is there. "
                "Give the files of all ranks of one checkpoint, and resume with the same LoRA, reference and train.trained settings."
            )


def gathered(
    masters: Sequence[Master], values: Sequence[Tensor], parameters: Mapping[str, nn.Parameter], device: torch.device, replicated: bool
) -> Iterator[tuple[str, Tensor]]:
    """(name, whole float32 tensor on the CPU) of each parameter, put together of `values`, which lie as the masters do. Every rank must call it.

    A number is held by one rank and is nought elsewhere, so the sum over the ranks is exact; `replicated`: every rank holds all, and none is asked.
    """
    mine: dict[str, list[tuple[Piece, Tensor]]] = {}
    for master, value in zip(masters, values, strict=True):
        for piece in master.pieces:
            mine.setdefault(piece.name, []).append((piece, value))
    for name, parameter in parameters.items():
        shape = torch.Size(getattr(parameter, "ds_shape", parameter.shape))  # ZeRO-3 leaves a parameter without any
        full = torch.zeros(shape.numel(), device=device)
        for piece, value in mine.get(name, []):
            full[piece.start : piece.start + piece.size] = value.detach().flatten()[piece.at : piece.at + piece.size].float()
        if not replicated and dist.get_world_size() > 1:
            dist.all_reduce(full)
        yield name, full.view(shape).cpu()
