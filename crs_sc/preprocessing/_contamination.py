"""Kernels: how much of a cell's UMI came from ambient RNA, from genes the cell cannot express.

In a cell of `N` UMI that does not express a panel of genes with share `a` of ambient RNA, the
panel's count is Poisson with mean `rho * N * a`. Two things stand in the way of summing counts over
exposures. Cells that do express the panel (wrong label, doublet) must go: a cell leaves if its
count is impossible under the largest contamination considered. And leaving out high counts lowers
what remains, so the rate is fitted to the *truncated* Poisson.

A profile pooled from the cells is ambient RNA only if all cell types lyse alike. If lineage `l`
holds a share `p_l` of the sample's UMI and a share `q_l` of ambient RNA, its panel reads `rho *
q_l / p_l` with the pooled profile, so the mean of the panels weighted by `p_l` is `rho` again.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy import optimize, special

from crs_sc.core.arrays import compiled

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Mask = NDArray[np.bool_]

_ALPHA = 0.05
# Below this there is too little ambient RNA to say whose it is.
_NO_AMBIENT = 0.01
# Limits of Poisson counts that are worked out at least, of so many counts.
_FIRST = 64

# Estimate, lower and upper 95 % bound.
Interval = tuple[float, float, float]


class Rate(NamedTuple):
    """Contamination as one panel reads it: maximum likelihood and exact 95 % interval.

    `count` and `exposure` are the panel UMI seen, and expected at a contamination of 1, in the
    `n_cells` that were used; `refused` is the share of the candidate cells with a count that
    ambient RNA cannot give.
    """

    estimate: float
    low: float
    high: float
    n_umi: int
    exposure: float
    n_cells: int
    refused: float


def panel_rate(counts: Floats, exposure: Floats, *, max_fraction: float) -> Rate:
    """Contamination from one panel in cells that should not express it.

    The cut is drawn in to twice the estimate, which removes doublets with few panel counts;
    the truncated likelihood makes up for what the cut takes from honest cells. It starts from a
    reading in which no cell weighs much, since doublets alone can hold the cut open.

    `counts` are the panel UMI of the candidate cells, `exposure` the UMI of the cell times the
    panel's share of ambient RNA, `max_fraction` the largest contamination considered.
    """
    bound = _bound(_middle(counts, exposure, max_fraction), max_fraction)
    for _ in range(4):
        cut = largest_count(bound * exposure)
        informative = cut > 0
        kept = (counts <= cut) & informative
        total, used, limits = counts[kept].sum(), exposure[kept], cut[kept]
        estimate = _solve(total, used, limits, max_fraction)
        tighter = _bound(estimate, max_fraction)
        if tighter >= 0.9 * bound:
            break
        bound = tighter
    # Garwood's exact bounds of a Poisson mean.
    low = float(special.gammaincinv(total, 0.025)) if total else 0.0
    high = float(special.gammaincinv(total + 1, 0.975))
    lower, upper = (_solve(bound_of, used, limits, max_fraction) for bound_of in (low, high))
    refused = float(1 - kept.sum() / informative.sum()) if informative.any() else 0.0
    return Rate(estimate, lower, upper, int(total), float(used.sum()), int(kept.sum()), refused)


def _bound(estimate: float, most: float) -> float:
    """Contamination beyond which a count is impossible."""
    return min(most, max(2 * estimate, 0.03))


def _middle(counts: Floats, exposure: Floats, most: float) -> float:
    """Contamination at which the counts rank in the middle of what Poisson would give.

    The rank of a count is `P(Y < y) + P(Y = y) / 2`, with mean 1/2 in honest cells. It is at most
    1 however large the count, so a tenth of the cells being doublets moves it little.
    """

    def excess(rho: float) -> float:
        return float(mid_ranks(counts, rho * exposure).mean() - 0.5)

    if not (counts > 0).any():
        return 0.0
    if excess(most) >= 0:
        return most
    return float(optimize.brentq(excess, 0.0, most, xtol=1e-4))


def _solve(total: float, exposure: Floats, cut: Floats, most: float) -> float:
    """Contamination at which the truncated Poisson counts sum to `total`; `most` if none does."""

    def excess(rho: float) -> float:
        return truncated_sum(rho * exposure, cut) - total

    if total <= 0:
        return 0.0
    if len(exposure) == 0 or excess(most) <= 0:
        return most
    return float(optimize.brentq(excess, 0.0, most, xtol=1e-7))


def combine_rates(
    rates: dict[str, Rate], weights: dict[str, float], *, max_ratio: float
) -> tuple[Interval, list[str]]:
    """Weighted mean of the panels, leaving out one that is grossly above the others.

    Ambient RNA reaches all panels; real expression only one. So the highest panel is left out if
    even its lower bound is more than `max_ratio` times the upper bound of the others' mean, unless
    it weighs more than the others together.

    Estimate and bounds (of the weighted mean, panels independent), and the panels used.
    """
    used = sorted(rates, key=lambda name: (rates[name].estimate, name))
    while len(used) > 1:
        _, _, upper = _weighted(rates, weights, used[:-1])
        minority = weights[used[-1]] <= sum(weights[name] for name in used[:-1])
        if rates[used[-1]].low <= max_ratio * upper or not minority:
            break
        used.pop()
    return _weighted(rates, weights, used), sorted(used)


def agreeing_cells(
    counts: Floats, exposure: Floats, groups: list[Mask], *, max_fraction: float, max_ratio: float
) -> Mask:
    """Cells of the groups that read one contamination; a group that makes the panel is left out.

    Ambient RNA brings the same share of a panel into all cells, and expression only adds to it. So
    the groups are taken in from the lowest reading up to the first whose lower bound is more than
    `max_ratio` times the upper bound of those before.
    """
    rated = [
        (panel_rate(counts[group], exposure[group], max_fraction=max_fraction), group)
        for group in groups
        if exposure[group].sum() > 0
    ]
    rated.sort(key=lambda pair: pair[0].estimate)
    believed = np.zeros(len(counts), dtype=bool)
    refused = np.zeros(len(counts), dtype=bool)
    upper = max_fraction
    for rate, group in rated:
        both = rate
        if believed.any():
            if rate.low > max_ratio * upper:
                refused |= group
                continue
            cells = believed | group
            both = panel_rate(counts[cells], exposure[cells], max_fraction=max_fraction)
        believed |= group
        upper = both.high
    return believed & ~refused


def combine_evidence(panels: Interval, species: Interval) -> tuple[Interval, bool, bool]:
    """Contamination from genes that cells cannot express and from cells of the other species.

    Both err upwards if they err: a cell may express the gene after all, a droplet may hold a
    second cell. So of two that contradict each other the lower is taken; else their mean, weighted
    by precision.

    Estimate and bounds, whether the panels are used, whether the other species is.
    """
    if panels[1] > species[2]:
        return species, False, True
    if species[1] > panels[2]:
        return panels, True, False
    precision = [1 / max(one[2] - one[1], 1e-6) ** 2 for one in (panels, species)]
    weight = precision[0] / sum(precision)
    mean = weight * panels[0] + (1 - weight) * species[0]
    below, above = (
        float(np.hypot(weight * (panels[0] - panels[k]), (1 - weight) * (species[0] - species[k])))
        for k in (1, 2)
    )
    return (mean, max(mean - below, 0.0), mean + above), True, True


def relative_lysis(rate: Rate, mean: float, *, most: float) -> float:
    """How much more than average a lineage gives to ambient RNA, shrunk to 1 by its error.

    By its panel's rate with the pooled profile and the contamination of the sample; within
    `[1 / most, most]`.
    """
    difference = rate.estimate - mean
    if mean < _NO_AMBIENT or difference == 0:
        return 1.0
    variance = ((rate.high - rate.low) / 3.92) ** 2
    shrunk = max(0.0, 1 - variance / difference**2) * difference
    return float(np.clip(1 + shrunk / mean, 1 / most, most))


def _weighted(rates: dict[str, Rate], weights: dict[str, float], names: list[str]) -> Interval:
    """Weighted mean and its bounds from those of the panels, added in squares."""
    w = np.array([weights[name] for name in names])
    w = w / w.sum() if w.sum() > 0 else np.full(len(names), 1 / len(names))
    estimate, low, high = np.array([rates[name][:3] for name in names]).T
    mean = float(w @ estimate)
    below, above = (
        float(np.sqrt(np.sum((w * side) ** 2))) for side in (estimate - low, high - estimate)
    )
    return mean, mean - below, mean + above


def largest_count(mean: Floats, alpha: float = _ALPHA) -> Floats:
    """Smallest count that is exceeded with a probability of at most `alpha`.

    `scipy.stats.poisson.isf(alpha, mean)`: the largest count that ambient RNA could still give.
    """
    highest = float(mean.max(initial=0.0))
    n = _FIRST
    while (limits := _largest_means(alpha, n))[-1] < highest:
        n *= 2
    return np.searchsorted(limits, mean).astype(np.float64)


@lru_cache(maxsize=32)
def _largest_means(alpha: float, n: int) -> Floats:
    """Largest means at which the counts 0, 1, ..., `n - 1` are exceeded that seldom, ascending."""
    limits: Floats = special.pdtri(np.arange(n), 1 - alpha)
    limits.flags.writeable = False
    return limits


def mid_ranks(counts: Floats, mean: Floats) -> Floats:
    """Rank of each count among those that Poisson would give: `P(Y < y) + P(Y = y) / 2`."""
    # Most are zero.
    rank: Floats = 0.5 * np.exp(-mean)
    some = np.flatnonzero(counts > 0)
    y, m = counts[some], mean[some]
    rank[some] = 0.5 * (special.pdtr(y - 1, m) + special.pdtr(y, m))
    return rank


def truncated_sum(mean: Floats, cut: Floats) -> float:
    """Sum of the expected values of Poisson counts of which none is above its cut."""
    return float(compiled(_truncated_sum)(mean, cut))


def _truncated_sum(mean: Floats, cut: Floats) -> float:
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
