"""The Fréchet distance of two Gaussians, and the moments of features it is taken of, gathered one batch at a time. Lower is better; 0 or more.

    d = |mean1 - mean2|^2 + Tr(cov1 + cov2 - 2 (cov1 cov2)^(1/2))

Dowson and Landau 1982; as a distance of image and video features arXiv:1706.08500 (FID), arXiv:1812.01717 (FVD). Covariances are the
unbiased ones (N - 1), as everywhere in published code. With fewer samples than features they have no full rank: the distance still exists,
but is biased upwards, the more the fewer samples; so it means something only beside N.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

Vector = npt.NDArray[np.float64]


class Moments:
    """Mean and scatter of feature vectors as they come: memory is D x D numbers however many there are. float64 throughout.

    Updated by Chan, Golub and LeVeque 1983, whose two parts are merged without loss: of batches, and of several workers.
    """

    def __init__(self, width: int) -> None:
        self.n = 0
        self.mean_D: Vector = np.zeros(width)
        self.scatter_DD: Vector = np.zeros((width, width))

    def add(self, features_ND: torch.Tensor | npt.NDArray[np.floating]) -> Moments:
        """Take in a batch (N, D). Raises ValueError for another width or a number that is not finite."""
        features = np.asarray(features_ND.cpu() if isinstance(features_ND, torch.Tensor) else features_ND, dtype=np.float64)
        if features.ndim != 2 or features.shape[1] != len(self.mean_D):
            raise ValueError(f"features have shape {features.shape}; these moments are of (N, {len(self.mean_D)}).")
        if not np.isfinite(features).all():
            raise ValueError("features hold a number that is not finite: one video would spoil the whole distance. Check the extractor's weights.")
        if not len(features):
            return self
        other = Moments(features.shape[1])
        other.n, other.mean_D = len(features), features.mean(axis=0)
        centred = features - other.mean_D
        other.scatter_DD = centred.T @ centred
        return self.merge(other)

    def merge(self, other: Moments) -> Moments:
        """Take in what another has gathered."""
        if other.n:
            apart, n = other.mean_D - self.mean_D, self.n + other.n
            self.scatter_DD += other.scatter_DD
            self.scatter_DD += np.outer(apart, apart * (self.n * other.n / n))
            self.mean_D = self.mean_D + apart * (other.n / n)
            self.n = n
        return self

    @property
    def covariance_DD(self) -> Vector:
        """Unbiased. Raises ValueError for fewer than two samples."""
        if self.n < 2:
            raise ValueError(f"{self.n} samples have no covariance; a Fréchet distance wants two on either side, and hundreds to mean anything.")
        return self.scatter_DD / (self.n - 1)


class Distance(NamedTuple):
    """A distance of two sets with what it means nothing without."""

    name: str  # the metric's, with the extractor's in brackets where that is not the published one
    value: float  # lower is better
    extractor: str
    n_real: int
    n_made: int
    warning: str  # empty where there is none


def frechet_distance(mean1_D: Vector, cov1_DD: Vector, mean2_D: Vector, cov2_DD: Vector) -> float:
    """The distance, by two symmetric eigenproblems: Tr (cov1 cov2)^(1/2) is the sum of the roots of the eigenvalues of S cov2 S with S = cov1^(1/2).

    Needs no full rank and gives no imaginary part, unlike a general matrix square root of the product. Raises ValueError for unlike shapes.
    """
    shapes = [np.shape(a) for a in (mean1_D, cov1_DD, mean2_D, cov2_DD)]
    width = len(mean1_D)
    if shapes != [(width,), (width, width)] * 2:
        raise ValueError(f"means and covariances have shapes {shapes}; both sides want ({width},) and ({width}, {width}).")
    values, vectors = np.linalg.eigh(cov1_DD)
    root = (vectors * np.sqrt(values.clip(min=0))) @ vectors.T
    cross = np.sqrt(np.linalg.eigvalsh(root @ cov2_DD @ root).clip(min=0)).sum()
    apart = mean1_D - mean2_D
    return max(0.0, float(apart @ apart + np.trace(cov1_DD) + np.trace(cov2_DD) - 2 * cross))


def distance_of(real: Moments, made: Moments) -> float:
    """The Fréchet distance of two gathered sets. Raises ValueError for fewer than two samples on a side."""
    return frechet_distance(real.mean_D, real.covariance_DD, made.mean_D, made.covariance_DD)
