"""How far a mean over the edits may be off by the draw of the clips: the 95 % bootstrap interval."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

RESAMPLES, SEED = 2000, 0
LEAST_PAIRS = 8  # below it a bootstrap interval is too narrow to say anything by (Efron and Tibshirani 1993, ch. 14)


def bootstrap_interval(values: Sequence[float]) -> tuple[float, float]:
    """(low, high): the 2.5th and 97.5th percentile of the means of 2,000 resamples with replacement, the same for the same values.

    Of the differences of pairs it is the paired bootstrap's (compare.py). It knows the spread over clips alone, not that over training seeds.
    Raises ValueError for no values.
    """
    if not values:
        raise ValueError("no values: an interval wants at least one edit.")
    rng = np.random.default_rng(SEED)
    drawn = np.asarray(values, dtype=np.float64)[rng.integers(len(values), size=(RESAMPLES, len(values)))]
    low, high = np.percentile(drawn.mean(axis=1), [2.5, 97.5])
    return float(low), float(high)


class Paired(NamedTuple):
    """The mean difference of pairs with its 95 % interval; sign: 1 or -1 where the interval leaves 0 out and there are pairs enough, else 0."""

    n: int
    mean: float
    low: float
    high: float
    sign: int

    def __str__(self) -> str:
        few = f", fewer than {LEAST_PAIRS} edits" if self.n < LEAST_PAIRS else ""
        return f"{self.mean:+.4g} (95 %: {self.low:+.4g} to {self.high:+.4g}, N {self.n}{few})"


def paired(differences: Sequence[float]) -> Paired:
    """Raises ValueError for no pair."""
    low, high = bootstrap_interval(differences)
    sign = 0 if len(differences) < LEAST_PAIRS else 1 if low > 0 else -1 if high < 0 else 0
    return Paired(len(differences), float(np.mean(differences)), low, high, sign)
