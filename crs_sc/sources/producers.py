"""Which cells make a cytokine: more UMI than ambient RNA of their sample explains."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from crs_sc import keys
from crs_sc.core.ambient import ambient_rejections, take_counts
from crs_sc.core.checks import (
    add_note,
    check_fraction,
    check_obs,
    sample_table,
    store,
)
from crs_sc.core.stats import benjamini_hochberg, wilson_interval
from crs_sc.errors import MissingKeyError, listing
from crs_sc.sources._grid import PopulationGrid
from crs_sc.sources._kernels import (
    ambient_pvalues,
    call_states,
    detection_power,
    producers_upper,
    production_rate,
    pvalue_to_undercut,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData

__all__ = ["call_producers", "producers", "production"]


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
        own = cells.gene(column)
        umi = own.umi
        rejected = ambient_rejections(umi, own.ambient_umi, cells.sample_codes, alpha=alpha)
        rate = production_rate(umi, cells.depth, rejected, fallback=typical_rate)
        codes = call_states(umi, cells.depth, rejected, rate=rate, max_missed=max_missed)
        rates[gene] = rate
        states[gene] = pd.Categorical.from_codes(codes, categories=pd.Index(keys.PRODUCER_STATES))
    adata.obsm[keys.PRODUCER_STATE] = pd.DataFrame(states, index=adata.obs_names)
    calls = pd.DataFrame({"rate": pd.Series(rates), "alpha": alpha})
    store(adata, keys.PRODUCER_CALLS, calls)


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
    """
    if keys.PRODUCER_STATE not in adata.obsm:
        msg = f"`obsm` has no '{keys.PRODUCER_STATE}'. Run crs_sc.tl.call_producers first."
        raise MissingKeyError(msg)
    check_obs(adata, population_key=population_key)
    states = adata.obsm[keys.PRODUCER_STATE]
    calls = adata.uns[keys.UNS][keys.PRODUCER_CALLS]
    samples = sample_table(
        adata, sample_key=sample_key, subject_key=subject_key, condition_key=condition_key
    )
    cells = take_counts(adata, list(states.columns), sample_key=sample_key, layer=layer)
    grid = PopulationGrid(adata.obs[population_key], adata.obs[sample_key])
    n_cells = grid.sums(np.ones(adata.n_obs))
    tables, levels = [], cells.depths
    for column, gene in enumerate(cells.genes):
        own = cells.gene(column)
        codes = pd.Categorical(states[gene], categories=list(keys.PRODUCER_STATES)).codes
        in_state = grid.counts(codes.astype(np.intp), len(keys.PRODUCER_STATES))
        is_state = dict(zip(keys.PRODUCER_STATES, in_state, strict=True))
        is_producer = codes == keys.PRODUCER_STATES.index(keys.PRODUCER)
        table = grid.frame(gene, samples)
        table["n_cells"] = n_cells.astype(np.int64)
        table["n_producers"] = is_state[keys.PRODUCER]
        table["n_ambient_compatible"] = is_state[keys.AMBIENT_COMPATIBLE]
        table["n_undetermined"] = is_state[keys.UNDETERMINED]
        with np.errstate(invalid="ignore"):
            table["producer_fraction"] = is_state[keys.PRODUCER] / n_cells
        table["ci_low"], table["ci_high"] = wilson_interval(is_state[keys.PRODUCER], n_cells)
        table["umi"] = grid.sums(own.umi).astype(np.int64)
        table["expected_ambient_umi"] = grid.sums(own.expected)
        cut = pvalue_to_undercut(
            is_producer, cells.sample_codes, alpha=float(calls.loc[gene, "alpha"])
        )
        power = detection_power(
            cells.ambient_at(levels, column),
            levels.depth,
            cut[levels.sample_codes],
            rate=float(calls.loc[gene, "rate"]),
        )
        with np.errstate(invalid="ignore"):
            table["power"] = grid.sums(power[levels.of_cell]) / n_cells
        table["n_producers_upper"] = producers_upper(
            is_state[keys.PRODUCER].astype(np.float64), n_cells, table["power"].to_numpy()
        )
        table["largest_ambient_umi"] = grid.sums(own.largest)
        tables.append(table)
    return pd.concat(tables, ignore_index=True)[keys.PRODUCERS_TABLE.names]


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
    """
    check_fraction("alpha", alpha)
    parts = table.assign(
        seen=table["power"].fillna(0) * table["n_cells"],
        sampled=table["subject"].where(table["n_cells"] > 0),
    )
    groups = parts.groupby(["gene", "population", "condition"], sort=False)
    summed = ["n_cells", "n_producers", "umi", "expected_ambient_umi", "largest_ambient_umi"]
    result = groups[[*summed, "seen"]].sum().reset_index()
    result["n_subjects"] = groups["sampled"].nunique().to_numpy()
    result["power"] = result["seen"] / result["n_cells"].where(result["n_cells"] > 0)
    result["pvalue"] = ambient_pvalues(
        *(result[name].to_numpy(np.float64) for name in ("umi", "largest_ambient_umi", "n_cells"))
    )
    result["padj"] = benjamini_hochberg(result["pvalue"])
    state = np.where(result["power"] >= 1 - alpha, keys.NEGATIVE, keys.UNDETERMINED)
    state = np.where(result["umi"] > 0, keys.AMBIENT_COMPATIBLE, state)
    state = np.where((result["padj"] <= alpha) & (result["umi"] > 0), keys.PRODUCER, state)
    result["state"] = np.where(result["n_cells"] > 0, state, "")
    order = list(dict.fromkeys(result["gene"]))
    result["_order"] = result["gene"].map(order.index)
    result = result.sort_values(["_order", "population", "condition"], kind="stable")
    return result[keys.PRODUCTION_TABLE.names].reset_index(drop=True)
