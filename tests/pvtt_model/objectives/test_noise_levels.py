"""Every sampling against its density, whole and cut to a range; the shift by its formulas."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pvtt_model.objectives.noise_levels import draw_sigma, mode_of, sample_sigma, shift_of, shift_sigma
from pvtt_model.specs import ObjectiveSpec

WAN_480P = (16, 21, 60, 104)  # latents of 81 frames of 832 x 480


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@given(st.floats(0, 1), st.floats(0.1, 20))
def test_shift_by_its_formula(sigma, shift):
    shifted = float(shift_sigma(torch.tensor(sigma, dtype=torch.float64), shift))
    assert shifted == pytest.approx(shift * sigma / (1 + (shift - 1) * sigma))
    assert 0 <= shifted <= 1
    assert shifted >= sigma - 1e-12 if shift >= 1 else shifted <= sigma + 1e-12


def test_shift_of_a_half():
    half = torch.tensor(0.5, dtype=torch.float64)
    assert [float(shift_sigma(half, s)) for s in (1.0, 3.0, 5.0)] == [0.5, 0.75, pytest.approx(5 / 6)]


@pytest.mark.parametrize("sampling", ["uniform", "logit_normal", "mode"])
@pytest.mark.parametrize("shift", [1.0, 5.0])
def test_sampled_levels(sampling, shift):
    def draw(seed: int) -> torch.Tensor:
        return sample_sigma(4000, sampling, shift, generator(seed))

    sigma = draw(0)
    assert sigma.shape == (4000,) and sigma.dtype == torch.float32 and (sigma >= 0).all() and (sigma <= 1).all()
    assert torch.equal(sigma, draw(0)) and not torch.equal(sigma, draw(1))
    assert float(sigma.median()) == pytest.approx(shift / (1 + shift), abs=0.03)  # all are symmetric about 1/2 before the shift


def test_the_draws_of_before():
    """What was drawn before there were options, number for number."""
    assert torch.equal(sample_sigma(5, "uniform", 3.0, generator()), shift_sigma(torch.rand(5, generator=generator()), 3.0))
    assert torch.equal(sample_sigma(5, "logit_normal", 6.0, generator()), shift_sigma(torch.sigmoid(torch.randn(5, generator=generator())), 6.0))


def mode_cdf(scale: float) -> Callable[[float], float]:
    """P(mode_of(u) <= t) for uniform u, from a fine table of the falling mode_of."""
    u = torch.linspace(0, 1, 200_001, dtype=torch.float64)
    levels = mode_of(u, scale).flip(0)
    return lambda t: 1 - float(u.flip(0)[min(int(torch.searchsorted(levels, t)), len(u) - 1)])


def cdf(sampling: str, mean: float, std: float, scale: float) -> Callable[[float], float]:
    if sampling == "uniform":
        return lambda t: t
    if sampling == "logit_normal":
        return lambda t: float(torch.special.ndtr((torch.tensor(t, dtype=torch.float64).logit() - mean) / std))
    return mode_cdf(scale)


CASES = [
    ("uniform", 0.0, 1.0, 0.0), ("logit_normal", 0.0, 1.0, 0.0), ("logit_normal", -0.7, 0.4, 0.0), ("logit_normal", 1.5, 2.0, 0.0),
    ("mode", 0.0, 1.0, 1.29), ("mode", 0.0, 1.0, -0.9), ("mode", 0.0, 1.0, 2 / (math.pi - 2)),
]  # fmt: skip


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (0.875, 1.0), (0.0, 0.9), (0.4, 0.45)])
@pytest.mark.parametrize(("sampling", "mean", "std", "scale"), CASES)
def test_the_density_whole_and_cut(sampling, mean, std, scale, low, high):
    """Kolmogorov-Smirnov against (F(t) - F(low)) / (F(high) - F(low)), the shift undone: 1500 draws of a fixed seed."""
    shift = 3.0
    sigma = sample_sigma(1500, sampling, shift, generator(1), logit_mean=mean, logit_std=std, mode_scale=scale, low=low, high=high)
    assert float(sigma.min()) >= low and float(sigma.max()) <= high
    whole = cdf(sampling, mean, std, scale)

    def unshifted(t: float) -> float:
        return t / (shift - (shift - 1) * t)

    at_low, at_high = whole(unshifted(low)), whole(unshifted(high))
    expected = torch.tensor([(whole(unshifted(t)) - at_low) / (at_high - at_low) for t in sigma.double().sort().values.tolist()])
    steps = torch.arange(1501) / 1500
    distance = float(torch.maximum(steps[1:] - expected, expected - steps[:-1]).max())
    assert distance < 1.63 / 1500**0.5, "the 1 % point of Kolmogorov's distribution"


def test_a_far_tail_is_spread_not_heaped():
    """P(z > 6) is 1e-9: drawn through the upper end of the distribution in float64 only a few values would be left."""
    low = float(torch.sigmoid(torch.tensor(8.0)))
    sigma = sample_sigma(500, "logit_normal", 1.0, generator(), low=low, high=1.0)
    assert len(sigma.unique()) > 400 and float(sigma.min()) >= low - 1e-7


@pytest.mark.parametrize(("low", "high"), [(0.5, 0.5), (0.9, 0.1), (-0.1, 0.5), (0.5, 1.1)])
def test_a_range_without_room(low, high):
    with pytest.raises(ValueError, match="Give 0 <= low < high <= 1"):
        sample_sigma(1, "uniform", 1.0, generator(), low=low, high=high)


def test_mode_of_by_hand():
    u = torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64)
    torch.testing.assert_close(mode_of(u, 1.29), torch.tensor([1.0, 0.5, 0.0], dtype=torch.float64))  # cos^2(pi / 4) - 1/2 = 0
    assert float(mode_of(torch.tensor(1 / 3, dtype=torch.float64), 1.29)) == pytest.approx(2 / 3 - 1.29 * (0.75 - 2 / 3))  # cos^2(pi / 6) = 3/4


def test_shift_by_tokens():
    assert shift_of(ObjectiveSpec(shift=3.0), WAN_480P) == 3.0
    by_tokens = ObjectiveSpec(shift=3.0, shift_by="tokens")
    assert shift_of(by_tokens, WAN_480P) == pytest.approx(3.0), "21 x 30 x 52 are the base's tokens"
    assert shift_of(by_tokens, (16, 21, 120, 208)) == pytest.approx(6.0), "four times the tokens, twice the shift"
    linear = ObjectiveSpec(shift=math.exp(0.5), shift_by="tokens_linear", base_tokens=256, far_tokens=4096, far_shift=math.exp(1.15))
    flux = 0.5 + (1.15 - 0.5) / (4096 - 256) * (1024 - 256)  # diffusers' calculate_shift at 1024 tokens
    assert shift_of(linear, (16, 1, 64, 64)) == pytest.approx(math.exp(flux))
    drawn = draw_sigma(by_tokens, (16, 21, 120, 208), generator())
    assert torch.equal(drawn, sample_sigma(1, "uniform", 6.0, generator()))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"shift_by": "tokens_linear"}, "Set far_shift"),
        ({"sigma_low": 0.5, "sigma_high": 0.5}, "not below sigma_high"),
        ({"identity_weight": 1.0, "sigma_low": 0.4}, "no sample would have an identity loss"),
        ({"mode_scale": 1.8}, "less than or equal to 1.75"),
    ],
)
def test_refused_settings(fields, message):
    with pytest.raises(ValueError, match=message):
        ObjectiveSpec(**fields)


def test_what_was_made_before_keeps_its_name():
    assert set(ObjectiveSpec().identity()) == {"timestep_sampling", "shift", "text_dropout", "reference_dropout", "words_weight", "mask_weight"}
