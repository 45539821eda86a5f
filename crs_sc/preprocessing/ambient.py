"""The soup of each sample: its profile, and how much of a cell's UMI came from it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd

from crs_sc import genesets, keys
from crs_sc._arrays import group_sums
from crs_sc._checks import check_fraction, check_obs, counts_matrix, store
from crs_sc.errors import InputError, listing
from crs_sc.preprocessing._contamination import (
    Rate,
    combine_rates,
    largest_ambient_count,
    panel_rate,
    relative_lysis,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from anndata import AnnData
    from numpy.typing import NDArray
    from scipy import sparse

__all__ = ["estimate_ambient"]

# Genes that one lineage makes in quantity and the others cannot; haemoglobins and immunoglobulins
# come from `genesets`. No target cytokine is among them.
PANELS: dict[str, tuple[str, ...]] = {
    "myeloid": ("LYZ", "S100A8", "S100A9"),
    "t_cell": ("CD3D", "CD3E", "CD3G", "TRAC", "TRBC1"),
}
# Core markers: a cell with more of them than the soup can give belongs to the lineage.
MARKERS: dict[str, tuple[str, ...]] = {
    "T": ("CD3D", "CD3E", "CD3G", "TRAC", "CD2"),
    "NK": ("NKG7", "GNLY", "KLRD1", "KLRF1"),
    "B": ("MS4A1", "CD79A", "CD79B"),
}
# A myeloid, antibody-making or erythroid cell spends at least this share of its UMI on its panel.
_MIN_SHARE = 0.003
_MIN_B_SHARE = 0.01
_MIN_ERYTHROID_SHARE = 0.1
_MIN_UMI = 2
# Panels may differ this much: with the true profile by chance only, with a pooled one because
# lineages lyse unequally.
_MAX_RATIO_DROPLETS = 2.0
_MAX_RATIO_POOLED = 3.0
# With a pooled profile, panels that stand for less of the sample than this say too little.
_MIN_WEIGHT = 0.1
# A pooled panel that reads this close to `max_fraction` is itself nothing but soup.
_SATURATED = 0.95
# A pooled profile is not quite the soup; simulated and real samples were up to this far off.
_POOL_ERROR = 0.15


@dataclass(frozen=True)
class _Soup:
    """Contamination of one sample, and how much each cell's lineage adds to the soup."""

    fraction: float
    upper: float
    panels: list[str]
    weights: NDArray[np.float64]


