"""The low-rank update."""

from __future__ import annotations

from pydantic import Field, field_validator

from pvtt_model.specs.base import Positive, Share, Spec

#: What the survey (and the original repository) call the modules, and what they are in diffusers.
LORA_ALIASES = {
    "temporal_self_attn": "attn1",
    "self_attn": "attn1",
    "spatial_self_attn": "attn1",
    "cross_attn": "attn2",
}
LORA_TARGETS = ("attn1", "attn2", "ffn")


class LoraSpec(Spec):
    """Low-rank update W + (alpha / rank) B A on q, k, v, o of the named attentions. arXiv:2106.09685."""

    rank: Positive = 128
    alpha: Positive = 128
    dropout: Share = 0.05
    targets: tuple[str, ...] = Field(default=("attn1", "attn2"), description="attn1, attn2, ffn; the survey's names are accepted as aliases")

    @field_validator("targets")
    @classmethod
    def _known_targets(cls, targets: tuple[str, ...]) -> tuple[str, ...]:
        known = []
        for target in targets:
            stem = target.split(".")[0]
            name = LORA_ALIASES.get(stem, stem)
            if name not in LORA_TARGETS:
                raise ValueError(f"LoRA target '{target}' is not in Wan's blocks. Use {list(LORA_TARGETS)}, or the survey's {list(LORA_ALIASES)}.")
            if name not in known:
                known.append(name)
        if not known:
            raise ValueError(f"LoRA targets are empty. Use some of {list(LORA_TARGETS)}.")
        return tuple(known)
