"""Draws of the simulator on plain arrays."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy import sparse

from crs_sc.core.arrays import row_chunks

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = [
    "ambient_counts",
    "ambient_profile_of",
    "ambient_umi_of",
    "draw_native",
    "gamma_poisson",
    "producer_counts",
    "shifted_probability",
]


def gamma_poisson(
    mean: NDArray[np.float64], *, dispersion: float, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Negative-binomial counts: variance `mean + dispersion * mean**2`.

    Parameters
    ----------
    mean
        Any shape, not negative.
    dispersion
        Squared coefficient of variation of the rate; 0 is Poisson.
    rng
        Source of the draws.
    """
    if dispersion == 0:
        return rng.poisson(mean)
    rate = rng.standard_gamma(1 / dispersion, size=mean.shape)
    return rng.poisson(rate * (mean * dispersion))


def producer_counts(
    mean: NDArray[np.float64], *, dispersion: float, rng: np.random.Generator
) -> NDArray[np.int64]:
    """UMI of producers: one and a negative-binomial rest, so never zero.

    Parameters
    ----------
    mean
        Mean UMI, any shape; below 1 counts as 1.
    dispersion
        Of the rest.
    rng
        Source of the draws.
    """
    return 1 + gamma_poisson(np.maximum(mean - 1, 0.0), dispersion=dispersion, rng=rng)


def draw_native(
    depth: NDArray[np.float64],
    profile: NDArray[np.integer],
    rates: NDArray[np.float64],
    *,
    dispersion: float,
    rng: np.random.Generator,
) -> sparse.csr_matrix:
    """Draw counts of cells from the expected UMI of their profile, in row chunks.

    Parameters
    ----------
    depth
        Relative depth of each cell, shape `(n_cells,)`.
    profile
        Row of `rates` of each cell, shape `(n_cells,)`.
    rates
        Expected UMI at depth 1, shape `(n_profiles, n_genes)`.
    dispersion
        Of every gene.
    rng
        Source of the draws.

    Returns
    -------
    CSR of int32, shape `(n_cells, n_genes)`.
    """
    blocks = [
        sparse.csr_matrix(
            gamma_poisson(
                depth[rows, None] * rates[profile[rows]], dispersion=dispersion, rng=rng
            ).astype(np.int32)
        )
        for rows in row_chunks(len(depth), size=1000)
    ]
    return sparse.csr_matrix(sparse.vstack(blocks, format="csr"))


def ambient_profile_of(
    lysed: NDArray[np.floating], extra: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Share of each gene in ambient RNA: lysed cells and a small share from elsewhere.

    Parameters
    ----------
    lysed
        Counts of the cells without ambient RNA, each weighted by how easily it lyses and added up,
        shape `(n_genes,)`.
    extra
        Share of ambient RNA that other cells leave in each gene, shape `(n_genes,)`; its sum is the
        share of ambient RNA that does not come from `lysed`.

    Returns
    -------
    Shape `(n_genes,)`, sums to 1.
    """
    return np.asarray(lysed / lysed.sum() * (1 - extra.sum()) + extra)


def ambient_umi_of(
    native_umi: NDArray[np.integer], *, contamination: float, rng: np.random.Generator
) -> NDArray[np.int64]:
    """UMI of ambient RNA in each droplet.

    They are Poisson with mean `contamination / (1 - contamination)` times the native UMI, so that
    ambient RNA is expected to be a share `contamination` of the droplet.

    Parameters
    ----------
    native_umi
        UMI of each droplet without ambient RNA, shape `(n_droplets,)`.
    contamination
        In [0, 1).
    rng
        Source of the draws.
    """
    return np.asarray(rng.poisson(contamination / (1 - contamination) * native_umi))


def ambient_counts(
    n_umi: NDArray[np.integer], profile: NDArray[np.float64], *, rng: np.random.Generator
) -> sparse.csr_matrix:
    """Draw the genes of ambient RNA's UMI.

    Parameters
    ----------
    n_umi
        UMI of ambient RNA in each droplet, shape `(n_droplets,)`.
    profile
        Share of each gene, shape `(n_genes,)`, sums to 1.
    rng
        Source of the draws.

    Returns
    -------
    CSR of int32 with sorted indices, shape `(n_droplets, n_genes)`.
    """
    rows = np.repeat(np.arange(len(n_umi), dtype=np.int32), n_umi)
    cumulative = np.cumsum(profile)
    genes = np.searchsorted(cumulative, rng.random(len(rows)) * cumulative[-1], side="right")
    where = (rows, genes.astype(np.int32))
    shape = (len(n_umi), len(profile))
    counts = sparse.coo_matrix((np.ones(len(rows), dtype=np.int32), where), shape).tocsr()
    counts.sort_indices()
    return counts


def shifted_probability(probability: float, shift: float) -> float:
    """Move a probability on the logit scale; 0 and 1 stay where they are."""
    odds = float(np.exp(shift)) * probability
    return odds / (odds + (1 - probability))
