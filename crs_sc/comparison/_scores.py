"""Kernel: the score of a feature over those of its genes that a population expresses."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from crs_sc.comparison._units import Features, UnitData

__all__ = ["expressed_scores"]


def expressed_scores(
    data: UnitData,
    units: NDArray[np.integer],
    population: int,
    features: Features,
    *,
    min_count: int,
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Scores of some units of a population, and how many genes each feature is made of.

    A gene that the population does not express in countable numbers is left out of the mean. Were
    it counted as zero, a signature of which one gene in ten can be seen would shift by a tenth of
    what that gene does, and pass for unchanged.

    Parameters
    ----------
    data
        Sums of the units.
    units, population, features, min_count
        As in `UnitData.responses`.

    Returns
    -------
    Mean of log2(CPM + 1) over the genes that count, shape `(n_used, n_features)`, zero where there
    are none; and the number of these genes, shape `(n_features,)`.
    """
    own = data.expressed(units, population, min_count=min_count)
    with_zeros = data.responses(units, population, features, min_count=min_count)
    share = features.weights.T @ own
    scores = np.divide(with_zeros, share, out=np.zeros_like(with_zeros), where=share > 0)
    n_genes = ((features.weights > 0).T & own).sum(axis=1)
    return scores, np.asarray(n_genes, dtype=np.int64)
