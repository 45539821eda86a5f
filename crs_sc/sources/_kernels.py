"""Producer calls and the source ledger on plain arrays."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy import stats

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = [
    "ambient_pvalues",
    "call_states",
    "detection_power",
    "producers_upper",
    "production_rate",
    "pvalue_to_undercut",
    "source_shares",
]

# Codes of the states, positions in keys.PRODUCER_STATES.
PRODUCER, AMBIENT_COMPATIBLE, UNDETERMINED, NEGATIVE = range(4)


def production_rate(
    counts: NDArray[np.integer],
    depth: NDArray[np.float64],
    producers: NDArray[np.bool_],
    *,
    fallback: float,
    min_producers: int = 10,
) -> float:
    """UMI of the gene per UMI of the cell in a typical producer.

    The median over the called producers; `fallback` where there are fewer than `min_producers`.

    Parameters
    ----------
    counts, depth
        UMI of the gene and of the cell, shape `(n_cells,)`.
    producers
        Which cells were called, shape `(n_cells,)`.
    fallback
        Rate to assume without producers to learn from.
    min_producers
        How many producers are enough to learn from.
    """
    if int(producers.sum()) < min_producers:
        return fallback
    return float(np.median(counts[producers] / depth[producers]))


def pvalue_to_undercut(
    rejected: NDArray[np.bool_], samples: NDArray[np.integer], *, alpha: float
) -> NDArray[np.float64]:
    """P value below which one cell more would be called: Benjamini-Hochberg, one rank further.

    Parameters
    ----------
    rejected, samples
        Whether each cell was called, and its sample, shape `(n_cells,)`.
    alpha
        False discovery rate of the calls.

    Returns
    -------
    By sample, shape `(n_samples,)`.
    """
    n_cells = np.bincount(samples)
    n_called = np.bincount(samples[rejected], minlength=len(n_cells))
    return np.asarray(alpha * (n_called + 1) / np.maximum(n_cells, 1))


def detection_power(
    expected: NDArray[np.float64],
    depth: NDArray[np.float64],
    cut: NDArray[np.float64],
    *,
    rate: float,
) -> NDArray[np.float64]:
    """Probability that a typical producer in the place of a cell would have been called.

    Parameters
    ----------
    expected, depth, cut
        Ambient RNA of the gene, UMI of the cell, and the p value to undercut, shape `(n,)`.
    rate
        UMI of the gene per UMI of the cell in a typical producer.
    """
    needed = _needed_umi(expected, cut)
    return np.asarray(stats.poisson.sf(needed - 1, expected + rate * depth))


def _needed_umi(expected: NDArray[np.float64], cut: NDArray[np.float64]) -> NDArray[np.int64]:
    """Smallest count of at least one with `P(Poisson(expected) >= count) <= cut`.

    Counted upwards, because it is a few UMI: scipy's inverse takes thirty times as long.
    """
    needed = np.ones(len(expected), dtype=np.int64)
    rows = np.arange(len(expected))
    while len(rows):
        rows = rows[stats.poisson.sf(needed[rows] - 1, expected[rows]) > cut[rows]]
        needed[rows] += 1
    return needed


def producers_upper(
    n_called: NDArray[np.float64], n_cells: NDArray[np.float64], power: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Upper 95 % bound of the producers there are, those that were missed included.

    The exact Poisson bound of the number called, over the power, at most all cells.

    Parameters
    ----------
    n_called, n_cells, power
        By population, same shape.
    """
    bound = stats.chi2.ppf(0.95, 2 * (n_called + 1)) / 2
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(n_cells > 0, np.minimum(np.ceil(bound / power), n_cells), np.nan)


def call_states(
    counts: NDArray[np.integer],
    depth: NDArray[np.float64],
    rejected: NDArray[np.bool_],
    *,
    rate: float,
    max_missed: float,
) -> NDArray[np.int8]:
    """State of each cell for one gene.

    A cell without the gene is negative only if a typical producer of its depth would have shown
    the gene: `exp(-rate * depth) <= max_missed`; otherwise it is undetermined.

    Parameters
    ----------
    counts, depth
        UMI of the gene and of the cell, shape `(n_cells,)`.
    rejected
        Cells whose count ambient RNA cannot explain.
    rate
        UMI of the gene per UMI of the cell in a typical producer.
    max_missed
        Largest acceptable probability that a producer shows no UMI.

    Returns
    -------
    Positions in `keys.PRODUCER_STATES`, int8, shape `(n_cells,)`.
    """
    states = np.where(np.exp(-rate * depth) <= max_missed, NEGATIVE, UNDETERMINED)
    states[counts > 0] = AMBIENT_COMPATIBLE
    states[rejected] = PRODUCER
    return states.astype(np.int8)


def ambient_pvalues(
    umi: NDArray[np.float64], largest: NDArray[np.float64], n_cells: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Probability that ambient RNA alone gives as many UMI; missing without cells.

    Parameters
    ----------
    umi, largest, n_cells
        Sums over the cells of a population: UMI, the largest ambient RNA, cells; same shape.
    """
    return np.where(n_cells > 0, stats.poisson.sf(umi - 1, largest), np.nan)


def source_shares(corrected: NDArray[np.float64]) -> NDArray[np.float64]:
    """Share of each population in a sample's corrected UMI.

    Parameters
    ----------
    corrected
        Corrected UMI, weighted if the sampling was uneven, shape `(..., n_populations)`.

    Returns
    -------
    Same shape; NaN where a sample has no corrected UMI.
    """
    total = corrected.sum(axis=-1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(total > 0, corrected / total, np.nan)
