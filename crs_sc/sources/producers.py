"""Which cells make a cytokine: more UMI than ambient RNA of their sample explains."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy import stats

from crs_sc import keys
from crs_sc.core.ambient import (
    ambient_pvalues,
    ambient_rejections,
    sum_populations,
    take_counts,
    to_exceed,
)
from crs_sc.core.checks import add_note, check_fraction, store
from crs_sc.core.stats import benjamini_hochberg, wilson_interval
from crs_sc.errors import MissingKeyError, listing

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData
    from numpy.typing import NDArray

__all__ = ["call_producers", "call_states", "producers", "production", "production_rate"]

# Codes of the states, positions in keys.PRODUCER_STATES.
PRODUCER, AMBIENT_COMPATIBLE, UNDETERMINED, NEGATIVE = range(4)


def call_producers(
    adata: AnnData,
    *,
    genes: Sequence[str],
    alpha: float = 0.05,
    max_missed: float = 0.05,
    typical_rate: float = 2e-4,
    sample_key: str = keys.SAMPLE,
    layer: str = keys.COUNTS,
) -> None:
    """Call each cell a producer of each cytokine, or say why not.

    A cell is a `producer` if its UMI exceed what ambient RNA explains (Poisson, Benjamini-Hochberg
    within gene and sample over all cells), `ambient_compatible` if it has UMI that ambient RNA can
    explain, `negative` if it has none although a typical producer of its depth would have shown
    some, and `undetermined` if it is too shallow to tell.

    Parameters
    ----------
    adata
        Cells x genes with `varm["ambient_profile"]` and the contamination of each sample.
    genes
        Cytokines; those that are not in the data are named in the notes.
    alpha
        False discovery rate of the calls.
    max_missed
        Largest acceptable probability that a typical producer shows no UMI in a negative cell.
    typical_rate
        UMI of the cytokine per UMI of the cell in a typical producer, assumed where fewer than
        ten producers are there to learn it from.
    sample_key
        Column of `obs` with the library.
    layer
        Layer with raw counts.

    Returns
    -------
    None. Writes `obsm["producer_state"]`: DataFrame of categories, shape `(n_cells, n_genes)`, and
    `uns["crs_sc"]["producer_calls"]`: DataFrame by gene with `alpha` and the `rate` of a typical
    producer.

    Raises
    ------
    MissingKeyError
        If ambient RNA is not known.
    InputError
        If no gene is in the data.

    Examples
    --------
    >>> import crs_sc as crs
    >>> adata = crs.datasets.toy_cohort()
    >>> crs.tl.call_producers(adata, genes=["IL1B", "IL6"])
    >>> adata.obsm["producer_state"].columns.to_list()
    ['IL1B', 'IL6']
    """
    check_fraction("alpha", alpha)
    check_fraction("max_missed", max_missed)
    cells = take_counts(adata, genes, sample_key=sample_key, layer=layer)
    absent = [gene for gene in genes if gene not in cells.genes]
    if absent:
        add_note(
            adata, f"Not among the genes of the data, so not in the ledger: {listing(absent)}."
        )
    states, rates = {}, {}
    for column, gene in enumerate(cells.genes):
        umi, expected, largest = cells.gene(column)
        rejected = ambient_rejections(
            umi, to_exceed(expected, largest), cells.sample_codes, alpha=alpha
        )
        rates[gene] = production_rate(umi, cells.depth, rejected, fallback=typical_rate)
        codes = call_states(umi, cells.depth, rejected, rate=rates[gene], max_missed=max_missed)
        states[gene] = pd.Categorical.from_codes(codes, categories=pd.Index(keys.PRODUCER_STATES))
    adata.obsm[keys.PRODUCER_STATE] = pd.DataFrame(states, index=adata.obs_names)
    calls = pd.DataFrame({"rate": pd.Series(rates), "alpha": alpha})
    store(adata, keys.PRODUCER_CALLS, calls)


def production_rate(
    counts: NDArray[np.integer],
    depth: NDArray[np.float64],
    producers: NDArray[np.bool_],
    *,
    fallback: float,
    min_producers: int = 10,
) -> float:
    """UMI of the gene per UMI of the cell in a typical producer: the median over those called.

    `fallback` where there are fewer than `min_producers` to learn from. Arrays by cell.
    """
    if int(producers.sum()) < min_producers:
        return fallback
    return float(np.median(counts[producers] / depth[producers]))


def call_states(
    counts: NDArray[np.integer],
    depth: NDArray[np.float64],
    rejected: NDArray[np.bool_],
    *,
    rate: float,
    max_missed: float,
) -> NDArray[np.int8]:
    """State of each cell for one gene, as positions in `keys.PRODUCER_STATES`.

    A cell without the gene is negative only if a typical producer of its depth would have shown
    the gene, `P(Poisson(rate * depth) = 0) <= max_missed`; otherwise it is undetermined.
    """
    states = np.where(np.exp(-rate * depth) <= max_missed, NEGATIVE, UNDETERMINED)
    states[counts > 0] = AMBIENT_COMPATIBLE
    states[rejected] = PRODUCER
    return states.astype(np.int8)


def producers(
    adata: AnnData,
    *,
    population_key: str = keys.POPULATION,
    sample_key: str = keys.SAMPLE,
    subject_key: str = keys.SUBJECT,
    condition_key: str = keys.CONDITION,
    layer: str = keys.COUNTS,
) -> pd.DataFrame:
    """Count the producers of each cytokine by population and sample.

    Parameters
    ----------
    adata
        Cells x genes after :func:`call_producers`.
    population_key, sample_key, subject_key, condition_key
        Columns of `obs`.
    layer
        Layer with raw counts.

    Returns
    -------
    DataFrame with the columns of `keys.PRODUCERS_TABLE`: every gene, population and sample, also
    where a population has no cell in a sample. `ci_low` and `ci_high` are Wilson's 95 % interval
    of `producer_fraction`; `power` is the probability that a typical producer would have been
    called here, and `n_producers_upper` bounds how many there are, with those that were missed.

    Raises
    ------
    MissingKeyError
        If the producers were not called.

    Examples
    --------
    >>> import crs_sc as crs
    >>> adata = crs.datasets.toy_cohort()
    >>> crs.tl.call_producers(adata, genes=["IL1B", "IL6"])
    >>> table = crs.tl.producers(adata)
    >>> table.groupby("population")["n_producers"].sum().idxmax()
    'Classical monocyte'
    """
    if keys.PRODUCER_STATE not in adata.obsm:
        msg = f"`obsm` has no '{keys.PRODUCER_STATE}'. Run crs_sc.tl.call_producers first."
        raise MissingKeyError(msg)
    states = adata.obsm[keys.PRODUCER_STATE]
    calls = adata.uns[keys.UNS][keys.PRODUCER_CALLS]
    columns = (population_key, sample_key, subject_key, condition_key)
    sums = sum_populations(adata, list(states.columns), columns, layer=layer)
    cells = sums.cells
    # Cells of one sample and one depth have the same power, which takes long to work out.
    span = int(cells.depth.max(initial=0)) + 1
    levels, level_of_cell = np.unique(
        cells.sample_codes * span + cells.depth.astype(np.int64), return_inverse=True
    )
    level_sample, level_depth = np.divmod(levels, span)
    in_state, power = [], []
    for column, gene in enumerate(cells.genes):
        codes = pd.Categorical(states[gene], categories=list(keys.PRODUCER_STATES)).codes
        in_state.append([sums.add_up(codes == code) for code in range(NEGATIVE)])
        cut = _pvalue_to_undercut(
            codes == PRODUCER, cells.sample_codes, alpha=float(calls.loc[gene, "alpha"])
        )
        ambient = to_exceed(*cells.ambient_at(column, level_depth, level_sample))
        needed = needed_umi(ambient, cut[level_sample])
        making = ambient + float(calls.loc[gene, "rate"]) * level_depth
        power.append(sums.add_up(stats.poisson.sf(needed - 1, making)[level_of_cell]))
    n_called, n_compatible, n_undetermined = np.swapaxes(in_state, 0, 1)
    umi, expected, largest = sums.of_genes
    n_cells = sums.n_cells
    with np.errstate(invalid="ignore"):
        fraction, mean_power = n_called / n_cells, np.array(power) / n_cells
    low, high = wilson_interval(n_called, n_cells)
    table = sums.table(
        {
            "n_cells": n_cells.astype(np.int64),
            "n_producers": n_called.astype(np.int64),
            "n_ambient_compatible": n_compatible.astype(np.int64),
            "n_undetermined": n_undetermined.astype(np.int64),
            "producer_fraction": fraction,
            "power": mean_power,
            "ci_low": low,
            "ci_high": high,
            "umi": umi.astype(np.int64),
            "expected_ambient_umi": expected,
            "largest_ambient_umi": largest,
            "n_producers_upper": _producers_upper(n_called, n_cells, mean_power),
        }
    )
    return table[keys.PRODUCERS_TABLE.names]


def _pvalue_to_undercut(
    called: NDArray[np.bool_], samples: NDArray[np.integer], *, alpha: float
) -> NDArray[np.float64]:
    """P value below which one cell more of each sample would be called.

    Benjamini-Hochberg, one rank further: `alpha (n_called + 1) / n_cells`.
    """
    n_cells = np.bincount(samples)
    n_called = np.bincount(samples[called], minlength=len(n_cells))
    return np.asarray(alpha * (n_called + 1) / np.maximum(n_cells, 1))


def needed_umi(expected: NDArray[np.float64], cut: NDArray[np.float64]) -> NDArray[np.int64]:
    """Smallest count of at least one with `P(Poisson(expected) >= count) <= cut`.

    Counted upwards, because it is a few UMI: scipy's inverse takes thirty times as long.
    """
    needed = np.ones(len(expected), dtype=np.int64)
    rows = np.arange(len(expected))
    while len(rows):
        rows = rows[stats.poisson.sf(needed[rows] - 1, expected[rows]) > cut[rows]]
        needed[rows] += 1
    return needed


def _producers_upper(
    n_called: NDArray[np.float64], n_cells: NDArray[np.float64], power: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Upper 95 % bound of the producers there are, those that were missed included.

    The exact Poisson bound of the number called (Garwood 1936), over the power, at most all cells.
    """
    bound = stats.chi2.ppf(0.95, 2 * (n_called + 1)) / 2
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(n_cells > 0, np.minimum(np.ceil(bound / power), n_cells), np.nan)


