"""Ambient RNA of each sample: its profile, and how much of a cell's UMI came from it."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from crs_sc import genesets, keys
from crs_sc.core.arrays import FewColumns, GroupSums, string_codes
from crs_sc.core.blocks import pass_over
from crs_sc.core.checks import add_note, check_fraction, check_obs, store
from crs_sc.errors import InputError, listing
from crs_sc.preprocessing._contamination import (
    agreeing_cells,
    combine_evidence,
    combine_rates,
    largest_count,
    panel_rate,
    relative_lysis,
)
from crs_sc.preprocessing.qc import CONTAMINATION_COLUMNS
from crs_sc.preprocessing.species import SpeciesAmbient, ambient_columns, analysed_species

if TYPE_CHECKING:
    from collections.abc import Mapping

    from anndata import AnnData
    from numpy.typing import NDArray

    from crs_sc.preprocessing._contamination import Floats, Interval, Mask, Rate
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
# A myeloid, antibody-making or erythroid cell spends at least this share of its UMI on its panel.
_MIN_SHARE = 0.003
_MIN_B_SHARE = 0.01
_MIN_ERYTHROID_SHARE = 0.1
# And a T, NK or B cell this share on its core markers, which other cells leak a UMI or two of.
_MIN_CORE_SHARE = 0.001
_MIN_UMI = 2
SPECIES = "species"
# Evidence is more than a few stray cells, and most of the candidates bear it: else they are not
# what they were taken for, and make the panel themselves.
_MIN_CELLS = 5
_MAX_REFUSED = 0.5
# Panels may differ this much: with the true profile by chance only, with a pooled one because
# lineages lyse unequally.
_MAX_RATIO_DROPLETS = 2.0
_MAX_RATIO_POOLED = 3.0
# With a pooled profile, panels that stand for less of the sample than this say too little.
_MIN_WEIGHT = 0.1
# A pooled panel that reads this close to `max_fraction` is itself nothing but ambient RNA.
_SATURATED = 0.95
# Beyond counting noise, doublets and leaking genes move every panel; and a pooled profile is not
# quite ambient RNA. Relative, as two standard errors: simulated and real samples were this far off.
_DROPLET_ERROR = 0.07
_POOL_ERROR = 0.1
# A lineage without a panel may lyse unlike those with one: error where it is all of the sample.
_UNSEEN_ERROR = 0.5
# Cells that hardly make a gene make some of it, which looks like this much ambient RNA.
_LEAK = 0.002
# No lineage's panel may be more ambient RNA than this.
_MAX_LINEAGE_AMBIENT = 0.8
CORRECTED = "declared_corrected"
ASSUMED = "assumed"
# Fewer measured samples say too little of the others.
_MIN_MEASURED = 3
_QUARTILE = 0.75
# Cells of the other species that give a share, and the error of that share (two standard errors).
_MIN_OTHER_CELLS = 10
_SPECIES_ERROR = 0.15
# Share of a cell's reads that map to the wrong genome, 0.8 % on average (BMC Bioinformatics 2022,
# 23:157): it looks like ambient RNA.
_MISMAPPED = 0.008
# Ambient RNA in corrected counts from which a note is worth it.
_RESIDUAL = 0.02


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

    Examples
    --------
    >>> import crs_sc as crs
    >>> adata = crs.datasets.toy_cohort(state="raw")
    >>> crs.pp.quality_control(adata)
    >>> crs.pp.estimate_ambient(adata)
    >>> adata.uns["crs_sc"]["contamination"]["ambient_fraction"].between(0, 0.3).all()
    np.True_
    """
    for name, value in (("assumed_fraction", assumed_fraction), ("max_fraction", max_fraction)):
        check_fraction(name, value)
    check_obs(adata, sample_key=sample_key)
    organism = analysed_species(organism)
    # Barcodes too poor to call are ambient RNA: they belong to the pool.
    in_pool = np.ones(adata.n_obs, dtype=bool)
    if keys.SPECIES in adata.obs.columns:
        called = adata.obs[keys.SPECIES].astype(object)
        in_pool = np.asarray((called == organism) | called.isna(), dtype=bool)
    # Evidence comes from the cells that passed so far, or all before quality control.
    usable = in_pool
    if keys.QC_STATUS in adata.obs.columns:
        usable = in_pool & np.asarray(adata.obs[keys.QC_STATUS].astype(str) == keys.PASS)
    codes, samples = string_codes(adata.obs[sample_key])
    sets = _gene_sets(tuple(adata.var_names.tolist()), organism)
    pool = GroupSums(np.where(in_pool, codes, -1), len(samples), adata.n_vars)
    union = np.unique(np.concatenate(list(sets.values())))
    panels = FewColumns(union, adata.n_obs, adata.n_vars)
    pass_over(adata, pool, panels)
    profiles = _shares(pool.sums)
    # UMI of each set per cell, from the counts of the genes that are in any.
    indicator = np.stack([np.isin(union, columns) for columns in sets.values()], axis=1)
    set_counts = np.asarray(panels.result()[0] @ indicator.astype(np.float64), dtype=np.float64)
    by_species = adata.uns.get(keys.UNS, {}).get(keys.SPECIES_AMBIENT, pd.DataFrame())
    rows, weighted = [], np.full(adata.n_obs, -1)
    weights = in_pool.astype(np.float64)
    for code, sample in enumerate(samples):
        given = (empty_profiles or {}).get(sample)
        source = "pooled_cells" if given is None else "empty_droplets"
        if given is not None:
            profiles[code] = _given_profile(given, adata, sample)
        cells = np.flatnonzero(usable & (codes == code))
        other_species = None
        if sample in by_species.index:
            measured = by_species.loc[sample, ambient_columns(organism)]
            other_species = from_species(SpeciesAmbient(*measured.astype(float)))
        ambient = sample_ambient(
            dict(zip(sets, set_counts[cells].T, strict=True)),
            pool.row_sums[cells],
            {name: float(profiles[code, columns].sum()) for name, columns in sets.items()},
            pooled=given is None,
            max_fraction=max_fraction,
            min_exposure=min_exposure,
            species=other_species,
        )
        if ambient is None:
            rows.append((assumed_fraction, max_fraction, f"{source}; {ASSUMED}", 0.0))
            continue
        (fraction, lower, upper), used, lysis = ambient
        rows.append((fraction, upper, f"{source}; {', '.join(used)}", lower))
        if given is None:
            weights[cells] = lysis
            weighted[in_pool & (codes == code)] = code
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


