"""How sure a mean over clips is."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from wavegen.errors import WavegenError

__all__ = ["Interval", "bootstrap"]

AT_ONCE = 1 << 22  # bounds the memory of the drawn indices


class Interval(NamedTuple):
    """A figure and the bounds of its 95 % confidence interval; both bounds equal the figure for one clip."""

    mean: float
    low: float
    high: float


def bootstrap(
    values: Sequence[float | int],
    weights: Sequence[float | int] | None = None,
    *,
    resamples: int = 5000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Sum of `values` over sum of `weights` (ones: their mean) and its percentile interval over resampled clips.

    Source: Efron and Tibshirani (1993), "An Introduction to the Bootstrap", chapter 13.

    Raises:
        WavegenError: no value, one that is not finite, or weights that are not as many positive numbers.
    """
    figures = np.asarray(values, dtype=np.float64)
    shares = np.ones_like(figures) if weights is None else np.asarray(weights, dtype=np.float64)
    if figures.size == 0 or figures.shape != shares.shape or not (np.isfinite(figures).all() and (shares > 0).all()):
        raise WavegenError(f"got {figures.size} values, expected one or more finite ones with positive weights")
    rng = np.random.default_rng(seed)
    block = max(1, AT_ONCE // figures.size)
    ratios = []
    for start in range(0, resamples, block):
        drawn = rng.integers(figures.size, size=(min(block, resamples - start), figures.size))
        ratios.append(figures[drawn].sum(1) / shares[drawn].sum(1))
    low, high = np.quantile(np.concatenate(ratios), [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(figures.sum() / shares.sum()), float(low), float(high))
