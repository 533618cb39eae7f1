"""The edit inside the mask; outside it, the source's own pixels."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pvtt_model.editing.sample import composite


def video(seed: int, size: tuple[int, int] = (12, 10)) -> torch.Tensor:
    return torch.randint(0, 256, (2, 3, *size), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


@settings(deadline=None)
@given(st.integers(0, 10**6), st.floats(0, 1), st.integers(0, 6))
def test_no_pixel_outside_the_mask_changes(seed, density, feather):
    mask = torch.rand(2, 12, 10, generator=torch.Generator().manual_seed(seed)) < density
    raw, source = video(seed), video(seed + 1)
    out = composite(raw, source, mask, feather)
    assert out.dtype == torch.uint8 and out.shape == source.shape
    outside = ~mask[:, None].expand_as(source)
    assert torch.equal(out[outside], source[outside])
    low, high = torch.minimum(raw, source), torch.maximum(raw, source)
    assert ((out >= low) & (out <= high)).all(), "a blend lies between the two"


@given(st.integers(0, 10**6))
def test_without_feather_it_is_exact(seed):
    mask = torch.rand(2, 12, 10, generator=torch.Generator().manual_seed(seed)) < 0.5
    raw, source = video(seed), video(seed + 1)
    assert torch.equal(composite(raw, source, mask, 0), torch.where(mask[:, None], raw, source))


@pytest.mark.parametrize("feather", [0, 1, 3])
def test_the_whole_frame_is_all_edit(feather):
    raw, source = video(0), video(1)
    assert torch.equal(composite(raw, source, torch.ones(2, 12, 10, dtype=torch.bool), feather), raw)


def test_the_blend_rises_from_the_edge_inwards():
    """A straight edge, feather 2: the box blur's share of mask at depth d of 5 is (2 + d) / 5, and alpha is twice that less one."""
    mask = torch.zeros(1, 16, 16, dtype=torch.bool)
    mask[:, :, 6:] = True
    raw, source = torch.full((1, 3, 16, 16), 250, dtype=torch.uint8), torch.zeros(1, 3, 16, 16, dtype=torch.uint8)
    row = composite(raw, source, mask, 2)[0, 0, 8].tolist()
    assert row == [0] * 6 + [50, 150] + [250] * 8
