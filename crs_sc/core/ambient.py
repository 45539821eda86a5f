"""Ambient RNA as every later stage uses it: what it adds to a cell, and what it cannot explain."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy import stats

from crs_sc import keys
from crs_sc.core.arrays import string_codes
from crs_sc.core.blocks import pass_over
from crs_sc.core.checks import check_obs, sample_table
from crs_sc.core.condense import FewGenes
from crs_sc.errors import MissingKeyError, listing

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pandas as pd
    from anndata import AnnData
    from numpy.typing import ArrayLike, NDArray
    from scipy import sparse

__all__ = [
    "CellCounts",
    "GeneCounts",
    "PopulationSums",
    "ambient_of",
    "ambient_pvalues",
    "ambient_rejections",
    "has_ambient",
    "native_cpm",
    "sum_populations",
    "take_counts",
    "to_exceed",
]


class GeneCounts(NamedTuple):
    """UMI of one gene, those that ambient RNA is expected to add, and those that it may at most."""

    umi: NDArray[np.int64]
    expected: NDArray[np.float64]
    largest: NDArray[np.float64]


@dataclass(frozen=True)
class CellCounts:
    """Counts of a few genes beside what ambient RNA is expected to add.

    Attributes
    ----------
    genes, samples
        Genes that are in the data; names of the samples, sorted.
    counts
        UMI, CSC, shape `(n_cells, n_genes)`.
    depth
        UMI of each cell over all genes, shape `(n_cells,)`.
    sample_codes
        Place of each cell's sample in `samples`, shape `(n_cells,)`.
    share
        Share of each gene in the ambient RNA of each sample, shape `(n_samples, n_genes)`.
    fraction, upper
        Contamination of each sample, and its upper bound, shape `(n_samples,)`.
    """

    genes: list[str]
    samples: list[str]
    counts: sparse.csc_matrix
    depth: NDArray[np.float64]
    sample_codes: NDArray[np.intp]
    share: NDArray[np.float64]
    fraction: NDArray[np.float64]
    upper: NDArray[np.float64]

    def gene(self, column: int) -> GeneCounts:
        """One gene in all cells; all genes at once may not fit into memory."""
        umi = np.zeros(len(self.depth), dtype=np.int64)
        stored = slice(*self.counts.indptr[column : column + 2])
        umi[self.counts.indices[stored]] = np.rint(self.counts.data[stored])
        return GeneCounts(umi, *self.ambient_at(column, self.depth, self.sample_codes))

    def ambient_at(
        self, column: int, depth: NDArray[np.float64], sample_codes: NDArray[np.intp]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """UMI of a gene that ambient RNA is expected to add to cells of some depth, and at most.

        `rho_s N_i a_gs`: contamination of the sample, UMI of the cell, share of the gene.
        """
        ambient = depth * self.share[sample_codes, column]
        return self.fraction[sample_codes] * ambient, self.upper[sample_codes] * ambient

    @property
    def umi(self) -> NDArray[np.int64]:
        """UMI of all genes, shape `(n_cells, n_genes)`."""
        return np.asarray(np.rint(self.counts.toarray()), dtype=np.int64)

    @property
    def expected(self) -> NDArray[np.float64]:
        """UMI of all genes that ambient RNA is expected to add, shape `(n_cells, n_genes)`."""
        return np.stack([self.gene(column).expected for column in range(len(self.genes))], axis=1)

    @property
    def ambient_error(self) -> NDArray[np.float64]:
        """Relative standard error of each sample's contamination, from its upper 95 % bound.

        A contamination that was assumed is its own bound; half of it is taken for its error.
        """
        with np.errstate(invalid="ignore", divide="ignore"):
            error = (self.upper - self.fraction) / self.fraction / stats.norm.ppf(0.975)
        return np.where(self.fraction > 0, np.where(error > 0, error, 0.5), 0.0)


@dataclass(frozen=True)
class PopulationSums:
    """Sums over the cells of each population in each unit; a unit is a sample or a subject.

    Attributes
    ----------
    cells
        What is summed.
    populations, units
        Names, sorted; a row a unit with its sample, subject and condition.
    place
        Place of each cell among populations and units, units fastest, shape `(n_cells,)`.
    """

    cells: CellCounts
    populations: list[str]
    units: pd.DataFrame
    place: NDArray[np.intp]

    def add_up(self, values: ArrayLike) -> NDArray[np.float64]:
        """Sum a value per cell; shape `(n_populations, n_units)`."""
        weights, shape = np.asarray(values, dtype=np.float64), self.shape
        return np.bincount(self.place, weights, minlength=shape[0] * shape[1]).reshape(shape)

    @property
    def shape(self) -> tuple[int, int]:
        """Number of populations and of units."""
        return len(self.populations), len(self.units)

    @cached_property
    def n_cells(self) -> NDArray[np.float64]:
        """Cells, shape `(n_populations, n_units)`."""
        return self.add_up(np.ones(len(self.place)))

    @cached_property
    def depth(self) -> NDArray[np.float64]:
        """UMI over all genes, shape `(n_populations, n_units)`."""
        return self.add_up(self.cells.depth)

    @cached_property
    def of_genes(self) -> NDArray[np.float64]:
        """UMI, expected and largest ambient RNA, each `(n_genes, n_populations, n_units)`."""
        genes = map(self.cells.gene, range(len(self.cells.genes)))
        return np.array([[self.add_up(values) for values in gene] for gene in genes]).swapaxes(0, 1)

    def table(self, columns: Mapping[str, ArrayLike]) -> pd.DataFrame:
        """Gene, population, sample, subject and condition beside values of the shape of a gene's.

        The values broadcast to `(n_genes, n_populations, n_units)`; units run fastest.
        """
        n_genes, (n_populations, n_units) = len(self.cells.genes), self.shape
        table = self.units.iloc[np.tile(np.arange(n_units), n_genes * n_populations)]
        return table.reset_index(drop=True).assign(
            gene=np.repeat(self.cells.genes, n_populations * n_units),
            population=np.tile(np.repeat(self.populations, n_units), n_genes),
            **{
                name: np.broadcast_to(values, (n_genes, *self.shape)).ravel()
                for name, values in columns.items()
            },
        )


def sum_populations(
    adata: AnnData,
    genes: Sequence[str],
    columns: tuple[str, str, str, str],
    *,
    layer: str,
    by_subject: bool = False,
) -> PopulationSums:
    """Take the counts of `genes` (see `take_counts`) and sum them over populations and units.

    A unit is a sample, or a subject in a condition. `columns` of `obs` are those of population,
    sample, subject and condition.
    """
    population_key, sample_key, subject_key, condition_key = columns
    check_obs(adata, population_key=population_key)
    design = sample_table(
        adata, sample_key=sample_key, subject_key=subject_key, condition_key=condition_key
    )
    cells = take_counts(adata, genes, sample_key=sample_key, layer=layer)
    codes, names = string_codes(adata.obs[population_key])
    units = design.rename_axis(keys.SAMPLE).reset_index()
    by = [keys.CONDITION, keys.SUBJECT] if by_subject else [keys.SAMPLE]
    groups = units.groupby(by, sort=True)
    units, of_sample = groups.first().reset_index(), groups.ngroup().to_numpy()
    return PopulationSums(cells, names, units, codes * len(units) + of_sample[cells.sample_codes])


def to_exceed(expected: NDArray[np.float64], largest: NDArray[np.float64]) -> NDArray[np.float64]:
    """UMI that production has to exceed: the expected ones, or the most where 0 are expected.

    Counts that were corrected before have no expected ambient RNA, but what may be left of it.
    """
    return np.where(expected > 0, expected, largest)


def has_ambient(adata: AnnData) -> bool:
    """Whether the profile and the fraction of ambient RNA were estimated."""
    return keys.AMBIENT_PROFILE in adata.varm and keys.CONTAMINATION in adata.uns.get(keys.UNS, {})


def take_counts(adata: AnnData, genes: Sequence[str], *, sample_key: str, layer: str) -> CellCounts:
    """Take the counts of `genes` and their expected ambient RNA out of the AnnData.

    Genes that are not in the data are left out; it is an InputError if none is, and a
    MissingKeyError if the ambient RNA of a sample is not known.
    """
    check_obs(adata, sample_key=sample_key)
    few = FewGenes(adata, genes)
    codes, samples = string_codes(adata.obs[sample_key])
    fraction, profile = ambient_of(adata, samples)
    pass_over(adata, few, layer=layer)
    counts, rest = few.result()
    present = list(few.positions)
    return CellCounts(
        genes=present,
        samples=samples,
        counts=counts.tocsc(),
        depth=rest + np.asarray(counts.sum(axis=1, dtype=np.float64)).ravel(),
        sample_codes=codes,
        share=profile.loc[present].to_numpy(dtype=np.float64).T,
        fraction=fraction,
        upper=_contamination(adata, samples, "ambient_upper"),
    )


def _contamination(adata: AnnData, samples: list[str], column: str) -> NDArray[np.float64]:
    table = adata.uns[keys.UNS][keys.CONTAMINATION]
    return np.asarray(table.loc[samples, column], dtype=np.float64)


def ambient_of(adata: AnnData, samples: Sequence[str]) -> tuple[NDArray[np.float64], pd.DataFrame]:
    """Contamination of each sample, and share of each gene in its ambient RNA (genes x samples).

    Raises MissingKeyError if it was not estimated, or not for one of the samples.
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
    return _contamination(adata, list(samples), "ambient_fraction"), profile[list(samples)]


