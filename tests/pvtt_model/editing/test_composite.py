"""The edit inside the mask; outside it, the source's own pixels."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pvtt_model.data.video_io import fit, fit_mask, unfit, unfit_mask
from pvtt_model.editing.composite import composite, composite_at_source, match_colours
from pvtt_model.specs import VideoSpec


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


def smooth(seed: int, frames: int = 3, size: tuple[int, int] = (32, 48)) -> torch.Tensor:
    g = torch.Generator().manual_seed(seed)
    small = torch.rand(frames, 3, 4, 6, generator=g) * 120 + 60
    return torch.nn.functional.interpolate(small, size, mode="bilinear", align_corners=False)


def box_mask(frames: int = 3, size: tuple[int, int] = (32, 48)) -> torch.Tensor:
    mask = torch.zeros(frames, *size, dtype=torch.bool)
    mask[:, 12:20, 18:30] = True
    return mask


@pytest.mark.parametrize("where", ["ring", "background"])
def test_a_known_gain_and_offset_is_undone_exactly(where):
    source, mask = smooth(0).double(), box_mask()
    gain, offset = (torch.tensor(v, dtype=torch.float64) for v in ([0.8, 1.1, 1.25], [7.0, -3.0, 11.0]))
    shifted = (source - offset.view(1, 3, 1, 1)) / gain.view(1, 3, 1, 1)
    shifted = torch.where(mask[:, None], 255 - shifted, shifted)  # what the edit drew says nothing of the background's colours
    match = match_colours(shifted, source, mask, where)
    torch.testing.assert_close(match.gain_C, gain, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(match.offset_C, offset, rtol=1e-12, atol=1e-9)
    found = match.apply(shifted)
    torch.testing.assert_close(found[~mask[:, None].expand_as(found)], source[~mask[:, None].expand_as(source)], rtol=0, atol=1e-4)


def test_a_match_of_what_agrees_changes_nothing():
    source = smooth(1).round().to(torch.uint8)
    assert torch.equal(match_colours(source, source, box_mask()).apply(source), source)


def test_what_cannot_be_matched_is_left_alone():
    raw, source = smooth(0).to(torch.uint8), smooth(1).to(torch.uint8)
    for mask, where in ((torch.ones(3, 32, 48, dtype=torch.bool), "ring"), (box_mask(), "none")):
        match = match_colours(raw, source, mask, where)
        assert match.pixels == 0 and torch.equal(match.apply(raw), raw)
    grey = torch.full_like(source, 90)
    match = match_colours(raw, grey, box_mask())
    assert match.gain_C.tolist() == [1, 1, 1] and match.apply(raw).float().mean() == pytest.approx(90, abs=6)
    with pytest.raises(ValueError, match="Fit all to the model's size"):
        match_colours(raw[:2], source, box_mask())


@pytest.mark.parametrize("fit_", ["crop", "stretch"])
@pytest.mark.parametrize("size", [(90, 160), (64, 64), (48, 40)])
def test_at_the_sources_size_only_the_mask_changes(fit_, size):
    """A source of another size and aspect: what the fit cut off and what lies outside the mask are the source's own bytes."""
    spec = VideoSpec(width=48, height=32, num_frames=5, fit=fit_)
    source = torch.randint(0, 256, (2, 3, *size), generator=torch.Generator().manual_seed(3), dtype=torch.uint8)
    raw, mask = torch.full((2, 3, 32, 48), 200, dtype=torch.uint8), box_mask(2)
    out = torch.stack(list(composite_at_source(raw, source, mask, spec, 2)))
    wide = unfit_mask(mask, size, spec)
    outside = ~wide[:, None].expand_as(source)
    assert out.shape == source.shape and torch.equal(out[outside], source[outside])
    top, left, bottom, right = (int(v) for v in (*wide[0].nonzero().amin(0), *wide[0].nonzero().amax(0)))
    assert (out[:, :, (top + bottom) // 2, (left + right) // 2] == 200).all(), "the middle is all edit"
    assert torch.equal(fit_mask(wide, spec), mask) or size == (48, 40), "the mask comes back where it was"


def test_unfit_puts_a_fitted_picture_back_in_its_place():
    spec = VideoSpec(width=48, height=32, num_frames=5)
    source = smooth(4, 1, (96, 160)).round().to(torch.uint8)
    back = unfit(fit(source, spec), (96, 160), spec)
    seen = unfit_mask(torch.ones(1, 32, 48, dtype=torch.bool), (96, 160), spec)
    assert back.shape == source.shape and seen.float().mean() == pytest.approx(0.9, abs=0.01)
    inner = seen[:, None].expand_as(source)
    assert (back[inner].int() - source[inner].int()).abs().float().mean() < 1.5
