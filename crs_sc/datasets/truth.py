"""Tables of what was planted and of what happened, in the columns of the analysis."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from crs_sc import genesets, keys
from crs_sc._arrays import group_sums
from crs_sc._stats import wilson_interval
from crs_sc.comparison.decomposition import decompose
from crs_sc.datasets._planted import ARMS, POPULATIONS, PRODUCTION, TARGETS
from crs_sc.datasets._sample import DROPLETS, HUMAN, SINGLET, production, shares

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from crs_sc.comparison import Contrast
    from crs_sc.datasets._sample import Sample
    from crs_sc.datasets.profiles import Profiles

__all__ = [
    "cells_table",
    "decomposition_truth",
    "ledger_truth",
    "producers_truth",
    "sample_sums",
    "shifts_truth",
]

_SHIFT_TESTS = [
    name
    for name in keys.SHIFTS_TABLE.names
    if name not in {"contrast", "kind", "feature", "population", "estimate", "status"}
]


def cells_table(sample: Sample, *, names: Sequence[str], identity: dict[str, str]) -> pd.DataFrame:
    """Say what is in each droplet of a sample.

    Parameters
    ----------
    sample
        One library.
    names
        Name of each droplet.
    identity
        Values of the columns sample, subject and condition.

    Returns
    -------
    DataFrame with the columns cell, sample, subject, condition, population, lineage, species
    (human, mouse or mixed), droplet (singlet, doublet, cross_species or low_quality), partner
    (population of the second cell, empty if there is none), contamination (expected share of soup),
    n_umi and n_soup_umi.
    """
    droplets = sample.droplets
    partner = np.array([*(population.name for population in POPULATIONS), ""])
    species = np.where(HUMAN[droplets.population], "human", "mouse")
    species[DROPLETS.index("cross_species") == droplets.kind] = "mixed"
    n_umi = np.asarray(sample.counts.sum(axis=1)).ravel()
    return pd.DataFrame(
        {
            "cell": list(names),
            **identity,
            "population": [POPULATIONS[k].name for k in droplets.population],
            "lineage": [POPULATIONS[k].lineage for k in droplets.population],
            "species": species,
            "droplet": np.array(DROPLETS)[droplets.kind],
            "partner": partner[droplets.partner],
            "contamination": sample.contamination,
            "n_umi": n_umi,
            "n_soup_umi": n_umi - np.asarray(sample.native.sum(axis=1)).ravel(),
        }
    )


def sample_sums(sample: Sample, *, columns: NDArray[np.int64]) -> pd.DataFrame:
    """Sum the good human singlets of a sample by population and cytokine.

    Parameters
    ----------
    sample
        One library.
    columns
        Column of each of `TARGETS`.

    Returns
    -------
    DataFrame with the columns gene, population, n_cells, umi, native_umi, n_producers (cells with
    at least one native UMI) and n_soup_only (cells whose UMI are all soup); every gene and human
    population.
    """
    droplets = sample.droplets
    good = (droplets.kind == SINGLET) & HUMAN[droplets.population]
    codes = np.where(good, droplets.population, -1)
    counts, native = sample.counts[:, columns].tocsr(), sample.native[:, columns].tocsr()
    n = len(POPULATIONS)
    n_producers = group_sums((native > 0).astype(np.int64), codes, n)
    sums = {
        "umi": group_sums(counts, codes, n),
        "native_umi": group_sums(native, codes, n),
        "n_producers": n_producers,
        "n_soup_only": group_sums((counts > 0).astype(np.int64), codes, n) - n_producers,
    }
    n_cells = np.bincount(codes[good], minlength=n)
    human = np.flatnonzero(HUMAN)
    frame = pd.DataFrame(
        {
            "gene": np.repeat(TARGETS, len(human)),
            "population": np.tile([POPULATIONS[k].name for k in human], len(TARGETS)),
            "n_cells": np.tile(n_cells[human], len(TARGETS)),
        }
    )
    for name, value in sums.items():
        frame[name] = value[human].T.ravel().astype(np.int64)
    return frame


def ledger_truth(sums: pd.DataFrame) -> pd.DataFrame:
    """Ledger of the native UMI.

    Parameters
    ----------
    sums
        Rows of :func:`sample_sums` with the columns sample, subject and condition.

    Returns
    -------
    DataFrame with the columns of `keys.LEDGER_TABLE`; `ambient_umi` is the soup that was added and
    `corrected_umi` the UMI that the cells made.
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
    one native UMI, `n_ambient_compatible` those whose UMI are all soup, `expected_ambient_umi` the
    soup that was added; nothing is undetermined.
    """
    table = sums.copy()
    table["n_ambient_compatible"] = table["n_soup_only"]
    table["n_undetermined"] = 0
    table["producer_fraction"] = (table["n_producers"] / table["n_cells"]).where(
        table["n_cells"] > 0
    )
    table["ci_low"], table["ci_high"] = wilson_interval(table["n_producers"], table["n_cells"])
    table["expected_ambient_umi"] = (table["umi"] - table["native_umi"]).astype(float)
    return _in_order(table, keys.PRODUCERS_TABLE)


def decomposition_truth(
    ledger: pd.DataFrame, producers: pd.DataFrame, *, contrasts: Sequence[Contrast]
) -> pd.DataFrame:
    """Decomposition of the true change; its intervals are empty.

    Parameters
    ----------
    ledger, producers
        Results of :func:`ledger_truth` and :func:`producers_truth`.
    contrasts
        What is compared.
    """
    samples = ledger[["sample", "subject", "condition"]].drop_duplicates().set_index("sample")
    table = decompose(
        ledger, producers, contrasts=contrasts, samples=samples.sort_index(), n_bootstrap=1
    )
    intervals = [name for name in table.columns if name.endswith(("_ci_low", "_ci_high"))]
    table[intervals] = np.nan
    return table


def shifts_truth(
    profiles: Profiles, *, contrasts: Sequence[Contrast], effect_scale: float
) -> pd.DataFrame:
    """Shift of each signature and cytokine between the mean profiles of two arms.

    The mean profile of an arm is the expected native expression without subject effects and noise.
    The shift is the mean over the signature's genes of log2(CPM + 1), treated less reference: what
    the analysis estimates from pseudobulks. It is not quite the planted shift of the genes, because
    genes that rise lower the CPM of all others.

    Parameters
    ----------
    profiles
        Planted expression and responses.
    contrasts
        What is compared.
    effect_scale
        As in `simulate_cohort`.

    Returns
    -------
    DataFrame with the columns of `keys.SHIFTS_TABLE`; only `estimate` and `status` are filled.
    """
    level = np.stack(
        [_log_cpm(profiles, arm, effect_scale=effect_scale) for arm in range(len(ARMS))]
    )
    position = {symbol: column for column, symbol in enumerate(profiles.genes["symbol"])}
    features = [
        ("signature", name, [position[gene] for gene in genes])
        for name, genes in sorted(genesets.signatures().items())
    ] + [("gene", gene, [position[gene]]) for gene in TARGETS]
    present = [shares(arm, effect_scale=effect_scale) > 0 for arm in range(len(ARMS))]
    rows = []
    for contrast in contrasts:
        treated, reference = ARMS.index(contrast.treated), ARMS.index(contrast.reference)
        for kind, name, columns in features:
            difference = (level[treated] - level[reference])[:, columns].mean(axis=1)
            for k in np.flatnonzero(HUMAN):
                status = keys.OK if present[reference][k] else keys.ABSENT_IN_REFERENCE
                status = status if present[treated][k] else keys.ABSENT_IN_TREATED
                estimate = difference[k] if status == keys.OK else np.nan
                population = POPULATIONS[k].name
                rows.append((contrast.name, kind, name, population, estimate, status))
    columns_of_rows = ["contrast", "kind", "feature", "population", "estimate", "status"]
    table = pd.DataFrame(rows, columns=columns_of_rows)
    table[_SHIFT_TESTS] = np.nan
    return table[keys.SHIFTS_TABLE.names]


def _log_cpm(profiles: Profiles, arm: int, *, effect_scale: float) -> NDArray[np.float64]:
    """log2(CPM + 1) of the mean profile of an arm, `(n_populations, n_genes)`."""
    mean = profiles.rates * np.exp2(profiles.gene_shift(profiles.shift[arm]))
    row = {population.name: k for k, population in enumerate(POPULATIONS)}
    for entry, column in zip(PRODUCTION, profiles.produced, strict=True):
        share, umi = production(entry, arm, effect_scale=effect_scale)
        mean[row[entry.population], column] += share * umi
    return np.asarray(np.log2(1e6 * mean / mean.sum(axis=1, keepdims=True) + 1))


def _in_order(table: pd.DataFrame, spec: keys.TableSpec) -> pd.DataFrame:
    """Columns and rows of a table in the order of the contract, genes as in `TARGETS`."""
    table = table.assign(order=table["gene"].map({gene: i for i, gene in enumerate(TARGETS)}))
    table = table.sort_values(["order", "population", "sample"], ignore_index=True)
    # Intervals and power are estimates; the truth has none.
    return table.reindex(columns=spec.names)
