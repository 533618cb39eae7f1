from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pvtt_model.curation.mask_policy import box_of, fill_inside, widen
from pvtt_model.specs import MaskPolicy

kinds = st.sampled_from(["precise", "grow", "blocks", "box", "full"])


@st.composite
def masks(draw: st.DrawFn) -> torch.Tensor:
    shape = (draw(st.integers(1, 3)), draw(st.integers(1, 20)), draw(st.integers(1, 20)))
    density = draw(st.sampled_from([0.0, 0.01, 0.1, 0.9]))
    return torch.rand(shape, generator=torch.Generator().manual_seed(draw(st.integers(0, 999)))) < density


@given(masks(), kinds, st.integers(1, 25))
@settings(deadline=None)
def test_a_widened_mask_holds_the_mask(mask: torch.Tensor, kind: str, px: int) -> None:
    policy = MaskPolicy(kind=kind, grow_px=px)
    wide = widen(mask, policy)
    assert wide.shape == mask.shape and wide.dtype == torch.bool and bool((wide | ~mask).all())
    if kind in ("precise", "blocks", "full"):
        assert torch.equal(widen(wide, policy), wide)
    if kind != "full":
        assert torch.equal(wide.flatten(1).any(1), mask.flatten(1).any(1))  # an empty frame stays empty


@given(masks(), st.sampled_from(["grow", "box"]))
@settings(deadline=None)
def test_zero_width_is_idempotent(mask: torch.Tensor, kind: str) -> None:
    policy = MaskPolicy(kind=kind, grow_px=0)
    assert torch.equal(widen(widen(mask, policy), policy), widen(mask, policy))


@given(masks(), st.integers(0, 9))
@settings(deadline=None)
def test_grow_is_the_disc_by_brute_force(mask: torch.Tensor, radius: int) -> None:
    y, x = torch.meshgrid(torch.arange(mask.shape[1]), torch.arange(mask.shape[2]), indexing="ij")
    wanted = torch.zeros_like(mask)
    for t, i, j in torch.nonzero(mask).tolist():
        wanted[t] |= (y - i) ** 2 + (x - j) ** 2 <= radius**2
    assert torch.equal(widen(mask, MaskPolicy(kind="grow", grow_px=radius)), wanted)


def test_blocks_and_boxes_are_exact() -> None:
    mask = torch.zeros(2, 10, 10, dtype=torch.bool)
    mask[0, 5, 9] = mask[0, 2, 3] = True
    blocks = widen(mask, MaskPolicy(kind="blocks", grow_px=4))
    assert blocks[0, :4, :4].all() and blocks[0, 4:8, 8:].all() and int(blocks.sum()) == 16 + 8
    box = widen(mask, MaskPolicy(kind="box", grow_px=1))
    assert box_of(box[0]) == (1, 2, 7, 10) and int(box[0].sum()) == 6 * 8 and not box[1].any()
    with pytest.raises(ValueError, match="Set mask_policy.grow_px"):
        widen(mask, MaskPolicy(kind="blocks", grow_px=0))
    with pytest.raises(ValueError, match="Threshold it first"):
        widen(mask.float(), MaskPolicy())


def test_fill_is_defined_in_normalised_space() -> None:
    frames, mask = torch.rand(2, 3, 4, 4) * 2 - 1, torch.rand(2, 4, 4) > 0.5
    inside = mask[:, None].expand_as(frames)
    for fill, value in (("neutral", 0.0), ("black", -1.0)):
        filled = fill_inside(frames, mask, fill)
        assert (filled[inside] == value).all() and torch.equal(filled[~inside], frames[~inside])
    assert torch.equal(fill_inside(frames, mask, "original"), frames)
    with pytest.raises(ValueError, match="Normalise"):
        fill_inside(frames.to(torch.uint8), mask, "neutral")
    with pytest.raises(ValueError, match="no fill"):
        fill_inside(frames, mask, "grey")  # type: ignore[arg-type]
