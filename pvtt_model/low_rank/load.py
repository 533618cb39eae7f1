"""An adapter's tensors into a transformer and out of it; refused unless every layer finds its place."""

from __future__ import annotations

import re
import warnings
from collections import Counter
from collections.abc import Mapping
from typing import Any

import torch
from peft import LoraConfig
from peft.tuners.lora import LoraLayer

from pvtt_model.low_rank.layers import LowRankLayer
from pvtt_model.specs import LoraSpec

_SHOWN = 6


def adapted_layers(transformer: Any) -> dict[str, LoraLayer]:
    """peft's layers by module path."""
    return {name: module for name, module in transformer.named_modules() if isinstance(module, LoraLayer)}


def load_low_rank(transformer: Any, layers: Mapping[str, LowRankLayer], name: str = "default", expected: LoraSpec | None = None) -> None:
    """Attach an adapter of the given tensors under `name`; it alone acts then, and gets no gradients.

    expected: the recipe that it was trained by; then every layer which that adapts must be there, with that rank. Raises ValueError, before
    anything is changed, that says how many layers match and names those that do not; also where the name is taken.
    """
    if name in getattr(transformer, "peft_config", {}):
        raise ValueError(f"the transformer has an adapter '{name}' already. Give the new one another name.")
    refuse_unmatched(_shapes(transformer), layers, expected)
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Already found a `peft_config`")  # several adapters are meant
        transformer.add_adapter(_config(layers), name)  # peft draws what is overwritten below
    with torch.no_grad():
        for module, tensors in layers.items():
            layer = transformer.get_submodule(module)
            layer.lora_A[name].weight.copy_(tensors.down_RI)
            layer.lora_B[name].weight.copy_(tensors.up_OR)
            if tensors.magnitude_O is not None:
                layer.lora_magnitude_vector[name].weight.copy_(tensors.magnitude_O)
            layer.set_adapter(layer.active_adapters, inference_mode=True)


def take_low_rank(transformer: Any, name: str = "default") -> dict[str, LowRankLayer]:
    """The tensors of the attached adapter `name` by module, detached. Raises ValueError where there is none of that name."""
    taken = {}
    for module, layer in adapted_layers(transformer).items():
        if name in layer.lora_A:
            magnitude = layer.lora_magnitude_vector[name].weight.detach() if name in layer.lora_magnitude_vector else None
            taken[module] = LowRankLayer(layer.lora_A[name].weight.detach(), layer.lora_B[name].weight.detach(), layer.lora_alpha[name], magnitude)
    if not taken:
        raise ValueError(f"the transformer has no adapter '{name}'. It has {sorted(getattr(transformer, 'peft_config', {}))}.")
    return taken


def _shapes(transformer: Any) -> dict[str, tuple[int, int]]:
    """(out, in) of every linear layer by module path, beneath adapters too."""
    shapes = {}
    for module, found in transformer.named_modules():
        own = found.get_base_layer() if isinstance(found, LoraLayer) else found
        if hasattr(own, "in_features") and ".base_layer" not in module and ".lora_" not in module:
            shapes[module] = (own.out_features, own.in_features)
    return shapes


def refuse_unmatched(linear: Mapping[str, tuple[int, int]], layers: Mapping[str, LowRankLayer], expected: LoraSpec | None = None) -> None:
    """Raises ValueError unless every layer of the file is one of `linear` (out, in by module) with its shape, and, where `expected` is given,
    every layer that it adapts is in the file with its rank."""
    unknown = sorted(set(layers) - set(linear))
    shapes = {m: (t.up_OR.shape[0], t.down_RI.shape[1]) for m, t in layers.items()}
    misfit = [f"{m}: {shapes[m]} for {linear[m]}" for m in sorted(set(layers) & set(linear)) if shapes[m] != linear[m]]
    wanted = {m: spec_rank for m in linear if expected and (spec_rank := _rank(expected, m))}
    absent = sorted(set(wanted) - set(layers))
    ranks = [f"{m}: rank {layers[m].rank} for {r}" for m, r in sorted(wanted.items()) if m in layers and layers[m].rank != r]
    surplus = sorted(set(layers) - set(wanted)) if expected else []
    mixed = len({t.magnitude_O is None for t in layers.values()}) > 1
    said = [
        f"{what}: {', '.join(names[:_SHOWN])}{f' and {len(names) - _SHOWN} more' if len(names) > _SHOWN else ''}"
        for what, names in (
            ("not in this transformer", unknown),
            ("of another shape", misfit),
            ("expected but not in the file", absent),
            ("of another rank", ranks),
            ("in the file but not expected", [m for m in surplus if m not in unknown]),
            ("without DoRA's magnitude, which others have", [m for m, t in layers.items() if t.magnitude_O is None] if mixed else []),
        )
        if names
    ]
    if said or not layers:
        bad = {*unknown, *(line.partition(":")[0] for line in misfit), *absent, *(line.partition(":")[0] for line in ranks)}
        total = set(layers) | set(wanted)
        raise ValueError(
            f"{len(total - bad)} of {len(total)} LoRA layers match; {'; '.join(said) or 'the file has none'}. "
            "Nothing was loaded. The file is of another base model or another recipe: load it into the one it was trained on."
        )


def _rank(spec: LoraSpec, module: str) -> int:
    layer = spec.layer_of(module)
    return spec.rank_of(layer) if layer else 0


def _config(layers: Mapping[str, LowRankLayer]) -> LoraConfig:
    """peft's configuration of exactly these layers. The commonest rank and alpha stand for all, the others by name."""
    rank = Counter(t.rank for t in layers.values()).most_common(1)[0][0]
    alpha = Counter(t.alpha for t in layers.values()).most_common(1)[0][0]
    return LoraConfig(
        r=rank,
        lora_alpha=alpha,  # type: ignore[arg-type]  # any number will do
        target_modules="|".join(re.escape(module) for module in layers),
        rank_pattern={rf"^{re.escape(m)}": t.rank for m, t in layers.items() if t.rank != rank},
        alpha_pattern={rf"^{re.escape(m)}": t.alpha for m, t in layers.items() if t.alpha != alpha},
        use_dora=any(t.magnitude_O is not None for t in layers.values()),
        bias="none",
    )
