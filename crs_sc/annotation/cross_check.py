"""Annotation cross-check: the populations against labels of other origin."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd

from crs_sc import genesets, keys
from crs_sc.annotation.cell_types import annotate
from crs_sc.core.checks import check_obs
from crs_sc.errors import InputError, listing

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from anndata import AnnData
    from numpy.typing import NDArray

__all__ = ["add_marker_opinion", "add_opinion", "check_labels", "compare_opinions"]

# A verdict needs more than this share of the compared cells, and as many that can be compared.
_MAJORITY = 0.5
# Of fewer cells nothing is said.
_FEWEST_CELLS = 10


def add_opinion(
    adata: AnnData, *, opinion: str, labels: Sequence[str] | NDArray[np.object_]
) -> None:
    """Store labels of another origin beside the populations, to be compared with them.

    Parameters
    ----------
    adata
        Cells x genes.
    opinion
        Name of these labels, such as that of a method or a colleague; those of that name are
        replaced.
    labels
        One a cell, as its author wrote it; missing ones become `Unknown`.

    Returns
    -------
    None. Writes the column `opinion` of `obsm["opinions"]`, a DataFrame of categories.

    Raises
    ------
    InputError
        If there is not one label a cell, or the name is empty.

    Examples
    --------
    >>> import crs_sc as crs
    >>> adata = crs.datasets.toy_cohort()
    >>> crs.tl.add_opinion(adata, opinion="colleague", labels=["T cells"] * adata.n_obs)
    """
    if not opinion.strip() or "/" in opinion:
        msg = f"An opinion needs a name without '/', got {opinion!r}."
        raise InputError(msg)
    if len(labels) != adata.n_obs:
        msg = f"Opinion '{opinion}' has {len(labels)} labels for {adata.n_obs} cells."
        raise InputError(msg)
    values = pd.Series(np.asarray(labels, dtype=object), index=adata.obs_names)
    values = values.where(values.notna(), keys.UNKNOWN).astype(str).astype("category")
    others = adata.obsm.get(keys.OPINIONS, pd.DataFrame(index=adata.obs_names))
    adata.obsm[keys.OPINIONS] = others.assign(**{opinion: values})


def compare_opinions(
    adata: AnnData,
    *,
    opinions: Sequence[str] | None = None,
    label_names: str | Path | None = None,
    population_key: str = keys.POPULATION,
) -> pd.DataFrame:
    """Agreement of labels of other origin with each population, and over all of them.

    These labels, and the populations where they are labels of the user, are brought to
    common names first (`genesets.name_labels`). A label that says less than the population, such
    as "T cells" of a CD4 T cell, is compared by lineage only. A cell is compared if both sides
    name a known lineage or the same name; `Unknown` agrees with nothing.

    The verdict is `agrees` if more than half of the compared cells have the same population,
    `lineage_agrees` if more than half have the same lineage, else `disagrees`; `cannot_tell` if
    fewer than 10 cells, or fewer than half of them, can be compared.

    Parameters
    ----------
    adata
        Cells x genes with `obsm["opinions"]`.
    opinions
        Names that were given to them; all if None.
    label_names
        TSV with more names of labels, columns `label` and `population`.
    population_key
        Column of `obs`.

    Returns
    -------
    DataFrame with the columns of `keys.OPINIONS_TABLE`: for each name a row for `All` cells,
    with Cohen's kappa, and one for each population. No rows where there are no other labels.

    Raises
    ------
    MissingKeyError
        If the column of populations is absent.
    InputError
        If there are no labels of that name, or the names of labels cannot be used.

    Examples
    --------
    >>> import crs_sc as crs
    >>> adata = crs.datasets.toy_cohort()
    >>> crs.tl.add_opinion(adata, opinion="colleague", labels=["T cells"] * adata.n_obs)
    >>> agreement = crs.tl.compare_opinions(adata)
    """
    if population_key not in adata.obs:
        check_obs(adata, population_key=population_key)
    populations = adata.obs[population_key].astype(object)
    named = populations.where(populations.notna(), keys.UNKNOWN).astype(str).to_numpy()
    others = adata.obsm.get(keys.OPINIONS, pd.DataFrame(index=adata.obs_names))
    if absent := [name for name in opinions or () if name not in others]:
        msg = f"There is no opinion {listing(absent)}. Opinions: {listing(others)}."
        raise InputError(msg)
    others = others if opinions is None else others[list(opinions)]
    parts = [pd.DataFrame(columns=keys.OPINIONS_TABLE.names)]
    for opinion in others.columns:
        pairs = _pairs(named, others[opinion].astype(str).to_numpy(), label_names)
        rows = [_row(pairs, keys.ALL_POPULATIONS) | _kappas(pairs)]
        rows += [_row(part, str(name)) for name, part in pairs.groupby("population", sort=True)]
        table = pd.DataFrame(rows, columns=keys.OPINIONS_TABLE.names)
        parts.append(table.assign(opinion=opinion))
    return pd.concat(parts[1:] or parts, ignore_index=True)


def _pairs(
    populations: NDArray[np.object_], labels: NDArray[np.object_], label_names: str | Path | None
) -> pd.DataFrame:
    """Count the cells (n) of each pair of labels, and say whether the two agree.

    The populations are as in the data, `ours` and `theirs` are common names; `same` and
    `same_lineage` are 1, 0, or missing where that cannot be compared.
    """
    cells = pd.DataFrame({"population": populations, "label": labels})
    pairs = cells.groupby(["population", "label"], sort=True).size().rename("n").reset_index()
    named = genesets.name_labels([*pairs["population"], *pairs["label"]], user=label_names)
    lineage_of = genesets.lineages()
    types = set(lineage_of) - {keys.UNKNOWN}
    # A name that is a lineage and no population stands for itself.
    lineage_of |= {lineage: lineage for lineage in set(lineage_of.values())}
    ours, theirs = (
        pairs[column].map(lambda label: named.get(label, label))
        for column in ("population", "label")
    )
    our_lineage, their_lineage = (
        side.map(lambda name: lineage_of.get(name, "")) for side in (ours, theirs)
    )
    is_equal = ours == theirs
    is_known = (ours != keys.UNKNOWN) & (theirs != keys.UNKNOWN)
    has_lineages = is_known & (our_lineage != "") & (their_lineage != "")
    is_fine = ours.isin(types) & theirs.isin(types)
    # Names that no table knows can only be compared if they are the same.
    is_own_name = is_equal & (our_lineage == "")
    same = is_equal.astype(float).where(is_known & (is_fine | is_own_name))
    same_lineage = (our_lineage == their_lineage).astype(float).where(has_lineages, same)
    return pairs.assign(ours=ours, theirs=theirs, same=same, same_lineage=same_lineage)


def _row(pairs: pd.DataFrame, population: str) -> dict[str, Any]:
    """Agreement over some pairs."""
    n, is_equal = pairs["n"], pairs["ours"] == pairs["theirs"]
    n_cells = int(n.sum())
    n_compared = int(n[pairs["same_lineage"].notna()].sum())
    differing = n[~is_equal].groupby(pairs["theirs"], sort=True).sum()
    # The most frequent, the first by name of equally frequent ones.
    differing = differing.sort_values(ascending=False, kind="stable")
    agreement, lineage_agreement = (_mean(pairs[name], n) for name in ("same", "same_lineage"))
    other_share = float(differing.iloc[0] / n_cells) if len(differing) else 0.0
    if n_compared < max(_FEWEST_CELLS, _MAJORITY * n_cells):
        verdict = keys.CANNOT_TELL
    elif agreement > _MAJORITY:
        verdict = keys.AGREES
    else:
        verdict = keys.LINEAGE_AGREES if lineage_agreement > _MAJORITY else keys.DISAGREES
    return {
        "population": population,
        "n_cells": n_cells,
        "n_compared": n_compared,
        "agreement": agreement,
        "lineage_agreement": lineage_agreement,
        "other_label": str(differing.index[0]) if len(differing) else "",
        "other_share": other_share,
        "margin": float(n[is_equal].sum() / n_cells) - other_share,
        "verdict": verdict,
    }


def _mean(values: pd.Series, n: pd.Series) -> float:
    """Mean over the cells of which the value is known, NaN without any."""
    known = values.notna()
    total = int(n[known].sum())
    return float((values * n)[known].sum() / total) if total else np.nan


def _kappas(pairs: pd.DataFrame) -> dict[str, float]:
    """Cohen's kappa of the populations and of the lineages, each over the cells compared by it.

    Missing without cells, or where both sides have one and the same label.
    """
    from sklearn.metrics import cohen_kappa_score

    kappas = {}
    by_lineage = pairs.replace({"ours": genesets.lineages(), "theirs": genesets.lineages()})
    for name, compared, part in (
        ("kappa", "same", pairs),
        ("kappa_lineage", "same_lineage", by_lineage),
    ):
        ours, theirs, n = (part.loc[part[compared].notna(), key] for key in ("ours", "theirs", "n"))
        is_one = len({*ours, *theirs}) < 2
        kappas[name] = np.nan if is_one else cohen_kappa_score(ours, theirs, sample_weight=n)
    return kappas


def add_marker_opinion(
    adata: AnnData,
    *,
    organism: Literal["human", "mouse"] = "human",
    opinion: str = keys.MARKERS,
    settings: Mapping[str, Any] | None = None,
    random_state: int = 0,
) -> None:
    """Store what the markers say of each cell, whatever its population is called.

    Parameters
    ----------
    adata
        Cells x genes with log-normalised `X` and clusters.
    organism
        Whose markers.
    opinion
        Name of these labels.
    settings
        More keyword arguments of `annotate`.
    random_state
        Seed.

    Returns
    -------
    None. Writes the column `opinion` of `obsm["opinions"]`: the population that `annotate` gives
    without labels.

    Raises
    ------
    MissingKeyError
        If `X` or the clusters are absent.
    InputError
        If no cell type has enough markers in the data.

    Examples
    --------
    >>> import crs_sc as crs
    >>> adata = crs.datasets.toy_cohort()
    >>> crs.tl.add_marker_opinion(adata)
    """
    import anndata as ad

    # Shares the matrices and graphs; only what `annotate` writes is apart.
    light = ad.AnnData(
        adata.X,
        obs=adata.obs.copy(),
        var=adata.var,
        layers=dict(adata.layers),
        obsm=dict(adata.obsm),
        varm=dict(adata.varm),
        obsp=dict(adata.obsp),
        uns={keys.UNS: dict(adata.uns.get(keys.UNS, {}))},
    )
    annotate(light, organism=organism, random_state=random_state, **(settings or {}))
    add_opinion(adata, opinion=opinion, labels=light.obs[keys.POPULATION].to_numpy(dtype=object))


def check_labels(
    adata: AnnData,
    *,
    label_key: str = keys.LABEL,
    organism: Literal["human", "mouse"] = "human",
    label_names: str | Path | None = None,
    settings: Mapping[str, Any] | None = None,
    random_state: int = 0,
) -> pd.DataFrame:
    """Compare the user's labels with the markers; the labels stay as they are.

    Parameters
    ----------
    adata
        Cells x genes with log-normalised `X` and clusters.
    label_key
        Column of `obs` with the labels; a cell without one is `Unknown`.
    organism
        Whose markers.
    label_names
        TSV with more names of labels, columns `label` and `population`.
    settings
        More keyword arguments of `annotate`.
    random_state
        Seed.

    Returns
    -------
    DataFrame with the columns of `keys.OPINIONS_TABLE`, opinion `markers`: one row a label, and
    `All`. `agreement` is the share of the label's cells for which the markers say the same,
    `other_label` what they say most often instead, `margin` by how much the label wins. Writes
    the column `markers` of `obsm["opinions"]` as well.

    Raises
    ------
    MissingKeyError
        If `X`, the clusters or the column are absent.
    InputError
        If no cell type has enough markers in the data.

    Examples
    --------
    >>> import crs_sc as crs
    >>> adata = crs.datasets.toy_cohort()
    >>> agreement = crs.tl.check_labels(adata, label_key="population")
    """
    if label_key not in adata.obs:
        check_obs(adata, label_key=label_key)
    add_marker_opinion(adata, organism=organism, settings=settings, random_state=random_state)
    return compare_opinions(
        adata, opinions=[keys.MARKERS], label_names=label_names, population_key=label_key
    )
