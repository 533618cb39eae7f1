"""How a transformer block is run in training: what of it is kept for the backward pass, whether compiled, and the type of its products on a CPU.

All three go through diffusers' own extension point, the function that `enable_gradient_checkpointing` takes and that Wan's and VACE's forward
call for every block while gradients are asked; a block's attention processors and LoRA layers run inside. Sampling does not pass here.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

from pvtt_model.low_rank.fused import product_dtype
from pvtt_model.specs import ParallelSpec

#: torch's attention kernels, whichever F.scaled_dot_product_attention takes here; its plain one, of many products, is recomputed.
_ATTENTION = [
    getattr(torch.ops.aten, name).default
    for name in (
        "_scaled_dot_product_flash_attention_for_cpu",
        "_scaled_dot_product_flash_attention",
        "_scaled_dot_product_efficient_attention",
        "_scaled_dot_product_cudnn_attention",
        "_scaled_dot_product_fused_attention_overrideable",
    )
    if hasattr(torch.ops.aten, name)
]

Runner = Callable[..., Any]


class WideProducts(TorchFunctionMode):
    """Inside, linear layers and attentions of a type that this CPU has no kernels for (bfloat16) are computed in float32 and rounded; else as is."""

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None) -> Any:
        kwargs = kwargs or {}
        if func not in (F.linear, F.scaled_dot_product_attention):
            return func(*args, **kwargs)
        first: Tensor = args[0] if args else kwargs["query" if "query" in kwargs else "input"]
        wide = product_dtype(first.device, first.dtype)
        if wide == first.dtype:
            return func(*args, **kwargs)
        return func(*(_in(wide, x, first.dtype) for x in args), **{k: _in(wide, x, first.dtype) for k, x in kwargs.items()}).to(first.dtype)


def _in(wide: torch.dtype, x: Any, of: torch.dtype) -> Any:
    return x.to(wide) if isinstance(x, torch.Tensor) and x.dtype == of else x


def _kept(kind: str, context: Any, op: Any, *args: Any, **kwargs: Any) -> CheckpointPolicy:
    if op in _ATTENTION:
        query_BHLd, key_BHNd = args[:2]
        keep = kind != "keep_self_attention" or key_BHNd.shape[-2] >= query_BHLd.shape[-2]
    else:  # a bias, an input (L, F) and a weight (F, D): the feed-forward's second product is the one layer of a block with F > D
        keep = kind == "keep_attention_and_ffn" and op is torch.ops.aten.addmm.default and args[2].shape[0] > args[2].shape[1]
    return CheckpointPolicy.MUST_SAVE if keep else CheckpointPolicy.PREFER_RECOMPUTE


def kept_contexts(kind: str) -> tuple[AbstractContextManager, AbstractContextManager]:
    """For checkpoint's context_fn: in the forward pass the outputs that `kind` names are kept, and the recomputation takes them from there.

    keep_self_attention: of attentions that read at least as many tokens as they answer for: they cost L^2, those to text and reference L.
    """
    return create_selective_checkpoint_contexts(partial(_kept, kind))


def block_runner(parallel: ParallelSpec) -> Runner | None:
    """runner(block, *its arguments) -> its answer, as `parallel` asks; None where blocks are simply called.

    checkpointing 'full': the block's inputs are kept. 'keep_attention': and the attentions' outputs with their softmax sums, so that there is
    one attention forward a step; its bits are those without checkpointing. 'keep_self_attention': of the video to itself alone, which at a video's
    length is nearly all that attention costs, at a third of the memory. 'keep_attention_and_ffn': the attentions', and the answer of the
    feed-forward, whose second product then runs once: no other product saves as much for so few bytes, and the backward pass needs it of none.
    """
    run: Runner = _wide if parallel.wide_products else _plain
    if parallel.gradient_checkpointing:
        run = partial(_checkpointed, run, parallel.checkpointing)
    elif not (parallel.wide_products or parallel.compile_blocks):
        return None
    return torch.compile(run, dynamic=False) if parallel.compile_blocks else run


def _plain(block: nn.Module, *args: Any) -> Any:
    return block(*args)


def _wide(block: nn.Module, *args: Any) -> Any:
    with WideProducts():
        return block(*args)


def _checkpointed(run: Runner, kind: str, block: nn.Module, *args: Any) -> Any:
    if kind == "full":
        return checkpoint(run, block, *args, use_reentrant=False)
    contexts = partial(kept_contexts, kind)
    return checkpoint(run, block, *args, use_reentrant=False, context_fn=contexts, respect_saved_tensors_hooks=True)
