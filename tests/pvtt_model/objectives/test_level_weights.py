"""The weights of noise levels by their closed forms, and by the published code where there is some."""

from __future__ import annotations

import math

import pytest
import torch
from diffusers.training_utils import compute_loss_weighting_for_sd3

from pvtt_model.objectives.level_weights import level_weights
from pvtt_model.objectives.noise_levels import shift_sigma

SIGMA = torch.linspace(0.01, 1.0, 100)


def test_none():
    assert torch.equal(level_weights(SIGMA, "none"), torch.ones(100))


def test_min_snr_is_the_paper_s_weight_of_x0():
    """min(SNR, gamma) |x0 error|^2, and the error of x0 is sigma times that of the velocity. Above the bend, (1 - sigma)^2."""
    snr = ((1 - SIGMA) / SIGMA).square()
    torch.testing.assert_close(level_weights(SIGMA, "min_snr", gamma=5.0), snr.clamp(max=5.0) * SIGMA.square())
    bend = 1 / (1 + math.sqrt(5.0))  # where SNR is 5
    assert level_weights(torch.tensor([bend, 0.5, 1.0, 0.0]), "min_snr", gamma=5.0).tolist() == pytest.approx([5 * bend**2, 0.25, 0.0, 0.0])


@pytest.mark.parametrize("weighting", ["sigma_sqrt", "cosmap"])
def test_as_in_sd3_s_scripts(weighting):
    torch.testing.assert_close(level_weights(SIGMA, weighting), compute_loss_weighting_for_sd3(weighting, SIGMA))


def test_sigma_sqrt_is_bounded():
    assert level_weights(torch.tensor([0.0, 1e-5]), "sigma_sqrt").tolist() == pytest.approx([1e6, 1e6])


def test_cosmap_is_a_density():
    """2 / (pi (1 - 2 t + 2 t^2)) integrates to 1."""
    t = torch.linspace(0, 1, 10_001)
    assert float(torch.trapezoid(level_weights(t, "cosmap"), t)) == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize("shift", [1.0, 5.0])
def test_bell_as_diffsynth_tabulates_it(shift):
    """Its table in our words: exp(-2 ((t - 500) / 1000)^2), less its least value, scaled to a sum of 1000, at 1000 shifted levels."""
    sigma = shift_sigma(torch.linspace(1, 0, 1001)[:-1], shift)
    table = torch.exp(-2 * ((1000 * sigma - 500) / 1000).square())
    table = table - table.min()
    table = table * (1000 / table.sum())
    torch.testing.assert_close(level_weights(sigma, "bell", shift=shift), table, atol=2e-4, rtol=2e-4)
    assert float(level_weights(sigma, "bell", shift=shift).mean()) == pytest.approx(1.0, abs=1e-4)


def test_bell_by_hand():
    ends = level_weights(torch.tensor([0.0, 1.0]), "bell")
    assert ends.tolist() == pytest.approx([0.0, 0.0], abs=1e-6)
    integral = math.sqrt(math.pi / 2) * math.erf(1 / math.sqrt(2)) - math.exp(-0.5)  # of the bell over [0, 1]
    assert float(level_weights(torch.tensor([0.5]), "bell")) == pytest.approx((1 - math.exp(-0.5)) / integral, rel=1e-3)
