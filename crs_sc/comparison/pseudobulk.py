"""Pseudobulk: one row a subject, arm, time point and population; the replicate of every test."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy import sparse

from crs_sc import keys
from crs_sc._arrays import group_sums, row_chunks
from crs_sc._checks import add_note, check_obs, counts_matrix, sample_table
from crs_sc._soup import has_soup, soup_of
from crs_sc.errors import InputError, listing

if TYPE_CHECKING:
    from collections.abc import Iterable

    from anndata import AnnData
    from numpy.typing import NDArray

__all__ = ["pseudobulk"]


def pseudobulk(
    adata: AnnData,
    *,
    sample_key: str = keys.SAMPLE,
    subject_key: str = keys.SUBJECT,
    condition_key: str = keys.CONDITION,
    population_key: str = keys.POPULATION,
    layer: str = keys.COUNTS,
) -> AnnData:
    """Sum the counts of each population of each subject, and what the soup adds to them.

    Parameters
    ----------
    adata
        Cells x genes with raw counts; the soup (`varm["ambient_profile"]` and the contamination)
        where it was estimated.
    sample_key, subject_key, condition_key, population_key
        Columns of `obs`. `timepoint`, `batch` and `sampling_weight` are used where they exist.
    layer
        Layer with raw counts.

    Returns
    -------
    AnnData, one row for every unit (subject x condition x time point, its samples pooled) and
    every population: the complete grid, also where a unit has no cell. Sorted by condition,
    time point, subject and population.

    - `obs`: subject, condition, timepoint and batch (where they exist; several batches of a unit
      are joined by "+"), population, n_cells, n_cells_total (of the unit), weight and weight_total
      (the same by sampling weight), cell_share = weight / weight_total.
    - `layers["counts"]`: summed UMI; `layers["ambient"]`: UMI that the soup is expected to add,
      the sum over samples of contamination x profile x UMI of the population (zero and a note
      where the soup is not known); `X`: max(0, counts - ambient). CSR, float64.

    Raises
    ------
    MissingKeyError, InputError
        If a column or the counts are missing, or a sample has two subjects or conditions.
    """
    import anndata as ad

    check_obs(adata, population_key=population_key)
    samples = sample_table(
        adata, sample_key=sample_key, subject_key=subject_key, condition_key=condition_key
    )
    counts = counts_matrix(adata, layer=layer)
    units, unit_of_sample = _units(samples)
    sample_codes = samples.index.get_indexer(adata.obs[sample_key].astype(str).to_numpy())
    population_codes, populations = pd.factorize(
        adata.obs[population_key].astype(str).to_numpy(), sort=True
    )
    n_samples, n_populations = len(samples), len(populations)

    # Cells are summed by sample and population first: the soup differs by sample.
    cell_codes = unit_of_sample[sample_codes] * n_populations + population_codes
    sums, depth = _sums(
        ((counts[rows], cell_codes[rows]) for rows in row_chunks(counts.shape[0])),
        len(units) * n_populations,
        counts.shape[1],
    )
    umi = np.zeros((n_samples, n_populations))
    np.add.at(umi, (sample_codes, population_codes), depth)

    obs = _grid(units, [str(name) for name in populations])
    weights = _weights(adata)
    obs[keys.N_CELLS] = np.bincount(cell_codes, minlength=len(obs))
    obs[keys.WEIGHT] = np.bincount(cell_codes, weights=weights, minlength=len(obs))
    for column, total in (
        (keys.N_CELLS, keys.N_CELLS_TOTAL),
        (keys.WEIGHT, keys.WEIGHT_TOTAL),
    ):
        by_unit = obs[column].to_numpy().reshape(len(units), n_populations).sum(axis=1)
        obs[total] = np.repeat(by_unit, n_populations)
    obs[keys.CELL_SHARE] = obs[keys.WEIGHT] / obs[keys.WEIGHT_TOTAL]

    bulk = ad.AnnData(obs=obs, var=adata.var.copy(), shape=sums.shape)
    ambient, note = _ambient(adata, samples.index, unit_of_sample, umi, len(units))
    bulk.X = sparse.csr_matrix(np.maximum(sums - ambient, 0.0))
    bulk.layers[keys.COUNTS] = sparse.csr_matrix(sums)
    bulk.layers[keys.AMBIENT] = sparse.csr_matrix(ambient)
    if note:
        add_note(bulk, note)
    return bulk


def _units(samples: pd.DataFrame) -> tuple[pd.DataFrame, NDArray[np.integer]]:
    """Table of the units and the unit of each sample."""
    by = [c for c in (keys.CONDITION, keys.TIMEPOINT, keys.SUBJECT) if c in samples.columns]
    grouped = samples.groupby(by, sort=True)
    units = grouped.size().reset_index()[by]
    if keys.BATCH in samples.columns:
        joined = grouped[keys.BATCH].agg(lambda values: "+".join(sorted(set(values))))
        units[keys.BATCH] = joined.to_numpy()
    return units, grouped.ngroup().to_numpy(dtype=np.int64)


def _grid(units: pd.DataFrame, populations: list[str]) -> pd.DataFrame:
    """Every unit beside every population, populations fastest."""
    obs = units.loc[np.repeat(np.arange(len(units)), len(populations))].reset_index(drop=True)
    obs[keys.POPULATION] = np.tile(populations, len(units))
    named = [c for c in obs.columns if c != keys.BATCH]
    obs.index = pd.Index(["|".join(row) for row in zip(*(obs[c] for c in named), strict=True)])
    order = [keys.SUBJECT, keys.CONDITION, keys.TIMEPOINT, keys.BATCH, keys.POPULATION]
    grid: pd.DataFrame = obs[[c for c in order if c in obs.columns]].astype("category")
    return grid


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


def _sums(
    chunks: Iterable[tuple[sparse.csr_matrix, NDArray[np.int64]]], n_groups: int, n_genes: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Sum row chunks by group, and the UMI of each row on the way.

    Parameters
    ----------
    chunks
        Counts of some rows, CSR, and the group of each of these rows.
    n_groups, n_genes
        Shape of the answer.

    Returns
    -------
    Sums of shape `(n_groups, n_genes)` and row sums of shape `(n_rows,)`.
    """
    total = np.zeros((n_groups, n_genes))
    depth = []
    for matrix, codes in chunks:
        # Only the groups of this chunk: a chunk of sorted cells touches few of them.
        groups, local = np.unique(codes, return_inverse=True)
        total[groups] += group_sums(matrix, local, len(groups))
        depth.append(np.asarray(matrix.sum(axis=1), dtype=np.float64).ravel())
    return total, np.concatenate(depth) if depth else np.zeros(0)


