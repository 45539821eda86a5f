"""Pseudobulk: one row a subject, arm, time point and population; the replicate of every test."""

from __future__ import annotations

from copy import deepcopy
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy import sparse

from crs_sc import keys
from crs_sc.comparison.design import joined, numbers_or_names
from crs_sc.comparison.units import check_bulk, check_positive
from crs_sc.core.ambient import ambient_of, has_ambient
from crs_sc.core.arrays import GroupSums, row_chunks, string_codes
from crs_sc.core.blocks import pass_over
from crs_sc.core.checks import add_note, check_obs, sample_table, store
from crs_sc.errors import InputError, listing

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData
    from numpy.typing import NDArray

__all__ = ["PseudobulkPass", "export_counts", "pseudobulk"]

# Columns that name a row of the grid, and all columns that it has.
_NAMING = (keys.SUBJECT, keys.CONDITION, keys.TIMEPOINT, keys.POPULATION)
_COLUMNS = (
    *_NAMING,
    keys.BATCH,
    keys.N_CELLS,
    keys.N_CELLS_TOTAL,
    keys.WEIGHT,
    keys.WEIGHT_TOTAL,
    keys.CELL_SHARE,
)


def pseudobulk(
    adata: AnnData,
    *,
    sample_key: str = keys.SAMPLE,
    subject_key: str = keys.SUBJECT,
    condition_key: str = keys.CONDITION,
    population_key: str = keys.POPULATION,
    layer: str = keys.COUNTS,
    covariates: Sequence[str] = (),
    min_cells: int = 10,
) -> AnnData:
    """Sum the counts of each population of each subject, and what ambient RNA adds to them.

    One pass over the counts in chunks of cells, in memory or on disk, with the same result.

    Parameters
    ----------
    adata
        Cells x genes with raw counts, in memory or from `io.open_h5ad`; ambient RNA
        (`varm["ambient_profile"]` and the contamination) where it was estimated.
    sample_key, subject_key, condition_key, population_key
        Columns of `obs`. `timepoint`, `batch` and `sampling_weight` are used where they exist.
    layer
        Layer with raw counts.
    covariates
        Further columns of `obs` for the models, one value a sample. A unit of several samples gets
        the mean of numbers, and names joined by "+"; it has none where a sample has none.
    min_cells
        Rows with fewer cells are listed as too small to stand for a subject. They stay in the
        answer: each test leaves out what it cannot use.

    Returns
    -------
    AnnData, one row for every unit (subject x condition x time point, its samples pooled) and
    every population: the complete grid, also where a unit has no cell. Sorted by condition,
    time point, subject and population.

    - `obs`: subject, condition, timepoint and batch (where they exist; several batches of a unit
      are joined by "+"), population, the covariates, n_cells, n_cells_total (of the unit), weight
      and weight_total (the same by sampling weight), cell_share = weight / weight_total.
    - `layers["counts"]`: summed UMI; `layers["ambient"]`: UMI that ambient RNA is expected to add,
      the sum over samples of contamination x profile x UMI of the population (zero and a note
      where ambient RNA is not known); `X`: max(0, counts - ambient). CSR, float64.
    - `uns["crs_sc"]["exclusions"]`: DataFrame, one row for each row of the grid that is too
      small: the columns of `obs` that name it, n_cells, and reason (`no_cells`, `too_few_cells`).

    Raises
    ------
    MissingKeyError, InputError
        If a column or the counts are missing, a value is no count, or a sample has two subjects or
        conditions.

    See Also
    --------
    export_counts : The same for decoupler, pertpy, PyDESeq2 and edgeR.

    Examples
    --------
    >>> import crs_sc as crs
    >>> bulk = crs.tl.pseudobulk(crs.datasets.toy_cohort())
    >>> "ambient" in bulk.layers
    True
    """
    kernel = PseudobulkPass(
        adata,
        sample_key=sample_key,
        subject_key=subject_key,
        condition_key=condition_key,
        population_key=population_key,
        covariates=covariates,
        min_cells=min_cells,
    )
    pass_over(adata, kernel, layer=layer)
    return kernel.result()


