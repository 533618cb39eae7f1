"""The reference adapter."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from pvtt_model.specs.base import Added, Positive, Spec


class ReferenceSpec(Spec):
    """How reference pictures reach the transformer: one interface, four choices. The default is the survey's 10.2."""

    injection: Literal["ip_adapter", "ip_adapter_plus", "dual_path", "reference_net"] = Added(
        "ip_adapter_plus",
        description="ip_adapter: the image encoder's class token, a linear layer to num_tokens, decoupled cross-attention (arXiv:2308.06721). "
        "ip_adapter_plus: its patch tokens, a Perceiver Resampler, the same attention. dual_path: beside that a second set of tokens of CLIP's, with "
        "projections and a scale of its own (InstantID's two paths, arXiv:2401.07519). reference_net: a trained copy of the first half of the blocks "
        "reads the pictures' latents, and its keys and values join the video's own in self-attention (arXiv:2311.17117)",
    )
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
    semantic_tokens: Positive = Added(4, description="of dual_path alone: tokens of the CLIP path; IP-Adapter's number")
    every_nth_layer: Positive = Field(default=1, description="of the main blocks, that read the reference; of reference_net: of the copied half")
    vace_blocks: bool = Field(
        default=False,
        description="hook VACE's own blocks too: for a base whose VACE branch reads the text and draws by it; gradients then flow through the branch",
    )

    @model_validator(mode="after")
    def _hangs_together(self) -> ReferenceSpec:
        if self.width % self.num_heads:
            raise ValueError(f"reference width {self.width} is not a multiple of num_heads {self.num_heads}. Change one of the two.")
        if self.injection == "reference_net" and self.space == "words":
            raise ValueError("reference.space is 'words', but the reference_net has no tokens: its pictures are read as latents. Set space='own'.")
        return self
