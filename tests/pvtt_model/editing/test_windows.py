"""Overlapping windows: their number and places, and that nothing is lost, padded or shifted between them."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pvtt_model.editing.windows import joined, plan_windows


@pytest.mark.parametrize(
    ("frames", "model", "overlap", "starts"),
    [
        (81, 81, None, [0]),
        (17, 81, None, [0]),  # shorter: its own length
        (80, 81, None, [0, 3]),  # 77 frames twice: the length stays 80
        (141, 81, None, [0, 60]),
        (142, 81, None, [0, 60, 61]),
        (300, 81, 17, [0, 64, 128, 192, 219]),
        (10, 5, 0, [0, 5]),
        (1, 81, None, [0]),
    ],
)
def test_the_windows_of_a_length(frames, model, overlap, starts):
    windows = plan_windows(frames, model, overlap)
    assert [w.start for w in windows] == starts and windows[-1].stop == frames


@given(st.integers(5, 400), st.sampled_from([5, 17, 49, 81]), st.one_of(st.none(), st.integers(0, 100)))
def test_every_frame_is_in_a_window_and_lengths_are_the_vaes(frames, model, overlap):
    windows = plan_windows(frames, model, overlap)
    assert windows[0].start == 0 and windows[-1].stop == frames
    for before, window in zip([None, *windows], windows, strict=False):
        assert (window.stop - window.start) % 4 == 1 and window.stop - window.start <= model
        assert window.overlap == (0 if before is None else before.stop - window.start) >= 0
        assert (window.given % 4 == 1 and window.given <= window.overlap) if window.overlap else window.given == 0
        assert before is None or window.start > before.start


@pytest.mark.parametrize("frames", [0, 2, 4])
def test_too_few_frames_are_refused(frames):
    with pytest.raises(ValueError, match="at least 5"):
        plan_windows(frames, 81)


@given(st.integers(5, 60), st.sampled_from([5, 17]), st.integers(0, 9), st.integers(0, 99))
def test_an_identity_sampler_gives_the_source_back(frames, model, overlap, seed):
    source = torch.randint(0, 256, (frames, 3, 2, 2), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
    held, windows = [], plan_windows(frames, model, overlap)

    def make(window, before):
        if window.overlap:
            assert torch.equal(before["raw"], source[window.start : window.start + window.overlap]), "the context is what stands there"
        return {"raw": source[window.start : window.stop]}

    at = 0
    for start, parts in joined(windows, make):
        assert start == at
        at += len(parts["raw"])
        held.append(parts["raw"])
    assert torch.equal(torch.cat(held), source) and len(held) == len(windows)


def test_the_fade_is_linear():
    """Windows of constant 0 and 100 that share 4 frames: 20, 40, 60, 80 between."""
    windows = plan_windows(14, 9, 4)
    values = iter((0, 100))

    def make(window, before):
        return {"raw": torch.full((9, 1, 1, 1), next(values), dtype=torch.uint8)}

    out = torch.cat([parts["raw"] for _, parts in joined(windows, make)]).flatten().tolist()
    assert out == [0] * 5 + [20, 40, 60, 80] + [100] * 5
