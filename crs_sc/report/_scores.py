"""Scores of signatures by subject, as the tests of shifts see them, and their figure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from crs_sc import genesets, keys, plotting
from crs_sc.comparison import pseudobulk, signature_scores
from crs_sc.comparison._units import above_ambient
from crs_sc.core.arrays import as_csr
from crs_sc.report._arms import RESPONSES, headline_genes, main_sources
from crs_sc.report._key_figure import KeyFigure, organism_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from anndata import AnnData

__all__ = ["score_figures", "subject_scores"]


def subject_scores(
    adata: AnnData,
    *,
    signatures: Mapping[str, Sequence[str]],
    min_cells: int = 10,
    min_count: int = 10,
    min_genes: int = 3,
    bulk: AnnData | None = None,
) -> pd.DataFrame:
    """Score each signature by population, subject and arm, as the tests of shifts do.

    Parameters
    ----------
    adata
        The cohort after annotation.
    signatures
        Name and genes of each.
    min_cells
        A subject with fewer cells of a population is left out for it.
    min_count
        A gene counts in a population that has this many UMI of it beyond ambient RNA in as many
        subjects as the smallest arm has, and more than ambient RNA explains. `shifts` asks that of
        the two arms of a contrast, here it is asked of all arms together.
    min_genes
        A signature is shown where so many of its genes count, or all that it has in the data.
    bulk
        Pseudobulk of the cohort, if it is there already.

    Returns
    -------
    DataFrame with columns feature, population, subject, condition, score (log2 units).
    """
    bulk = pseudobulk(adata) if bulk is None else bulk
    bulk = bulk[(bulk.obs[keys.N_CELLS] >= min_cells).to_numpy()]
    known = set(bulk.var_names)
    measured = {name: [g for g in s if g in known] for name, s in signatures.items()}
    index = [keys.POPULATION, keys.SUBJECT, keys.CONDITION]
    parts = [pd.DataFrame(columns=["feature", *index, "score"])]
    for population in dict.fromkeys(bulk.obs[keys.POPULATION]):
        own = bulk[(bulk.obs[keys.POPULATION] == population).to_numpy()].copy()
        genes = set(own.var_names[_expressed(own, min_count)])
        kept = {name: [g for g in s if g in genes] for name, s in measured.items()}
        shown = {s: g for s, g in kept.items() if len(g) >= min(min_genes, len(measured[s])) > 0}
        wide = signature_scores(own, signatures=shown)
        frame = own.obs[index].astype(str).join(wide)
        long = frame.melt(id_vars=index, var_name="feature", value_name="score").dropna()
        parts.append(long[["feature", *index, "score"]])
    rank = {name: i for i, name in enumerate(signatures)}
    return pd.concat(parts[1:] or parts, ignore_index=True).sort_values(
        "feature", key=lambda names: names.map(rank), kind="stable", ignore_index=True
    )


def _expressed(bulk: AnnData, min_count: int) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Genes that the rows of one population make themselves, shape `(n_genes,)`."""
    smallest = int(bulk.obs[keys.CONDITION].astype(str).value_counts().min())
    enough = np.asarray((as_csr(bulk.X) >= min_count - 0.5).sum(axis=0)).ravel() >= smallest
    raw, ambient = (
        np.asarray(bulk.layers[name].sum(axis=0), dtype=np.float64).ravel()
        for name in (keys.COUNTS, keys.AMBIENT)
    )
    return np.asarray(enough & above_ambient(raw, ambient))


def score_figures(
    adata: AnnData,
    tables: Mapping[str, pd.DataFrame],
    arms: list[str] | None,
    signatures: Mapping[str, Sequence[str]] | None,
    *,
    bulk: AnnData | None = None,
    **settings: int,
) -> list[KeyFigure]:
    """Responses of the main sources, one point a subject."""
    shares = tables.get("ledger_by_condition")
    cells = keys.POPULATION in adata.obs.columns and keys.COUNTS in adata.layers
    if shares is None or not cells:
        return []
    populations = main_sources(shares, headline_genes(shares), most=3)
    sets = genesets.signatures(organism=organism_of(adata)) if signatures is None else signatures
    chosen = {name: list(sets[name]) for name in RESPONSES if name in sets} or {
        name: list(sets[name]) for name in list(sets)[:4]
    }
    scores = subject_scores(adata, signatures=chosen, bulk=bulk, **settings)
    scores = scores.loc[scores["population"].isin(populations)]
    if scores.empty:
        return []
    features = [name for name in chosen if name in set(scores["feature"])]
    populations = [name for name in populations if name in set(scores["population"])]

    def draw() -> Any:
        return plotting.signature_points(
            scores,
            features=features,
            populations=populations,
            conditions=arms,
            shifts=tables.get("shifts"),
        )

    return [KeyFigure("signature_points", draw)]
