"""Samples that went through QC one by one, as one cohort."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy import sparse

from crs_sc import keys
from crs_sc.core.arrays import as_csr, is_on_disk
from crs_sc.core.blocks import count_chunks
from crs_sc.core.checks import add_note, store
from crs_sc.errors import InputError, listing
from crs_sc.preprocessing.ambient import from_cohort
from crs_sc.preprocessing.qc import REASON_COLUMNS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData

__all__ = ["merge_samples"]


def merge_samples(parts: Sequence[AnnData]) -> AnnData:
    """Put samples together: cells, QC rows, ambient profiles, contamination, droplets, notes.

    Only here are all samples known: one whose contamination had to be assumed gets the upper
    quartile of the measured ones, if there are at least three (see `estimate_ambient`).

    Parameters
    ----------
    parts
        One AnnData a sample (or group of samples), with the same genes in the same order. A sample
        that lost all of its cells keeps its QC row. Counts may be left out of all of them.

    Returns
    -------
    New AnnData, shape `(sum of n_cells, n_genes)`, in the order of `parts`, in memory.

    Raises
    ------
    InputError
        If the genes differ, a cell name occurs twice, or no cell is left.

    Examples
    --------
    >>> import crs_sc as crs
    >>> raw = crs.datasets.toy_cohort(state="raw")
    >>> crs.pp.quality_control(raw)
    >>> crs.pp.estimate_ambient(raw)
    >>> parts = [raw[raw.obs["condition"] == arm].copy() for arm in ("vehicle", "CART")]
    >>> crs.pp.merge_samples([crs.pp.filter_cells(part) for part in parts]).n_vars == raw.n_vars
    True
    """
    import anndata as ad

    genes = parts[0].var_names
    if any(not part.var_names.equals(genes) for part in parts):
        msg = "The samples do not have the same genes. Read them together with crs_sc.read."
        raise InputError(msg)
    if not sum(part.n_obs for part in parts):
        raise InputError(_nothing_left(parts))
    filled = [part for part in parts if part.n_obs]
    cells = [ad.AnnData(obs=part.obs, var=part.var) for part in filled]
    cohort = ad.concat(cells, join="inner", merge="same")
    if not cohort.obs_names.is_unique:
        twice = cohort.obs_names[cohort.obs_names.duplicated()][0]
        msg = f"The cell name '{twice}' occurs in more than one sample. Prefix names by sample."
        raise InputError(msg)
    if all(keys.COUNTS in part.layers for part in filled):
        cohort.layers[keys.COUNTS] = _stacked(filled, genes)
    profiles = [part.varm[keys.AMBIENT_PROFILE] for part in parts]
    cohort.varm[keys.AMBIENT_PROFILE] = pd.concat(profiles, axis=1)
    entries = [part.uns[keys.UNS] for part in parts]
    store(cohort, keys.QC, pd.concat([entry[keys.QC] for entry in entries]))
    contamination, notes = from_cohort(pd.concat([entry[keys.CONTAMINATION] for entry in entries]))
    store(cohort, keys.CONTAMINATION, contamination)
    for name in (keys.SPECIES_AMBIENT, keys.DROPLETS):
        tables = [entry[name] for entry in entries if name in entry]
        if tables:
            together = pd.concat(tables)
            # Samples that were called together each carry the table of all.
            store(cohort, name, together.loc[~together.index.duplicated()])
    for name in (keys.MATRIX, keys.ORGANISM):
        if name in entries[0]:
            store(cohort, name, entries[0][name])
    for note in (*(str(line) for entry in entries for line in entry.get(keys.NOTES, [])), *notes):
        add_note(cohort, note)
    return cohort


def _stacked(parts: Sequence[AnnData], genes: pd.Index) -> Any:
    """Put the counts of all parts into one matrix without a second copy of any."""
    matrices = [part.layers[keys.COUNTS] for part in parts]
    sizes = [m.group["data"].shape[0] if is_on_disk(m) else as_csr(m).nnz for m in matrices]
    n_values, n_rows = sum(sizes), sum(part.n_obs for part in parts)
    index = np.int32 if max(n_values, n_rows, len(genes)) < np.iinfo(np.int32).max else np.int64
    data, indices = np.empty(n_values, dtype=np.float32), np.empty(n_values, dtype=index)
    indptr = np.zeros(n_rows + 1, dtype=index)
    row = 0
    for part in parts:
        for _, chunk in count_chunks(part):
            place = slice(indptr[row], indptr[row] + chunk.nnz)
            data[place], indices[place] = chunk.data, chunk.indices
            indptr[row + 1 : row + 1 + chunk.shape[0]] = indptr[row] + chunk.indptr[1:]
            row += chunk.shape[0]
    return sparse.csr_matrix((data, indices, indptr), shape=(n_rows, len(genes)))


def _nothing_left(parts: Sequence[AnnData]) -> str:
    """Say why every cell was left out: no table is written that could be looked at."""
    rows = pd.concat([part.uns[keys.UNS][keys.QC] for part in parts])
    counts = rows[list(REASON_COLUMNS)].sum()
    reasons = [f"{int(n):,} {REASON_COLUMNS[str(name)]}" for name, n in counts.items() if n]
    low, high = rows["min_umi"].min(), rows["min_umi"].max()
    return (
        f"No cell of any sample passed QC: of {int(rows['n_cells_in'].sum()):,} barcodes, "
        f"{listing(reasons)} (at least {low:.0f} to {high:.0f} UMI were asked for). Are the counts "
        "raw and the organism right? The limits are in section `quality_control` of the config."
    )
