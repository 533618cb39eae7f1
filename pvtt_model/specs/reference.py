"""The reference adapter."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from pvtt_model.specs.base import Positive, Spec


class ReferenceSpec(Spec):
    """Perceiver Resampler and decoupled cross-attention (IP-Adapter-Plus on a DiT). arXiv:2308.06721, the survey's 10.2."""

    space: Literal["own", "words"] = Field(
        default="own",
        description="own: the tokens' K/V start as IP-Adapter's, values zero. words: the tokens live in the text encoder's space and go "
        "through the base's own text projection, and their K/V start as copies of the text's, so that the base understands them (ELITE, "
        "arXiv:2302.13848); the resampler then fits any base of that text encoder",
    )
    num_tokens: Positive = 16
    depth: Positive = 4
    width: Positive = Field(default=1024, description="resampler width; in the space 'own' also the width of the K/V projections' input")
    num_heads: Positive = 16
    every_nth_layer: Positive = 1
    vace_blocks: bool = Field(
        default=False,
        description="hook VACE's own blocks too: for a base whose VACE branch reads the text and draws by it; gradients then flow through the branch",
    )

    @model_validator(mode="after")
    def _heads_divide_the_width(self) -> ReferenceSpec:
        if self.width % self.num_heads:
            raise ValueError(f"reference width {self.width} is not a multiple of num_heads {self.num_heads}. Change one of the two.")
        return self
