"""Scores of signatures by subject, as the tests of shifts see them, and their figure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from crs_sc import comparison, genesets, keys, plotting
from crs_sc.report._arms import RESPONSES, headline_genes, main_sources
from crs_sc.report._key_figure import KeyFigure, organism_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pandas as pd
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
    As `tl.subject_scores`.
    """
    return comparison.subject_scores(
        comparison.pseudobulk(adata) if bulk is None else bulk,
        signatures=signatures,
        min_cells=min_cells,
        min_count=min_count,
        min_genes=min_genes,
    )


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