class PseudobulkPass:
    """Pseudobulk as a kernel, for a pass over the counts that feeds others too.

    The parameters are those of :func:`pseudobulk`.
    """

    def __init__(
        self,
        adata: AnnData,
        *,
        covariates: Sequence[str],
        min_cells: int,
        sample_key: str = keys.SAMPLE,
        subject_key: str = keys.SUBJECT,
        condition_key: str = keys.CONDITION,
        population_key: str = keys.POPULATION,
    ) -> None:
        check_positive(min_cells=min_cells)
        check_obs(adata, population_key=population_key)
        self._adata, self._min_cells = adata, min_cells
        taken = [name for name in covariates if name in _COLUMNS]
        if taken:
            msg = f"{listing(taken)} cannot be covariates: a pseudobulk has columns of these names."
            raise InputError(msg)
        self._samples = sample_table(
            adata,
            sample_key=sample_key,
            subject_key=subject_key,
            condition_key=condition_key,
            covariates=covariates,
        )
        for name in covariates:
            self._samples[name] = numbers_or_names(self._samples[name])
        self._units, self._unit_of_sample = _units(self._samples)
        codes, names = string_codes(adata.obs[sample_key])
        self._sample_codes = self._samples.index.get_indexer(pd.Index(names))[codes]
        self._population_codes, self._populations = string_codes(adata.obs[population_key])
        n_populations = len(self._populations)
        self._cell_codes = (
            self._unit_of_sample[self._sample_codes] * n_populations + self._population_codes
        )
        self._sums = GroupSums(self._cell_codes, len(self._units) * n_populations, adata.n_vars)

    def add(self, rows: slice, chunk: sparse.csr_matrix) -> None:
        """Take in the counts of some cells."""
        self._sums.add(rows, chunk)

    def result(self) -> AnnData:
        """Return the pseudobulk."""
        import anndata as ad

        n_populations = len(self._populations)
        # Ambient RNA differs by sample, so the depth is kept by sample.
        umi = np.zeros((len(self._samples), n_populations))
        np.add.at(umi, (self._sample_codes, self._population_codes), self._sums.row_sums)

        obs = _grid(self._units, self._populations)
        _count_cells(obs, self._cell_codes, _weights(self._adata), n_populations)
        bulk = ad.AnnData(obs=obs, var=self._adata.var.copy(), shape=self._sums.sums.shape)
        mixing, profile, note = _ambient(
            self._adata, self._samples.index, self._unit_of_sample, umi, len(self._units)
        )
        _fill(bulk, self._sums.sums, mixing, profile)
        store(bulk, keys.EXCLUSIONS, _exclusions(obs, self._min_cells))
        if note:
            add_note(bulk, note)
        return bulk


def export_counts(bulk: AnnData, *, min_cells: int = 10) -> AnnData:
    """Give a pseudobulk the form that decoupler, pertpy, PyDESeq2 and edgeR expect.

    Parameters
    ----------
    bulk
        From `pseudobulk`.
    min_cells
        Rows with fewer cells are left out.

    Returns
    -------
    New AnnData: `X` and `layers["counts"]` the summed raw UMI, dense int64, not corrected for the
    ambient RNA (count models need whole counts); `obs` as in `bulk`, with `psbulk_cells` and
    `psbulk_counts` (cells and UMI of the row) as decoupler names them; `uns` as in `bulk`, its
    table of exclusions that of this `min_cells`. Take one population at a time:
    `DeseqDataSet(adata=export[export.obs["population"] == "NK"].copy(), design="~condition")`.

    Examples
    --------
    >>> import crs_sc as crs
    >>> bulk = crs.tl.pseudobulk(crs.datasets.toy_cohort())
    >>> export = crs.tl.export_counts(bulk)
    >>> bool((export.obs["psbulk_cells"] >= 10).all())
    True
    """
    import anndata as ad

    check_bulk(bulk)
    check_positive(min_cells=min_cells)
    kept = bulk[(bulk.obs[keys.N_CELLS] >= min_cells).to_numpy()]
    counts = np.rint(kept.layers[keys.COUNTS].toarray()).astype(np.int64)
    obs = kept.obs.copy()
    for column in obs.columns[obs.dtypes == "category"]:
        obs[column] = obs[column].cat.remove_unused_categories()
    obs["psbulk_cells"] = obs[keys.N_CELLS]
    obs["psbulk_counts"] = counts.sum(axis=1)
    result = ad.AnnData(X=counts, obs=obs, var=bulk.var.copy(), uns=deepcopy(dict(bulk.uns)))
    result.layers[keys.COUNTS] = counts.copy()
    store(result, keys.EXCLUSIONS, _exclusions(bulk.obs, min_cells))
    return result


def _units(samples: pd.DataFrame) -> tuple[pd.DataFrame, NDArray[np.integer]]:
    """Table of the units, covariates last, and the unit of each sample."""
    by = [c for c in (keys.CONDITION, keys.TIMEPOINT, keys.SUBJECT) if c in samples.columns]
    grouped = samples.groupby(by, sort=True)
    units = grouped.size().reset_index()[by]
    unit_of_sample = grouped.ngroup().to_numpy(dtype=np.int64)
    for name, values in samples.drop(columns=by).items():
        by_unit = values.groupby(unit_of_sample)
        numeric = pd.api.types.is_numeric_dtype(values)
        units[name] = by_unit.mean(skipna=False) if numeric else by_unit.agg(joined)
    return units, unit_of_sample


