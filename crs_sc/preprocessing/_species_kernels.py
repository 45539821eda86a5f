"""Kernels: what ambient RNA brings from the other genome, and which droplets hold cells of both.

A droplet with one cell holds UMI of the other genome only from ambient RNA: a share
`contamination x (share of the other genome in ambient RNA)` of its UMI. That share is the same for
all cells of one species in a sample and is read from those that are clearly one cell.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import optimize

from crs_sc.preprocessing._poisson import largest_count

if TYPE_CHECKING:
    from numpy.typing import NDArray

_ALPHA = 1e-3
# Fewer cells of a species do not give a share of their own.
_MIN_CELLS = 5
# Barcodes with less than this part of the usual UMI of a cell may be empty droplets.
_WHOLE_CELL = 0.25
# Cells differ in their ambient RNA by somewhat more than counting noise, and a few UMI stray
# anyway.
_SPREAD = 1.25
_STRAY = 3
# The rarer species may hold this many times ambient RNA that the other species' cells predict.
_MAX_RATIO = 2.0
_MAX_AMBIENT = 0.8


@dataclass(frozen=True)
class SpeciesAmbient:
    """Ambient RNA of the other genome in the cells of each of two species, in one sample.

    Attributes
    ----------
    other_in_own, own_in_other
        Share of the UMI of a cell of one species that ambient RNA brings from the other genome.
    n_own, n_other
        Cells that are clearly of one species.
    umi_own, umi_other
        Their mean UMI over both genomes; missing without a cell.
    scaling, scaling_error
        Power of a cell's UMI with which its ambient RNA grows (0: the same ambient RNA in every
        droplet, 1: in proportion), and its standard error. See `ambient_scaling`.
    """

    other_in_own: float
    own_in_other: float
    n_own: int
    n_other: int
    umi_own: float
    umi_other: float
    scaling: float
    scaling_error: float


def minor_rate(
    minor: NDArray[np.float64], total: NDArray[np.float64]
) -> tuple[float, NDArray[np.bool_]]:
    """Share of the other genome in cells of one species, without droplets that hold two cells.

    Starts from the lower quartile of the cells and takes in those that counting noise around the
    share found so far allows, so that two-cell droplets count only where they are the majority.

    Parameters
    ----------
    minor, total
        UMI of the other genome and of both, shape `(n_cells,)`.

    Returns
    -------
    The share (0 without a cell) and which cells it comes from, shape `(n_cells,)`.
    """
    kept = np.ones(len(total), dtype=bool)
    if not len(total):
        return 0.0, kept
    rate = float(np.quantile(minor / total, 0.25))
    for _ in range(10):
        expected = rate * total
        limit = np.maximum(largest_count(expected, _ALPHA), _SPREAD * expected) + _STRAY
        kept = minor <= limit
        if not kept.any():
            break
        found = float(minor[kept].sum() / total[kept].sum())
        if abs(found - rate) <= 1e-6:
            break
        rate = found
    return rate, kept


def ambient_scaling(
    groups: list[tuple[NDArray[np.float64], NDArray[np.float64]]],
) -> tuple[float, float]:
    """Power of a cell's UMI with which its ambient RNA grows, by Poisson likelihood.

    A cell of `n` UMI of its own genome holds `a * n**b` UMI of the other one; `a` differs between
    the species, `b` does not.

    Parameters
    ----------
    groups
        Minor and major UMI of the cells of each species, shape `(n_cells,)` each.

    Returns
    -------
    `b` within 0 and 1, and its standard error from counting noise; 0.5 and infinity without a UMI.
    """
    known = [(minor, np.log(major)) for minor, major in groups if minor.sum() > 0]

    def moments(b: float, size: NDArray[np.float64]) -> tuple[float, float]:
        weight = np.exp(b * (size - size.max()))
        mean = float(np.average(size, weights=weight))
        return mean, float(np.average((size - mean) ** 2, weights=weight))

    def score(b: float) -> float:
        return float(sum(minor @ size - minor.sum() * moments(b, size)[0] for minor, size in known))

    information = sum(float(minor.sum()) * moments(0.5, size)[1] for minor, size in known)
    if information <= 0:
        return 0.5, np.inf
    if score(0.0) <= 0 or score(1.0) >= 0:
        return float(score(1.0) >= 0), information**-0.5
    return float(optimize.brentq(score, 0.0, 1.0, xtol=1e-6)), information**-0.5


def species_soup(own: NDArray[np.float64], other: NDArray[np.float64]) -> SpeciesAmbient:
    """Cross-species ambient RNA of one sample.

    The species with more cells is measured. That of the other is measured too, within twice
    what the first one predicts if ambient RNA is made of the sample's cells; with fewer than five
    cells it is the prediction. Where a sample holds no single cell of the rarer species, its
    two-cell droplets may pass for such cells from a contamination of about 0.2.

    Parameters
    ----------
    own, other
        UMI of the two genomes in each barcode that is not empty, shape `(n_barcodes,)`.
    """
    total = own + other
    if not len(total):
        return SpeciesAmbient(0.0, 0.0, 0, 0, np.nan, np.nan, 0.5, np.inf)
    # The median UMI lies in a droplet of usual size, however many poor barcodes there are.
    order = np.sort(total)
    usual = order[np.searchsorted(np.cumsum(order), 0.5 * order.sum())]
    whole = total >= _WHOLE_CELL * usual
    own, other, total = own[whole], other[whole], total[whole]
    is_own = own >= other
    rate_own, kept_own = minor_rate(other[is_own], total[is_own])
    rate_other, kept_other = minor_rate(own[~is_own], total[~is_own])
    n_own, n_other = int(kept_own.sum()), int(kept_other.sum())
    scaling = ambient_scaling(
        [
            (other[is_own][kept_own], own[is_own][kept_own]),
            (own[~is_own][kept_other], other[~is_own][kept_other]),
        ]
    )
    share = float(other.sum() / total.sum())
    if max(n_own, n_other) < _MIN_CELLS:
        rate_own = rate_other = 0.0
    elif n_own >= n_other:
        predicted = rate_own * (1 - share) / share if share > 0 else 0.0
        rate_other = _bounded(rate_other, n_other, predicted)
    else:
        predicted = rate_other * share / (1 - share) if share < 1 else 0.0
        rate_own = _bounded(rate_own, n_own, predicted)
    scale = min(1.0, _MAX_AMBIENT / max(rate_own + rate_other, 1e-12))
    means = [float(total[m].mean()) if m.any() else np.nan for m in (is_own, ~is_own)]
    rates = (rate_own * scale, rate_other * scale)
    return SpeciesAmbient(*rates, n_own, n_other, means[0], means[1], *scaling)


def _bounded(rate: float, n_cells: int, predicted: float) -> float:
    """Share of the rarer species, kept near the prediction."""
    return min(rate, _MAX_RATIO * predicted) if n_cells >= _MIN_CELLS else predicted


def one_species(
    own: NDArray[np.float64],
    other: NDArray[np.float64],
    *,
    other_in_own: float,
    own_in_other: float,
    min_fraction: float,
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which species the larger part of a barcode is, and whether it is all of it.

    The minor genome is taken as a second cell if it is more than `1 - min_fraction` of the UMI
    without ambient RNA and more than counting noise (one in a thousand) around ambient RNA.

    Parameters
    ----------
    own, other
        UMI of the two genomes, shape `(n_barcodes,)`.
    other_in_own, own_in_other
        Ambient RNA, see `SpeciesAmbient`; both zero give the plain rule on the share of UMI.
    min_fraction
        Share of UMI from which a barcode is of one species.

    Returns
    -------
    Whether it is mostly the own species, and whether it is one species, `(n_barcodes,)` each.
    """
    total = own + other
    from_other, from_own = other_in_own * total, own_in_other * total
    mostly_own = own - from_own >= other - from_other
    minor = np.where(mostly_own, other, own)
    ambient = np.where(mostly_own, from_other, from_own)
    native = total * (1 - other_in_own - own_in_other)
    # The tolerance keeps 0.1 <= 1 - 0.9 true in floating point.
    small = minor - ambient <= (1 - min_fraction) * native + 1e-9 * total
    return mostly_own, small | (minor <= largest_count(ambient, _ALPHA))
