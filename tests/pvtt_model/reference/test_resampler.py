"""Any number of patch tokens to a fixed few; padding is never seen."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pvtt_model.reference.resampler import PerceiverResampler


@pytest.fixture(scope="module")
def resampler() -> PerceiverResampler:
    torch.manual_seed(0)
    return PerceiverResampler(image_width=12, width=16, num_tokens=3, depth=2, num_heads=4).eval()


@pytest.mark.parametrize("patches", [1, 5, 40])
def test_shape(resampler, patches):
    assert resampler(torch.randn(2, patches, 12)).shape == (2, 3, 16)


@settings(max_examples=20, deadline=None)
@given(real=st.integers(1, 6), padding=st.integers(1, 6), scale=st.floats(-1e3, 1e3))
def test_padding_cannot_change_the_result(resampler, real, padding, scale):
    tokens = torch.randn(1, real, 12, generator=torch.Generator().manual_seed(real))
    keep = torch.tensor([[True] * real + [False] * padding])
    with torch.no_grad():
        alone = resampler(tokens)
        padded = resampler(torch.cat([tokens, torch.full((1, padding, 12), scale)], dim=1), keep)
    torch.testing.assert_close(padded, alone, rtol=1e-4, atol=1e-5)


def test_every_real_token_counts(resampler):
    tokens = torch.randn(1, 4, 12)
    with torch.no_grad():
        before = resampler(tokens)
        for i in range(4):
            changed = tokens.clone()
            changed[0, i] += 1
            assert not torch.allclose(resampler(changed), before)


def test_order_of_patches_is_irrelevant(resampler):
    tokens = torch.randn(1, 6, 12)
    with torch.no_grad():
        torch.testing.assert_close(resampler(tokens.flip(1)), resampler(tokens), rtol=1e-4, atol=1e-5)


def test_width_must_divide_into_heads():
    with pytest.raises(ValueError, match="width 10 is not a multiple of its 4 heads. Change reference.width"):
        PerceiverResampler(8, 10, 2, 1, 4)
