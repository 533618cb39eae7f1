"""The low-rank update."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from pvtt_model.specs.base import Added, Positive, Share, Spec

#: What the survey (and the original repository) call the modules, and what they are in diffusers.
LORA_ALIASES = {
    "temporal_self_attn": "attn1",
    "self_attn": "attn1",
    "spatial_self_attn": "attn1",
    "cross_attn": "attn2",
}
_PROJECTIONS = ("to_q", "to_k", "to_v", "to_out.0")
#: Linear layers of a Wan main block by module. One table: what is trained is what is counted.
LORA_LAYERS = {"attn1": _PROJECTIONS, "attn2": _PROJECTIONS, "ffn": ("net.0.proj", "net.2")}
LORA_TARGETS = tuple(LORA_LAYERS)
#: Other names of a layer: the original repository's, the survey's.
_LAYER_ALIASES = {
    **{"q": "to_q", "k": "to_k", "v": "to_v", "o": "to_out.0", "to_out": "to_out.0"},
    **{"0": "net.0.proj", "net.0": "net.0.proj", "fc1": "net.0.proj", "2": "net.2", "fc2": "net.2"},
}
_IN_MAIN_BLOCK = re.compile(r"blocks\.(\d+)\.(.+)")


def lora_layers(name: str) -> tuple[str, ...]:
    """The layers that a target names: 'cross_attn' gives attn2.to_q, .to_k, .to_v, .to_out.0; 'cross_attn.k' gives attn2.to_k alone.

    Raises ValueError listing the valid names.
    """
    stem, _, rest = name.partition(".")
    module = LORA_ALIASES.get(stem, stem)
    if module not in LORA_LAYERS:
        raise ValueError(
            f"LoRA target '{name}' is not in Wan's blocks. Use {list(LORA_TARGETS)}, or the survey's {list(LORA_ALIASES)}; "
            "or one layer of them, as attn2.to_k."
        )
    layer = _LAYER_ALIASES.get(rest, rest)
    if rest and layer not in LORA_LAYERS[module]:
        raise ValueError(f"LoRA target '{name}': '{module}' has no layer '{rest}'. It has {[f'{module}.{known}' for known in LORA_LAYERS[module]]}.")
    return tuple(f"{module}.{known}" for known in LORA_LAYERS[module] if not rest or known == layer)


def _shortest(layers: Iterable[str]) -> tuple[str, ...]:
    """Names for `layers`, a module's own where all of its layers are there; modules in the order of their first layer."""
    wanted = list(layers)
    names = []
    for module in dict.fromkeys(layer.partition(".")[0] for layer in wanted):
        own = [layer for layer in lora_layers(module) if layer in wanted]
        names += [module] if len(own) == len(LORA_LAYERS[module]) else own
    return tuple(names)


class LoraSpec(Spec):
    """Low-rank update W + (alpha / rank) B A of the named linear layers of the main blocks. arXiv:2106.09685.

    dora: the update's direction and each output's magnitude are learned apart, arXiv:2402.09353. quantize 'nf4': the frozen linear layers
    of all blocks are kept in 4 bits (QLoRA, arXiv:2305.14314), which needs the extra `qlora`.
    """

    rank: Positive = 128
    alpha: Positive = 128
    dropout: Share = 0.05
    targets: tuple[str, ...] = Field(
        default=("attn1", "attn2"), description="attn1, attn2, ffn, or one layer of them (attn2.to_k); the survey's names are accepted as aliases"
    )
    kind: Literal["lora", "dora"] = Added("lora")
    rank_pattern: tuple[tuple[str, Positive], ...] = Added(
        (), description="rank by target where it is not `rank`; a layer's own goes before its module's"
    )
    alpha_pattern: tuple[tuple[str, Positive], ...] = Added((), description="alpha by target where it is not `alpha`")
    blocks: tuple[int, ...] | None = Added(None, description="main blocks with an update; None: all")
    quantize: Literal["nf4"] | None = Added(None, description="nf4: the frozen base's linear layers in 4 bits")

    @field_validator("targets")
    @classmethod
    def _known_targets(cls, targets: tuple[str, ...]) -> tuple[str, ...]:
        if not targets:
            raise ValueError(f"LoRA targets are empty. Use some of {list(LORA_TARGETS)}.")
        return _shortest(layer for target in targets for layer in lora_layers(target))

    @field_validator("rank_pattern", "alpha_pattern", mode="before")
    @classmethod
    def _as_pairs(cls, pattern: Any) -> Any:
        return tuple(pattern.items()) if isinstance(pattern, Mapping) else pattern

    @field_validator("rank_pattern", "alpha_pattern")
    @classmethod
    def _known_patterns(cls, pattern: tuple[tuple[str, int], ...]) -> tuple[tuple[str, int], ...]:
        return tuple(sorted((name, value) for given, value in pattern for name in _shortest(lora_layers(given))))

    @field_validator("blocks")
    @classmethod
    def _sorted_blocks(cls, blocks: tuple[int, ...] | None) -> tuple[int, ...] | None:
        if blocks is not None and (not blocks or min(blocks) < 0):
            raise ValueError(f"LoRA blocks are {list(blocks)}. Name some by number, from 0, or leave it out for all.")
        return blocks if blocks is None else tuple(sorted(set(blocks)))

    @model_validator(mode="after")
    def _patterns_are_used(self) -> LoraSpec:
        for field in ("rank_pattern", "alpha_pattern"):
            names = [name for name, _ in getattr(self, field)]
            twice = {name for name in names if names.count(name) > 1}
            if twice:
                raise ValueError(f"LoRA {field} names {sorted(twice)} twice (an alias counts). Give each one value.")
            unused = [name for name in names if not set(lora_layers(name)) & set(self.layers())]
            if unused:
                raise ValueError(
                    f"LoRA {field} names {unused}, which the targets {list(self.targets)} do not hold. Add them to targets, or leave them out."
                )
        return self

    def layers(self) -> tuple[str, ...]:
        """The linear layers of a block that get an update: attn1.to_q and its like."""
        return tuple(layer for target in self.targets for layer in lora_layers(target))

    def rank_of(self, layer: str) -> int:
        """The rank on a block's layer (attn1.to_q)."""
        return _of(self.rank_pattern, layer, self.rank)

    def alpha_of(self, layer: str) -> int:
        """alpha on a block's layer; the update is scaled by alpha / rank of that layer."""
        return _of(self.alpha_pattern, layer, self.alpha)

    def layer_of(self, module: str) -> str | None:
        """The layer that a module's path within the transformer is (blocks.3.attn1.to_q: attn1.to_q), where it gets an update; else None."""
        found = _IN_MAIN_BLOCK.fullmatch(module)
        if found is None or found[2] not in self.layers() or not self.in_block(int(found[1])):
            return None
        return found[2]

    def label(self) -> str:
        """'LoRA r64' and its like."""
        ranks = sorted({self.rank_of(layer) for layer in self.layers()})
        kind = "DoRA" if self.kind == "dora" else "LoRA"
        return f"{kind} r{'/'.join(map(str, ranks))}{' on a base in NF4' if self.quantize else ''}"

    def in_block(self, block: int) -> bool:
        """Whether the main block of this number gets an update."""
        return self.blocks is None or block in self.blocks


def _of(pattern: tuple[tuple[str, int], ...], layer: str, default: int) -> int:
    by_name = dict(pattern)
    return by_name.get(layer, by_name.get(layer.partition(".")[0], default))
