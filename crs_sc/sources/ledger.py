"""The source ledger: which population accounts for which share of a cytokine's UMI."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from crs_sc import keys
from crs_sc._checks import check_obs, sample_table
from crs_sc._soup import take_counts
from crs_sc._stats import bootstrap_expansion
from crs_sc.errors import InputError
from crs_sc.sources._grid import PopulationGrid
from crs_sc.sources._kernels import share_intervals, source_shares

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData
    from numpy.typing import NDArray

__all__ = ["ledger", "ledger_by_condition"]


def ledger(
    adata: AnnData,
    *,
    genes: Sequence[str],
    population_key: str = keys.POPULATION,
    sample_key: str = keys.SAMPLE,
    subject_key: str = keys.SUBJECT,
    condition_key: str = keys.CONDITION,
    weight_key: str | None = None,
    layer: str = keys.COUNTS,
    n_draws: int = 1000,
    random_state: int = 0,
) -> pd.DataFrame:
    """Attribute each cytokine's UMI to populations, the soup taken out, sample by sample.

    Raw UMI are used, because counts per 10,000 erase the larger RNA content of monocytes.

    Parameters
    ----------
    adata
        Cells x genes with `varm["ambient_profile"]` and the contamination of each sample.
    genes
        Cytokines; those that are not in the data have no row.
    population_key, sample_key, subject_key, condition_key
        Columns of `obs`.
    weight_key
        Column of `obs` with the cells of the specimen that one sequenced cell stands for, in
        sorted or depleted samples. None: every cell counts once.
    layer
        Layer with raw counts.
    n_draws
        Draws for the interval of the share.
    random_state
        Seed.

    Returns
    -------
    DataFrame with the columns of `keys.LEDGER_TABLE`: every gene, population and sample. `umi`,
    `ambient_umi` and `corrected_umi` are as sequenced; `share` and `cell_share` are weighted. The
    95 % interval of the share is that of the animal, whose cells were sampled: producers that
    came in by chance, counting, and the error of the contamination.

    Raises
    ------
    MissingKeyError
        If the soup is not known.
    InputError
        If no gene is in the data, or a weight is not a positive number.
    """
    check_obs(adata, population_key=population_key)
    samples = sample_table(
        adata, sample_key=sample_key, subject_key=subject_key, condition_key=condition_key
    )
    cells = take_counts(adata, genes, sample_key=sample_key, layer=layer)
    weight = _weights(adata, weight_key)
    grid = PopulationGrid(adata.obs[population_key], adata.obs[sample_key])
    rng = np.random.default_rng(random_state)
    weighted_cells = grid.sums(weight).reshape(grid.shape)
    cell_share = (weighted_cells / weighted_cells.sum(axis=0)).ravel()
    n_cells = grid.sums(np.ones(adata.n_obs)).astype(np.int64)
    tables = []
    for column, gene in enumerate(cells.genes):
        umi, expected = cells.umi[:, column], cells.expected[:, column]
        weighted = np.maximum(0.0, grid.sums(weight * (umi - expected)))
        table = grid.frame(gene, samples)
        table["n_cells"] = n_cells
        table["umi"] = grid.sums(umi).astype(np.int64)
        table["ambient_umi"] = grid.sums(expected)
        table["corrected_umi"] = np.maximum(0.0, table["umi"] - table["ambient_umi"])
        table["share"] = source_shares(weighted.reshape(grid.shape).T).T.ravel()
        table["cell_share"] = cell_share
        table["enrichment"] = _ratio(table["share"].to_numpy(), cell_share)
        table["ci_low"], table["ci_high"] = _intervals(
            grid, umi, expected, weight, cells.soup_error, n_draws=n_draws, rng=rng
        )
        tables.append(table)
    return pd.concat(tables, ignore_index=True)[keys.LEDGER_TABLE.names]


def _intervals(
    grid: PopulationGrid,
    umi: NDArray[np.int64],
    expected: NDArray[np.float64],
    weight: NDArray[np.float64],
    soup_error: NDArray[np.float64],
    *,
    n_draws: int,
    rng: np.random.Generator,
) -> NDArray[np.float64]:
    """Compute both ends of the interval of each share, shape `(2, n_rows)`, rows of the grid."""
    n_umi, squared, soup = (grid.sums(v).reshape(grid.shape) for v in (umi, umi**2, expected))
    n_cells = grid.sums(np.ones(len(umi))).reshape(grid.shape)
    mean_weight = np.divide(
        grid.sums(weight).reshape(grid.shape), n_cells, out=np.ones(grid.shape), where=n_cells > 0
    )
    ends = np.empty((2, *grid.shape))
    for s in range(grid.shape[1]):
        ends[:, :, s] = share_intervals(
            n_umi[:, s],
            squared[:, s],
            soup[:, s],
            mean_weight[:, s],
            ambient_error=float(soup_error[s]),
            n_draws=n_draws,
            level=0.95,
            rng=rng,
        )
    return ends.reshape(2, -1)


def ledger_by_condition(
    table: pd.DataFrame, *, n_bootstrap: int = 2000, level: float = 0.95, random_state: int = 0
) -> pd.DataFrame:
    """Mean source shares of each condition, with a bootstrap interval over subjects.

    A subject's libraries of one condition are averaged first. Subjects without any corrected UMI
    of a gene have no shares and are left out of that gene.

    Parameters
    ----------
    table
        Result of :func:`ledger`.
    n_bootstrap
        Resamplings of the subjects.
    level
        Confidence level of the percentile interval, which is widened for the small number of
        subjects (Hesterberg 2015).
    random_state
        Seed.

    Returns
    -------
    DataFrame with the columns of `keys.LEDGER_BY_CONDITION_TABLE`. The interval is empty with
    fewer than two subjects.
    """
    rng = np.random.default_rng(random_state)
    rows = []
    for gene in table["gene"].unique():
        for condition, part in table[table["gene"] == gene].groupby("condition", sort=True):
            means = part.groupby(["subject", "population"], sort=True)[
                ["share", "cell_share"]
            ].mean()
            share = means["share"].unstack("population")
            known = share.notna().any(axis=1)
            share = share[known]
            cell_share = means["cell_share"].unstack("population")[known]
            low, high = _bootstrap_interval(
                share.to_numpy(), n_bootstrap=n_bootstrap, level=level, rng=rng
            )
            rows.append(
                pd.DataFrame(
                    {
                        "gene": gene,
                        "population": share.columns.astype(str),
                        "condition": condition,
                        "n_subjects": len(share),
                        "share": share.mean().to_numpy(),
                        "ci_low": low,
                        "ci_high": high,
                        "cell_share": cell_share.mean().to_numpy(),
                    }
                )
            )
    result = pd.concat(rows, ignore_index=True)
    result["enrichment"] = _ratio(result["share"].to_numpy(), result["cell_share"].to_numpy())
    return result[keys.LEDGER_BY_CONDITION_TABLE.names]


def _bootstrap_interval(
    values: NDArray[np.float64], *, n_bootstrap: int, level: float, rng: np.random.Generator
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Interval of the column means, rows resampled; NaN with fewer than two rows."""
    n_rows, n_columns = values.shape
    if n_rows < 2:
        empty = np.full(n_columns, np.nan)
        return empty, empty
    draws = values[rng.integers(n_rows, size=(n_bootstrap, n_rows))].mean(axis=1)
    mean = values.mean(axis=0)
    draws = mean + bootstrap_expansion(n_rows, n_rows - 1, level=level) * (draws - mean)
    tail = (1 - level) / 2
    low, high = np.clip(np.quantile(draws, [tail, 1 - tail], axis=0), 0.0, 1.0)
    return low, high


def _weights(adata: AnnData, weight_key: str | None) -> NDArray[np.float64]:
    if weight_key is None:
        return np.ones(adata.n_obs)
    check_obs(adata, weight_key=weight_key)
    weight: NDArray[np.float64] = adata.obs[weight_key].to_numpy(dtype=np.float64)
    if not (np.isfinite(weight) & (weight > 0)).all():
        msg = (
            f"`obs['{weight_key}']` (weight_key) must hold positive numbers; "
            f"found {weight[~(weight > 0)][:1]}."
        )
        raise InputError(msg)
    return weight


def _ratio(numerator: NDArray[np.float64], denominator: NDArray[np.float64]) -> NDArray[np.float64]:
    """Quotient, missing where the denominator is zero."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(denominator > 0, numerator / denominator, np.nan)
