"""Kernels: how much of a cell's UMI came from the soup, from genes the cell cannot express.

In a cell of `N` UMI that does not express a panel of genes with share `a` of the soup, the panel's
count is Poisson with mean `rho * N * a`. Two things stand in the way of summing counts over
exposures. Cells that do express the panel (wrong label, doublet) must go: a cell leaves if its
count is impossible under the largest contamination considered. And leaving out high counts lowers
what remains, so the rate is fitted to the *truncated* Poisson.

A profile pooled from the cells is the soup only if all cell types lyse alike. If lineage `l` holds
a share `p_l` of the sample's UMI and a share `q_l` of the soup, its panel reads `rho * q_l / p_l`
with the pooled profile, so the mean of the panels weighted by `p_l` is `rho` again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import optimize, stats

if TYPE_CHECKING:
    from numpy.typing import NDArray

_ALPHA = 0.05
# Below this there is too little soup to say whose it is.
_NO_SOUP = 0.01


@dataclass(frozen=True)
class Rate:
    """Contamination as one panel reads it.

    Attributes
    ----------
    estimate, low, high
        Maximum likelihood and exact 95 % interval.
    count, exposure
        Panel UMI seen, and expected at a contamination of 1, in the cells that were used.
    """

    estimate: float
    low: float
    high: float
    count: int
    exposure: float


def largest_ambient_count(mean: NDArray[np.float64]) -> NDArray[np.float64]:
    """Largest count that the soup could still give: `P(Poisson(mean) >= count) > 0.05`."""
    largest: NDArray[np.float64] = np.maximum(stats.poisson.isf(_ALPHA, mean), 0.0)
    return largest


def panel_rate(
    counts: NDArray[np.float64], exposure: NDArray[np.float64], *, max_fraction: float
) -> Rate:
    """Contamination from one panel in cells that should not express it.

    The cut starts at `max_fraction` and is drawn in to three times the estimate, which removes
    doublets with few panel counts; the truncated likelihood makes up for what the cut takes from
    honest cells.

    Parameters
    ----------
    counts
        Panel UMI of the candidate cells, shape `(n_cells,)`.
    exposure
        UMI of the cell times the panel's share of the soup, shape `(n_cells,)`.
    max_fraction
        Largest contamination considered.
    """
    bound = max_fraction
    for _ in range(4):
        cut = largest_ambient_count(bound * exposure)
        kept = (counts <= cut) & (cut > 0)
        total, mine, limits = counts[kept].sum(), exposure[kept], cut[kept]
        estimate = _solve(total, mine, limits, max_fraction)
        tighter = min(max_fraction, max(3 * estimate, 0.03))
        if tighter >= 0.9 * bound:
            break
        bound = tighter
    low = stats.chi2.ppf(0.025, 2 * total) / 2 if total else 0.0
    high = stats.chi2.ppf(0.975, 2 * (total + 1)) / 2
    return Rate(
        estimate,
        _solve(low, mine, limits, max_fraction),
        _solve(high, mine, limits, max_fraction),
        int(total),
        float(mine.sum()),
    )


def _solve(
    total: float, exposure: NDArray[np.float64], cut: NDArray[np.float64], most: float
) -> float:
    """Contamination at which the truncated Poisson counts sum to `total`; `most` if none does."""

    def excess(rho: float) -> float:
        mean = rho * exposure
        # E[Y | Y <= c] of a Poisson with mean m is m * P(Y <= c - 1) / P(Y <= c).
        expected = mean * stats.poisson.cdf(cut - 1, mean) / stats.poisson.cdf(cut, mean)
        return float(expected.sum() - total)

    if total <= 0:
        return 0.0
    if len(exposure) == 0 or excess(most) <= 0:
        return most
    return float(optimize.brentq(excess, 0.0, most, xtol=1e-7))


def combine_rates(
    rates: dict[str, Rate], weights: dict[str, float], *, max_ratio: float
) -> tuple[float, float, float, list[str]]:
    """Weighted mean of the panels, leaving out one that is grossly above the others.

    Soup reaches all panels; real expression only one. So the highest panel is left out if even
    its lower bound is more than `max_ratio` times the upper bound of the others' mean, unless it
    weighs more than the others together.

    Parameters
    ----------
    rates
        Rate of each panel, at least one.
    weights
        Weight of each panel; only their proportions matter.
    max_ratio
        How far panels may differ before one of them is disbelieved.

    Returns
    -------
    Estimate, lower and upper 95 % bound (of the weighted mean, panels independent), panels used.
    """
    used = sorted(rates, key=lambda name: (rates[name].estimate, name))
    while len(used) > 1:
        _, _, upper = _weighted(rates, weights, used[:-1])
        minority = weights[used[-1]] <= sum(weights[name] for name in used[:-1])
        if rates[used[-1]].low <= max_ratio * upper or not minority:
            break
        used.pop()
    return *_weighted(rates, weights, used), sorted(used)


def relative_lysis(rate: Rate, mean: float, *, most: float) -> float:
    """How much more than the average a panel's lineage gives to the soup, shrunk to 1 by its error.

    Parameters
    ----------
    rate
        Of the panel, with the pooled profile.
    mean
        Contamination of the sample.
    most
        The answer stays within `[1 / most, most]`.
    """
    difference = rate.estimate - mean
    if mean < _NO_SOUP or difference == 0:
        return 1.0
    variance = ((rate.high - rate.low) / 3.92) ** 2
    shrunk = max(0.0, 1 - variance / difference**2) * difference
    return float(np.clip(1 + shrunk / mean, 1 / most, most))


def _weighted(
    rates: dict[str, Rate], weights: dict[str, float], names: list[str]
) -> tuple[float, float, float]:
    """Weighted mean and its bounds from the panels' own bounds, added in squares."""
    w = np.array([weights[name] for name in names])
    w = w / w.sum() if w.sum() > 0 else np.full(len(names), 1 / len(names))
    estimate, low, high = np.array(
        [(rates[name].estimate, rates[name].low, rates[name].high) for name in names]
    ).T
    mean = float(w @ estimate)
    below, above = (
        float(np.sqrt(np.sum((w * side) ** 2))) for side in (estimate - low, high - estimate)
    )
    return mean, mean - below, mean + above