def production(table: pd.DataFrame, *, alpha: float = 0.05) -> pd.DataFrame:
    """Ask of each population in each condition whether it makes more than ambient RNA explains.

    The UMI of all samples of the condition together are held against the largest ambient RNA that
    the contamination's upper bound allows (Poisson), with Benjamini-Hochberg over the whole table.

    Parameters
    ----------
    table
        Result of :func:`producers`.
    alpha
        False discovery rate.

    Returns
    -------
    DataFrame with the columns of `keys.PRODUCTION_TABLE`, a row for every gene, population and
    condition. States: `producer`; `ambient_compatible` (UMI that ambient RNA can explain);
    `negative` (no UMI, and a typical producer would have been seen); `undetermined` (no UMI, too
    shallow); empty without cells.

    Examples
    --------
    >>> import crs_sc as crs
    >>> adata = crs.datasets.toy_cohort()
    >>> crs.tl.call_producers(adata, genes=["IL1B", "IL6"])
    >>> table = crs.tl.production(crs.tl.producers(adata))
    >>> table.loc[table["state"] == "producer", "population"].mode()[0]
    'Classical monocyte'
    """
    check_fraction("alpha", alpha)
    # Populations and conditions are sorted, genes are in the order of the table.
    parts = table.assign(
        gene=pd.Categorical(table["gene"], categories=table["gene"].unique()),
        seen=table["power"].fillna(0) * table["n_cells"],
        sampled=table["subject"].where(table["n_cells"] > 0),
    )
    groups = parts.groupby(["gene", "population", "condition"], sort=False, observed=True)
    summed = ["n_cells", "n_producers", "umi", "expected_ambient_umi", "largest_ambient_umi"]
    result = groups[[*summed, "seen"]].sum().assign(n_subjects=groups["sampled"].nunique())
    result["power"] = result["seen"] / result["n_cells"].where(result["n_cells"] > 0)
    result["pvalue"] = ambient_pvalues(
        *(result[name].to_numpy(np.float64) for name in ("umi", "largest_ambient_umi", "n_cells"))
    )
    result["padj"] = benjamini_hochberg(result["pvalue"])
    state = np.where(result["power"] >= 1 - alpha, keys.NEGATIVE, keys.UNDETERMINED)
    state = np.where(result["umi"] > 0, keys.AMBIENT_COMPATIBLE, state)
    state = np.where((result["padj"] <= alpha) & (result["umi"] > 0), keys.PRODUCER, state)
    result["state"] = np.where(result["n_cells"] > 0, state, "")
    result = result.sort_index().reset_index().astype({"gene": table["gene"].dtype})
    return result[keys.PRODUCTION_TABLE.names]
