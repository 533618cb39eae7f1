"""The frozen base in 4 bits: QLoRA, arXiv:2305.14314, by bitsandbytes.

Each weight is one of the 16 code points of NF4 times its block's largest magnitude (64 weights a block); those magnitudes are kept in 8 bits
themselves, in groups of 256 with a float32 each ("double quantisation"). A layer's forward makes the weights again in the type that it
computes in, so activations and gradients are those of an ordinary linear layer with rounded weights.
"""

from __future__ import annotations

import re
from typing import Any

from torch import nn

BLOCK, GROUP = 64, 256
#: The linear layers kept in 4 bits: those of the main and VACE blocks. Embeddings, the head and the reference's projections stay whole.
QUANTISED = re.compile(r"(vace_)?blocks\.\d+\.(attn[12]\.(to_[qkv]|to_out\.0|add_[kv]_proj)|ffn\.net\.(0\.proj|2)|proj_in|proj_out)")


def nf4_bytes(weights: int) -> int:
    """Bytes of so many weights: half a byte each, a byte a block, a float32 a group of blocks. A layer's code tables (1.1 kB) are left out."""
    return weights // 2 + weights // BLOCK + 4 * weights // (BLOCK * GROUP)


def quantise_base(transformer: nn.Module) -> int:
    """Put the blocks' linear layers of a Wan transformer into NF4 in place, before any adapter is attached; the number of layers.

    They compute in the type of the weights that they had. On the meta device nothing changes, so that counts are those of the whole weights.
    Raises ValueError where bitsandbytes is not installed.
    """
    found = [(name, m) for name, m in transformer.named_modules() if isinstance(m, nn.Linear) and QUANTISED.fullmatch(name)]
    if not found:
        raise ValueError("no linear layer of Wan's blocks to quantise. Pass a Wan transformer without adapters, and quantise it once.")
    if found[0][1].weight.is_meta:
        return 0
    for name, linear in found:
        parent, _, last = name.rpartition(".")
        setattr(transformer.get_submodule(parent), last, _packed(linear))
    return len(found)


def _packed(linear: nn.Linear) -> nn.Module:
    bnb = _bitsandbytes()
    device, weight = linear.weight.device, linear.weight.data
    packed = bnb.nn.Linear4bit(
        linear.in_features, linear.out_features, bias=False, compute_dtype=weight.dtype, compress_statistics=True, quant_type="nf4", device="meta"
    )
    packed.weight = bnb.nn.Params4bit(weight, requires_grad=False, quant_type="nf4", compress_statistics=True, blocksize=BLOCK)
    packed.bias = linear.bias
    packed.support_avx512bf16_for_cpu = False  # else it repacks them for such CPUs at the first answer, and DoRA, which reads them, could not
    return packed.to(device).train(linear.training)


def _bitsandbytes() -> Any:
    try:
        import bitsandbytes
    except ModuleNotFoundError:
        raise ValueError(
            "lora.quantize='nf4' needs bitsandbytes, which is not installed. Install the extra: pip install 'pvtt[qlora]'; or set lora.quantize=null."
        ) from None
    return bitsandbytes
