"""How far a mean over the edits may be off by the draw of the clips: the 95 % bootstrap interval."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

RESAMPLES, SEED = 2000, 0


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
