"""Who can respond to it: the receptor side of each cytokine, by population and condition."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd
from scipy import stats

from crs_sc import genesets, keys
from crs_sc.core.ambient import ambient_pvalues, ambient_rejections, native_cpm, sum_populations
from crs_sc.core.checks import check_fraction, check_obs, gene_positions
from crs_sc.core.stats import benjamini_hochberg
from crs_sc.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData
    from numpy.typing import NDArray

    from crs_sc.core.ambient import PopulationSums

__all__ = ["mean_over_subjects", "receivers"]


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

    Examples
    --------
    >>> import crs_sc as crs
    >>> adata = crs.datasets.toy_cohort()
    >>> table = crs.tl.receivers(adata, cytokines=["IL6"])
    >>> table["gene"].unique().tolist()
    ['IL6R', 'IL6ST']
    """
    check_fraction("alpha", alpha)
    if min_cells < 1:
        msg = f"min_cells must be at least 1, got {min_cells!r}."
        raise InputError(msg)
    check_obs(adata, population_key=population_key)
    table = _wanted(genesets.load_receptors(organism=organism), cytokines)
    genes = list(dict.fromkeys(table["gene"]))
    if not gene_positions(adata, genes):
        return pd.DataFrame(columns=keys.RECEIVERS_TABLE.names)
    columns = (population_key, sample_key, subject_key, condition_key)
    sums = sum_populations(adata, genes, columns, layer=layer, by_subject=True)
    measured = _measured(sums, min_cells=min_cells, alpha=alpha)
    # A gene of two cytokines (IL1R1 of IL1A and IL1B) is one test.
    measured["padj"] = benjamini_hochberg(measured["pvalue"])
    state = np.where(measured["padj"] <= alpha, keys.ABOVE_AMBIENT, keys.AMBIENT_COMPATIBLE)
    state = np.where(measured["umi"] == 0, keys.NOT_DETECTED, state)
    state = np.where(measured["n_subjects"] == 0, keys.TOO_FEW_CELLS, state)
    measured["state"] = np.where(measured["n_cells"] == 0, "", state)
    rows = table[["cytokine", "gene", "role"]].merge(measured, on="gene", how="inner")
    return rows[keys.RECEIVERS_TABLE.names]


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


def _measured(sums: PopulationSums, *, min_cells: int, alpha: float) -> pd.DataFrame:
    """Level and test of every gene, population and condition, in this order."""
    cells, n_cells = sums.cells, sums.n_cells
    native = sums.add_up(cells.depth * (1 - cells.fraction[cells.sample_codes]))
    enough = n_cells >= min_cells
    umi, expected, largest = sums.of_genes
    level = np.where(enough, native_cpm(umi, expected, native), np.nan)
    above = (
        ambient_rejections(gene.umi, gene.expected, cells.sample_codes, alpha=alpha)
        for gene in map(cells.gene, range(len(umi)))
    )
    n_above = np.array([sums.add_up(is_above) for is_above in above])
    with np.errstate(invalid="ignore", divide="ignore"):
        fraction = np.where(enough, n_above / n_cells, np.nan)
    # Units are sorted by condition: those of one are neighbours.
    of_arm = sums.units.groupby(keys.CONDITION, sort=True).indices
    arms = [slice(units[0], units[-1] + 1) for units in of_arm.values()]
    index = pd.MultiIndex.from_product(
        [cells.genes, sums.populations, of_arm], names=["gene", "population", "condition"]
    )
    seen, ambient, most, n, n_subjects = (
        np.stack([values[..., units].sum(axis=-1) for units in arms], axis=-1)
        for values in (umi, expected, largest, n_cells, enough)
    )
    (cpm, low, high), (mean_fraction, *_) = (
        np.stack([mean_over_subjects(values[..., units], level=0.95) for units in arms], axis=-1)
        for values in (level, fraction)
    )
    table = {
        "n_subjects": n_subjects,
        "n_cells": n.astype(np.int64),
        "umi": seen.astype(np.int64),
        "corrected_umi": np.maximum(0.0, seen - ambient),
        "fraction": mean_fraction,
        "cpm": np.maximum(0.0, cpm),
        "ci_low": np.maximum(0.0, low),
        "ci_high": np.maximum(0.0, high),
        "pvalue": ambient_pvalues(seen, most, n),
    }
    columns = {name: np.broadcast_to(v, seen.shape).ravel() for name, v in table.items()}
    return pd.DataFrame(columns, index=index).reset_index()


def mean_over_subjects(
    values: NDArray[np.float64], *, level: float
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Mean over the last axis and Student's interval; missing subjects are left out.

    NaN without a subject, and for both ends with fewer than two.
    """
    known = np.isfinite(values)
    n = known.sum(axis=-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.where(known, values, 0.0).sum(axis=-1) / n
        squares = np.where(known, values - mean[..., None], 0.0) ** 2
        error = np.sqrt(squares.sum(axis=-1) / (n - 1) / n)
        half = stats.t.ppf(0.5 + level / 2, np.where(n > 1, n - 1, np.nan)) * error
    return mean, mean - half, mean + half
