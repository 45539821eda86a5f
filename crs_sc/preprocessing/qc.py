"""Quality control by sample: what is left out, why, and at which threshold."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from crs_sc import keys
from crs_sc.core.blocks import count_chunks
from crs_sc.core.checks import add_note, check_fraction, check_obs, sample_table, store
from crs_sc.errors import InputError, MissingKeyError, listing
from crs_sc.genesets import mitochondrial_genes

if TYPE_CHECKING:
    from anndata import AnnData
    from numpy.typing import NDArray

__all__ = ["filter_cells", "qc_table", "quality_control"]

# The floors are meant for the whole transcriptome; a file with fewer genes sees fewer UMI.
_WHOLE_TRANSCRIPTOME = 2000
# Scaled MAD of a normal distribution is its standard deviation.
_MAD_TO_SD = 1.4826
# Counts of cells of a single kind still differ by about this much (natural log). Without it a
# sample of one cell type gets a narrow limit that cuts every cell type with less RNA.
_MIN_LOG_DEVIATION = 0.35
# Fewer cells do not give a deviation worth using.
_MIN_CELLS = 20

CONTAMINATION_COLUMNS = ("ambient_fraction", "ambient_upper", "ambient_source", "ambient_lower")
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
    deviation has a lower bound, so that a sample of one cell type does not cut types with less RNA.

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

    Examples
    --------
    >>> import crs_sc as crs
    >>> adata = crs.datasets.toy_cohort(state="raw")
    >>> crs.pp.quality_control(adata)
    >>> "pass" in set(adata.obs["qc_status"])
    True
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
        single = rows[species[rows] == keys.PASS]
        low_umi = lower_limit(umi[single], floor=scale * min_umi, n_mads=n_mads)
        low_genes = lower_limit(genes[single], floor=scale * min_genes, n_mads=n_mads)
        whole = single[(umi[single] >= low_umi) & (genes[single] >= low_genes)]
        high_mt = np.nan
        if has_mt:
            high_mt = upper_limit(
                mt[whole], lowest=mt_floor, highest=max_mt_fraction, n_mads=n_mads
            )
            status[whole[mt[whole] > high_mt]] = keys.HIGH_MT
        status[single[genes[single] < low_genes]] = keys.LOW_GENES
        status[single[umi[single] < low_umi]] = keys.LOW_COUNTS
        table.loc[name, limits] = [low_umi, low_genes, high_mt]
    adata.obs[keys.QC_STATUS] = pd.Categorical(status, categories=list(keys.QC_REASONS))
    table["note"] = "" if has_mt else "no mitochondrial gene in the file: filter off"
    if not has_mt:
        add_note(adata, "No mitochondrial gene in the file: the mitochondrial filter is off.")
    for name in table.index[~table.index.isin(sample[status == keys.PASS])]:
        table.loc[name, "note"] = join_notes(str(table.loc[name, "note"]), "no cell passed")
        add_note(adata, f"Sample '{name}': no cell passed quality control.")
    refresh_table(adata, table, sample_key=sample_key)


def _measure(adata: AnnData) -> bool:
    """Write UMI, genes and mitochondrial share per cell; say whether there are such genes."""
    import anndata as ad
    import scanpy as sc

    mask = _mitochondrial(tuple(adata.var_names.tolist()))
    var = pd.DataFrame({"mt": mask}, index=adata.var_names)
    measured = np.zeros((adata.n_obs, 3))
    for rows, counts in count_chunks(adata):
        # scanpy takes stored zeros out of the matrix that it is given.
        cells = ad.AnnData(counts if counts.data.all() else counts.copy(), var=var)
        metrics, _ = sc.pp.calculate_qc_metrics(
            cells, qc_vars=["mt"], percent_top=None, log1p=False, inplace=False
        )
        measured[rows] = metrics[["total_counts", "total_counts_mt", "n_genes_by_counts"]]
    umi, mt, n_genes = measured.T
    adata.obs[keys.N_UMI] = np.rint(umi).astype(np.int64)
    adata.obs[keys.N_GENES] = n_genes.astype(np.int64)
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

    Examples
    --------
    >>> import crs_sc as crs
    >>> adata = crs.datasets.toy_cohort(state="raw")
    >>> crs.pp.quality_control(adata)
    >>> set(crs.pp.filter_cells(adata).obs["qc_status"])
    {'pass'}
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

    Examples
    --------
    >>> import crs_sc as crs
    >>> adata = crs.datasets.toy_cohort(state="raw")
    >>> crs.pp.quality_control(adata)
    >>> crs.pp.qc_table(adata)["n_cells_in"].sum() == adata.n_obs
    np.True_
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


def join_notes(*notes: str) -> str:
    """Join the notes of one sample."""
    return "; ".join(note for note in notes if note)


def stored_table(adata: AnnData) -> pd.DataFrame:
    """Copy of `uns['crs_sc']['qc']`, indexed by sample."""
    table = adata.uns.get(keys.UNS, {}).get(keys.QC)
    if table is None:
        msg = f"`uns['{keys.UNS}']` has no '{keys.QC}'. Call crs_sc.pp.quality_control first."
        raise MissingKeyError(msg)
    copy: pd.DataFrame = table.copy()
    copy.index = copy.index.astype(str)
    return copy


def refresh_table(adata: AnnData, table: pd.DataFrame, *, sample_key: str) -> None:
    """Count cells and reasons again from `obs` of all barcodes, and store the table.

    The table comes with subject, condition, thresholds and note of each sample (its index).
    """
    sample = adata.obs[sample_key].astype(str)
    status = adata.obs[keys.QC_STATUS].astype(str)
    counts = pd.crosstab(sample.to_numpy(), status.to_numpy())
    counts = counts.reindex(index=table.index, columns=list(keys.QC_REASONS), fill_value=0)
    table["n_cells_in"] = counts.sum(axis=1)
    table["n_cells_out"] = counts[keys.PASS]
    table[list(REASON_COLUMNS)] = counts[list(REASON_COLUMNS.values())]
    # A sample too small for the doublet test has no count of doublets, which is not none.
    table["n_doublets"] = table["n_doublets"].astype(float)
    table.loc[table["max_doublet_score"].isna(), "n_doublets"] = np.nan
    passed = adata.obs.loc[np.asarray(status == keys.PASS)]
    grouped = passed.groupby(passed[sample_key].astype(str).to_numpy())
    medians = grouped[list(_MEDIAN_COLUMNS.values())].median()
    table[list(_MEDIAN_COLUMNS)] = medians.reindex(table.index)
    table.index.name = keys.SAMPLE
    store(adata, keys.QC, table)


def lower_limit(values: NDArray[np.float64], *, floor: float, n_mads: float) -> float:
    """Lower limit on UMI or genes of one sample, on a log scale: median - `n_mads` x scaled MAD.

    Only cells that reach the floor count for the median, so that empty droplets in the file do
    not move it; the limit is never below the floor.
    """
    kept = values[values >= max(floor, 1)]
    if len(kept) < _MIN_CELLS:
        return float(floor)
    logs = np.log(kept)
    centre = np.median(logs)
    deviation = max(_MAD_TO_SD * float(np.median(np.abs(logs - centre))), _MIN_LOG_DEVIATION)
    return float(max(floor, np.exp(centre - n_mads * deviation)))


def upper_limit(
    values: NDArray[np.float64], *, lowest: float, highest: float, n_mads: float
) -> float:
    """Upper limit on the mitochondrial share of one sample: median + `n_mads` x scaled MAD.

    It is kept within `[lowest, highest]`; `highest` wins.
    """
    if len(values) < _MIN_CELLS:
        return float(highest)
    centre = np.median(values)
    deviation = _MAD_TO_SD * np.median(np.abs(values - centre))
    return float(min(highest, max(lowest, centre + n_mads * deviation)))
