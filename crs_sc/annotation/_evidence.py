"""Evidence beside the name of each part of a cluster."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from crs_sc import keys
from crs_sc.core.checks import add_note
from crs_sc.errors import listing

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData
    from numpy.typing import NDArray

    from crs_sc.annotation._marker_scores import Panel

__all__ = ["cell_evidence", "marker_evidence", "n_shown"]

_STRESS = "dissociation_stress"
# Relative expression from which a marker is there.
_SHOWN = 0.25


def marker_evidence(
    relative: NDArray[np.float64],
    panels: Sequence[Panel],
    genes: Sequence[str],
    best: Sequence[int],
    *,
    most: int = 6,
) -> list[str]:
    """Name the markers that speak most for the type of each part, and those that speak against.

    Parameters
    ----------
    relative
        Expression relative to the highest of each gene, shape `(n_parts, n_genes)`.
    panels
        One a type.
    genes
        Name of each column of `relative`.
    best
        Type of each part as position in `panels`, -1 for none.
    most
        Markers that are named, the strongest first.

    Returns
    -------
    For example "MPO, AZU1, CTSG; against it CD14"; empty for parts without a type.
    """
    found = []
    for level, code in zip(relative, best, strict=True):
        if code < 0:
            found.append("")
            continue
        panel = panels[code]
        seen = _strongest(level, panel.positive, panel.positive_weight, genes, most)
        against = _strongest(level, panel.negative, panel.negative_weight, genes, most)
        found.append(", ".join(seen) + (f"; against it {', '.join(against)}" if against else ""))
    return found


def n_shown(
    relative: NDArray[np.float64], panels: Sequence[Panel], best: Sequence[int]
) -> NDArray[np.int64]:
    """Count the markers of its type that each part shows, shape `(n_parts,)`.

    Parameters
    ----------
    relative, panels, best
        As for :func:`marker_evidence`; every part has a type.
    """
    shown = [
        int((level[panels[code].positive] >= _SHOWN).sum())
        for level, code in zip(relative, best, strict=True)
    ]
    return np.array(shown, dtype=np.int64)


def _strongest(
    level: NDArray[np.float64],
    columns: NDArray[np.intp],
    weight: NDArray[np.float64],
    genes: Sequence[str],
    most: int,
) -> list[str]:
    """Genes by weight times relative expression, those that are there."""
    order = np.argsort(-(weight * level[columns]), kind="stable")
    return [genes[int(i)] for i in columns[order] if level[i] >= _SHOWN][:most]


def cell_evidence(
    adata: AnnData,
    clusters: pd.Series,
    codes: NDArray[np.integer],
    mixed: NDArray[np.bool_],
    n_parts: int,
) -> pd.DataFrame:
    """Mean doublet and stress score of each part, and the mixtures of its cluster.

    Parameters
    ----------
    adata
        Cells x genes; scores that it does not have are missing in the result.
    clusters
        Cluster of each cell, a category.
    codes
        Part of each cell.
    mixed
        Whether each cell carries the markers of two compartments.
    n_parts
        Number of parts.

    Returns
    -------
    Columns doublet_score, stress and mixed_share, a row for each part. A note names the clusters
    of which half of the cells or more are mixtures.
    """
    part = pd.Series(codes, index=adata.obs_names)
    scores: dict[str, pd.Series] = {}
    if keys.DOUBLET_SCORE in adata.obs:
        scores["doublet_score"] = adata.obs[keys.DOUBLET_SCORE].astype(float)
    if _STRESS in adata.obsm.get(keys.SIGNATURE_SCORES, ()):
        scores["stress"] = adata.obsm[keys.SIGNATURE_SCORES][_STRESS].astype(float)
    rows = range(n_parts)
    table = pd.DataFrame(
        {
            name: scores[name].groupby(part).mean().reindex(rows) if name in scores else np.nan
            for name in ("doublet_score", "stress")
        },
        index=rows,
    )
    share = pd.Series(mixed, index=adata.obs_names).groupby(clusters, observed=True).mean()
    table["mixed_share"] = clusters.map(share).astype(float).groupby(part).first().reindex(rows)
    mostly = [str(name) for name in share.index[share >= 0.5]]
    if mostly:
        add_note(
            adata,
            "Clusters of mixtures, half of whose cells or more carry the markers of two "
            f"compartments: {listing(mostly)}.",
        )
    return table
