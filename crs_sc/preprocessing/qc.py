"""Quality control by sample: what is left out, why, and at which threshold."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from crs_sc import keys
from crs_sc.core.arrays import RowTotals
from crs_sc.core.blocks import pass_over
from crs_sc.core.checks import add_note, check_fraction, check_obs, sample_table
from crs_sc.errors import InputError, MissingKeyError, listing
from crs_sc.genesets import mitochondrial_genes
from crs_sc.preprocessing._assumed import CONTAMINATION_COLUMNS
from crs_sc.preprocessing._table import join_notes, refresh_table, stored_table
from crs_sc.preprocessing._thresholds import lower_limit, upper_limit

if TYPE_CHECKING:
    from anndata import AnnData
    from numpy.typing import NDArray

__all__ = ["filter_cells", "qc_table", "quality_control"]

# The floors are meant for the whole transcriptome; a file with fewer genes sees fewer UMI.
_WHOLE_TRANSCRIPTOME = 2000


def quality_control(
    adata: AnnData,
    *,
    sample_key: str = keys.SAMPLE,
    subject_key: str = keys.SUBJECT,
    condition_key: str = keys.CONDITION,
    n_mads: float = 4.0,
    min_umi: int = 300,
    min_genes: int = 150,
    max_mt_fraction: float = 0.2,
    mt_floor: float = 0.08,
) -> None:
    """Mark the barcodes that are not one whole cell of the analysed species.

    Per sample: the lower limits on UMI and genes are `n_mads` scaled median absolute deviations
    below the median of the log, but never below the floors; the limit on the mitochondrial share
    is as far above its median, within `[mt_floor, max_mt_fraction]`. There is no upper limit on
    UMI or genes: monocytes hold more RNA than lymphocytes, and doublets have their own test. The
    spread has a lower bound, so that a sample of one cell type does not cut types with less RNA.

    Parameters
    ----------
    adata
        Cells x genes with raw counts, one genome.
    sample_key, subject_key, condition_key
        Columns of `obs`.
    n_mads
        Scaled median absolute deviations (1.4826 x MAD; a standard deviation if normal).
    min_umi, min_genes
        Floors. In a file with fewer than 2,000 genes they shrink in proportion.
    max_mt_fraction
        Highest limit on the mitochondrial share.
    mt_floor
        Lowest limit on the mitochondrial share: below it nothing is called damaged.

    Raises
    ------
    InputError
        If a setting is out of range.
    MissingKeyError
        If a column is absent.

    Notes
    -----
    Sets `obs['n_umi']`, `obs['n_genes']`, `obs['mt_fraction']` (missing without mitochondrial
    genes), `obs['qc_status']` (the first reason in the order of `keys.QC_REASONS`) and
    `uns['crs_sc']['qc']`. A barcode whose species could not be called counts as `low_counts`. A
    sample that loses all of its cells stays in the table, and a note says so.
    """
    check_fraction("max_mt_fraction", max_mt_fraction)
    check_fraction("mt_floor", mt_floor)
    if n_mads <= 0:
        msg = f"n_mads must be above 0, got {n_mads!r}."
        raise InputError(msg)
    samples = sample_table(
        adata, sample_key=sample_key, subject_key=subject_key, condition_key=condition_key
    )
    has_mt = _measure(adata)
    scale = min(1.0, adata.n_vars / _WHOLE_TRANSCRIPTOME)
    species = _species_reason(adata)
    sample = adata.obs[sample_key].astype(str).to_numpy()
    umi, genes, mt = (
        adata.obs[name].to_numpy(dtype=np.float64)
        for name in (keys.N_UMI, keys.N_GENES, keys.MT_FRACTION)
    )
    status = species.copy()
    table = samples[[keys.SUBJECT, keys.CONDITION]].copy()
    limits = ["min_umi", "min_genes", "max_mt_fraction"]
    table[[*limits, "max_doublet_score"]] = np.nan
    for name in table.index:
        rows = np.flatnonzero(sample == name)
        own = rows[species[rows] == keys.PASS]
        low_umi = lower_limit(umi[own], floor=scale * min_umi, n_mads=n_mads)
        low_genes = lower_limit(genes[own], floor=scale * min_genes, n_mads=n_mads)
        whole = own[(umi[own] >= low_umi) & (genes[own] >= low_genes)]
        high_mt = np.nan
        if has_mt:
            high_mt = upper_limit(
                mt[whole], lowest=mt_floor, highest=max_mt_fraction, n_mads=n_mads
            )
            status[whole[mt[whole] > high_mt]] = keys.HIGH_MT
        status[own[genes[own] < low_genes]] = keys.LOW_GENES
        status[own[umi[own] < low_umi]] = keys.LOW_COUNTS
        table.loc[name, limits] = [low_umi, low_genes, high_mt]
    adata.obs[keys.QC_STATUS] = pd.Categorical(status, categories=list(keys.QC_REASONS))
    table["note"] = "" if has_mt else "no mitochondrial gene in the file: filter off"
    if not has_mt:
        add_note(adata, "No mitochondrial gene in the file: the mitochondrial filter is off.")
    _note_empty(adata, table, sample_key)
    refresh_table(adata, table, sample_key=sample_key)


def _note_empty(adata: AnnData, table: pd.DataFrame, sample_key: str) -> None:
    """Say which samples lost every cell."""
    passed = adata.obs[keys.QC_STATUS] == keys.PASS
    left = set(adata.obs.loc[passed, sample_key].astype(str))
    for name in table.index[~table.index.isin(left)]:
        table.loc[name, "note"] = join_notes(str(table.loc[name, "note"]), "no cell passed")
        add_note(adata, f"Sample '{name}': no cell passed quality control.")


def _measure(adata: AnnData) -> bool:
    """Write UMI, genes and mitochondrial share per cell; say whether there are such genes."""
    mask = _mitochondrial(tuple(adata.var_names.tolist()))
    kernel = RowTotals(adata.n_obs, mask)
    pass_over(adata, kernel)
    umi, mt = kernel.total, kernel.masked
    adata.obs[keys.N_UMI] = np.rint(umi).astype(np.int64)
    adata.obs[keys.N_GENES] = kernel.n_above_zero
    share = np.divide(mt, umi, out=np.zeros(adata.n_obs), where=umi > 0)
    adata.obs[keys.MT_FRACTION] = share if mask.any() else np.full(adata.n_obs, np.nan)
    return bool(mask.any())


# The samples of a cohort have the same genes and come one after the other.
@lru_cache(maxsize=2)
def _mitochondrial(var_names: tuple[str, ...]) -> NDArray[np.bool_]:
    """Mark the mitochondrial genes."""
    mask = mitochondrial_genes(var_names)
    mask.flags.writeable = False
    return mask


def _species_reason(adata: AnnData) -> NDArray[np.object_]:
    """`pass`, or the reason that the species gives, per cell."""
    status = np.full(adata.n_obs, keys.PASS, dtype=object)
    if keys.SPECIES not in adata.obs.columns:
        return status
    species = adata.obs[keys.SPECIES].astype(object)
    analysed = str(adata.uns.get(keys.UNS, {}).get(keys.ORGANISM, "human"))
    status[np.asarray(species != analysed, dtype=bool)] = keys.OTHER_SPECIES
    status[np.asarray(species == "mixed", dtype=bool)] = keys.CROSS_SPECIES
    status[np.asarray(species.isna(), dtype=bool)] = keys.LOW_COUNTS
    return status


def filter_cells(adata: AnnData) -> AnnData:
    """Keep the cells that passed; `uns` and the table of quality control stay.

    Parameters
    ----------
    adata
        Cells x genes after `quality_control`.

    Returns
    -------
    New AnnData; without a cell if none passed (`normalize` refuses that).

    Raises
    ------
    MissingKeyError
        If quality control has not run.
    """
    check_obs(adata, status=keys.QC_STATUS)
    return adata[np.asarray(adata.obs[keys.QC_STATUS].astype(str) == keys.PASS, dtype=bool)].copy()


def qc_table(adata: AnnData) -> pd.DataFrame:
    """Complete the table of quality control with the ambient columns.

    Parameters
    ----------
    adata
        Cells x genes after `quality_control`, before or after `filter_cells`.

    Returns
    -------
    DataFrame with the columns of `keys.QC_TABLE`, one row a sample, sorted by sample.

    Raises
    ------
    MissingKeyError
        If quality control has not run.
    """
    table = stored_table(adata)
    contamination = adata.uns[keys.UNS].get(keys.CONTAMINATION)
    columns = list(CONTAMINATION_COLUMNS)
    if contamination is None:
        table[columns] = np.nan
        table["ambient_source"] = ""
    else:
        table[columns] = contamination[columns].reindex(table.index)
    for column in keys.QC_TABLE.columns:
        if column.dtype == "int":
            table[column.name] = table[column.name].astype("Int64") if column.name in table else 0
    table.index.name = keys.SAMPLE
    missing = set(keys.QC_TABLE.names) - {keys.SAMPLE} - set(table.columns)
    if missing:
        msg = f"`uns['{keys.UNS}']['{keys.QC}']` has no {listing(sorted(missing))}."
        raise MissingKeyError(msg)
    return table.reset_index()[keys.QC_TABLE.names]
