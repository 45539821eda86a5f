"""Ambient RNA of each sample: its profile, and how much of a cell's UMI came from it."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from crs_sc import genesets, keys
from crs_sc.core.arrays import FewColumns, GroupSums, string_codes
from crs_sc.core.blocks import pass_over
from crs_sc.core.checks import add_note, check_fraction, check_obs, store
from crs_sc.errors import InputError, listing
from crs_sc.preprocessing._assumed import (
    ASSUMED,
    CONTAMINATION_COLUMNS,
    declared_corrected,
    from_cohort,
    from_species,
)
from crs_sc.preprocessing._sample_ambient import sample_ambient
from crs_sc.preprocessing.species import analysed_species

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from anndata import AnnData
    from numpy.typing import NDArray
    from scipy import sparse

    from crs_sc.preprocessing.species import Species

__all__ = ["estimate_ambient"]

# Genes that one lineage makes in quantity and the others cannot; haemoglobins and immunoglobulins
# come from `genesets`. No target cytokine is among them.
PANELS: dict[str, tuple[str, ...]] = {
    "myeloid": ("LYZ", "S100A8", "S100A9"),
    "t_cell": ("CD3D", "CD3E", "CD3G", "TRAC", "TRBC1"),
}
# Core markers: a cell with more of them than ambient RNA can give belongs to the lineage.
MARKERS: dict[str, tuple[str, ...]] = {
    "T": ("CD3D", "CD3E", "CD3G", "TRAC", "CD2"),
    "NK": ("NKG7", "GNLY", "KLRD1", "KLRF1"),
    "B": ("MS4A1", "CD79A", "CD79B"),
}


def estimate_ambient(
    adata: AnnData,
    *,
    organism: str = "human",
    sample_key: str = keys.SAMPLE,
    empty_profiles: Mapping[str, pd.Series] | None = None,
    corrected: bool = False,
    assumed_fraction: float = 0.1,
    max_fraction: float = 0.5,
    min_exposure: float = 100.0,
) -> None:
    """Estimate profile and size of the ambient RNA of each sample.

    The profile is that of the empty droplets where they are given, else the pooled counts of all
    barcodes of the sample (of the analysed species) before any is filtered out.

    The fraction comes from genes that a cell cannot express: LYZ, S100A8 and S100A9 in T, NK and
    B cells; immunoglobulins in T, NK and myeloid cells; CD3 and TRAC in B and myeloid cells;
    haemoglobin in all of them. Cells get their lineage from a few core markers beyond what the
    ambient RNA can give; cells with an impossible panel count and cells called doublets are left
    out, and the rate is fitted to the Poisson truncated at that cut. Target cytokines are never
    used.

    Evidence from cells that make the panel after all is refused: ambient RNA brings the same share
    of a panel into all lineages, so one that reads grossly more than the others is left out, and
    so is a panel of which most candidate cells hold more than ambient RNA, or of fewer than five
    cells. Mouse macrophages beside human T cells thus leave NK cells, and the other species.

    With a pooled profile, panels are averaged with the share of the sample's UMI that their
    lineage holds, which gives the contamination also where one lineage lyses more easily than
    another; the pool is then weighted by what the panels say of each lineage. A panel that reads
    near `max_fraction` is ignored: its genes are in the pool only because ambient RNA brought them
    (haemoglobin of lysed erythrocytes). With empty droplets, panels are averaged by exposure. In
    both cases a panel grossly above the others is left out, since real expression raises one
    panel and ambient RNA raises all.

    Where the file has two genomes, cells of the other species tell ambient RNA without any such
    genes: from ten of them on, the two answers are averaged by their precision, or the lower one
    taken where they contradict each other, since both can only err upwards.

    A sample without enough of these genes or cells falls back on the other samples, if at least
    three were measured: upper quartile of their fractions, largest of their upper bounds; and
    else on `assumed_fraction`. The source says which.

    Parameters
    ----------
    adata
        Cells x genes with raw counts, one genome, before `filter_cells`.
    organism
        `human` or `mouse`, whose genes these are, or both joined by `+`: the first counts.
    sample_key
        Column of `obs`.
    empty_profiles
        Sample -> counts or shares of ambient RNA from empty droplets, indexed by gene name (or,
        after `select_species`, by the names of the file with both genomes). Samples without one
        use their pooled cells.
    corrected
        The counts were corrected for ambient RNA before (CellBender, SoupX). The fraction is then
        0, and nothing is taken off twice; what the genes above still show as ambient RNA is the
        upper bound, and a note says so if it is more than 2 %.
    assumed_fraction
        Contamination of a sample without enough evidence; meant to be on the high side.
    max_fraction
        Largest contamination considered.
    min_exposure
        A panel is used from this many UMI expected at a contamination of 1, in the cells used.

    Raises
    ------
    InputError
        If a setting is out of range, or an empty profile holds no gene of the data, or negative
        or missing values.
    MissingKeyError
        If `sample_key` or the counts are absent.

    Notes
    -----
    Sets `varm['ambient_profile']` (genes x samples, each column sums to 1) and
    `uns['crs_sc']['contamination']` (by sample: `ambient_fraction`, `ambient_upper`,
    `ambient_source`, `ambient_lower`). The source is the profile, then the panels and `species` as
    far as they were used, or a text that ends with `assumed`; or `declared_corrected`. The bounds
    are those of a 95 % interval: counting noise, and the error of the method as found in simulated
    samples. Where the fraction is assumed, they are 0 and the largest known upper bound or
    `max_fraction`.

    References
    ----------
    Young and Behjati 2020, GigaScience 9:giaa151 (SoupX) for the principle.
    """
    for name, value in (("assumed_fraction", assumed_fraction), ("max_fraction", max_fraction)):
        check_fraction(name, value)
    check_obs(adata, sample_key=sample_key)
    organism = analysed_species(organism)
    own = _own_species(adata, organism)
    clean = own & _usable(adata)
    codes, samples = string_codes(adata.obs[sample_key])
    sets = _gene_sets(adata, organism)
    pool = GroupSums(np.where(own, codes, -1), len(samples), adata.n_vars)
    union = np.unique(np.concatenate(list(sets.values())))
    panels = FewColumns(union, adata.n_obs, adata.n_vars)
    pass_over(adata, pool, panels)
    profiles = _shares(pool.sums)
    totals = pool.row_sums
    set_counts = _set_counts(panels.result()[0], union, sets)
    rows, weighted = [], np.full(adata.n_obs, -1)
    weights = own.astype(np.float64)
    for code, sample in enumerate(samples):
        given = (empty_profiles or {}).get(sample)
        if given is not None:
            profiles[code] = _given_profile(given, _names_of(given, adata), sample)
        cells = np.flatnonzero(clean & (codes == code))
        ambient = sample_ambient(
            {name: values[cells] for name, values in set_counts.items()},
            totals[cells],
            {name: float(profiles[code, index].sum()) for name, index in sets.items()},
            pooled=given is None,
            max_fraction=max_fraction,
            min_exposure=min_exposure,
            species=_species_evidence(adata, sample, organism),
        )
        source = "pooled_cells" if given is None else "empty_droplets"
        if ambient is None:
            rows.append((assumed_fraction, max_fraction, f"{source}; {ASSUMED}", 0.0))
            continue
        rows.append(
            (
                ambient.fraction,
                ambient.upper,
                f"{source}; {', '.join(ambient.panels)}",
                ambient.lower,
            )
        )
        if given is None:
            weights[cells] = ambient.weights
            weighted[own & (codes == code)] = code
    if (weighted >= 0).any():
        pool = GroupSums(weighted, len(samples), adata.n_vars, weights=weights)
        pass_over(adata, pool)
        again = np.unique(weighted[weighted >= 0])
        profiles[again] = _shares(pool.sums[again])
    names = pd.Index(samples, name=keys.SAMPLE)
    adata.varm[keys.AMBIENT_PROFILE] = pd.DataFrame(
        profiles.T, index=adata.var_names, columns=names.to_numpy()
    )
    table = pd.DataFrame(rows, index=names, columns=list(CONTAMINATION_COLUMNS))
    table, notes = declared_corrected(table) if corrected else from_cohort(table)
    store(adata, keys.CONTAMINATION, table)
    for note in notes:
        add_note(adata, note)


def _species_evidence(
    adata: AnnData, sample: str, organism: str
) -> tuple[float, float, float] | None:
    """Contamination from the cells of the other species, where these were counted."""
    ambients = adata.uns.get(keys.UNS, {}).get(keys.SPECIES_AMBIENT)
    if ambients is None or sample not in ambients.index:
        return None
    other = "mouse" if organism == "human" else "human"
    row = ambients.loc[sample]
    return from_species(
        own_in_other=float(row[f"{organism}_in_{other}"]),
        other_in_own=float(row[f"{other}_in_{organism}"]),
        n_other=int(row[f"n_{other}"]),
        umi_own=float(row[f"umi_{organism}"]),
        umi_other=float(row[f"umi_{other}"]),
        scaling=float(row["scaling"]),
        scaling_error=float(row["scaling_error"]),
    )


def _gene_sets(adata: AnnData, organism: Species) -> dict[str, NDArray[np.intp]]:
    """Columns of each panel and marker set, under the names that the data give the genes."""
    return dict(_columns_of_sets(tuple(adata.var_names.tolist()), organism))


# The samples of a cohort have the same genes and come one after the other.
@lru_cache(maxsize=2)
def _columns_of_sets(
    var_names: tuple[str, ...], organism: Species
) -> Mapping[str, NDArray[np.intp]]:
    sets: dict[str, NDArray[np.intp]] = {}
    index = pd.Index(var_names, dtype=str)
    for name, genes in (PANELS | MARKERS).items():
        wanted = list(genes)
        if organism == "mouse":
            pairs = genesets.orthologs()
            wanted = pairs.loc[
                pairs["human"].isin(genes) & (pairs["mouse"] != ""), "mouse"
            ].tolist()
        found = genesets.match_genes(wanted, var_names, organism=organism)
        sets[name] = np.sort(index.get_indexer(pd.Index(list(found.values()), dtype=str)))
    sets["immunoglobulin"] = np.flatnonzero(genesets.immunoglobulin_genes(var_names))
    sets["haemoglobin"] = np.flatnonzero(genesets.haemoglobin_genes(var_names))
    for columns in sets.values():
        columns.flags.writeable = False
    return sets


def _set_counts(
    counts: sparse.csr_matrix, columns: NDArray[np.intp], sets: dict[str, NDArray[np.intp]]
) -> dict[str, NDArray[np.float64]]:
    """UMI of each set per cell, from the counts of the genes that are in any."""
    indicator = np.zeros((len(columns), len(sets)))
    for column, index in enumerate(sets.values()):
        indicator[np.searchsorted(columns, index), column] = 1.0
    summed = np.asarray(counts @ indicator, dtype=np.float64)
    return {name: summed[:, column] for column, name in enumerate(sets)}


def _shares(pooled: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rows that sum to 1; a sample without a count gets a flat row."""
    total = pooled.sum(axis=1, keepdims=True)
    flat = np.full_like(pooled, 1 / pooled.shape[1])
    return np.divide(pooled, total, out=flat, where=total > 0)