def estimate_ambient(
    adata: AnnData,
    *,
    organism: Literal["human", "mouse"] = "human",
    sample_key: str = keys.SAMPLE,
    empty_profiles: Mapping[str, pd.Series] | None = None,
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
    soup can give; cells with an impossible panel count and cells called doublets are left out,
    and the rate is fitted to the Poisson truncated at that cut. Target cytokines are never used.

    With a pooled profile, panels are averaged with the share of the sample's UMI that their
    lineage holds, which gives the contamination also where one lineage lyses more easily than
    another; the pool is then weighted by what the panels say of each lineage. A panel that reads
    near `max_fraction` is ignored: its genes are in the pool only because the soup brought them
    (haemoglobin of lysed erythrocytes). With empty droplets, panels are averaged by exposure. In
    both cases a panel grossly above the others is left out, since real expression raises one
    panel and soup raises all.

    Parameters
    ----------
    adata
        Cells x genes with raw counts, one genome, before `filter_cells`.
    organism
        `human` or `mouse`: whose genes these are.
    sample_key
        Column of `obs`.
    empty_profiles
        Sample -> counts or shares of the soup from empty droplets, indexed by gene name. Samples
        without one use their pooled cells.
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
    `ambient_source`: profile, then the panels used or `assumed`). Where it is assumed, the upper
    bound is the assumed value itself.

    References
    ----------
    Young and Behjati 2020, GigaScience 9:giaa151 (SoupX) for the principle.
    """
    for name, value in (("assumed_fraction", assumed_fraction), ("max_fraction", max_fraction)):
        check_fraction(name, value)
    check_obs(adata, sample_key=sample_key)
    counts = counts_matrix(adata)
    own = _own_species(adata, organism)
    clean = own & _usable(adata)
    codes, samples = pd.factorize(adata.obs[sample_key].astype(str), sort=True)
    pooled = group_sums(counts, np.where(own, codes, -1), len(samples))
    profiles = _shares(pooled)
    sets = _gene_sets(adata, organism)
    totals = np.asarray(counts.sum(axis=1), dtype=np.float64).ravel()
    set_counts = _set_counts(counts, sets)
    rows = []
    weights = own.astype(np.float64)
    for code, sample in enumerate(samples):
        given = (empty_profiles or {}).get(str(sample))
        if given is not None:
            profiles[code] = _given_profile(given, adata.var_names, str(sample))
        cells = np.flatnonzero(clean & (codes == code))
        soup = _sample_soup(
            {name: values[cells] for name, values in set_counts.items()},
            totals[cells],
            {name: float(profiles[code, index].sum()) for name, index in sets.items()},
            pooled=given is None,
            max_fraction=max_fraction,
            min_exposure=min_exposure,
        )
        source = "pooled_cells" if given is None else "empty_droplets"
        if soup is None:
            rows.append((assumed_fraction, assumed_fraction, f"{source}; assumed"))
            continue
        rows.append((soup.fraction, soup.upper, f"{source}; {', '.join(soup.panels)}"))
        if given is None:
            weights[cells] = soup.weights
            mine = np.flatnonzero(own & (codes == code))
            profiles[code] = _shares(np.atleast_2d(weights[mine] @ counts[mine]))[0]
    names = pd.Index(samples.astype(str), name=keys.SAMPLE)
    adata.varm[keys.AMBIENT_PROFILE] = pd.DataFrame(
        profiles.T, index=adata.var_names, columns=names.to_numpy()
    )
    columns = ["ambient_fraction", "ambient_upper", "ambient_source"]
    store(adata, keys.CONTAMINATION, pd.DataFrame(rows, index=names, columns=columns))


def _sample_soup(
    counts: dict[str, NDArray[np.float64]],
    totals: NDArray[np.float64],
    shares: dict[str, float],
    *,
    pooled: bool,
    max_fraction: float,
    min_exposure: float,
) -> _Soup | None:
    """Contamination of one sample from its panels; None without evidence.

    Parameters
    ----------
    counts
        UMI of each panel and marker set, shape `(n_cells,)` each.
    totals
        UMI of the cells, shape `(n_cells,)`.
    shares
        Share of each set in the soup.
    pooled
        Whether the profile is that of the pooled cells.
    max_fraction, min_exposure
        See `estimate_ambient`.
    """
    lineages = _lineages(counts, totals, shares, max_fraction)
    candidates = {
        "myeloid": lineages["T"] | lineages["NK"] | lineages["B"],
        "immunoglobulin": (lineages["T"] | lineages["NK"] | lineages["M"]) & ~lineages["B"],
        "t_cell": (lineages["B"] | lineages["M"]) & ~lineages["NK"],
        "haemoglobin": lineages["T"] | lineages["NK"] | lineages["B"] | lineages["M"],
    }
    rates: dict[str, Rate] = {}
    for name, cells in candidates.items():
        exposure = totals[cells] * shares[name]
        if exposure.sum() < min_exposure:
            continue
        rate = panel_rate(counts[name][cells], exposure, max_fraction=max_fraction)
        saturated = pooled and rate.estimate > _SATURATED * max_fraction
        if rate.exposure >= min_exposure and not saturated:
            rates[name] = rate
    if not rates:
        return None
    groups = _panel_cells(lineages)
    if pooled:
        weights = {name: float(totals[groups[name]].sum()) for name in rates}
        ratio = _MAX_RATIO_POOLED
        if sum(weights.values()) < _MIN_WEIGHT * totals.sum():
            return None
    else:
        weights = {name: rate.exposure for name, rate in rates.items()}
        ratio = _MAX_RATIO_DROPLETS
    estimate, upper, used = combine_rates(rates, weights, max_ratio=ratio)
    if pooled:
        upper += _POOL_ERROR * estimate
    lysis = np.ones(len(totals))
    for name in used:
        lysis[groups[name]] = relative_lysis(rates[name], estimate, most=_MAX_RATIO_POOLED)
    return _Soup(estimate, min(upper, 1.0), used, lysis)


def _lineages(
    counts: dict[str, NDArray[np.float64]],
    totals: NDArray[np.float64],
    shares: dict[str, float],
    max_fraction: float,
) -> dict[str, NDArray[np.bool_]]:
    """Cells of each lineage: more of its genes than the soup could give at `max_fraction`."""

    def beyond(name: str, least: NDArray[np.float64]) -> NDArray[np.bool_]:
        limit = largest_ambient_count(max_fraction * totals * shares[name])
        found: NDArray[np.bool_] = (counts[name] > limit) & (counts[name] >= least)
        return found

    own = np.maximum(_MIN_SHARE * totals, _MIN_UMI)
    few = np.full(len(totals), float(_MIN_UMI))
    return {
        "M": beyond("myeloid", own),
        "E": beyond("haemoglobin", np.maximum(_MIN_ERYTHROID_SHARE * totals, _MIN_UMI)),
        "T": beyond("T", few),
        "NK": beyond("NK", few),
        "B": beyond("B", few)
        | beyond("immunoglobulin", np.maximum(_MIN_B_SHARE * totals, _MIN_UMI)),
    }


def _panel_cells(lineages: dict[str, NDArray[np.bool_]]) -> dict[str, NDArray[np.bool_]]:
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


def _gene_sets(adata: AnnData, organism: Literal["human", "mouse"]) -> dict[str, NDArray[np.intp]]:
    """Columns of each panel and marker set, under the names that the data give the genes."""
    sets = {}
    for name, genes in (PANELS | MARKERS).items():
        wanted = list(genes)
        if organism == "mouse":
            pairs = genesets.orthologs()
            wanted = pairs.loc[
                pairs["human"].isin(genes) & (pairs["mouse"] != ""), "mouse"
            ].tolist()
        found = genesets.match_genes(wanted, adata.var_names, organism=organism)
        sets[name] = np.sort(adata.var_names.get_indexer(pd.Index(list(found.values()), dtype=str)))
    sets["immunoglobulin"] = np.flatnonzero(genesets.immunoglobulin_genes(adata.var_names))
    sets["haemoglobin"] = np.flatnonzero(genesets.haemoglobin_genes(adata.var_names))
    return sets


def _set_counts(
    counts: sparse.csr_matrix, sets: dict[str, NDArray[np.intp]]
) -> dict[str, NDArray[np.float64]]:
    """UMI of each set per cell, in one pass over the counts."""
    indicator = np.zeros((counts.shape[1], len(sets)))
    for column, index in enumerate(sets.values()):
        indicator[index, column] = 1.0
    summed = np.asarray(counts @ indicator, dtype=np.float64)
    return {name: summed[:, column] for column, name in enumerate(sets)}


def _shares(pooled: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rows that sum to 1; a sample without a count gets a flat row."""
    total = pooled.sum(axis=1, keepdims=True)
    flat = np.full_like(pooled, 1 / pooled.shape[1])
    return np.divide(pooled, total, out=flat, where=total > 0)


def _given_profile(
    profile: pd.Series, genes: Sequence[str] | pd.Index, sample: str
) -> NDArray[np.float64]:
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
    # Barcodes too poor to call are soup: they belong to the pool.
    return np.asarray((species == organism) | species.isna(), dtype=bool)


def _usable(adata: AnnData) -> NDArray[np.bool_]:
    """Cells that may bear evidence: those that passed so far, or all before quality control."""
    if keys.QC_STATUS not in adata.obs.columns:
        return np.ones(adata.n_obs, dtype=bool)
    return np.asarray(adata.obs[keys.QC_STATUS].astype(str) == keys.PASS, dtype=bool)
