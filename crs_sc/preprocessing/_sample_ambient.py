"""Kernel: the contamination of one sample from what its lineages cannot express."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from crs_sc.preprocessing._contamination import (
    Interval,
    Rate,
    agreeing_cells,
    combine_evidence,
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
# And a T, NK or B cell this share on its core markers, which other cells leak a UMI or two of.
_MIN_CORE_SHARE = 0.001
_MIN_UMI = 2
SPECIES = "species"
# Evidence is more than a few stray cells, and most of the candidates bear it: else they are not
# what they were taken for, and make the panel themselves.
_MIN_CELLS = 5
_MAX_REFUSED = 0.5
# Panels may differ this much: with the true profile by chance only, with a pooled one because
# lineages lyse unequally.
_MAX_RATIO_DROPLETS = 2.0
_MAX_RATIO_POOLED = 3.0
# With a pooled profile, panels that stand for less of the sample than this say too little.
_MIN_WEIGHT = 0.1
# A pooled panel that reads this close to `max_fraction` is itself nothing but ambient RNA.
_SATURATED = 0.95
# Beyond counting noise, doublets and leaking genes move every panel; and a pooled profile is not
# quite ambient RNA. Relative, as two standard errors: simulated and real samples were this far off.
_DROPLET_ERROR = 0.07
_POOL_ERROR = 0.1
# A lineage without a panel may lyse unlike those with one: error where it is all of the sample.
_UNSEEN_ERROR = 0.5


# Cells that hardly make a gene make some of it, which looks like this much ambient RNA.
_LEAK = 0.002
# No lineage's panel may be more ambient RNA than this.
_MAX_LINEAGE_AMBIENT = 0.8


@dataclass(frozen=True)
class SampleAmbient:
    """Contamination of one sample.

    Attributes
    ----------
    fraction, lower, upper
        Estimate and 95 % interval.
    panels
        Those that were used.
    weights
        How much each cell's lineage adds to ambient RNA, shape `(n_cells,)`.
    """

    fraction: float
    lower: float
    upper: float
    panels: list[str]
    weights: NDArray[np.float64]


def sample_ambient(
    counts: dict[str, NDArray[np.float64]],
    totals: NDArray[np.float64],
    shares: dict[str, float],
    *,
    pooled: bool,
    max_fraction: float,
    min_exposure: float,
    species: Interval | None = None,
) -> SampleAmbient | None:
    """Contamination of one sample from its panels and the other species; None without evidence.

    Parameters
    ----------
    counts
        UMI of each panel and marker set, shape `(n_cells,)` each.
    totals
        UMI of the cells, shape `(n_cells,)`.
    shares
        Share of each set in ambient RNA.
    pooled
        Whether the profile is that of the pooled cells.
    max_fraction, min_exposure
        See `estimate_ambient`.
    species
        Contamination as the cells of the other species tell it, where there are any.
    """
    lineages = _lineages(counts, totals, shares, max_fraction)
    rates = _panel_rates(
        counts, totals, shares, lineages,
        pooled=pooled, max_fraction=max_fraction, min_exposure=min_exposure,
    )  # fmt: skip
    groups = _panel_cells(lineages)
    weights = {name: rate.exposure for name, rate in rates.items()}
    if pooled:
        weights = {name: float(totals[groups[name]].sum()) for name in rates}
        if sum(weights.values()) < _MIN_WEIGHT * totals.sum():
            rates = {}
    lysis = np.ones(len(totals))
    if not rates:
        return None if species is None else SampleAmbient(*species, [SPECIES], lysis)
    ratio = _MAX_RATIO_POOLED if pooled else _MAX_RATIO_DROPLETS
    estimate, lower, upper, used = combine_rates(rates, weights, max_ratio=ratio)
    beyond = _DROPLET_ERROR * estimate
    if pooled:
        unseen = 1 - sum(weights[name] for name in used) / totals.sum()
        beyond = float(np.hypot(_POOL_ERROR, _UNSEEN_ERROR * unseen)) * estimate
    lower = max(0.0, estimate - float(np.hypot(estimate - lower, beyond)) - _LEAK)
    upper = min(1.0, estimate + float(np.hypot(upper - estimate, beyond)))
    if species is not None:
        (estimate, lower, upper), by_panels, by_species = combine_evidence(
            (estimate, lower, upper), species
        )
        used = [*(used if by_panels else []), *([SPECIES] if by_species else [])]
    for name in set(used) - {SPECIES}:
        lysis[groups[name]] = relative_lysis(rates[name], estimate, most=_MAX_RATIO_POOLED)
    # The pool holds ambient RNA besides the cells: a lineage with `w` times its share of the pool
    # in ambient RNA has `w / (1 - fraction * w)` times its share of what is not ambient RNA.
    lysis = lysis / (1 - np.minimum(estimate * lysis, _MAX_LINEAGE_AMBIENT))
    return SampleAmbient(estimate, lower, upper, used, lysis)


def _panel_rates(
    counts: dict[str, NDArray[np.float64]],
    totals: NDArray[np.float64],
    shares: dict[str, float],
    lineages: dict[str, NDArray[np.bool_]],
    *,
    pooled: bool,
    max_fraction: float,
    min_exposure: float,
) -> dict[str, Rate]:
    """Contamination as each panel reads it, in the lineages that cannot express it."""
    t, nk, b, m = (lineages[name] for name in ("T", "NK", "B", "M"))
    candidates = {
        "myeloid": [t, nk, b],
        "immunoglobulin": [t & ~b, nk & ~b, m & ~b],
        "t_cell": [b & ~nk, m & ~nk],
        "haemoglobin": [t, nk, b, m],
    }
    rates: dict[str, Rate] = {}
    for name, groups in candidates.items():
        exposure = totals * shares[name]
        if exposure[np.any(groups, axis=0)].sum() < min_exposure:
            continue
        cells = agreeing_cells(
            counts[name], exposure, groups, max_fraction=max_fraction, max_ratio=_MAX_RATIO_POOLED
        )
        rate = panel_rate(counts[name][cells], exposure[cells], max_fraction=max_fraction)
        saturated = pooled and rate.estimate > _SATURATED * max_fraction
        is_sound = rate.n_cells >= _MIN_CELLS and rate.refused <= _MAX_REFUSED
        if rate.exposure >= min_exposure and is_sound and not saturated:
            rates[name] = rate
    return rates


def _lineages(
    counts: dict[str, NDArray[np.float64]],
    totals: NDArray[np.float64],
    shares: dict[str, float],
    max_fraction: float,
) -> dict[str, NDArray[np.bool_]]:
    """Cells of each lineage: more of its genes than ambient RNA could give at `max_fraction`."""

    def beyond(name: str, least: NDArray[np.float64]) -> NDArray[np.bool_]:
        limit = largest_ambient_count(max_fraction * totals * shares[name])
        found: NDArray[np.bool_] = (counts[name] > limit) & (counts[name] >= least)
        return found

    own = np.maximum(_MIN_SHARE * totals, _MIN_UMI)
    few = np.maximum(_MIN_CORE_SHARE * totals, _MIN_UMI)
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
