"""A tiny Wan and adapters on it whose every tensor is drawn, so that each changes the answer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

TINY = {
    "patch_size": (1, 2, 2),
    "num_attention_heads": 2,
    "attention_head_dim": 12,
    "in_channels": 4,
    "out_channels": 4,
    "text_dim": 16,
    "freq_dim": 16,
    "ffn_dim": 32,
    "num_layers": 2,
}


@pytest.fixture
def tiny() -> Callable[..., Any]:
    """tiny(seed=0): a frozen WanTransformer3DModel of two blocks, width 24."""
    import torch
    from diffusers import WanTransformer3DModel

    torch.set_num_threads(1)

    def make(seed: int = 0) -> Any:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return WanTransformer3DModel(**TINY).eval().requires_grad_(False)

    return make


@pytest.fixture
def ask() -> Callable[..., Any]:
    """ask(model): its velocity (1, 4, 2, 4, 4) on fixed inputs."""
    import torch

    def answer(model: Any) -> Any:
        g = torch.Generator().manual_seed(3)
        noisy, text = torch.randn(1, 4, 2, 4, 4, generator=g), torch.randn(1, 5, 16, generator=g)
        return model(hidden_states=noisy, timestep=torch.tensor([500.0]), encoder_hidden_states=text, return_dict=False)[0]

    return answer


@pytest.fixture
def drawn() -> Callable[..., Any]:
    """drawn(model, spec, seed): LowRankLayers for every layer of `spec`, alpha and rank by it; DoRA's magnitudes near the weights' own."""
    import torch

    from pvtt_model.low_rank.layers import LowRankLayer

    def make(model: Any, spec: Any, seed: int = 0) -> Any:
        g = torch.Generator().manual_seed(seed)
        layers = {}
        for module, linear in model.named_modules():
            layer = spec.layer_of(module)
            if layer is not None:
                out, inside = linear.weight.shape
                rank = spec.rank_of(layer)
                magnitude = linear.weight.norm(dim=1) * (1 + 0.2 * torch.rand(out, generator=g)) if spec.kind == "dora" else None
                halves = 0.3 * torch.randn(rank, inside, generator=g), 0.3 * torch.randn(out, rank, generator=g)
                layers[module] = LowRankLayer(*halves, float(spec.alpha_of(layer)), magnitude)
        return layers

    return make
