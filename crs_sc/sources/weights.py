"""Absolute counts: how many cells of the specimen each sequenced cell stands for."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from crs_sc import keys
from crs_sc.core.checks import add_note, check_obs
from crs_sc.errors import CrsWarning, InputError, MissingKeyError, listing

if TYPE_CHECKING:
    from collections.abc import Iterable

    from anndata import AnnData

__all__ = ["check_absolute_counts", "weigh_cells"]

_COLUMNS = (keys.SAMPLE, keys.POPULATION, keys.CELLS_PER_UL)


def weigh_cells(
    adata: AnnData,
    *,
    absolute_counts: pd.DataFrame,
    sample_key: str = keys.SAMPLE,
    population_key: str = keys.POPULATION,
    lineage_key: str = keys.LINEAGE,
) -> None:
    """Weight each cell by the cells per microlitre that it stands for.

    A cell belongs to the row of its population or, if there is none in its sample, to the row of
    its lineage; the count of a row is divided evenly among its cells. So a row `Monocyte` beside
    a row `Classical monocyte` holds the other monocytes, and counts them alone. A cell of the
    population `Unknown` without a row has the mean weight of the other cells of its sample.

    Parameters
    ----------
    adata
        Cells x genes after `tl.annotate`; cells that are not to count are left out before.
    absolute_counts
        Columns sample, population (or a lineage) and cells_per_ul; samples that are not in the
        data are not used.
    sample_key, population_key, lineage_key
        Columns of `obs`.

    Returns
    -------
    None. Writes `obs["sampling_weight"]`, cells per microlitre for each sequenced cell, and a
    note on the rows without a sequenced cell.

    Warns
    -----
    CrsWarning
        If a row counts cells of which none was sequenced: what they make is not known.

    Raises
    ------
    InputError
        If the table cannot be used, or sequenced cells have no row, or one that counts none.

    Examples
    --------
    >>> import crs_sc as crs
    >>> adata = crs.datasets.toy_cohort()
    >>> counts = adata.obs.value_counts(["sample", "population"]).mul(10.0)
    >>> counts = counts.rename("cells_per_ul").reset_index()
    >>> crs.tl.weigh_cells(adata, absolute_counts=counts)
    >>> adata.obs["sampling_weight"].unique().tolist()
    [10.0]
    """
    check_obs(adata, sample_key=sample_key, population_key=population_key, lineage_key=lineage_key)
    sample = adata.obs[sample_key].astype(str).to_numpy()
    table = check_absolute_counts(absolute_counts, samples=sample)
    count = pd.Series(
        table[keys.CELLS_PER_UL].to_numpy(),
        index=pd.MultiIndex.from_frame(table[[keys.SAMPLE, keys.POPULATION]]),
    )
    population, lineage = (
        adata.obs[key].astype(str).to_numpy() for key in (population_key, lineage_key)
    )
    by_population, by_lineage = (
        count.index.get_indexer(pd.MultiIndex.from_arrays([sample, names]))
        for names in (population, lineage)
    )
    row = np.where(by_population >= 0, by_population, by_lineage)
    cells = pd.DataFrame({"sample": sample, "population": population, "row": row})
    is_known = (row >= 0) | (population != keys.UNKNOWN)
    _refuse_uncounted(cells[is_known], count)

    n_cells = np.bincount(row[row >= 0], minlength=len(count))
    per_cell = count.to_numpy() / np.maximum(n_cells, 1)
    weight = pd.Series(np.where(row >= 0, per_cell[row], np.nan))
    adata.obs[keys.SAMPLING_WEIGHT] = weight.fillna(
        weight.groupby(sample).transform("mean")
    ).to_numpy()
    if not is_known.all():
        add_note(
            adata,
            f"Absolute counts: {int((~is_known).sum())} cells of no known type have the mean "
            "weight of the other cells of their sample.",
        )
    _say_what_is_missing(adata, count[(n_cells == 0) & (count > 0)])


def check_absolute_counts(table: pd.DataFrame, *, samples: Iterable[str]) -> pd.DataFrame:
    """Return the rows of these samples: sample and population as strings, cells_per_ul as float64.

    Raises MissingKeyError if a column is absent, and InputError if a count is no number of at
    least 0, a row is there twice, or a sample has none.
    """
    lacking = [column for column in _COLUMNS if column not in table.columns]
    if lacking:
        msg = (
            f"The absolute counts have no column {listing(lacking)}. Columns: "
            f"{listing(table.columns)}. They must hold {', '.join(_COLUMNS)}."
        )
        raise MissingKeyError(msg)
    rows = pd.DataFrame({name: table[name].astype(str) for name in _COLUMNS[:2]})
    rows[keys.CELLS_PER_UL] = pd.to_numeric(table[keys.CELLS_PER_UL], errors="coerce").astype(
        "float64"
    )
    value = rows[keys.CELLS_PER_UL]
    for wrong, what in (
        (~np.isfinite(value) | (value < 0), "must have a count of at least 0 (cells_per_ul)"),
        (rows.duplicated(list(_COLUMNS[:2])), "is there more than once"),
    ):
        if wrong.any():
            named = rows.loc[wrong, list(_COLUMNS[:2])].agg(" / ".join, axis=1)
            msg = f"Absolute counts: {listing(named)} {what}. Give one number a row."
            raise InputError(msg)
    wanted = sorted(set(map(str, samples)))
    if absent := [name for name in wanted if name not in set(rows[keys.SAMPLE])]:
        msg = (
            f"The absolute counts have no row for the samples {listing(absent)}. Samples of the "
            f"table: {listing(rows[keys.SAMPLE].unique())}. Weighted and unweighted samples "
            "cannot be compared: count them all or none."
        )
        raise InputError(msg)
    return rows[rows[keys.SAMPLE].isin(wanted)].reset_index(drop=True)


def _refuse_uncounted(cells: pd.DataFrame, count: pd.Series) -> None:
    """Raise if sequenced cells have no row, or a row that counts none."""
    values = np.append(count.to_numpy(), np.nan)[cells["row"].to_numpy()]
    for wrong, what in (
        (np.isnan(values), "Add a row for the population or for its lineage"),
        (values == 0, "The row says 0: give what the count could have missed"),
    ):
        if not wrong.any():
            continue
        n_cells = cells[wrong].groupby(["population", "sample"]).size()
        named = [f"{population} / {sample} ({n})" for (population, sample), n in n_cells.items()]
        msg = (
            f"Cells were sequenced that the absolute counts do not count (population / sample): "
            f"{listing(named)}. {what}. Rows: {listing(count.index.unique(1), most=30)}."
        )
        raise InputError(msg)


def _say_what_is_missing(adata: AnnData, count: pd.Series) -> None:
    """Warn of counted cells of which none was sequenced, and note it for the report."""
    if count.empty:
        return
    named = [
        f"{population} ({len(rows)} of the samples, up to {rows.max():g} per microlitre)"
        for population, rows in count.groupby(level=1, sort=True)
    ]
    note = (
        f"Absolute counts: no cell was sequenced of {listing(named)}. What they make is not known "
        "and is in no share."
    )
    add_note(adata, note)
    warnings.warn(note, CrsWarning, stacklevel=3)
