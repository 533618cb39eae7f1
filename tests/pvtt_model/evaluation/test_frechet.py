from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchmetrics.image.fid import FrechetInceptionDistance

from pvtt_model.backbones.video import load_video_features
from pvtt_model.evaluation.fid import fid, frame_moments
from pvtt_model.evaluation.frechet import Moments, distance_of, frechet_distance
from pvtt_model.evaluation.fvd import fvd, video_features, video_moments
from pvtt_model.nano.shipped import FOLDER, shipped
from pvtt_model.specs import ModelSpec


def gathered(features: np.ndarray) -> Moments:
    return Moments(features.shape[1]).add(features)


def by_scipy(one: np.ndarray, other: np.ndarray) -> float:
    """As the published code takes it: scipy's square root of the product of covariances."""
    apart = one.mean(0) - other.mean(0)
    cov1, cov2 = np.cov(one, rowvar=False), np.cov(other, rowvar=False)
    return float(apart @ apart + np.trace(cov1 + cov2 - 2 * np.real(scipy.linalg.sqrtm(cov1 @ cov2))))


def test_of_two_known_gaussians() -> None:
    """Commuting covariances have a closed form: the roots' difference, squared."""
    mean1, mean2 = np.array([1.0, 2.0, 3.0]), np.array([1.0, 0.0, 4.0])
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    cov1, cov2 = (turn @ np.diag(v) @ turn.T for v in ([1.0, 4.0, 9.0], [4.0, 16.0, 1.0]))
    assert frechet_distance(mean1, cov1, mean2, cov2) == pytest.approx(5.0 + 1 + 4 + 4, rel=1e-12)
    assert frechet_distance(mean1, cov1, mean1, cov1) == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize(("n1", "n2", "width"), [(400, 300, 32), (2000, 2000, 64), (20, 40, 64), (5, 100, 96)])
def test_is_scipys(n1: int, n2: int, width: int) -> None:
    """Also for fewer samples than features, where the product is singular."""
    rng = np.random.default_rng(n1)
    mixed = rng.normal(size=(width, width))
    one, other = rng.normal(size=(n1, width)) @ mixed, rng.normal(size=(n2, width)) * 1.3 + 0.2
    assert distance_of(gathered(one), gathered(other)) == pytest.approx(by_scipy(one, other), rel=1e-5)


@settings(max_examples=40, deadline=None)
@given(sizes=st.lists(st.integers(0, 9), min_size=1, max_size=8), offset=st.sampled_from([0.0, 1e4]), seed=st.integers(0, 99))
def test_moments_in_parts_are_those_of_the_whole(sizes: list[int], offset: float, seed: int) -> None:
    features = np.random.default_rng(seed).normal(size=(sum(sizes) + 2, 5)) + offset
    parts = Moments(5)
    for part in np.split(features, np.cumsum(sizes)):
        parts.merge(Moments(5).add(part))
    assert parts.n == len(features)
    np.testing.assert_allclose(parts.mean_D, features.mean(0), rtol=1e-12)
    np.testing.assert_allclose(parts.covariance_DD, np.cov(features, rowvar=False), rtol=1e-6, atol=1e-6)


def test_what_cannot_be_gathered_is_refused() -> None:
    with pytest.raises(ValueError, match=r"shape \(2, 4\)"):
        Moments(3).add(np.zeros((2, 4)))
    with pytest.raises(ValueError, match="not finite"):
        Moments(3).add(np.full((2, 3), math.nan))
    with pytest.raises(ValueError, match="1 samples have no covariance"):
        distance_of(Moments(3).add(np.zeros((1, 3))), gathered(np.zeros((4, 3))))


class Pooled(torch.nn.Module):
    """A random extractor of 16 numbers, the same object for torchmetrics and for us."""

    name, num_features = "pooled-noise", 16

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = torch.nn.Conv2d(3, 16, 5, stride=2)

    @torch.no_grad()
    def forward(self, images_BCHW: torch.Tensor) -> torch.Tensor:
        return self.conv(images_BCHW).relu().mean((2, 3))

    embed = forward


def frames(seed: int, low: int = 0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(low, 256, (8, 3, 32, 32), generator=generator, dtype=torch.uint8) for _ in range(6)]


def test_fid_is_torchmetrics() -> None:
    network = Pooled()
    theirs = FrechetInceptionDistance(feature=network, normalize=True, input_img_size=(3, 32, 32)).set_dtype(torch.float64)
    network.float()
    for real, made in zip(frames(0), frames(1, low=90), strict=True):
        theirs.update(real / 255.0, real=True)
        theirs.update(made / 255.0, real=False)
    got = fid(
        network, ModelSpec(architecture="fid-inception", weights="/w"), *(frame_moments(network, 16, f) for f in (frames(0), frames(1, low=90)))
    )
    assert got.value == pytest.approx(float(theirs.compute()), rel=1e-4)
    assert got.name == "fid[pooled-noise]" and (got.n_real, got.n_made) == (48, 48) and "48 frames: below 2048" in got.warning


def test_fvd_streams_to_the_same_value() -> None:
    spec = shipped("video", ModelSpec)
    network = load_video_features(spec, FOLDER / "video")
    real, made = frames(2), frames(3, low=60)
    got = fvd(network, spec, video_moments(network, real), video_moments(network, iter(made)))
    whole = [torch.cat([video_features(network, video) for video in videos]).double().numpy() for videos in (real, made)]
    assert got.value == pytest.approx(by_scipy(*whole), rel=1e-5)  # 6 videos, 128 features
    assert got.name == "fvd[nano-video]" and got.extractor == "nano-video" and "6 videos: below 256" in got.warning
    assert fvd(network, spec, video_moments(network, real), video_moments(network, real)).value == pytest.approx(0.0, abs=1e-6)