def _ambient(
    adata: AnnData,
    samples: pd.Index[Any],
    unit_of_sample: NDArray[np.integer],
    umi: NDArray[np.float64],
    n_units: int,
) -> tuple[NDArray[np.float64], str]:
    """Soup UMI of each unit and population, and a note where it is not known.

    Parameters
    ----------
    adata
        Cells x genes.
    samples
        Names in the order of `unit_of_sample`.
    unit_of_sample
        Unit of each sample.
    umi
        UMI of each sample and population, shape `(n_samples, n_populations)`.
    n_units
        Number of units.
    """
    n_populations = umi.shape[1]
    if not has_soup(adata):
        empty = np.zeros((n_units * n_populations, adata.n_vars))
        return empty, "pseudobulk: the soup is not known; counts are not corrected for it"
    fraction, profile = soup_of(adata, list(samples))
    unknown = [str(s) for s in samples[~np.isfinite(fraction)]]
    mixing = np.zeros((n_units * n_populations, len(samples)))
    for s, unit in enumerate(unit_of_sample):
        rows = slice(unit * n_populations, (unit + 1) * n_populations)
        mixing[rows, s] = np.nan_to_num(fraction[s]) * umi[s]
    soup = mixing @ profile.to_numpy(dtype=np.float64).T
    note = (
        f"pseudobulk: no contamination is known for {listing(unknown)}; not corrected"
        if unknown
        else ""
    )
    return soup, note
