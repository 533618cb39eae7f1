"""A LoRA layer's answer in one autograd node: x W' + b + s (x A') B', for a frozen W. Laid over peft's layers from outside.

peft's own forward is five nodes (base, A, B, scaling, sum) and as many passes over the output; here the update is added into the base's
product in place (but where the layer narrows), and the backward adds its part into the input's gradient in place. W gets no gradient; kept for
the backward are the input and x A' alone. Parameters, names and state are peft's: only the layer's class changes, and `unfuse_low_rank` puts it back.

peft's forward stays where a layer is not plain LoRA: DoRA and other variants, a base in 4 bits, several or no active adapters, adapters
merged or disabled, a base that is trained, autocast, and whenever no gradient is asked. Dropout is drawn as peft draws it.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from peft.tuners.lora.layer import Linear
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


@cache
def _slow_bfloat16() -> bool:
    """Whether this CPU has no kernels for products in bfloat16: then torch's fallback takes 5 to 20 times a float32 product's time."""
    return not torch.ops.mkldnn._is_mkldnn_bf16_supported()


def product_dtype(device: torch.device, dtype: torch.dtype) -> torch.dtype:
    """The type to multiply matrices of `dtype` in: itself, but float32 for bfloat16 on a CPU without kernels for it (more exact, and faster)."""
    return torch.float32 if device.type == "cpu" and dtype == torch.bfloat16 and _slow_bfloat16() else dtype


class _LowRankProduct(torch.autograd.Function):
    """x (..., I), what the update reads of x (..., I) or None for x itself, W (O, I), b (O,) or None, A (R, I), B (O, R), s -> (..., O)."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, read: Tensor | None, weight_OI: Tensor, bias_O: Tensor | None, down_RI: Tensor, up_OR: Tensor, scale: float
    ) -> Tensor:
        base = product_dtype(x.device, weight_OI.dtype)
        low = torch.promote_types(product_dtype(x.device, down_RI.dtype), base)
        x_NI = x.reshape(-1, x.shape[-1])
        read_NI = x_NI if read is None else read.reshape(-1, x.shape[-1])
        out_NO = F.linear(x_NI.to(base), weight_OI.to(base), None if bias_O is None else bias_O.to(base)).to(low)
        hidden_NR = read_NI.to(low) @ down_RI.to(low).t()
        into = None if weight_OI.shape[1] > weight_OI.shape[0] else out_NO  # checkpointing may keep what a narrowing product answers, as it is
        out_NO = torch.addmm(out_NO, hidden_NR, up_OR.to(low).t(), alpha=scale, out=into)
        ctx.save_for_backward(read_NI, hidden_NR, weight_OI, down_RI, up_OR)
        ctx.scale, ctx.types, ctx.shape, ctx.x_type, ctx.apart = scale, (base, low), x.shape, x.dtype, read is not None
        return out_NO.to(x.dtype).view(*x.shape[:-1], -1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        read_NI, hidden_NR, weight_OI, down_RI, up_OR = ctx.saved_tensors
        (base, low), (x_asked, read_asked, _, _, down_asked, up_asked, _) = ctx.types, ctx.needs_input_grad
        grad_NO = grad.reshape(-1, grad.shape[-1])
        low_NO = grad_NO.to(low)
        back_NR = (low_NO @ up_OR.to(low)).mul_(ctx.scale)
        down = (back_NR.t() @ read_NI.to(low)).to(down_RI.dtype) if down_asked else None
        up = (low_NO.t() @ hidden_NR).mul_(ctx.scale).to(up_OR.dtype) if up_asked else None
        grad_x = grad_read = None
        if x_asked:
            grad_x = (grad_NO.to(base) @ weight_OI.to(base)).to(low)
            grad_x = grad_x if ctx.apart else grad_x.addmm_(back_NR, down_RI.to(low))
            grad_x = grad_x.to(ctx.x_type).view(ctx.shape)
        if read_asked:
            grad_read = (back_NR @ down_RI.to(low)).to(read_NI.dtype).view(ctx.shape)
        return grad_x, grad_read, None, None, down, up, None


class FusedLinear(Linear):
    """peft's LoRA on a linear layer, its forward in one node where `left_to_peft` has nothing against it."""

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if args or kwargs or not torch.is_grad_enabled() or torch.is_autocast_enabled(x.device.type) or left_to_peft(self):
            return super().forward(x, *args, **kwargs)
        name, base = self.active_adapters[0], self.base_layer
        down, up, dropout = self.lora_A[name].weight, self.lora_B[name].weight, self.lora_dropout[name]
        read = dropout(x.to(down.dtype)) if self.training and isinstance(dropout, nn.Dropout) else None
        return _LowRankProduct.apply(x, read, base.weight, base.bias, down, up, float(self.scaling[name]))


def left_to_peft(layer: Any) -> str | None:
    """Why peft's own forward answers for this layer; None where the fused one does."""
    active = [name for name in layer.active_adapters if name in layer.lora_A]
    if type(layer.base_layer) is not nn.Linear:
        return f"the base is {type(layer.base_layer).__name__}"
    if layer.base_layer.weight.requires_grad:
        return "the base is trained"
    if len(active) != 1:
        return f"{len(active)} adapters are active"
    if layer.disable_adapters or layer.merged:
        return "the adapters are disabled or merged"
    if active[0] in layer.lora_variant:
        return f"a variant: {type(layer.lora_variant[active[0]]).__name__}"
    if layer.lora_B[active[0]].bias is not None:
        return "lora_B has a bias"
    return None


def fuse_low_rank(transformer: nn.Module) -> dict[str, str]:
    """Lay the fused forward over every LoRA layer on a linear layer; by module path those that peft answers for as they now stand, and why."""
    left: dict[str, str] = {}
    for path, module in transformer.named_modules():
        if type(module) is Linear:
            module.__class__ = FusedLinear
        if hasattr(module, "lora_A"):
            reason = left_to_peft(module) if isinstance(module, FusedLinear) else f"peft's class {type(module).__name__}"
            left |= {path: reason} if reason else {}
    return left


def unfuse_low_rank(transformer: nn.Module) -> None:
    """Give every layer peft's own class again."""
    for module in transformer.modules():
        if type(module) is FusedLinear:
            module.__class__ = Linear
