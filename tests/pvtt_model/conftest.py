"""Nano teachers and the inputs they take."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import pytest


@pytest.fixture
def make_teacher() -> Callable[..., Any]:
    """make_teacher(name, seed=0, every=1, targets=..., space="own", injection=...): a fresh nano teacher in eval mode, random base."""
    from pvtt_model.specs import BackboneSpec, LoraSpec, ReferenceSpec
    from pvtt_model.training.teacher import build_teacher

    def make(
        name: str = "nano-s",
        *,
        seed: int = 0,
        every: int = 1,
        targets: tuple[str, ...] = ("attn1", "attn2"),
        rank: int = 4,
        space: Literal["own", "words"] = "own",
        vace_blocks: bool = False,
        injection: str = "ip_adapter_plus",
        dtype: str = "float32",
        kind: Literal["lora", "dora"] = "lora",
        quantize: Literal["nf4"] | None = None,
    ) -> Any:
        reference = ReferenceSpec(
            injection=injection, num_tokens=3, semantic_tokens=2, depth=1, width=32, num_heads=4, every_nth_layer=every, space=space,
            vace_blocks=vace_blocks,
        )  # fmt: skip
        lora = LoraSpec(rank=rank, alpha=rank, dropout=0.0, targets=targets, kind=kind, quantize=quantize)
        import torch

        base = BackboneSpec(architecture=name, weights="seed:7")
        return build_teacher(base, reference, lora, "nano-dinov2", None, getattr(torch, dtype), seed, clip_encoder="nano-openclip").eval()

    return make


@pytest.fixture
def teacher_inputs() -> Callable[..., tuple[Any, ...]]:
    """teacher_inputs(batch): noisy, sigma, text, control, features of two pictures for any injection, has_reference, at 3 x 4 x 4 latents."""
    import torch

    from pvtt_model.backbones.architectures import architecture
    from pvtt_model.reference.features import ReferenceFeatures

    dit, image = architecture("nano-s").config, architecture("nano-dinov2").config["width"]
    clip = architecture("nano-openclip").config["vision_cfg"]["width"]

    def make(batch: int = 1, seed: int = 0) -> tuple[Any, ...]:
        g = torch.Generator().manual_seed(seed)
        inputs = (
            torch.randn(batch, dit["in_channels"], 3, 4, 4, generator=g),
            torch.linspace(0.2, 0.9, batch),
            torch.randn(batch, 6, dit["text_dim"], generator=g),
            torch.randn(batch, dit["vace_in_channels"], 3, 4, 4, generator=g),
            torch.randn(batch, 5, image, generator=g),
        )
        kept5, kept2 = torch.ones(batch, 5, dtype=torch.bool), torch.ones(batch, 2, dtype=torch.bool)
        cls, more, latents = (torch.randn(batch, *size, generator=g) for size in ((2, image), (5, clip), (2, dit["in_channels"], 4, 4)))
        features = ReferenceFeatures(inputs[4], kept5, cls, kept2, more, kept5, latents, kept2)
        return (*inputs[:4], features, torch.ones(batch))

    return make
