"""The straight path, its velocity, the shift and the loss, by their closed forms."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pvtt_model.objectives.rectified_flow import flow_loss, interpolate, sample_sigma, shift_sigma, velocity

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


@given(st.floats(0, 1), st.floats(0.1, 20))
def test_shift_by_its_formula(sigma, shift):
    shifted = float(shift_sigma(torch.tensor(sigma, dtype=torch.float64), shift))
    assert shifted == pytest.approx(shift * sigma / (1 + (shift - 1) * sigma))
    assert 0 <= shifted <= 1
    assert shifted >= sigma - 1e-12 if shift >= 1 else shifted <= sigma + 1e-12


def test_shift_of_a_half():
    half = torch.tensor(0.5, dtype=torch.float64)
    assert [float(shift_sigma(half, s)) for s in (1.0, 3.0, 5.0)] == [0.5, 0.75, pytest.approx(5 / 6)]


@pytest.mark.parametrize("sampling", ["uniform", "logit_normal"])
@pytest.mark.parametrize("shift", [1.0, 5.0])
def test_sampled_levels(sampling, shift):
    def draw(seed: int) -> torch.Tensor:
        return sample_sigma(4000, sampling, shift, torch.Generator().manual_seed(seed))

    sigma = draw(0)
    assert sigma.shape == (4000,) and (sigma > 0).all() and (sigma < 1).all()
    assert torch.equal(sigma, draw(0)) and not torch.equal(sigma, draw(1))
    assert float(sigma.median()) == pytest.approx(shift / (1 + shift), abs=0.03)  # both are symmetric about 1/2 before the shift


def test_loss_is_the_mean_square_a_sample():
    x0, noise = torch.zeros(SHAPE), torch.ones(SHAPE)
    off = torch.tensor([0.0, 3.0]).view(2, 1, 1, 1, 1)
    loss = flow_loss(velocity(x0, noise) + off, x0, noise)
    assert loss.dtype == torch.float32 and loss.tolist() == [0.0, 9.0]
    assert flow_loss(velocity(x0, noise).bfloat16(), x0.bfloat16(), noise.bfloat16()).dtype == torch.float32