def ambient_rejections(
    counts: NDArray[np.integer],
    expected: NDArray[np.float64],
    samples: NDArray[np.integer],
    *,
    alpha: float,
) -> NDArray[np.bool_]:
    """Cells whose count of one gene ambient RNA cannot explain, at a false discovery rate.

    `p = P(Poisson(expected) >= count)`, Benjamini-Hochberg within each sample over all of its
    cells; a cell without the gene has p = 1 and still counts as tested. UMI, those that ambient RNA
    is expected to add, and the code of the sample have the shape `(n_cells,)`.
    """
    is_seen, pvalues = counts > 0, np.ones(len(counts))
    pvalues[is_seen] = stats.poisson.sf(counts[is_seen] - 1, expected[is_seen])
    rejected = np.zeros(len(counts), dtype=bool)
    for sample in np.unique(samples[is_seen]):
        mine = np.flatnonzero(samples == sample)
        rejected[mine] = stats.false_discovery_control(pvalues[mine]) <= alpha
    return rejected & is_seen


def ambient_pvalues(
    umi: NDArray[np.float64], largest: NDArray[np.float64], n_cells: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Probability that ambient RNA alone gives as many UMI, `P(Poisson(largest) >= umi)`.

    Sums over the cells of a population, all of one shape; missing without cells.
    """
    return np.where(n_cells > 0, stats.poisson.sf(umi - 1, largest), np.nan)


def native_cpm(
    umi: NDArray[np.float64], ambient: NDArray[np.float64], native: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Give the counts per million of the cells' RNA alone: `1e6 (umi - ambient) / native`.

    `native` is all UMI less all of ambient RNA; missing where there are none. Not cut off at zero:
    over subjects, noise around no expression has to average out.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(native > 0, 1e6 * (umi - ambient) / native, np.nan)
