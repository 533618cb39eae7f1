"""Fresh low-rank updates to train, by peft."""

from __future__ import annotations

import re
from typing import Any

from peft import LoraConfig
from peft.tuners.lora import LoraLayer
from torch import nn

from pvtt_model.low_rank.nf4 import quantise_base
from pvtt_model.specs import LoraSpec


def lora_config(spec: LoraSpec) -> LoraConfig:
    """peft's configuration for `spec`, on the main blocks only."""
    layers = "|".join(re.escape(layer) for layer in spec.layers())
    numbers = r"\d+" if spec.blocks is None else f"({'|'.join(map(str, spec.blocks))})"
    return LoraConfig(
        r=spec.rank,
        lora_alpha=spec.alpha,
        lora_dropout=spec.dropout,
        target_modules=rf"blocks\.{numbers}\.({layers})",
        rank_pattern={re.escape(layer): spec.rank_of(layer) for layer in spec.layers()} if spec.rank_pattern else {},
        alpha_pattern={re.escape(layer): spec.alpha_of(layer) for layer in spec.layers()} if spec.alpha_pattern else {},
        use_dora=spec.kind == "dora",
        bias="none",
    )


def attach_low_rank(transformer: Any, spec: LoraSpec, name: str = "default") -> None:
    """Attach the updates of `spec` to a Wan transformer, drawn from torch's generator; they change nothing until trained.

    The base is put into 4 bits first where the spec asks. Only the updates get gradients. Raises ValueError where a block or layer that the
    spec names is not in the transformer.
    """
    linear = {module for module, m in transformer.named_modules() if isinstance(m, (nn.Linear, LoraLayer))}
    blocks = range(len(transformer.blocks)) if spec.blocks is None else spec.blocks
    missing = [path for path in (f"blocks.{block}.{layer}" for block in blocks for layer in spec.layers()) if path not in linear]
    if missing:
        raise ValueError(
            f"LoRA on {missing[:6]}{' and more' if len(missing) > 6 else ''}, which this transformer of {len(transformer.blocks)} blocks has not. "
            "Name blocks and targets that it has (lora.blocks, lora.targets)."
        )
    if spec.quantize:
        quantise_base(transformer)
    transformer.add_adapter(lora_config(spec), name)