# The samples of a cohort have the same genes and come one after the other.
@lru_cache(maxsize=2)
def _gene_sets(var_names: tuple[str, ...], organism: Species) -> Mapping[str, NDArray[np.intp]]:
    """Columns of each panel and marker set, under the names that the data give the genes."""
    sets: dict[str, NDArray[np.intp]] = {}
    index = pd.Index(var_names, dtype=str)
    for name, genes in (PANELS | MARKERS).items():
        wanted = list(genes)
        if organism == "mouse":
            pairs = genesets.orthologs().query("human in @genes and mouse != ''")
            wanted = pairs["mouse"].tolist()
        matched = genesets.match_genes(wanted, var_names, organism=organism)
        sets[name] = np.sort(index.get_indexer(pd.Index(list(matched.values()), dtype=str)))
    sets["immunoglobulin"] = np.flatnonzero(genesets.immunoglobulin_genes(var_names))
    sets["haemoglobin"] = np.flatnonzero(genesets.haemoglobin_genes(var_names))
    for columns in sets.values():
        columns.flags.writeable = False
    return sets


def _shares(pooled: Floats) -> Floats:
    """Rows that sum to 1; a sample without a count gets a flat row."""
    total = pooled.sum(axis=1, keepdims=True)
    flat = np.full_like(pooled, 1 / pooled.shape[1])
    return np.divide(pooled, total, out=flat, where=total > 0)


def _given_profile(profile: pd.Series, adata: AnnData, sample: str) -> Floats:
    """Shares of a profile from empty droplets, in the order of the genes of the data."""
    names = adata.var_names
    if keys.ORIGINAL_NAME in adata.var.columns and not names.isin(profile.index).any():
        # Of a file with two genomes, as it names them.
        names = pd.Index(adata.var[keys.ORIGINAL_NAME].astype(str))
    values = profile.groupby(level=0).sum().reindex(names).fillna(0.0).to_numpy(float)
    if profile.isna().any() or (values < 0).any() or not np.isfinite(values).all():
        msg = f"The empty-droplet profile of sample '{sample}' has missing or negative values."
        raise InputError(msg)
    if values.sum() <= 0:
        msg = (
            f"The empty-droplet profile of sample '{sample}' holds no UMI of the genes of the data "
            f"(its index: {listing(profile.index, most=3)}). Index it by gene name."
        )
        raise InputError(msg)
    return np.asarray(values / values.sum())


