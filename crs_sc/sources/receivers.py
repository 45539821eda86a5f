"""Who can hear it: the receptor side of each cytokine, by population and condition."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd
from scipy import stats

from crs_sc import genesets, keys
from crs_sc.core.ambient import ambient_of, ambient_rejections, take_counts
from crs_sc.core.arrays import string_codes
from crs_sc.core.checks import check_fraction, check_obs, gene_positions, sample_table
from crs_sc.core.stats import benjamini_hochberg
from crs_sc.errors import InputError
from crs_sc.sources._receptor_kernels import mean_over_subjects, native_cpm

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData
    from numpy.typing import ArrayLike, NDArray

    from crs_sc.core.ambient import CellCounts

__all__ = ["receivers"]


def receivers(
    adata: AnnData,
    *,
    cytokines: Sequence[str] | None = None,
    organism: Literal["human", "mouse"] = "human",
    min_cells: int = 10,
    alpha: float = 0.05,
    population_key: str = keys.POPULATION,
    sample_key: str = keys.SAMPLE,
    subject_key: str = keys.SUBJECT,
    condition_key: str = keys.CONDITION,
    layer: str = keys.COUNTS,
) -> pd.DataFrame:
    """Level of each cytokine's receptors, decoys and antagonists, ambient RNA taken out.

    A receptor is `above_soup` in a population if its UMI over the samples of the condition exceed
    the largest ambient RNA that the error of the contamination allows (Poisson, Benjamini-Hochberg
    over the whole table); otherwise ambient RNA can explain them. A transcript of a receptor is
    not a receptor on the surface, and few UMI are expected of most of them.

    Parameters
    ----------
    adata
        Cells x genes with `varm["ambient_profile"]` and the contamination of each sample.
    cytokines
        Symbols in order; those without receptors in `genesets.load_receptors` have no row. All of
        that table if None.
    organism
        `human` or `mouse`.
    min_cells
        A subject with fewer cells of a population is left out of its means, and a population
        without any such subject is `too_few_cells`.
    alpha
        False discovery rate, of cells above ambient RNA and of populations.
    population_key, sample_key, subject_key, condition_key
        Columns of `obs`.
    layer
        Layer with raw counts.

    Returns
    -------
    DataFrame with the columns of `keys.RECEIVERS_TABLE`: every cytokine, gene that is in the
    data, population and condition. `cpm` is the mean over subjects of
    `1e6 (umi - ambient RNA) / (all umi - all ambient RNA)` with Student's 95 % interval, both cut
    off at zero. Without any of the genes in the data the table has no rows.

    Raises
    ------
    MissingKeyError
        If ambient RNA is not known.
    InputError
        If a setting makes no sense, or the organism is unknown.
    """
    check_fraction("alpha", alpha)
    if min_cells < 1:
        msg = f"min_cells must be at least 1, got {min_cells!r}."
        raise InputError(msg)
    check_obs(adata, population_key=population_key)
    samples = sample_table(
        adata, sample_key=sample_key, subject_key=subject_key, condition_key=condition_key
    )
    table = _wanted(genesets.load_receptors(organism=organism), cytokines)
    genes = list(dict.fromkeys(table["gene"]))
    if not gene_positions(adata, genes):
        return pd.DataFrame(columns=keys.RECEIVERS_TABLE.names)
    cells = take_counts(adata, genes, sample_key=sample_key, layer=layer)
    fraction, _ = ambient_of(adata, list(samples.index))
    units = _Units(
        adata.obs[population_key], adata.obs[sample_key], samples, cells, fraction, min_cells
    )
    by_gene = {
        gene: units.measure(cells, column, alpha=alpha) for column, gene in enumerate(cells.genes)
    }
    rows = [
        by_gene[row["gene"]].assign(cytokine=row["cytokine"], gene=row["gene"], role=row["role"])
        for row in table.to_dict("records")
        if row["gene"] in by_gene
    ]
    result = pd.concat(rows, ignore_index=True)
    # A gene of two cytokines (IL1R1 of IL1A and IL1B) is one test.
    tests = result.drop_duplicates(["gene", "population", "condition"])
    padj = benjamini_hochberg(tests["pvalue"].to_numpy())
    place = pd.MultiIndex.from_frame(tests[["gene", "population", "condition"]])
    wanted = pd.MultiIndex.from_frame(result[["gene", "population", "condition"]])
    result["padj"] = padj[place.get_indexer(wanted)]
    result["state"] = _states(result, alpha)
    return result[keys.RECEIVERS_TABLE.names]


def _wanted(table: pd.DataFrame, cytokines: Sequence[str] | None) -> pd.DataFrame:
    """Rows of the receptor table in the order of the cytokines."""
    if cytokines is None:
        return table
    if isinstance(cytokines, str):
        msg = f"cytokines must be a list of symbols, got {cytokines!r}."
        raise InputError(msg)
    place = {name: i for i, name in enumerate(dict.fromkeys(cytokines))}
    rows = table.loc[table["cytokine"].isin(list(place))]
    return rows.sort_values("cytokine", key=lambda column: column.map(place), kind="stable")


def _states(table: pd.DataFrame, alpha: float) -> NDArray[np.str_]:
    state = np.where(table["padj"] <= alpha, keys.ABOVE_AMBIENT, keys.AMBIENT_COMPATIBLE)
    state = np.where(table["umi"] == 0, keys.NOT_DETECTED, state)
    state = np.where(table["n_subjects"] == 0, keys.TOO_FEW_CELLS, state)
    return np.where(table["n_cells"] == 0, "", state)


class _Units:
    """Sums of cells over populations and units; a unit is one subject in one condition.

    Parameters
    ----------
    populations, samples
        Population and sample of each cell.
    design
        Indexed by sample, with `subject` and `condition`.
    cells
        Counts and ambient RNA.
    fraction
        Contamination of each sample, in the order of `design`.
    min_cells
        Units with fewer cells of a population are missing in its means.
    """

    def __init__(
        self,
        populations: pd.Series,
        samples: pd.Series,
        design: pd.DataFrame,
        cells: CellCounts,
        fraction: NDArray[np.float64],
        min_cells: int,
    ) -> None:
        codes, self.populations = string_codes(populations)
        grouped = design.groupby([keys.CONDITION, keys.SUBJECT], sort=True)
        unit_of_sample = grouped.ngroup().to_numpy()
        conditions = [str(condition) for condition, _ in grouped.size().index]
        self.arms = {
            name: slice(conditions.index(name), conditions.index(name) + conditions.count(name))
            for name in dict.fromkeys(conditions)
        }
        self.shape = (len(self.populations), len(conditions))
        sample_codes, names = string_codes(samples)
        sample = design.index.get_indexer(pd.Index(names))[sample_codes]
        self._cells = codes * self.shape[1] + unit_of_sample[sample]
        self.n_cells = self.sums(np.ones(len(codes)))
        self.native = self.sums(cells.depth * (1 - fraction[sample]))
        self.enough = self.n_cells >= min_cells

    def sums(self, values: ArrayLike) -> NDArray[np.float64]:
        """Sum a value per cell; shape `(n_populations, n_units)`."""
        weights = np.asarray(values, dtype=np.float64)
        length = self.shape[0] * self.shape[1]
        return np.bincount(self._cells, weights=weights, minlength=length).reshape(self.shape)

    def measure(self, cells: CellCounts, column: int, *, alpha: float) -> pd.DataFrame:
        """Rows of one gene: every population and condition."""
        own = cells.gene(column)
        umi, expected = own.umi, own.expected
        above = ambient_rejections(umi, expected, cells.sample_codes, alpha=alpha)
        seen, soup, most = (self.sums(values) for values in (umi, expected, own.largest))
        with np.errstate(invalid="ignore", divide="ignore"):
            fraction = self.sums(above) / self.n_cells
        level = native_cpm(seen, soup, self.native)
        level[~self.enough] = np.nan
        fraction[~self.enough] = np.nan
        parts = []
        for arm, mine in self.arms.items():
            cpm, low, high = mean_over_subjects(level[:, mine], level=0.95)
            total = seen[:, mine].sum(axis=1)
            n_cells = self.n_cells[:, mine].sum(axis=1)
            part = pd.DataFrame(
                {
                    "population": self.populations,
                    "condition": arm,
                    "n_subjects": self.enough[:, mine].sum(axis=1),
                    "n_cells": n_cells.astype(np.int64),
                    "umi": total.astype(np.int64),
                    "corrected_umi": np.maximum(0.0, total - soup[:, mine].sum(axis=1)),
                    "fraction": mean_over_subjects(fraction[:, mine], level=0.95)[0],
                    "cpm": np.maximum(0.0, cpm),
                    "ci_low": np.maximum(0.0, low),
                    "ci_high": np.maximum(0.0, high),
                }
            )
            pvalue = stats.poisson.sf(total - 1, most[:, mine].sum(axis=1))
            part["pvalue"] = np.where(n_cells > 0, pvalue, np.nan)
            parts.append(part)
        rows = pd.concat(parts, ignore_index=True)
        return rows.sort_values(["population", "condition"], kind="stable", ignore_index=True)
