"""Collages without a model, and where a transition ends."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from pvtt_model.editing.collage import beside, cleaned, cut_out, pasted
from pvtt_model.editing.transition import transition_frames


def scene(count: int, seed: int = 0, speed: int = 1) -> torch.Tensor:
    """A smooth picture that moves `speed` pixels a frame, with grain. uint8 T,3,48,64."""
    g = torch.Generator().manual_seed(seed)
    wide = torch.nn.functional.interpolate(torch.rand(1, 3, 3, 6, generator=g) * 220, (48, 64 + speed * count), mode="bicubic")[0]
    frames = torch.stack([wide[:, :, speed * i : speed * i + 64] for i in range(count)])
    return (frames + torch.randn(frames.shape, generator=g) * 2).clamp(0, 255).to(torch.uint8)


@pytest.mark.parametrize("cut", [1, 4, 7])
def test_a_cut_is_where_it_is(cut):
    before, after = scene(cut, seed=1), scene(21 - cut, seed=2)
    assert transition_frames(torch.cat([before, after])) == cut


def test_a_fade_is_dropped_to_its_end():
    before, after = scene(21, seed=1, speed=0).float(), scene(21, seed=2, speed=0).float()
    share = ((torch.arange(21) - 2) / 4).clamp(0, 1).view(-1, 1, 1, 1)  # 0 up to frame 2, 1 from frame 6
    assert transition_frames((before + share * (after - before)).to(torch.uint8)) == 6


@pytest.mark.parametrize("speed", [0, 1, 6])
def test_motion_alone_is_no_transition(speed):
    assert transition_frames(scene(21, speed=speed)) == 0


def test_a_cut_late_in_the_video_is_the_videos_own():
    assert transition_frames(torch.cat([scene(16, seed=1), scene(5, seed=2)])) == 0 == transition_frames(scene(2))


def product(ground: int = 255, alpha: bool = False) -> Image.Image:
    pixels = np.full((40, 30, 4), ground, np.uint8)
    pixels[..., 3] = 0 if alpha else 255
    pixels[8:32, 10:22] = (20, 40, 220, 255)
    pixels[16:20, 14:18] = (255, 255, 255, 255)  # a white label: no hole
    return Image.fromarray(pixels, "RGBA")


@pytest.mark.parametrize("alpha", [False, True])
def test_the_cut_out_is_the_product_label_and_all(alpha):
    cut = np.asarray(cut_out(product(alpha=alpha)))
    assert cut.shape == (24, 12, 4) and (cut[..., 3] == 255).all() and (cut[9, 5, :3] == 255).all()


def test_a_photograph_is_not_cut_out_by_guesswork():
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 30, 3), dtype=np.uint8))
    with pytest.raises(ValueError, match="no plain ground"):
        cut_out(noise)
    with pytest.raises(ValueError, match="stands out"):
        cut_out(Image.new("RGB", (20, 20), "white"))


def test_the_product_stands_in_the_masks_box():
    frame = torch.full((3, 60, 80), 100, dtype=torch.uint8)
    frame[:, 20:50, 30:60] = 10
    mask = torch.zeros(60, 80, dtype=torch.bool)
    mask[20:50, 30:60] = True
    region = torch.zeros(60, 80, dtype=torch.bool)
    region[18:52, 28:62] = True
    out = pasted(frame, mask, region, product(alpha=True))
    blue = (out[2] > 150) & (out[0] < 60)
    rows, columns = blue.nonzero().T
    assert (rows.min(), rows.max()) == (20, 49) and abs(int(columns.min()) - 37) <= 1 and abs(int(columns.max()) - 52) <= 1, "24x12 scaled to 30x15"
    outside = ~region[None].expand_as(frame)
    assert torch.equal(out[outside], frame[outside]) and (out[:, 30, 31] > 90).all(), "the old product is gone beside the new one"
    with pytest.raises(ValueError, match="empty"):
        pasted(frame, torch.zeros_like(mask), region, product())


def test_cleaning_fills_from_the_rim():
    frame = torch.full((3, 40, 40), 120, dtype=torch.uint8)
    region = torch.zeros(40, 40, dtype=torch.bool)
    region[10:20, 10:20] = True
    frame[:, 10:20, 10:20] = 0
    assert (cleaned(frame, region).int() - 120).abs().max() <= 2


def test_beside_has_the_scene_left_and_the_product_on_white_right():
    frame = torch.full((3, 60, 120), 100, dtype=torch.uint8)
    out = beside(frame, torch.zeros(60, 120, dtype=torch.bool), product())
    assert (out[:, 30, 40] == 100).all() and (out[:, 2, 2] == 255).all() and (out[:, 30, 118] == 255).all()
    assert out[2, 10, 100] > 150 and out[0, 10, 100] < 60
