"""The stored table of quality control: thresholds and notes, and counts taken from `obs`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from crs_sc import keys
from crs_sc.core.checks import store
from crs_sc.errors import MissingKeyError

if TYPE_CHECKING:
    from anndata import AnnData

REASON_COLUMNS = {
    "n_low_counts": keys.LOW_COUNTS,
    "n_low_genes": keys.LOW_GENES,
    "n_high_mt": keys.HIGH_MT,
    "n_doublets": keys.DOUBLET,
    "n_other_species": keys.OTHER_SPECIES,
    "n_cross_species": keys.CROSS_SPECIES,
}
_MEDIAN_COLUMNS = {
    "median_umi": keys.N_UMI,
    "median_genes": keys.N_GENES,
    "median_mt_fraction": keys.MT_FRACTION,
}


def join_notes(*notes: str) -> str:
    """Join the notes of one sample."""
    return "; ".join(note for note in notes if note)


def stored_table(adata: AnnData) -> pd.DataFrame:
    """Copy of `uns['crs_sc']['qc']`, indexed by sample.

    Raises
    ------
    MissingKeyError
        If quality control has not run.
    """
    table = adata.uns.get(keys.UNS, {}).get(keys.QC)
    if table is None:
        msg = f"`uns['{keys.UNS}']` has no '{keys.QC}'. Call crs_sc.pp.quality_control first."
        raise MissingKeyError(msg)
    copy: pd.DataFrame = table.copy()
    copy.index = copy.index.astype(str)
    return copy


def refresh_table(adata: AnnData, table: pd.DataFrame, *, sample_key: str) -> None:
    """Count cells and reasons again from `obs`, and store the table.

    Parameters
    ----------
    adata
        All barcodes, before any is taken out.
    table
        One row a sample (index): subject, condition, thresholds and note.
    sample_key
        Column of `obs`.
    """
    sample = adata.obs[sample_key].astype(str)
    status = adata.obs[keys.QC_STATUS].astype(str)
    counts = pd.crosstab(sample.to_numpy(), status.to_numpy())
    counts = counts.reindex(index=table.index, columns=list(keys.QC_REASONS), fill_value=0)
    table["n_cells_in"] = counts.sum(axis=1)
    table["n_cells_out"] = counts[keys.PASS]
    for column, reason in REASON_COLUMNS.items():
        table[column] = counts[reason]
    # A sample too small for the doublet test has no count of doublets, which is not none.
    table["n_doublets"] = table["n_doublets"].astype(float)
    table.loc[table["max_doublet_score"].isna(), "n_doublets"] = np.nan
    passed = adata.obs.loc[np.asarray(status == keys.PASS)]
    grouped = passed.groupby(passed[sample_key].astype(str).to_numpy())
    for column, name in _MEDIAN_COLUMNS.items():
        table[column] = grouped[name].median().reindex(table.index)
    table.index.name = keys.SAMPLE
    store(adata, keys.QC, table)
