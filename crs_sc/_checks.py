"""Checks at the boundary of public functions, and the two things all of them take out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd

from crs_sc import keys
from crs_sc._arrays import as_csr
from crs_sc.errors import InputError, MissingKeyError, listing

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData
    from scipy import sparse

__all__ = [
    "add_note",
    "check_fraction",
    "check_obs",
    "counts_matrix",
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


def counts_matrix(adata: AnnData, *, layer: str = keys.COUNTS) -> sparse.csr_matrix:
    """Return the raw counts as CSR.

    Parameters
    ----------
    adata
        Cells x genes.
    layer
        Layer with raw integer counts.

    Raises
    ------
    MissingKeyError
        If the layer is absent.
    """
    if layer not in adata.layers:
        found = listing(name for name in adata.layers if name is not None)
        msg = (
            f"`layers` has no '{layer}' (raw counts). Layers: {found}. "
            "Read the file with crs_sc.read, which finds the counts."
        )
        raise MissingKeyError(msg)
    return as_csr(adata.layers[layer])


def gene_positions(adata: AnnData, genes: Sequence[str]) -> dict[str, int]:
    """Column of each gene that is in the data, in the order of `genes`.

    Parameters
    ----------
    adata
        Cells x genes.
    genes
        Symbols; those that are not in `var_names` are left out of the answer.
    """
    index = adata.var_names.get_indexer(pd.Index(list(genes)))
    return {gene: int(i) for gene, i in zip(genes, index, strict=True) if i >= 0}


def sample_table(
    adata: AnnData,
    *,
    sample_key: str = keys.SAMPLE,
    subject_key: str = keys.SUBJECT,
    condition_key: str = keys.CONDITION,
) -> pd.DataFrame:
    """One row a sample: its subject, condition and, where they exist, time point and batch.

    Parameters
    ----------
    adata
        Cells x genes.
    sample_key, subject_key, condition_key
        Columns of `obs`.

    Returns
    -------
    DataFrame indexed by sample (sorted), columns `subject`, `condition` and, where the cohort has
    them, `timepoint` and `batch`; all strings.

    Raises
    ------
    InputError
        If one sample has two subjects, conditions, time points or batches.
    """
    check_obs(adata, sample_key=sample_key, subject_key=subject_key, condition_key=condition_key)
    sources = {keys.SUBJECT: subject_key, keys.CONDITION: condition_key}
    sources |= {name: name for name in (keys.TIMEPOINT, keys.BATCH) if name in adata.obs.columns}
    frame = pd.DataFrame(
        {name: adata.obs[column].astype(str).to_numpy() for name, column in sources.items()}
    )
    frame[keys.SAMPLE] = adata.obs[sample_key].astype(str).to_numpy()
    unique = frame.drop_duplicates()
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
    return unique.set_index(keys.SAMPLE).sort_index()


def store(adata: AnnData, name: str, value: Any) -> None:
    """Put a result into `uns["crs_sc"][name]`.

    Parameters
    ----------
    adata
        Cells x genes.
    name
        One of the entries named in `keys`.
    value
        A DataFrame, dict, list of strings or scalar that h5ad can hold.
    """
    adata.uns.setdefault(keys.UNS, {})[name] = value


def add_note(adata: AnnData, note: str) -> None:
    """Add a line to `uns["crs_sc"]["notes"]`, which the report shows; the same line only once."""
    notes = [str(line) for line in adata.uns.setdefault(keys.UNS, {}).get(keys.NOTES, [])]
    if note not in notes:
        notes.append(note)
    adata.uns[keys.UNS][keys.NOTES] = notes
