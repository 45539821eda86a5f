"""Kernel: the score of a feature over those of its genes that a population expresses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from crs_sc.comparison._units import score

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from crs_sc.comparison._units import Features, UnitData

__all__ = ["ExpressedScores", "expressed_scores", "has_too_few_genes"]


@dataclass(frozen=True)
class ExpressedScores:
    """Scores of some units of a population.

    Attributes
    ----------
    by_unit
        Mean of log2(CPM + 1) over the genes that count, shape `(n_used, n_features)`, zero where
        there are none.
    n_genes
        How many these are, shape `(n_features,)`.
    counting
        Variance of a unit's score that comes from the number of its UMI, the mean over the units,
        shape `(n_features,)`. Missing for single genes: `min_count` holds them within a narrow
        range, while signatures have three genes or thirty.
    """

    by_unit: NDArray[np.float64]
    n_genes: NDArray[np.int64]
    counting: NDArray[np.float64]


def expressed_scores(
    data: UnitData,
    units: NDArray[np.integer],
    population: int,
    features: Features,
    *,
    min_count: int,
) -> ExpressedScores:
    """Score some units of a population by the genes that it expresses in countable numbers.

    Were the others counted as zero, a signature of which one gene in ten can be seen would shift
    by a tenth of what that gene does, and pass for unchanged.

    Parameters
    ----------
    data
        Sums of the units.
    units
        Which, positions in `data.units`.
    population
        Position in `data.populations`.
    features
        What to score.
    min_count
        As in `UnitData.expressed`.
    """
    own = data.expressed(units, population, min_count=min_count)
    genes = data.genes[units, population] * own
    # Missing are features that are not measured, and units all of whose UMI ambient RNA explains.
    with_zeros = np.nan_to_num(score(genes, data.umi[units, population], features))
    share = features.weights.T @ own
    weights = np.divide(features.weights * own[:, None], share, where=share > 0,
                        out=np.zeros_like(features.weights))  # fmt: skip
    scores = np.divide(with_zeros, share, out=np.zeros_like(with_zeros), where=share > 0)
    counting = _counting_variance(data, units, population) @ weights**2
    counting[np.array(features.kinds) == "gene"] = np.nan
    return ExpressedScores(scores, (weights > 0).sum(axis=0), counting)


def _counting_variance(
    data: UnitData, units: NDArray[np.integer], population: int
) -> NDArray[np.float64]:
    """Variance of log2(CPM + 1) of each gene by Poisson counting, `(n_columns,)`.

    By the delta method at the mean of all units, arms not told apart.
    """
    umi = data.umi[units, population]
    used = umi > 0
    if not used.any():
        return np.zeros(data.genes.shape[2])
    umi, own = umi[used], units[used]
    level = data.genes[own, population].sum(axis=0) / umi.sum()
    counts = level * umi[:, None] + data.ambient[own, population]
    slope = 1e6 / umi[:, None] / ((level * 1e6 + 1) * np.log(2))
    return np.asarray((counts * slope**2).mean(axis=0))


def has_too_few_genes(
    scores: ExpressedScores, features: Features, *, min_genes: int
) -> NDArray[np.bool_]:
    """Whether less of a signature counts than a test needs, shape `(n_features,)`."""
    needed = np.minimum(min_genes, (features.weights > 0).sum(axis=0))
    return np.asarray(scores.n_genes < needed)