def sample_ambient(
    counts: dict[str, Floats],
    totals: Floats,
    shares: dict[str, float],
    *,
    pooled: bool,
    max_fraction: float,
    min_exposure: float,
    species: Interval | None = None,
) -> tuple[Interval, list[str], Floats] | None:
    """Contamination of one sample from its panels and the other species; None without evidence.

    `counts` are UMI of each panel and marker set by cell, `totals` all UMI of the cells, `shares`
    the share of each set in ambient RNA; `pooled` says whether the profile is that of the pooled
    cells, `species` is what the cells of the other species tell, where there are any.

    Estimate and bounds, the panels that were used, and how much each cell's lineage adds to ambient
    RNA, shape `(n_cells,)`.
    """
    lineages = _lineages(counts, totals, shares, max_fraction)
    rates = _panel_rates(
        counts, totals, shares, lineages,
        pooled=pooled, max_fraction=max_fraction, min_exposure=min_exposure,
    )  # fmt: skip
    groups = _panel_cells(lineages)
    weights = {name: rate.exposure for name, rate in rates.items()}
    if pooled:
        weights = {name: float(totals[groups[name]].sum()) for name in rates}
        if sum(weights.values()) < _MIN_WEIGHT * totals.sum():
            rates = {}
    lysis = np.ones(len(totals))
    if not rates:
        return None if species is None else (species, [SPECIES], lysis)
    ratio = _MAX_RATIO_POOLED if pooled else _MAX_RATIO_DROPLETS
    (estimate, lower, upper), used = combine_rates(rates, weights, max_ratio=ratio)
    beyond = _DROPLET_ERROR * estimate
    if pooled:
        unseen = 1 - sum(weights[name] for name in used) / totals.sum()
        beyond = float(np.hypot(_POOL_ERROR, _UNSEEN_ERROR * unseen)) * estimate
    lower = max(0.0, estimate - float(np.hypot(estimate - lower, beyond)) - _LEAK)
    upper = min(1.0, estimate + float(np.hypot(upper - estimate, beyond)))
    if species is not None:
        (estimate, lower, upper), by_panels, by_species = combine_evidence(
            (estimate, lower, upper), species
        )
        used = [*(used if by_panels else []), *([SPECIES] if by_species else [])]
    for name in set(used) - {SPECIES}:
        lysis[groups[name]] = relative_lysis(rates[name], estimate, most=_MAX_RATIO_POOLED)
    # The pool holds ambient RNA besides the cells: a lineage with `w` times its share of the pool
    # in ambient RNA has `w / (1 - fraction * w)` times its share of what is not ambient RNA.
    lysis = lysis / (1 - np.minimum(estimate * lysis, _MAX_LINEAGE_AMBIENT))
    return (estimate, lower, upper), used, lysis


def _panel_rates(
    counts: dict[str, Floats],
    totals: Floats,
    shares: dict[str, float],
    lineages: dict[str, Mask],
    *,
    pooled: bool,
    max_fraction: float,
    min_exposure: float,
) -> dict[str, Rate]:
    """Contamination as each panel reads it, in the lineages that cannot express it."""
    t, nk, b, m = (lineages[name] for name in ("T", "NK", "B", "M"))
    candidates = {
        "myeloid": [t, nk, b],
        "immunoglobulin": [t & ~b, nk & ~b, m & ~b],
        "t_cell": [b & ~nk, m & ~nk],
        "haemoglobin": [t, nk, b, m],
    }
    rates: dict[str, Rate] = {}
    for name, groups in candidates.items():
        exposure = totals * shares[name]
        if exposure[np.any(groups, axis=0)].sum() < min_exposure:
            continue
        cells = agreeing_cells(
            counts[name], exposure, groups, max_fraction=max_fraction, max_ratio=_MAX_RATIO_POOLED
        )
        rate = panel_rate(counts[name][cells], exposure[cells], max_fraction=max_fraction)
        saturated = pooled and rate.estimate > _SATURATED * max_fraction
        is_sound = rate.n_cells >= _MIN_CELLS and rate.refused <= _MAX_REFUSED
        if rate.exposure >= min_exposure and is_sound and not saturated:
            rates[name] = rate
    return rates