def _names_of(profile: pd.Series, adata: AnnData) -> list[str]:
    """Names of the genes as the profile has them: of two genomes, those of the file."""
    if keys.ORIGINAL_NAME in adata.var.columns and not adata.var_names.isin(profile.index).any():
        return [str(name) for name in adata.var[keys.ORIGINAL_NAME]]
    return [str(name) for name in adata.var_names]


def _given_profile(profile: pd.Series, genes: Sequence[str], sample: str) -> NDArray[np.float64]:
    """Shares of a profile from empty droplets, in the order of the genes of the data."""
    values = profile.groupby(level=0).sum().reindex(pd.Index(genes)).fillna(0.0).to_numpy(float)
    if profile.isna().any() or (values < 0).any() or not np.isfinite(values).all():
        msg = f"The empty-droplet profile of sample '{sample}' has missing or negative values."
        raise InputError(msg)
    if values.sum() <= 0:
        msg = (
            f"The empty-droplet profile of sample '{sample}' holds no UMI of the genes of the data "
            f"(its index: {listing(profile.index, most=3)}). Index it by gene name."
        )
        raise InputError(msg)
    shares: NDArray[np.float64] = values / values.sum()
    return shares


def _own_species(adata: AnnData, organism: str) -> NDArray[np.bool_]:
    """Barcodes of the analysed species, or all where species were not called."""
    if keys.SPECIES not in adata.obs.columns:
        return np.ones(adata.n_obs, dtype=bool)
    species = adata.obs[keys.SPECIES].astype(object)
    # Barcodes too poor to call are ambient RNA: they belong to the pool.
    return np.asarray((species == organism) | species.isna(), dtype=bool)


def _usable(adata: AnnData) -> NDArray[np.bool_]:
    """Cells that may bear evidence: those that passed so far, or all before quality control."""
    if keys.QC_STATUS not in adata.obs.columns:
        return np.ones(adata.n_obs, dtype=bool)
    return np.asarray(adata.obs[keys.QC_STATUS].astype(str) == keys.PASS, dtype=bool)
