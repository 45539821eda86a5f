"""Ambient RNA as every later stage uses it: what it adds to a cell, and what it cannot explain."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from scipy import stats

from crs_sc import keys
from crs_sc.core.arrays import FewColumns, string_codes
from crs_sc.core.blocks import pass_over
from crs_sc.core.checks import check_obs, gene_positions
from crs_sc.errors import InputError, MissingKeyError, listing

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd
    from anndata import AnnData
    from numpy.typing import NDArray
    from scipy import sparse

__all__ = [
    "CellCounts",
    "GeneCounts",
    "ambient_of",
    "ambient_rejections",
    "has_ambient",
    "take_counts",
]


@dataclass(frozen=True)
class GeneCounts:
    """Counts of one gene beside what ambient RNA is expected to add; each of shape `(n_cells,)`.

    Attributes
    ----------
    umi
        UMI, int64.
    expected, largest
        UMI that ambient RNA is expected to add, and those at the upper bound of the contamination.
    """

    umi: NDArray[np.int64]
    expected: NDArray[np.float64]
    largest: NDArray[np.float64]

    @property
    def ambient_umi(self) -> NDArray[np.float64]:
        """UMI that production has to exceed."""
        return _to_exceed(self.expected, self.largest)


@dataclass(frozen=True)
class CellCounts:
    """Counts of a few genes beside what ambient RNA is expected to add.

    Attributes
    ----------
    genes
        Genes that are in the data.
    counts
        UMI, CSC, shape `(n_cells, n_genes)`.
    depth
        UMI of each cell over all genes, shape `(n_cells,)`.
    sample_codes
        Code of each cell's sample, in the sorted order of the sample names, shape `(n_cells,)`.
    share
        Share of each gene in ambient RNA of each sample, shape `(n_samples, n_genes)`.
    fraction, upper
        Contamination of each sample, and its upper bound, shape `(n_samples,)`.
    """

    genes: list[str]
    counts: sparse.csc_matrix
    depth: NDArray[np.float64]
    sample_codes: NDArray[np.intp]
    share: NDArray[np.float64]
    fraction: NDArray[np.float64]
    upper: NDArray[np.float64]

    def gene(self, column: int) -> GeneCounts:
        """One gene in all cells; all genes at once may not fit into memory."""
        umi = np.zeros(len(self.depth), dtype=np.int64)
        own = slice(*self.counts.indptr[column : column + 2])
        umi[self.counts.indices[own]] = np.rint(self.counts.data[own])
        ambient = self.depth * self.share[self.sample_codes, column]
        return GeneCounts(
            umi, self.fraction[self.sample_codes] * ambient, self.upper[self.sample_codes] * ambient
        )

    @property
    def umi(self) -> NDArray[np.int64]:
        """UMI of all genes, shape `(n_cells, n_genes)`."""
        return np.asarray(np.rint(self.counts.toarray()), dtype=np.int64)

    @property
    def expected(self) -> NDArray[np.float64]:
        """UMI of all genes that ambient RNA is expected to add, shape `(n_cells, n_genes)`."""
        ambient = self.depth[:, None] * self.share[self.sample_codes]
        return self.fraction[self.sample_codes, None] * ambient

    @cached_property
    def depths(self) -> DepthLevels:
        """The distinct depths of each sample: what depends on nothing else is worked out once."""
        span = int(self.depth.max(initial=0)) + 1
        level = self.sample_codes * span + self.depth.astype(np.int64)
        distinct, of_cell = np.unique(level, return_inverse=True)
        return DepthLevels(
            sample_codes=distinct // span,
            depth=(distinct % span).astype(np.float64),
            of_cell=of_cell,
        )

    def ambient_at(self, levels: DepthLevels, column: int) -> NDArray[np.float64]:
        """UMI of a gene that production has to exceed, at each of the distinct depths."""
        ambient = levels.depth * self.share[levels.sample_codes, column]
        return _to_exceed(
            self.fraction[levels.sample_codes] * ambient, self.upper[levels.sample_codes] * ambient
        )

    @property
    def ambient_error(self) -> NDArray[np.float64]:
        """Relative standard error of each sample's contamination, from its upper 95 % bound.

        A contamination that was assumed is its own bound; half of it is taken for its error.
        """
        with np.errstate(invalid="ignore", divide="ignore"):
            error = (self.upper - self.fraction) / self.fraction / stats.norm.ppf(0.975)
        return np.where(self.fraction > 0, np.where(error > 0, error, 0.5), 0.0)


@dataclass(frozen=True)
class DepthLevels:
    """Distinct depths of the cells of each sample.

    Attributes
    ----------
    sample_codes, depth
        Of each level, shape `(n_levels,)`.
    of_cell
        Level of each cell, shape `(n_cells,)`.
    """

    sample_codes: NDArray[np.intp]
    depth: NDArray[np.float64]
    of_cell: NDArray[np.intp]


def _to_exceed(expected: NDArray[np.float64], largest: NDArray[np.float64]) -> NDArray[np.float64]:
    """UMI that production has to exceed: the expected ones, or the most where 0 are expected.

    Counts that were corrected before have no expected ambient RNA, but what may be left of it.
    """
    return np.where(expected > 0, expected, largest)


def has_ambient(adata: AnnData) -> bool:
    """Whether the profile and the fraction of ambient RNA were estimated."""
    return keys.AMBIENT_PROFILE in adata.varm and keys.CONTAMINATION in adata.uns.get(keys.UNS, {})


def take_counts(adata: AnnData, genes: Sequence[str], *, sample_key: str, layer: str) -> CellCounts:
    """Take the counts of `genes` and their expected ambient RNA out of the AnnData.

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
        If ambient RNA of a sample is not known.
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
    codes, samples = string_codes(adata.obs[sample_key])
    fraction, profile = ambient_of(adata, samples)
    columns = np.array(list(positions.values()))
    kernel = FewColumns(columns, adata.n_obs, adata.n_vars)
    pass_over(adata, kernel, layer=layer)
    counts, rest = kernel.result()
    return CellCounts(
        genes=list(positions),
        counts=counts.tocsc(),
        depth=rest + np.asarray(counts.sum(axis=1, dtype=np.float64)).ravel(),
        sample_codes=codes,
        share=profile.loc[list(positions)].to_numpy(dtype=np.float64).T,
        fraction=fraction,
        upper=_upper_of(adata, samples),
    )


