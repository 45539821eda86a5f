"""Kernel: the contamination of one sample from what its lineages cannot express."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from crs_sc.preprocessing._contamination import (
    Rate,
    combine_rates,
    largest_ambient_count,
    panel_rate,
    relative_lysis,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

# A myeloid, antibody-making or erythroid cell spends at least this share of its UMI on its panel.
_MIN_SHARE = 0.003
_MIN_B_SHARE = 0.01
_MIN_ERYTHROID_SHARE = 0.1
_MIN_UMI = 2
# Panels may differ this much: with the true profile by chance only, with a pooled one because
# lineages lyse unequally.
_MAX_RATIO_DROPLETS = 2.0
_MAX_RATIO_POOLED = 3.0
# With a pooled profile, panels that stand for less of the sample than this say too little.
_MIN_WEIGHT = 0.1
# A pooled panel that reads this close to `max_fraction` is itself nothing but soup.
_SATURATED = 0.95
# Beyond counting noise, doublets and leaking genes move every panel; and a pooled profile is not
# quite the soup. Relative, as two standard errors: simulated and real samples were this far off.
_DROPLET_ERROR = 0.07
_POOL_ERROR = 0.1


# Cells that hardly make a gene make some of it, which looks like this much soup.
_LEAK = 0.002
# No lineage's panel may be more soup than this.
_MAX_LINEAGE_SOUP = 0.8


@dataclass(frozen=True)
class SampleSoup:
    """Contamination of one sample.

    Attributes
    ----------
    fraction, lower, upper
        Estimate and 95 % interval.
    panels
        Those that were used.
    weights
        How much each cell's lineage adds to the soup, shape `(n_cells,)`.
    """

    fraction: float
    lower: float
    upper: float
    panels: list[str]
    weights: NDArray[np.float64]


def sample_soup(
    counts: dict[str, NDArray[np.float64]],
    totals: NDArray[np.float64],
    shares: dict[str, float],
    *,
    pooled: bool,
    max_fraction: float,
    min_exposure: float,
) -> SampleSoup | None:
    """Contamination of one sample from its panels; None without evidence.

    Parameters
    ----------
    counts
        UMI of each panel and marker set, shape `(n_cells,)` each.
    totals
        UMI of the cells, shape `(n_cells,)`.
    shares
        Share of each set in the soup.
    pooled
        Whether the profile is that of the pooled cells.
    max_fraction, min_exposure
        See `estimate_ambient`.
    """
    lineages = _lineages(counts, totals, shares, max_fraction)
    candidates = {
        "myeloid": lineages["T"] | lineages["NK"] | lineages["B"],
        "immunoglobulin": (lineages["T"] | lineages["NK"] | lineages["M"]) & ~lineages["B"],
        "t_cell": (lineages["B"] | lineages["M"]) & ~lineages["NK"],
        "haemoglobin": lineages["T"] | lineages["NK"] | lineages["B"] | lineages["M"],
    }
    rates: dict[str, Rate] = {}
    for name, cells in candidates.items():
        exposure = totals[cells] * shares[name]
        if exposure.sum() < min_exposure:
            continue
        rate = panel_rate(counts[name][cells], exposure, max_fraction=max_fraction)
        saturated = pooled and rate.estimate > _SATURATED * max_fraction
        if rate.exposure >= min_exposure and not saturated:
            rates[name] = rate
    if not rates:
        return None
    groups = _panel_cells(lineages)
    if pooled:
        weights = {name: float(totals[groups[name]].sum()) for name in rates}
        ratio = _MAX_RATIO_POOLED
        if sum(weights.values()) < _MIN_WEIGHT * totals.sum():
            return None
    else:
        weights = {name: rate.exposure for name, rate in rates.items()}
        ratio = _MAX_RATIO_DROPLETS
    estimate, lower, upper, used = combine_rates(rates, weights, max_ratio=ratio)
    beyond = (_POOL_ERROR if pooled else _DROPLET_ERROR) * estimate
    lower = estimate - float(np.hypot(estimate - lower, beyond)) - _LEAK
    upper = estimate + float(np.hypot(upper - estimate, beyond))
    lysis = np.ones(len(totals))
    for name in used:
        lysis[groups[name]] = relative_lysis(rates[name], estimate, most=_MAX_RATIO_POOLED)
    # The pool holds the soup besides the cells: a lineage with `w` times its share of the pool in
    # the soup has `w / (1 - fraction * w)` times its share of what is not soup.
    lysis = lysis / (1 - np.minimum(estimate * lysis, _MAX_LINEAGE_SOUP))
    return SampleSoup(estimate, max(lower, 0.0), min(upper, 1.0), used, lysis)


def _lineages(
    counts: dict[str, NDArray[np.float64]],
    totals: NDArray[np.float64],
    shares: dict[str, float],
    max_fraction: float,
) -> dict[str, NDArray[np.bool_]]:
    """Cells of each lineage: more of its genes than the soup could give at `max_fraction`."""

    def beyond(name: str, least: NDArray[np.float64]) -> NDArray[np.bool_]:
        limit = largest_ambient_count(max_fraction * totals * shares[name])
        found: NDArray[np.bool_] = (counts[name] > limit) & (counts[name] >= least)
        return found

    own = np.maximum(_MIN_SHARE * totals, _MIN_UMI)
    few = np.full(len(totals), float(_MIN_UMI))
    return {
        "M": beyond("myeloid", own),
        "E": beyond("haemoglobin", np.maximum(_MIN_ERYTHROID_SHARE * totals, _MIN_UMI)),
        "T": beyond("T", few),
        "NK": beyond("NK", few),
        "B": beyond("B", few)
        | beyond("immunoglobulin", np.maximum(_MIN_B_SHARE * totals, _MIN_UMI)),
    }


def _panel_cells(lineages: dict[str, NDArray[np.bool_]]) -> dict[str, NDArray[np.bool_]]:
    """Cells whose lineage each panel stands for, each cell once; the rest goes with T cells."""
    erythroid = lineages["E"]
    myeloid = lineages["M"] & ~erythroid
    b_cell = lineages["B"] & ~myeloid & ~erythroid
    return {
        "myeloid": myeloid,
        "immunoglobulin": b_cell,
        "t_cell": ~(erythroid | myeloid | b_cell),
        "haemoglobin": erythroid,
    }
