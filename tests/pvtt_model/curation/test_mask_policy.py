from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pvtt_model.curation.mask_policy import box_of, eroded, fill_inside, jittered, widen
from pvtt_model.specs import MaskPolicy

kinds = st.sampled_from(["precise", "grow", "blocks", "box", "square", "full"])


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


@given(masks(), st.sampled_from(["grow", "box", "square"]))
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


@given(masks(), st.integers(0, 12))
@settings(deadline=None)
def test_a_square_is_as_square_as_the_frame_allows(mask: torch.Tensor, px: int) -> None:
    for frame, wide in zip(mask, widen(mask, MaskPolicy(kind="square", grow_px=px)), strict=True):
        found, square = box_of(frame), box_of(wide)
        if found is None:
            assert square is None
            continue
        assert square is not None
        side = max(found[2] - found[0], found[3] - found[1]) + 2 * px
        for low, high, length in ((0, 2, frame.shape[0]), (1, 3, frame.shape[1])):
            assert square[high] - square[low] == min(side, length)
            off = (square[low] + square[high]) - (found[low] + found[high])  # twice the way from the box's centre
            at_edge = square[low] == 0 or square[high] == length
            assert off in (0, -1) or at_edge
        assert int(wide.sum()) == (square[2] - square[0]) * (square[3] - square[1])


def test_a_square_at_the_edge_moves_inside() -> None:
    mask = torch.zeros(1, 20, 30, dtype=torch.bool)
    mask[0, 0:4, 24:30] = True  # 4 high, 6 wide, in the upper right corner
    assert box_of(widen(mask, MaskPolicy(kind="square", grow_px=2))[0]) == (0, 20, 10, 30)
    assert box_of(widen(mask, MaskPolicy(kind="square", grow_px=9))[0]) == (0, 6, 20, 30)  # 24 do not fit into 20


@given(masks(), kinds, st.integers(1, 9), st.integers(0, 6), st.integers(0, 99))
@settings(deadline=None)
def test_jitter_never_uncovers_the_product(mask: torch.Tensor, kind: str, px: int, jitter: int, seed: int) -> None:
    policy = MaskPolicy(kind=kind, grow_px=px, jitter_px=jitter)
    varied = jittered(mask, policy, torch.Generator().manual_seed(seed))
    assert varied.shape == mask.shape and varied.dtype == torch.bool and bool((varied | ~mask).all())
    assert torch.equal(varied, jittered(mask, policy, torch.Generator().manual_seed(seed)))
    if kind != "full":
        assert torch.equal(varied.flatten(1).any(1), mask.flatten(1).any(1))
    if jitter == 0:
        assert torch.equal(varied, widen(mask, policy))
    for frame, wide in zip(varied, widen(mask, policy), strict=True):
        got, plain = box_of(frame), box_of(wide)
        if got is None or plain is None:
            continue
        if kind in ("box", "square", "full"):
            assert int(frame.sum()) == (got[2] - got[0]) * (got[3] - got[1])  # no silhouette sticks out
        assert all(abs(a - b) <= 4 * jitter for a, b in zip(got, plain, strict=True))


def test_jitter_varies_size_and_place() -> None:
    mask = torch.zeros(3, 64, 64, dtype=torch.bool)
    mask[:, 24:40, 26:38] = True
    policy = MaskPolicy(kind="square", grow_px=4, jitter_px=6)
    boxes = [box_of(jittered(mask, policy, torch.Generator().manual_seed(i))[1]) for i in range(60)]
    sides = {b[2] - b[0] for b in boxes if b}
    assert sides == set(range(24, 37, 2)) and len({(b[0] + b[2], b[1] + b[3]) for b in boxes if b}) > 20


def test_a_square_eroded_is_a_square_smaller_by_twice_the_radius() -> None:
    mask = torch.zeros(3, 40, 40, dtype=torch.bool)
    mask[0, 10:31, 5:26] = True
    mask[1, 0:21, 5:26] = True  # the product goes on beyond the frame's upper edge
    for r in range(0, 11):
        got = eroded(mask, r)
        assert box_of(got[0]) == (10 + r, 5 + r, 31 - r, 26 - r) and int(got[0].sum()) == (21 - 2 * r) ** 2
        assert box_of(got[1]) == (0, 5 + r, 21 - r, 26 - r) and not got[2].any(), "what is empty stays empty"
    assert torch.equal(eroded(mask, 11), mask), "nothing would be left of either square: they stay"
    assert eroded(torch.ones(1, 5, 7, dtype=torch.bool), 3).all()


