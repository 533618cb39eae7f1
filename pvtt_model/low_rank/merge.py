"""Adapters folded into the base's weights, and taken out again to the bit."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from pvtt_model.low_rank.load import adapted_layers


def merge_low_rank(transformer: Any, names: Sequence[str] | None = None) -> dict[str, Tensor]:
    """Fold the adapters `names` (None: the active ones) into the base's weights; the base's own tensors by module, which unmerge_low_rank wants.

    They are kept, not computed back: floating point would not give the same bits. So a merged model holds both. What the layers' forward
    gives is that of before, but for rounding. Raises ValueError for a 4-bit base, whose merged weights would be rounded once more, and where
    something is merged already; then nothing is changed.
    """
    layers = adapted_layers(transformer)
    if not layers:
        raise ValueError("the transformer has no adapter to merge. Attach or load one first.")
    merged = [module for module, layer in layers.items() if layer.merged]
    if merged:
        raise ValueError(f"{len(merged)} layers are merged already, {merged[0]} among them. Unmerge them first.")
    if any(not layer.get_base_layer().weight.is_floating_point() for layer in layers.values()):
        raise ValueError("the base is kept in 4 bits: merged weights would be rounded again. Merge into the base loaded without lora.quantize.")
    originals = {module: layer.get_base_layer().weight.data for module, layer in layers.items()}
    try:
        for layer in layers.values():
            layer.merge(safe_merge=True, adapter_names=None if names is None else list(names))  # into a copy: the original is left as it is
    except Exception:
        unmerge_low_rank(transformer, originals)
        raise
    return originals


def unmerge_low_rank(transformer: Any, originals: dict[str, Tensor]) -> None:
    """Put the base's own tensors back, bit for bit."""
    for module, weight in originals.items():
        layer = transformer.get_submodule(module)
        layer.get_base_layer().weight.data = weight
        layer.merged_adapters.clear()


@contextmanager
def merged(transformer: Any, names: Sequence[str] | None = None) -> Iterator[None]:
    """Inside, the adapters cost nothing a step. Do not switch adapters inside: peft would take the merged ones out by subtraction."""
    originals = merge_low_rank(transformer, names)
    try:
        yield
    finally:
        unmerge_low_rank(transformer, originals)