def _upper_of(adata: AnnData, samples: list[str]) -> NDArray[np.float64]:
    table = adata.uns[keys.UNS][keys.CONTAMINATION]
    upper: NDArray[np.float64] = table.loc[samples, "ambient_upper"].to_numpy(dtype=np.float64)
    return upper


def ambient_of(adata: AnnData, samples: Sequence[str]) -> tuple[NDArray[np.float64], pd.DataFrame]:
    """Look up ambient RNA of some samples.

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
        Share of each gene in ambient RNA, genes x samples.

    Raises
    ------
    MissingKeyError
        If it was not estimated, or not for one of the samples.
    """
    if not has_ambient(adata):
        msg = (
            f"Ambient RNA is not known: no `varm['{keys.AMBIENT_PROFILE}']` or "
            f"`uns['{keys.UNS}']['{keys.CONTAMINATION}']`. Run crs_sc.pp.estimate_ambient first."
        )
        raise MissingKeyError(msg)
    profile = adata.varm[keys.AMBIENT_PROFILE]
    contamination = adata.uns[keys.UNS][keys.CONTAMINATION]
    missing = [s for s in samples if s not in profile.columns or s not in contamination.index]
    if missing:
        msg = (
            f"Ambient RNA of the samples {listing(missing)} is not known. "
            "Run crs_sc.pp.estimate_ambient on all samples."
        )
        raise MissingKeyError(msg)
    names = list(samples)
    fraction = contamination.loc[names, "ambient_fraction"].to_numpy(dtype=np.float64)
    return fraction, profile[names]


def ambient_rejections(
    counts: NDArray[np.integer],
    expected: NDArray[np.float64],
    samples: NDArray[np.integer],
    *,
    alpha: float,
) -> NDArray[np.bool_]:
    """Cells whose count of one gene ambient RNA cannot explain.

    `p = P(Poisson(expected) >= count)`, Benjamini-Hochberg within each sample over all of its
    cells; a cell without the gene has p = 1 and still counts as tested.

    Parameters
    ----------
    counts
        UMI of the gene, shape `(n_cells,)`.
    expected
        UMI that ambient RNA is expected to add, shape `(n_cells,)`.
    samples
        Sample code of each cell, shape `(n_cells,)`.
    alpha
        False discovery rate.
    """
    seen = np.flatnonzero(counts > 0)
    pvalues = stats.poisson.sf(counts[seen] - 1, expected[seen])
    n_tested = np.bincount(samples, minlength=int(samples.max(initial=0)) + 1)
    rejected = np.zeros(len(counts), dtype=bool)
    for sample in np.unique(samples[seen]):
        mine = np.flatnonzero(samples[seen] == sample)
        order = mine[np.argsort(pvalues[mine], kind="stable")]
        # Those with p = 1 come last and leave the others as they are.
        adjusted = pvalues[order] * (n_tested[sample] / np.arange(1, len(order) + 1))
        adjusted = np.minimum.accumulate(adjusted[::-1])[::-1]
        rejected[seen[order]] = np.minimum(adjusted, 1.0) <= alpha
    return rejected