def _grid(units: pd.DataFrame, populations: list[str]) -> pd.DataFrame:
    """Every unit beside every population, populations fastest; covariates last."""
    obs = units.loc[np.repeat(np.arange(len(units)), len(populations))].reset_index(drop=True)
    obs[keys.POPULATION] = np.tile(populations, len(units))
    named = [c for c in obs.columns if c in _NAMING]
    obs.index = pd.Index(["|".join(row) for row in zip(*(obs[c] for c in named), strict=True)])
    order = [keys.SUBJECT, keys.CONDITION, keys.TIMEPOINT, keys.BATCH, keys.POPULATION]
    order = [c for c in order if c in obs.columns]
    obs = obs[[*order, *obs.columns.difference(order, sort=False)]]
    names = [c for c in obs.columns if not pd.api.types.is_numeric_dtype(obs[c])]
    return obs.astype(dict.fromkeys(names, "category"))


def _weights(adata: AnnData) -> NDArray[np.float64]:
    """Cells of the specimen that each sequenced cell stands for; 1 without sampling weights."""
    if keys.SAMPLING_WEIGHT not in adata.obs.columns:
        return np.ones(adata.n_obs)
    weights: NDArray[np.float64] = adata.obs[keys.SAMPLING_WEIGHT].to_numpy(dtype=np.float64)
    bad = ~(np.isfinite(weights) & (weights > 0))
    if bad.any():
        msg = (
            f"`obs['{keys.SAMPLING_WEIGHT}']` must be above 0 for every cell; "
            f"{int(bad.sum())} of {adata.n_obs} are not."
        )
        raise InputError(msg)
    return weights


def _count_cells(
    obs: pd.DataFrame,
    cell_codes: NDArray[np.integer],
    weights: NDArray[np.float64],
    n_populations: int,
) -> None:
    """Add to the grid its cells and their weight, of the population, of the unit, and the share."""
    obs[keys.N_CELLS] = np.bincount(cell_codes, minlength=len(obs))
    obs[keys.WEIGHT] = np.bincount(cell_codes, weights=weights, minlength=len(obs))
    for column, total in ((keys.N_CELLS, keys.N_CELLS_TOTAL), (keys.WEIGHT, keys.WEIGHT_TOTAL)):
        by_unit = obs[column].to_numpy().reshape(-1, n_populations).sum(axis=1)
        obs[total] = np.repeat(by_unit, n_populations)
    obs[keys.CELL_SHARE] = obs[keys.WEIGHT] / obs[keys.WEIGHT_TOTAL]


def _exclusions(obs: pd.DataFrame, min_cells: int) -> pd.DataFrame:
    """Rows of the grid that are too small to stand for a subject, and why."""
    small = obs[obs[keys.N_CELLS] < min_cells]
    columns = [c for c in (*_NAMING, keys.N_CELLS) if c in obs.columns]
    table = small[columns].reset_index(drop=True)
    table = table.astype({name: str for name in columns if name != keys.N_CELLS})
    table["reason"] = np.where(table[keys.N_CELLS] == 0, keys.NO_CELLS, keys.TOO_FEW_CELLS)
    return table


def _fill(
    bulk: AnnData,
    sums: NDArray[np.float64],
    mixing: NDArray[np.float64],
    profile: NDArray[np.float64],
) -> None:
    """Set X and the layers from the summed counts; some rows at a time, which bounds the memory."""
    blocks = [[sparse.csr_matrix((0, sums.shape[1]))] * 3]
    for rows in row_chunks(len(sums), size=64):
        counts, ambient = sums[rows], mixing[rows] @ profile.T
        corrected = np.maximum(counts - ambient, 0.0)
        blocks.append([sparse.csr_matrix(dense) for dense in (counts, ambient, corrected)])
    bulk.layers[keys.COUNTS], bulk.layers[keys.AMBIENT], bulk.X = (
        sparse.vstack(parts, format="csr") for parts in zip(*blocks, strict=True)
    )


def _ambient(
    adata: AnnData,
    samples: pd.Index[Any],
    unit_of_sample: NDArray[np.integer],
    umi: NDArray[np.float64],
    n_units: int,
) -> tuple[NDArray[np.float64], NDArray[np.float64], str]:
    """Ambient UMI of each unit and population as a mix of the samples' profiles.

    `umi` are those of each sample and population. Returns the ambient UMI that a sample gives to a
    unit and population, `(n_units * n_populations, n_samples)`, the share of each gene in ambient
    RNA of each sample, `(n_genes, n_samples)`, and a note where ambient RNA is not known.
    """
    n_populations = umi.shape[1]
    mixing = np.zeros((n_units * n_populations, len(samples)))
    if not has_ambient(adata):
        note = "pseudobulk: ambient RNA is not known; counts are not corrected for it"
        return mixing, np.zeros((adata.n_vars, len(samples))), note
    fraction, profile = ambient_of(adata, list(samples))
    unknown = [str(s) for s in samples[~np.isfinite(fraction)]]
    for s, unit in enumerate(unit_of_sample):
        rows = slice(unit * n_populations, (unit + 1) * n_populations)
        mixing[rows, s] = np.nan_to_num(fraction[s]) * umi[s]
    note = (
        f"pseudobulk: no contamination is known for {listing(unknown)}; not corrected"
        if unknown
        else ""
    )
    return mixing, profile.to_numpy(dtype=np.float64), note
