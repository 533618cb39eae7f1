from __future__ import annotations

import pytest
import torch

from pvtt_model.evaluation.warp_error import MOTION_FLOOR_PX, visible_pixels, warp_error, warped


class KnownFlow:
    """The flow of a pure shift by whole pixels: what RAFT would have to answer."""

    name = "known"

    def __init__(self, x: float, y: float) -> None:
        self.shift = torch.tensor([x, y])

    def flow(self, one_BCHW: torch.Tensor, other_BCHW: torch.Tensor) -> torch.Tensor:
        forward = self.shift.view(1, 2, 1, 1).expand(len(one_BCHW), 2, *one_BCHW.shape[-2:])
        self.shift = -self.shift  # it is asked there and back in turn
        return forward


def texture(height: int, width: int) -> torch.Tensor:
    return torch.randint(0, 256, (3, height, width), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def test_a_pure_known_shift_has_no_error() -> None:
    wide = texture(40, 80)
    video = torch.stack([wide[:, :, 30 - 3 * t : 70 - 3 * t] for t in range(6)])  # what stands at x goes to x + 3
    got = warp_error(KnownFlow(3, 0), video)
    assert got.value == pytest.approx(0.0, abs=1e-5)  # grid_sample's own rounding
    assert got.motion_px == pytest.approx(3.0) and got.pairs == 5
    assert got.visible == pytest.approx(37 / 40)  # three columns leave the frame
    assert warp_error(KnownFlow(0, 0), video).value > 0.1  # the wrong flow is seen


def test_a_known_error_is_what_it_is() -> None:
    still = texture(16, 16)[None].expand(4, -1, -1, -1).clone()
    brighter = (still // 2).clone()
    brighter[1] += 51  # 0.2 on, then off: two of three pairs
    got = warp_error(KnownFlow(0, 0), brighter)
    assert got.value == pytest.approx(0.4 / 3, abs=1e-6) and got.is_near_static and got.motion_px < MOTION_FLOOR_PX
    where = torch.zeros(4, 16, 16, dtype=torch.bool)
    where[:, :8] = True
    brighter[:, :, 8:] = 0  # all of it outside
    assert warp_error(KnownFlow(0, 0), brighter, where).value == pytest.approx(0.4 / 3, abs=1e-6)


def test_what_is_occluded_does_not_count() -> None:
    forward = torch.zeros(1, 2, 10, 10)
    backward = forward.clone()
    forward[:, 0, :, :5] = 3.0  # a half that moves over the other, which the flow back does not confirm
    visible = visible_pixels(forward, backward)
    assert not visible[:, :, :5].any() and visible[:, :, 5:].all()
    with pytest.raises(ValueError, match="no pixel of any frame"):
        warp_error(KnownFlow(100, 0), texture(16, 16)[None].expand(3, -1, -1, -1))
    with pytest.raises(ValueError, match="T of 2"):
        warp_error(KnownFlow(0, 0), texture(16, 16)[None])


def test_warping_takes_x_then_y() -> None:
    frame = torch.zeros(1, 1, 5, 6)
    frame[0, 0, 3, 4] = 1.0
    flow = torch.zeros(1, 2, 5, 6)
    flow[:, 0], flow[:, 1] = 2.0, 1.0
    assert warped(frame, flow)[0, 0].nonzero().tolist() == [[2, 2]]


def test_raft_orders_frozen_source_and_shuffled(mug_pour, raft_small) -> None:
    """The real pouring hand: nothing moves, it moves, it jumps. A frozen video is best by number, and said to be near-static."""
    video, _ = mug_pour(3, 128, 216, every=4)
    frozen = video[:1].expand(2, -1, -1, -1)
    order = torch.tensor([0, 2, 1])
    still, source, shuffled = (warp_error(raft_small, v) for v in (frozen, video, video[order]))
    assert still.value < 0.5 * source.value < source.value < shuffled.value
    assert still.is_near_static and not source.is_near_static
