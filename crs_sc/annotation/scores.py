"""Signature scores of single cells, for pictures; statistics use pseudobulk scores."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from crs_sc import keys
from crs_sc.annotation._rank_scores import rank_scores
from crs_sc.core.blocks import count_chunks
from crs_sc.core.checks import add_note, gene_positions
from crs_sc.errors import InputError, listing

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from anndata import AnnData

__all__ = ["score_signatures"]


def score_signatures(
    adata: AnnData,
    *,
    signatures: Mapping[str, Sequence[str]],
    max_rank: int = 1500,
    layer: str = keys.COUNTS,
) -> None:
    """Score each signature in each cell by the ranks of its genes within the cell.

    The score of a cell depends on its own counts alone. The counts are gone over once, in chunks
    of cells, in memory or on disk (`io.open_h5ad`).

    Parameters
    ----------
    adata
        Cells x genes, in memory or from `io.open_h5ad`.
    signatures
        Name and genes; genes that are not in the data are left out of the score, and a signature
        without any has no column and a note.
    max_rank
        Genes of a cell that are ranked; fewer where the data have fewer.
    layer
        Layer with raw counts.

    Returns
    -------
    None. Writes `obsm["signature_scores"]`: float32 DataFrame, shape `(n_cells, n_signatures)`,
    0 (none of the genes is high in the cell) to 1, and `obs["chance_score"]`: the score expected
    of a set without meaning, larger in a deep cell and in a small panel.

    Raises
    ------
    InputError
        If no gene of any signature is in the data, or the layer does not hold counts.
    """
    found = {
        name: list(gene_positions(adata, genes).values()) for name, genes in signatures.items()
    }
    absent = [name for name, genes in found.items() if not genes]
    if len(absent) == len(found):
        msg = (
            f"No gene of the signatures {listing(absent)} is in the data "
            f"({adata.n_vars} genes such as {listing(adata.var_names[:3])}). "
            "Is the organism right, and are the gene names symbols?"
        )
        raise InputError(msg)
    if absent:
        add_note(adata, f"No gene of these signatures is in the data: {listing(absent)}.")
    kept = {name: np.asarray(genes) for name, genes in found.items() if genes}
    limit = max(min(max_rank, adata.n_vars), *(len(genes) for genes in kept.values()))
    columns = list(kept.values())
    scores = np.empty((adata.n_obs, len(columns)), dtype=np.float32)
    chance = np.empty(adata.n_obs)
    for rows, counts in count_chunks(adata, layer=layer):
        counts.sum_duplicates()
        scores[rows], chance[rows] = rank_scores(counts, columns, max_rank=limit)
    adata.obsm[keys.SIGNATURE_SCORES] = pd.DataFrame(
        scores, index=adata.obs_names, columns=list(kept)
    )
    adata.obs[keys.CHANCE_SCORE] = chance
