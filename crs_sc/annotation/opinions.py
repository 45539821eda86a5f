"""Opinions about the cell types, and how far they agree with the populations."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from crs_sc import genesets, keys
from crs_sc.core.checks import check_obs
from crs_sc.errors import InputError, listing

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from anndata import AnnData
    from numpy.typing import NDArray

__all__ = ["add_opinion", "compare_opinions"]

_MAJORITY = 0.5
_FEWEST_CELLS = 10


def add_opinion(
    adata: AnnData, *, opinion: str, labels: Sequence[str] | NDArray[np.object_]
) -> None:
    """Store what somebody else thinks that the cells are.

    Parameters
    ----------
    adata
        Cells x genes.
    opinion
        Name of the opinion, such as that of a method or a colleague; one of that name is replaced.
    labels
        One a cell, as its author wrote it; missing ones become `Unknown`.

    Returns
    -------
    None. Writes the column `opinion` of `obsm["opinions"]`, a DataFrame of categories.

    Raises
    ------
    InputError
        If there is not one label a cell, or the name is empty.
    """
    if not opinion.strip() or "/" in opinion:
        msg = f"An opinion needs a name without '/', got {opinion!r}."
        raise InputError(msg)
    if len(labels) != adata.n_obs:
        msg = f"Opinion '{opinion}' has {len(labels)} labels for {adata.n_obs} cells."
        raise InputError(msg)
    values = pd.Series(np.asarray(labels, dtype=object), index=adata.obs_names)
    values = values.where(values.notna(), keys.UNKNOWN).astype(str).astype("category")
    held = adata.obsm.get(keys.OPINIONS, pd.DataFrame(index=adata.obs_names))
    adata.obsm[keys.OPINIONS] = held.assign(**{opinion: values})


def compare_opinions(
    adata: AnnData,
    *,
    opinions: Sequence[str] | None = None,
    label_names: str | Path | None = None,
    population_key: str = keys.POPULATION,
) -> pd.DataFrame:
    """Agreement of each opinion with each population, and over all of them.

    The labels of an opinion, and the populations where they are labels of the user, are brought to
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
        Names of the opinions; all of them if None.
    label_names
        TSV with more names of labels, columns `label` and `population`.
    population_key
        Column of `obs`.

    Returns
    -------
    DataFrame with the columns of `keys.OPINIONS_TABLE`: for each opinion a row for `All` cells,
    with Cohen's kappa, and one for each population. No rows where there is no opinion.

    Raises
    ------
    MissingKeyError
        If the column of populations is absent.
    InputError
        If there is no such opinion, or the names of labels cannot be used.
    """
    if population_key not in adata.obs:
        check_obs(adata, population_key=population_key)
    populations = adata.obs[population_key].astype(object)
    own = populations.where(populations.notna(), keys.UNKNOWN).astype(str).to_numpy()
    held = adata.obsm.get(keys.OPINIONS, pd.DataFrame(index=adata.obs_names))
    if absent := [name for name in opinions or () if name not in held]:
        msg = f"There is no opinion {listing(absent)}. Opinions: {listing(held)}."
        raise InputError(msg)
    held = held if opinions is None else held[list(opinions)]
    parts = [pd.DataFrame(columns=keys.OPINIONS_TABLE.names)]
    for opinion in held.columns:
        pairs = _pairs(own, held[opinion].astype(str).to_numpy(), label_names)
        rows = [_row(pairs, keys.ALL_POPULATIONS) | _kappas(pairs)]
        rows += [_row(part, str(name)) for name, part in pairs.groupby("population", sort=True)]
        table = pd.DataFrame(rows, columns=keys.OPINIONS_TABLE.names)
        parts.append(table.assign(opinion=opinion))
    return pd.concat(parts[1:] or parts, ignore_index=True)


def _pairs(
    own: NDArray[np.object_], other: NDArray[np.object_], label_names: str | Path | None
) -> pd.DataFrame:
    """Count the cells of each pair of labels, and say whether the two agree.

    Returns
    -------
    DataFrame with columns population (as in the data), own, other (common names), n (cells), and
    same, same_lineage (1, 0, or missing where that cannot be compared).
    """
    cells = pd.DataFrame({"population": own, "label": other})
    pairs = cells.groupby(["population", "label"], sort=True).size().rename("n").reset_index()
    named = genesets.name_labels([*pairs["population"], *pairs["label"]], user=label_names)
    lineage_of = genesets.lineages()
    populations = set(lineage_of) - {keys.UNKNOWN}
    # A name that is a lineage and no population stands for itself.
    lineage_of |= {lineage: lineage for lineage in set(lineage_of.values())}
    sides = {}
    for side, column in (("own", "population"), ("other", "label")):
        name = pairs[column].map(lambda label: named.get(label, label))
        lineage = name.map(lambda one: lineage_of.get(one, ""))
        sides[side] = pd.DataFrame({"name": name, "lineage": lineage})
    mine, yours = sides["own"], sides["other"]
    is_equal = mine["name"] == yours["name"]
    is_known = (mine["name"] != keys.UNKNOWN) & (yours["name"] != keys.UNKNOWN)
    has_lineages = is_known & (mine["lineage"] != "") & (yours["lineage"] != "")
    is_fine = mine["name"].isin(populations) & yours["name"].isin(populations)
    # Names that no table knows can only be compared if they are the same.
    is_own_name = is_equal & (mine["lineage"] == "")
    same = is_equal.astype(float).where(is_known & (is_fine | is_own_name))
    same_lineage = (mine["lineage"] == yours["lineage"]).astype(float)
    same_lineage = same_lineage.where(has_lineages, same)
    return pairs.assign(own=mine["name"], other=yours["name"], same=same, same_lineage=same_lineage)


def _row(pairs: pd.DataFrame, population: str) -> dict[str, Any]:
    """Agreement over some pairs."""
    n, is_equal = pairs["n"], pairs["own"] == pairs["other"]
    n_cells = int(n.sum())
    n_compared = int(n[pairs["same_lineage"].notna()].sum())
    differing = n[~is_equal].groupby(pairs["other"], sort=True).sum()
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
    """Cohen's kappa of the populations and of the lineages, each over the cells compared by it."""
    lineage_of = genesets.lineages()
    fine = pairs.loc[pairs["same"].notna(), ["own", "other", "n"]]
    coarse = pairs.loc[pairs["same_lineage"].notna(), ["own", "other", "n"]]
    for side in ("own", "other"):
        coarse[side] = coarse[side].map(lambda name: lineage_of.get(name, name))
    return {"kappa": _kappa(fine), "kappa_lineage": _kappa(coarse)}


def _kappa(pairs: pd.DataFrame) -> float:
    """Cohen's kappa; missing without cells, or where both sides have one and the same label."""
    from sklearn.metrics import cohen_kappa_score

    if len({*pairs["own"], *pairs["other"]}) < 2:
        return np.nan
    return float(cohen_kappa_score(pairs["own"], pairs["other"], sample_weight=pairs["n"]))