def _lineages(
    counts: dict[str, Floats], totals: Floats, shares: dict[str, float], max_fraction: float
) -> dict[str, Mask]:
    """Cells of each lineage: more of its genes than ambient RNA could give at `max_fraction`."""

    def beyond(name: str, min_share: float) -> Mask:
        limit = largest_count(max_fraction * totals * shares[name])
        least = np.maximum(min_share * totals, _MIN_UMI)
        return np.asarray((counts[name] > limit) & (counts[name] >= least))

    return {
        "M": beyond("myeloid", _MIN_SHARE),
        "E": beyond("haemoglobin", _MIN_ERYTHROID_SHARE),
        "T": beyond("T", _MIN_CORE_SHARE),
        "NK": beyond("NK", _MIN_CORE_SHARE),
        "B": beyond("B", _MIN_CORE_SHARE) | beyond("immunoglobulin", _MIN_B_SHARE),
    }


def _panel_cells(lineages: dict[str, Mask]) -> dict[str, Mask]:
    """Cells whose lineage each panel stands for, each cell once; the rest goes with T cells."""
    erythroid = lineages["E"]
    myeloid = lineages["M"] & ~erythroid
    b_cell = lineages["B"] & ~myeloid & ~erythroid
    return {
        "myeloid": myeloid,
        "immunoglobulin": b_cell,
        "t_cell": ~(erythroid | myeloid | b_cell),
        "haemoglobin": erythroid,
    }


def from_species(ambient: SpeciesAmbient) -> Interval | None:
    """Contamination of the main species' cells from what ambient RNA brings into the other's.

    Ambient RNA of a droplet is somewhere between the same in all of them and in proportion to the
    cell. How it grows with the cells of the sample carries it over to cells of another size.

    Estimate, lower and upper bound, as share of the main genome's UMI in a cell of its species;
    None with fewer than ten cells of the other species.
    """
    if ambient.n_other < _MIN_OTHER_CELLS or not ambient.umi_main > 0:
        return None
    scaling, error = ambient.scaling, ambient.scaling_error

    def at(power: float) -> float:
        same_size = ambient.main_in_other / (1 - ambient.other_in_main)
        larger = (ambient.umi_main / ambient.umi_other) ** (min(max(power, 0.0), 1.0) - 1)
        return float(min(same_size * larger, 1.0))

    low, high = sorted([at(scaling - 2 * error), at(scaling + 2 * error)])
    low = max(0.0, (1 - _SPECIES_ERROR) * low - _MISMAPPED)
    return at(scaling), low, min(1.0, (1 + _SPECIES_ERROR) * high)


def from_cohort(table: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """Give samples without evidence the upper quartile of those that were measured.

    A fixed assumption would be taken off one arm and not off the other where arms differ in how
    many samples could be measured.

    The table, as it was with fewer than three measured samples, and notes.
    """
    source = table["ambient_source"].astype(str)
    assumed = source.str.endswith(ASSUMED).to_numpy()
    known = table.loc[~assumed & (source != CORRECTED).to_numpy()]
    if len(known) < _MIN_MEASURED or not assumed.any():
        return table, []
    fraction = float(known["ambient_fraction"].quantile(_QUARTILE))
    upper = float(known["ambient_upper"].max())
    changed = table.copy()
    columns = ["ambient_fraction", "ambient_upper", "ambient_lower"]
    changed.loc[assumed, columns] = [fraction, upper, 0.0]
    why = f"; upper quartile of {len(known)} samples, {ASSUMED}"
    changed.loc[assumed, "ambient_source"] = source[assumed].str.split(";").str[0] + why
    note = (
        f"{int(assumed.sum())} samples had too few cells or genes to measure their contamination: "
        f"{fraction:.3f} was assumed, the upper quartile of the {len(known)} measured ones."
    )
    return changed, [note]


def declared_corrected(table: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """Set the fraction of corrected counts to 0; what the panels still show is the upper bound.

    The table, and a note on each sample in which ambient RNA is left beyond doubt.
    """
    assumed = table["ambient_source"].astype(str).str.endswith(ASSUMED)
    left = table.loc[~assumed & (table["ambient_lower"] > _RESIDUAL), "ambient_fraction"]
    notes = [
        f"Sample '{name}': the counts were declared corrected for ambient RNA, yet genes that the "
        f"cells cannot express still make up a contamination of {value:.3f}. It was left in."
        for name, value in left.items()
    ]
    upper = table["ambient_upper"].astype(float)
    changed: dict[str, Any] = {
        "ambient_fraction": 0.0,
        "ambient_lower": 0.0,
        "ambient_source": CORRECTED,
    }
    return table.assign(**changed, ambient_upper=upper), notes
