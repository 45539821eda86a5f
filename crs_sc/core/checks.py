"""Checks at the boundary of public functions, and what all of them read and leave."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from crs_sc import keys
from crs_sc.core.arrays import string_codes
from crs_sc.errors import InputError, MissingKeyError, listing

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData

__all__ = [
    "add_note",
    "check_fraction",
    "check_obs",
    "gene_positions",
    "sample_table",
    "store",
]


def check_obs(adata: AnnData, **columns: str) -> None:
    """Raise unless each column is in `obs` without missing values.

    Parameters
    ----------
    adata
        Cells x genes.
    **columns
        Parameter name and the column that it names, such as `sample_key="sample"`.

    Raises
    ------
    MissingKeyError
        If a column is absent.
    InputError
        If a column has missing values.
    """
    for parameter, column in columns.items():
        if column not in adata.obs.columns:
            msg = (
                f"`obs` has no column '{column}' ({parameter}). "
                f"Columns: {listing(adata.obs.columns)}."
            )
            raise MissingKeyError(msg)
        missing = int(adata.obs[column].isna().sum())
        if missing:
            msg = (
                f"`obs['{column}']` ({parameter}) is empty for {missing} of {adata.n_obs} cells. "
                "Fill it in or leave those cells out."
            )
            raise InputError(msg)


def check_fraction(name: str, value: float) -> None:
    """Raise unless `0 <= value <= 1`."""
    if not 0 <= value <= 1:
        msg = f"{name} must be between 0 and 1, got {value!r}."
        raise InputError(msg)


def gene_positions(adata: AnnData, genes: Sequence[str]) -> dict[str, int]:
    """Column of each gene that is in the data, in the order of `genes`; others are left out."""
    index = adata.var_names.get_indexer(pd.Index(list(genes)))
    return {gene: int(i) for gene, i in zip(genes, index, strict=True) if i >= 0}


def sample_table(
    adata: AnnData,
    *,
    sample_key: str = keys.SAMPLE,
    subject_key: str = keys.SUBJECT,
    condition_key: str = keys.CONDITION,
    covariates: Sequence[str] = (),
) -> pd.DataFrame:
    """One row a sample: its subject, condition and, where they exist, time point and batch.

    Parameters
    ----------
    adata
        Cells x genes.
    sample_key, subject_key, condition_key
        Columns of `obs`.
    covariates
        Further columns of `obs`, one value a sample.

    Returns
    -------
    DataFrame indexed by sample (sorted), columns `subject`, `condition` and, where the cohort has
    them, `timepoint` and `batch`, all strings; then the covariates as they are.

    Raises
    ------
    MissingKeyError
        If a column is absent.
    InputError
        If one sample has two subjects, conditions, time points, batches or values of a covariate.
    """
    check_obs(adata, sample_key=sample_key, subject_key=subject_key, condition_key=condition_key)
    sources = {keys.SUBJECT: subject_key, keys.CONDITION: condition_key}
    sources |= {name: name for name in (keys.TIMEPOINT, keys.BATCH) if name in adata.obs.columns}
    unique = _combinations(
        {keys.SAMPLE: adata.obs[sample_key]}
        | {name: adata.obs[column] for name, column in sources.items()}
    )
    mixed = unique.loc[unique[keys.SAMPLE].duplicated(), keys.SAMPLE]
    if len(mixed):
        name = mixed.iloc[0]
        rows = unique.loc[unique[keys.SAMPLE] == name].drop(columns=keys.SAMPLE)
        differing = [column for column in rows.columns if rows[column].nunique() > 1]
        msg = (
            f"Sample '{name}' has more than one {' and '.join(differing)}: "
            f"{listing(rows[differing[0]].unique())}. A sample is one library of one subject in "
            "one condition; map a finer column to `sample`."
        )
        raise InputError(msg)
    table = unique.set_index(keys.SAMPLE).sort_index()
    for name in covariates:
        table[name] = _by_sample(adata, name, sample_key=sample_key)
    return table


def _combinations(columns: dict[str, pd.Series]) -> pd.DataFrame:
    """Distinct rows of some columns, as strings, in the order of their first appearance."""
    codes, levels = zip(*(string_codes(values) for values in columns.values()), strict=True)
    row, n_rows = np.zeros(len(codes[0]), dtype=np.int64), 1
    for own, names in zip(codes, levels, strict=True):
        if n_rows * (len(names) + 1) > np.iinfo(np.int64).max:
            row, n_rows = pd.factorize(row)[0], len(row)
        # What is missing has the code -1.
        row, n_rows = row * (len(names) + 1) + own + 1, n_rows * (len(names) + 1)
    # Categories repeat in long runs, of which only the first cell can be new.
    starts = np.flatnonzero(np.diff(row, prepend=-1))
    _, first = np.unique(row[starts], return_index=True)
    first = starts[np.sort(first)]
    return pd.DataFrame(
        {
            name: np.array([*names, None], dtype=object)[own[first]]
            for name, own, names in zip(columns, codes, levels, strict=True)
        },
        dtype="str",
    )


def _by_sample(adata: AnnData, name: str, *, sample_key: str) -> pd.Series:
    """Value of a covariate in each sample, indexed by sample; missing where a sample has none."""
    if name not in adata.obs.columns:
        msg = f"`obs` has no column '{name}' (covariates). Columns: {listing(adata.obs.columns)}."
        raise MissingKeyError(msg)
    by_sample = adata.obs[name].groupby(adata.obs[sample_key].astype(str).to_numpy(), sort=True)
    n_values = by_sample.nunique(dropna=False)
    mixed = n_values.index[n_values > 1]
    if len(mixed):
        found = adata.obs.loc[(adata.obs[sample_key].astype(str) == mixed[0]).to_numpy(), name]
        msg = (
            f"Sample '{mixed[0]}' has more than one {name}: {listing(found.unique())}. "
            "A covariate has one value a sample."
        )
        raise InputError(msg)
    values: pd.Series = by_sample.first()
    return values


def store(adata: AnnData, name: str, value: Any) -> None:
    """Put a result that h5ad can hold into `uns["crs_sc"][name]`, under a name of `keys`."""
    adata.uns.setdefault(keys.UNS, {})[name] = value


def add_note(adata: AnnData, note: str) -> None:
    """Add a line to `uns["crs_sc"]["notes"]`, which the report shows; the same line only once."""
    notes = [str(line) for line in adata.uns.setdefault(keys.UNS, {}).get(keys.NOTES, [])]
    if note not in notes:
        notes.append(note)
    adata.uns[keys.UNS][keys.NOTES] = notes
