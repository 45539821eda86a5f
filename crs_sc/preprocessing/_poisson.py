"""Poisson counts of many cells: their limits, and what remains of them below a limit.

scipy's distributions give the same, at many times the cost.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from scipy import special

from crs_sc.core.arrays import compiled

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["largest_count", "mid_ranks", "truncated_sum"]

# Limits that are worked out at least, of so many counts.
_FIRST = 64


def largest_count(mean: NDArray[np.float64], alpha: float) -> NDArray[np.float64]:
    """Smallest count that is exceeded with a probability of at most `alpha`.

    Parameters
    ----------
    mean
        Means, from 0.
    alpha
        Probability, inside (0, 1).

    Returns
    -------
    `scipy.stats.poisson.isf(alpha, mean)`.
    """
    highest = float(mean.max(initial=0.0))
    n = _FIRST
    while (limits := _largest_means(alpha, n))[-1] < highest:
        n *= 2
    return np.searchsorted(limits, mean).astype(np.float64)


@lru_cache(maxsize=32)
def _largest_means(alpha: float, n: int) -> NDArray[np.float64]:
    """Largest means at which the counts 0, 1, ..., `n - 1` are exceeded that seldom, ascending."""
    limits: NDArray[np.float64] = special.pdtri(np.arange(n), 1 - alpha)
    limits.flags.writeable = False
    return limits


def mid_ranks(counts: NDArray[np.float64], mean: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rank of each count among those that Poisson would give: `P(Y < y) + P(Y = y) / 2`.

    Parameters
    ----------
    counts, mean
        Shape `(n,)`.
    """
    # Most are zero.
    rank: NDArray[np.float64] = 0.5 * np.exp(-mean)
    some = np.flatnonzero(counts > 0)
    y, m = counts[some], mean[some]
    rank[some] = 0.5 * (special.pdtr(y - 1, m) + special.pdtr(y, m))
    return rank


def truncated_sum(mean: NDArray[np.float64], cut: NDArray[np.float64]) -> float:
    """Sum of the expected values of Poisson counts of which none is above its cut.

    Parameters
    ----------
    mean, cut
        Means and largest counts, shape `(n,)`.
    """
    return float(compiled(_truncated_sum)(mean, cut))


def _truncated_sum(mean: NDArray[np.float64], cut: NDArray[np.float64]) -> float:
    """Add up `m * P(Y < c) / P(Y <= c)`.

    That is `m * (1 - b)` with `b = P(Y = c) / P(Y <= c)`, Erlang's formula, of which the inverse
    follows from that of `c - 1`.
    """
    total = 0.0
    for i in range(len(mean)):
        m = mean[i]
        if m <= 0:
            continue
        inverse = 1.0
        for c in range(1, int(cut[i]) + 1):
            inverse = 1 + c / m * inverse
        total += m * (1 - 1 / inverse)
    return total
