"""Tables of what happened in a simulated cohort, in the columns of the analysis."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy import sparse

from crs_sc import keys
from crs_sc.comparison.decomposition import decompose
from crs_sc.core.arrays import group_sums
from crs_sc.core.stats import wilson_interval
from crs_sc.datasets._sample import DROPLETS, SINGLET

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from crs_sc.comparison import Contrast
    from crs_sc.datasets._cohort import Cohort
    from crs_sc.datasets._sample import Part, Sample

__all__ = [
    "cells_table",
    "decomposition_truth",
    "ledger_truth",
    "producer_cells_table",
    "producers_truth",
    "rates_table",
    "sample_sums",
]

_UNIT = ("sample", "subject", "condition")


def cells_table(part: Part, *, sample: Sample, cohort: Cohort) -> pd.DataFrame:
    """Say what is in each droplet.

    Parameters
    ----------
    part
        Droplets of a library.
    sample
        The library.
    cohort
        What is planted.

    Returns
    -------
    DataFrame with the columns cell, sample, subject, condition (timepoint, batch), population,
    lineage, species (human, mouse or mixed), droplet (singlet, doublet, cross_species or
    low_quality), partner (population of the second cell, empty if there is none), contamination
    (expected share of ambient RNA), n_umi and n_ambient_umi.
    """
    droplets = part.droplets
    names, identity = np.array(cohort.names), sample.library.identity
    species = np.array([population.species for population in cohort.populations])
    lineage = np.array([population.lineage for population in cohort.populations])
    is_mixed = DROPLETS.index("cross_species") == droplets.kind
    n_umi = np.asarray(part.counts.sum(axis=1)).ravel()
    return pd.DataFrame(
        {
            "cell": [f"{identity['sample']}_{cell + 1:06d}" for cell in part.positions],
            **identity,
            "population": names[droplets.population],
            "lineage": lineage[droplets.population],
            "species": np.where(is_mixed, "mixed", species[droplets.population]),
            "droplet": np.array(DROPLETS)[droplets.kind],
            "partner": np.array([*cohort.names, ""])[droplets.partner],
            "contamination": sample.contamination,
            "n_umi": n_umi,
            "n_ambient_umi": n_umi - np.asarray(part.native.sum(axis=1)).ravel(),
        }
    )


def producer_cells_table(
    part: Part, cells: pd.DataFrame, *, genes: Sequence[str], columns: NDArray[np.int64]
) -> pd.DataFrame:
    """List the droplets in which a cell made a cytokine.

    Parameters
    ----------
    part
        Droplets of a library.
    cells
        Their table, from :func:`cells_table`.
    genes, columns
        Cytokines, and the column of each.

    Returns
    -------
    DataFrame with the columns cell, sample, population, droplet, gene, native_umi and umi, one row
    for each droplet and cytokine with native UMI.
    """
    native = sparse.coo_matrix(part.native[:, columns])
    order = np.lexsort((native.col, native.row))
    row, column = native.row[order], native.col[order]
    table = cells[["cell", "sample", "population", "droplet"]].iloc[row].reset_index(drop=True)
    table["gene"] = np.array(list(genes))[column]
    table["native_umi"] = native.data[order].astype(np.int64)
    counts = part.counts[:, columns].toarray()
    table["umi"] = np.asarray(counts[row, column], dtype=np.int64)
    return pd.DataFrame(table)


def rates_table(sample: Sample, *, cohort: Cohort) -> pd.DataFrame:
    """Say how many cells of a sample were to be producers, and how much they make.

    Parameters
    ----------
    sample
        One library.
    cohort
        What is planted.

    Returns
    -------
    DataFrame with the columns sample, subject, condition, gene, population, probability (that a
    cell is a producer) and umi (mean UMI of a producer in a cell of mean depth).
    """
    return pd.DataFrame(
        {
            **{name: sample.library.identity[name] for name in _UNIT},
            "gene": [entry.gene for entry in cohort.production],
            "population": [entry.population for entry in cohort.production],
            "probability": sample.probability,
            "umi": sample.umi,
        }
    )


def sample_sums(part: Part, *, cohort: Cohort, columns: NDArray[np.int64]) -> pd.DataFrame:
    """Sum the good singlets of the analysed species by population and cytokine.

    Parameters
    ----------
    part
        Droplets of a library.
    cohort
        What is planted.
    columns
        Column of each of the cohort's targets.

    Returns
    -------
    DataFrame indexed by gene and population, columns n_cells, umi, native_umi, n_producers (cells
    with at least one native UMI) and n_ambient_only (cells whose UMI are all ambient RNA); every
    gene and analysed population.
    """
    droplets, analysed = part.droplets, cohort.analysed
    good = (droplets.kind == SINGLET) & analysed[droplets.population]
    codes = np.where(good, droplets.population, -1)
    counts, native = part.counts[:, columns].tocsr(), part.native[:, columns].tocsr()
    n = len(analysed)
    n_producers = group_sums((native > 0).astype(np.int64), codes, n)
    sums = {
        "umi": group_sums(counts, codes, n),
        "native_umi": group_sums(native, codes, n),
        "n_producers": n_producers,
        "n_ambient_only": group_sums((counts > 0).astype(np.int64), codes, n) - n_producers,
    }
    n_cells = np.bincount(codes[good], minlength=n)
    own = np.flatnonzero(analysed)
    index = pd.MultiIndex.from_product(
        [list(cohort.targets), [cohort.names[k] for k in own]], names=["gene", "population"]
    )
    frame = pd.DataFrame({"n_cells": np.tile(n_cells[own], len(columns))}, index=index)
    for name, value in sums.items():
        frame[name] = value[own].T.ravel().astype(np.int64)
    return frame


def ledger_truth(sums: pd.DataFrame) -> pd.DataFrame:
    """Ledger of the native UMI.

    Parameters
    ----------
    sums
        Rows of :func:`sample_sums` with the columns gene, population, sample, subject, condition.

    Returns
    -------
    DataFrame with the columns of `keys.LEDGER_TABLE`; `ambient_umi` is ambient RNA that was added
    and `corrected_umi` the UMI that the cells made.
    """
    table = sums.copy()
    table["corrected_umi"] = table["native_umi"].astype(float)
    table["ambient_umi"] = (table["umi"] - table["native_umi"]).astype(float)
    by_sample = table.groupby(["gene", "sample"])
    total = by_sample["corrected_umi"].transform("sum")
    table["share"] = (table["corrected_umi"] / total).where(total > 0)
    table["cell_share"] = table["n_cells"] / by_sample["n_cells"].transform("sum")
    table["enrichment"] = (table["share"] / table["cell_share"]).where(table["cell_share"] > 0)
    return _in_order(table, keys.LEDGER_TABLE)


def producers_truth(sums: pd.DataFrame) -> pd.DataFrame:
    """Cells that made a cytokine.

    Parameters
    ----------
    sums
        As in :func:`ledger_truth`.

    Returns
    -------
    DataFrame with the columns of `keys.PRODUCERS_TABLE`: `n_producers` are the cells with at least
    one native UMI, `n_ambient_compatible` those whose UMI are all ambient RNA,
    `expected_ambient_umi` the ambient RNA that was added; nothing is undetermined.
    """
    table = sums.copy()
    table["n_ambient_compatible"] = table["n_ambient_only"]
    table["n_undetermined"] = 0
    table["producer_fraction"] = (table["n_producers"] / table["n_cells"]).where(
        table["n_cells"] > 0
    )
    table["ci_low"], table["ci_high"] = wilson_interval(table["n_producers"], table["n_cells"])
    table["expected_ambient_umi"] = (table["umi"] - table["native_umi"]).astype(float)
    return _in_order(table, keys.PRODUCERS_TABLE)


def decomposition_truth(
    ledger: pd.DataFrame,
    producers: pd.DataFrame,
    *,
    contrasts: Sequence[Contrast],
    samples: pd.DataFrame,
) -> pd.DataFrame:
    """Decomposition of the true change; its intervals are empty.

    Parameters
    ----------
    ledger, producers
        Results of :func:`ledger_truth` and :func:`producers_truth`.
    contrasts
        What is compared.
    samples
        Design, indexed by sample.
    """
    table = decompose(ledger, producers, contrasts=contrasts, samples=samples, n_bootstrap=1)
    intervals = [name for name in table.columns if name.endswith(("_ci_low", "_ci_high"))]
    table[intervals] = np.nan
    return table


def _in_order(table: pd.DataFrame, spec: keys.TableSpec) -> pd.DataFrame:
    """Columns and rows of a table in the order of the contract; the genes keep theirs."""
    order = {gene: i for i, gene in enumerate(table["gene"].unique())}
    table = table.assign(order=table["gene"].map(order))
    table = table.sort_values(["order", "population", "sample"], ignore_index=True)
    # What only an analysis can say, such as an interval, is empty.
    return table.reindex(columns=spec.names)