@given(masks(), st.integers(0, 9))
@settings(deadline=None)
def test_erosion_is_the_disc_by_brute_force_and_empties_no_frame(mask: torch.Tensor, radius: int) -> None:
    y, x = torch.meshgrid(torch.arange(mask.shape[1]), torch.arange(mask.shape[2]), indexing="ij")
    wanted = mask.clone()
    for t, i, j in torch.nonzero(~mask).tolist():
        wanted[t] &= (y - i) ** 2 + (x - j) ** 2 > radius**2
    for frame, got, plain in zip(mask, eroded(mask, radius), wanted, strict=True):
        assert torch.equal(got, plain if plain.any() else frame)


@given(masks(), kinds, st.integers(1, 9), st.integers(0, 6), st.integers(0, 9), st.integers(0, 99))
@settings(deadline=None)
def test_eroding_up_to_what_was_grown_uncovers_nothing(mask: torch.Tensor, kind: str, px: int, jitter: int, erode: int, seed: int) -> None:
    policy = MaskPolicy(kind=kind, grow_px=px, jitter_px=jitter, erode_px=min(erode, px) if kind != "precise" else 0)
    varied = jittered(mask, policy, torch.Generator().manual_seed(seed))
    assert bool((varied | ~mask).all())
    free = jittered(mask, policy.model_copy(update={"erode_px": 50}), torch.Generator().manual_seed(seed))
    assert bool((free.flatten(1).any(1) | ~mask.flatten(1).any(1)).all()), "no mask is emptied, whatever the bound"


def test_erosion_varies_the_size_both_ways() -> None:
    mask = torch.zeros(1, 64, 64, dtype=torch.bool)
    mask[:, 20:44, 22:42] = True  # 24 high, 20 wide

    def sizes(**changes: object) -> set[tuple[int, int]]:
        policy = MaskPolicy.model_validate({"kind": "box", "grow_px": 3, "jitter_px": 2, **changes})
        boxes = [box_of(jittered(mask, policy, torch.Generator().manual_seed(i))[0]) for i in range(200)]
        return {(b[2] - b[0], b[3] - b[1]) for b in boxes if b}

    assert sizes() == {(24 + 2 * r, 20 + 2 * r) for r in range(3, 6)}
    assert sizes(erode_px=3) == {(24 + 2 * r, 20 + 2 * r) for r in range(0, 6)}
    assert sizes(erode_px=5) == {(24 + 2 * r, 20 + 2 * r) for r in range(-2, 6)}
    assert sizes(kind="precise", erode_px=4, jitter_px=0) == {(24 + 2 * r, 20 + 2 * r) for r in range(-4, 1)}
    assert sizes(kind="full", erode_px=4) == {(64, 64)}


def test_fill_is_defined_in_normalised_space() -> None:
    frames, mask = torch.rand(2, 3, 4, 4) * 2 - 1, torch.rand(2, 4, 4) > 0.5
    inside = mask[:, None].expand_as(frames)
    for fill, value in (("neutral", 0.0), ("black", -1.0)):
        filled = fill_inside(frames, mask, fill)
        assert (filled[inside] == value).all() and torch.equal(filled[~inside], frames[~inside])
    assert torch.equal(fill_inside(frames, mask, "original"), frames)
    scaled = fill_inside(frames, mask, "scaled", 0.25)
    assert torch.equal(scaled[inside], frames[inside] * 0.25) and torch.equal(scaled[~inside], frames[~inside])
    assert torch.equal(fill_inside(frames, mask, "scaled", 1), frames) and fill_inside(frames, mask, "scaled", 0)[inside].abs().max() == 0
    with pytest.raises(ValueError, match="outside 0 to 1"):
        fill_inside(frames, mask, "scaled", 1.5)
    with pytest.raises(ValueError, match="Normalise"):
        fill_inside(frames.to(torch.uint8), mask, "neutral")
    with pytest.raises(ValueError, match="no fill"):
        fill_inside(frames, mask, "grey")  # type: ignore[arg-type]
