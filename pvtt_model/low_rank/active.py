"""Which adapters act, and how strongly; several at once are summed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from pvtt_model.low_rank.load import adapted_layers


def activate(transformer: Any, weights: Mapping[str, float]) -> None:
    """Let exactly these adapters act, each update times its weight; gradients are left off. Raises ValueError for unknown names."""
    refuse_unknown(transformer, list(weights))
    for layer in adapted_layers(transformer).values():
        own = [name for name in weights if name in layer.lora_A]
        layer.set_adapter(own, inference_mode=True)
        for name in own:
            layer.set_scale(name, weights[name])


@contextmanager
def adapters_kept(transformer: Any) -> Iterator[None]:
    """Afterwards the same adapters act as before, with their scales, and the same parameters get gradients."""
    layers = list(adapted_layers(transformer).values())
    before = [(layer, list(layer.active_adapters), dict(layer.scaling)) for layer in layers]
    grads = {name: p.requires_grad for name, p in transformer.named_parameters()}
    try:
        yield
    finally:
        for layer, active, scaling in before:
            layer.set_adapter(active, inference_mode=True)
            layer.scaling.update(scaling)
        for name, p in transformer.named_parameters():
            p.requires_grad_(grads[name])


@contextmanager
def weighted_sum(transformer: Any, weights: Mapping[str, float]) -> Iterator[None]:
    """Inside, a layer's weight is W + sum over adapters i of weights[i] (alpha_i / r_i) B_i A_i. Raises ValueError for unknown names, and for
    DoRA, whose updates have no sum: each rescales the whole weight."""
    refuse_unknown(transformer, list(weights))
    refuse_dora(transformer, list(weights), "A weighted sum takes LoRA alone; merge a DoRA into the base, or use Switch.")
    with adapters_kept(transformer):
        activate(transformer, weights)
        yield


def refuse_unknown(transformer: Any, names: list[str]) -> None:
    known = sorted(getattr(transformer, "peft_config", {}))
    unknown = [name for name in names if name not in known]
    if unknown or not names:
        raise ValueError(f"no adapters {unknown}; the transformer has {known}. Load them under these names first (load_low_rank).")


def refuse_dora(transformer: Any, names: list[str], cure: str) -> None:
    dora = [name for name in names if transformer.peft_config[name].use_dora]
    if dora:
        raise ValueError(f"adapters {dora} are DoRA. {cure}")
