"""The soup as every later stage uses it: what it adds to a cell, and what it cannot explain."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy import stats

from crs_sc import keys
from crs_sc._checks import check_obs, count_chunks, gene_positions
from crs_sc.errors import InputError, MissingKeyError, listing

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData
    from numpy.typing import NDArray

__all__ = ["CellCounts", "has_soup", "soup_of", "soup_rejections", "take_counts"]


@dataclass(frozen=True)
class CellCounts:
    """Counts of a few genes beside what the soup is expected to add.

    Attributes
    ----------
    genes
        Genes that are in the data.
    umi
        UMI, int64, shape `(n_cells, n_genes)`.
    expected
        UMI that the soup is expected to add, shape `(n_cells, n_genes)`.
    largest
        The same at the upper bound of the contamination, shape `(n_cells, n_genes)`.
    depth
        UMI of each cell over all genes, shape `(n_cells,)`.
    sample_codes
        Code of each cell's sample, in the sorted order of the sample names, shape `(n_cells,)`.
    soup_error
        Relative standard error of each sample's contamination, shape `(n_samples,)`.
    """

    genes: list[str]
    umi: NDArray[np.int64]
    expected: NDArray[np.float64]
    largest: NDArray[np.float64]
    depth: NDArray[np.float64]
    sample_codes: NDArray[np.intp]
    soup_error: NDArray[np.float64]

    @property
    def soup(self) -> NDArray[np.float64]:
        """UMI that production has to exceed: the expected ones, or the most where 0 are expected.

        Counts that were corrected before have no expected soup, but what may be left of it.
        """
        return np.where(self.expected > 0, self.expected, self.largest)


def has_soup(adata: AnnData) -> bool:
    """Whether the profile and the fraction of the soup were estimated."""
    return keys.AMBIENT_PROFILE in adata.varm and keys.CONTAMINATION in adata.uns.get(keys.UNS, {})


def take_counts(adata: AnnData, genes: Sequence[str], *, sample_key: str, layer: str) -> CellCounts:
    """Take the counts of `genes` and their expected soup out of the AnnData.

    Parameters
    ----------
    adata
        Cells x genes with `varm["ambient_profile"]` and the contamination of each sample.
    genes
        Symbols; those that are not in the data are left out.
    sample_key
        Column of `obs` with the library.
    layer
        Layer with raw counts.

    Raises
    ------
    InputError
        If none of the genes is in the data.
    MissingKeyError
        If the soup of a sample is not known.
    """
    check_obs(adata, sample_key=sample_key)
    positions = gene_positions(adata, genes)
    if not positions:
        msg = (
            f"None of the genes {listing(genes)} is in the data "
            f"({adata.n_vars} genes such as {listing(adata.var_names[:3])}). "
            "Give symbols of the organism that was read."
        )
        raise InputError(msg)
    codes, names = pd.factorize(adata.obs[sample_key].astype(str), sort=True)
    samples = [str(name) for name in names]
    fraction, profile = soup_of(adata, samples)
    share = profile.loc[list(positions)].to_numpy(dtype=np.float64).T
    columns = list(positions.values())
    depth = np.empty(adata.n_obs)
    umi = np.empty((adata.n_obs, len(columns)), dtype=np.int64)
    for rows, chunk in count_chunks(adata, layer=layer):
        depth[rows] = np.asarray(chunk.sum(axis=1, dtype=np.float64)).ravel()
        umi[rows] = np.rint(chunk[:, columns].toarray())
    upper = _upper_of(adata, samples)
    soup = depth[:, None] * share[codes]
    return CellCounts(
        genes=list(positions),
        umi=umi,
        expected=fraction[codes, None] * soup,
        largest=upper[codes, None] * soup,
        depth=depth,
        sample_codes=np.asarray(codes),
        soup_error=_soup_error(fraction, upper),
    )


def _upper_of(adata: AnnData, samples: list[str]) -> NDArray[np.float64]:
    table = adata.uns[keys.UNS][keys.CONTAMINATION]
    upper: NDArray[np.float64] = table.loc[samples, "ambient_upper"].to_numpy(dtype=np.float64)
    return upper


def _soup_error(fraction: NDArray[np.float64], upper: NDArray[np.float64]) -> NDArray[np.float64]:
    """Relative standard error of the contamination, from its upper 95 % bound.

    A contamination that was assumed is its own bound; half of it is taken for its error.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        error = (upper - fraction) / fraction / stats.norm.ppf(0.975)
    return np.where(fraction > 0, np.where(error > 0, error, 0.5), 0.0)


def soup_of(adata: AnnData, samples: Sequence[str]) -> tuple[NDArray[np.float64], pd.DataFrame]:
    """Look up the soup of some samples.

    Parameters
    ----------
    adata
        Cells x genes after `pp.estimate_ambient`.
    samples
        Names.

    Returns
    -------
    fraction
        Contamination of each sample, shape `(n_samples,)`.
    profile
        Share of each gene in the soup, genes x samples.

    Raises
    ------
    MissingKeyError
        If it was not estimated, or not for one of the samples.
    """
    if not has_soup(adata):
        msg = (
            f"The soup is not known: no `varm['{keys.AMBIENT_PROFILE}']` or "
            f"`uns['{keys.UNS}']['{keys.CONTAMINATION}']`. Run crs_sc.pp.estimate_ambient first."
        )
        raise MissingKeyError(msg)
    profile = adata.varm[keys.AMBIENT_PROFILE]
    contamination = adata.uns[keys.UNS][keys.CONTAMINATION]
    missing = [s for s in samples if s not in profile.columns or s not in contamination.index]
    if missing:
        msg = (
            f"The soup of the samples {listing(missing)} is not known. "
            "Run crs_sc.pp.estimate_ambient on all samples."
        )
        raise MissingKeyError(msg)
    names = list(samples)
    fraction = contamination.loc[names, "ambient_fraction"].to_numpy(dtype=np.float64)
    return fraction, profile[names]


def soup_rejections(
    counts: NDArray[np.integer],
    expected: NDArray[np.float64],
    samples: NDArray[np.integer],
    *,
    alpha: float,
) -> NDArray[np.bool_]:
    """Cells whose count of one gene the soup cannot explain.

    `p = P(Poisson(expected) >= count)`, Benjamini-Hochberg within each sample over all of its
    cells; a cell without the gene has p = 1 and still counts as tested.

    Parameters
    ----------
    counts
        UMI of the gene, shape `(n_cells,)`.
    expected
        UMI that the soup is expected to add, shape `(n_cells,)`.
    samples
        Sample code of each cell, shape `(n_cells,)`.
    alpha
        False discovery rate.
    """
    pvalues = np.ones(len(counts))
    seen = counts > 0
    pvalues[seen] = stats.poisson.sf(counts[seen] - 1, expected[seen])
    rejected = np.zeros(len(counts), dtype=bool)
    for sample in np.unique(samples[seen]):
        mine = samples == sample
        rejected[mine] = stats.false_discovery_control(pvalues[mine]) <= alpha
    return rejected & seen
