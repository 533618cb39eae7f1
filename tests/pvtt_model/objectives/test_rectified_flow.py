"""The straight path, its velocity, the shift and the loss, by their closed forms."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pvtt_model.objectives.rectified_flow import data_estimate, flow_loss, interpolate, mask_weights, velocity

SHAPE = (2, 3, 1, 2, 2)


def pair() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(SHAPE, generator=generator), torch.randn(SHAPE, generator=generator)


def test_the_ends_of_the_path_are_exact():
    x0, noise = pair()
    assert torch.equal(interpolate(x0, noise, torch.zeros(2)), x0)
    assert torch.equal(interpolate(x0, noise, torch.ones(2)), noise)


def test_one_sigma_a_sample():
    x0, noise = torch.zeros(SHAPE), torch.full(SHAPE, 8.0)
    mixed = interpolate(x0, noise, torch.tensor([0.25, 0.75]))
    assert (mixed[0] == 2).all() and (mixed[1] == 6).all()


def test_velocity_points_from_data_to_noise():
    """v = dx / dsigma: a step from any level along -v sigma arrives at the data."""
    x0, noise = pair()
    sigma = torch.tensor([0.3, 0.9])
    v = velocity(x0, noise)
    assert torch.equal(v, noise - x0)
    torch.testing.assert_close(interpolate(x0, noise, sigma) - sigma.view(-1, 1, 1, 1, 1) * v, x0)


@pytest.mark.parametrize("sigma", [torch.zeros(3), torch.zeros(2, 1), torch.tensor(0.5)])
def test_shapes_must_agree(sigma):
    x0, noise = pair()
    with pytest.raises(ValueError, match="one sigma a sample; got"):
        interpolate(x0, noise, sigma)
    with pytest.raises(ValueError, match="one shape"):
        interpolate(x0, noise[:, :2], torch.zeros(2))


def test_the_true_velocity_points_to_the_data():
    x0, noise = pair()
    sigma = torch.tensor([0.3, 0.9])
    torch.testing.assert_close(data_estimate(interpolate(x0, noise, sigma), velocity(x0, noise), sigma), x0)


def test_loss_is_the_mean_square_a_sample():
    x0, noise = torch.zeros(SHAPE), torch.ones(SHAPE)
    off = torch.tensor([0.0, 3.0]).view(2, 1, 1, 1, 1)
    loss = flow_loss(velocity(x0, noise) + off, x0, noise)
    assert loss.dtype == torch.float32 and loss.tolist() == [0.0, 9.0]
    assert flow_loss(velocity(x0, noise).bfloat16(), x0.bfloat16(), noise.bfloat16()).dtype == torch.float32


def test_weights_by_hand():
    """Four cells: outside, half inside, inside, inside; weight 5. Their mean is (1 + 3 + 5 + 5) / 4 = 3.5."""
    mask = torch.zeros(1, 64, 1, 2, 2)
    mask[:, :32, 0, 0, 1] = 1
    mask[:, :, 0, 1] = 1
    weights = mask_weights(mask, 5.0)
    torch.testing.assert_close(weights.flatten(), torch.tensor([1.0, 3.0, 5.0, 5.0]) / 3.5)


@given(st.floats(0.01, 100), st.integers(0, 9))
def test_each_sample_weighs_one_in_the_mean(weight, seed):
    masks = torch.rand(3, 64, 2, 4, 4, generator=torch.Generator().manual_seed(seed)).round()
    masks[1], masks[2] = 0, 1  # nothing to replace, and everything: no weighting at all
    weights = mask_weights(masks, weight)
    torch.testing.assert_close(weights.mean((1, 2, 3)), torch.ones(3))
    torch.testing.assert_close(weights[1:], torch.ones(2, 2, 4, 4))


def test_weighted_loss_counts_the_inside_more():
    """One channel of two cells, errors 1 outside and 3 inside: (1 x 1 + 4 x 9) / 2.5 / 2 at weight 4; weight 1 changes nothing."""
    x0, noise = torch.zeros(1, 1, 1, 1, 2), torch.ones(1, 1, 1, 1, 2)
    prediction = velocity(x0, noise) + torch.tensor([1.0, 3.0])
    mask = torch.zeros(1, 64, 1, 1, 2)
    mask[..., 1] = 1
    assert flow_loss(prediction, x0, noise, mask_weights(mask, 4.0)).item() == pytest.approx(37 / 5)
    assert torch.equal(flow_loss(prediction, x0, noise, mask_weights(mask, 1.0)), flow_loss(prediction, x0, noise))
