"""Signature scores of single cells, and the states of monocytes and macrophages from them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from crs_sc import keys
from crs_sc.core.arrays import compiled
from crs_sc.core.blocks import count_chunks
from crs_sc.core.checks import add_note, check_obs, gene_positions
from crs_sc.errors import InputError, MissingKeyError, listing

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from anndata import AnnData
    from numpy.typing import NDArray
    from scipy import sparse

__all__ = ["MYELOID_STATES", "call_myeloid_states", "rank_scores", "score_signatures"]

# Counts up to this are ranked by counting them; the few above it by sorting.
_SMALL = 63
# With fewer genes in the data the ranks are those of a chosen panel, not of the cell.
_WHOLE_CELL = 5000
# State, the signatures that speak for it (their mean) and the one that speaks against it.
MYELOID_STATES = (
    ("interferon_stimulated", ("type1_ifn_response",), None),
    ("inflammatory", ("inflammatory_monocyte", "il1_response", "nfkb_response"), None),
    ("hla_dr_low", ("s100a_high",), "hla_dr"),
)
RESTING = "resting"


def score_signatures(
    adata: AnnData,
    *,
    signatures: Mapping[str, Sequence[str]],
    max_rank: int = 1500,
    layer: str = keys.COUNTS,
) -> None:
    """Score each signature in each cell by the ranks of its genes within the cell.

    The score of a cell depends on its own counts alone, of all genes: the rest of a condensed
    cohort (`all other genes`) is no gene and has no rank. The counts are gone over once, in chunks
    of cells, in memory or on disk (`io.open_h5ad`). Scores are for pictures; statistics use those
    of pseudobulks.

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

    Examples
    --------
    >>> import crs_sc as crs
    >>> adata = crs.datasets.toy_cohort()
    >>> crs.tl.score_signatures(adata, signatures={"t_cell": ["CD3D", "CD3E", "TRAC"]})
    >>> scores = adata.obsm["signature_scores"]["t_cell"]
    """
    is_gene = np.asarray(adata.var_names != keys.OTHER_GENES)
    columns_of = {
        name: list(gene_positions(adata, genes).values()) for name, genes in signatures.items()
    }
    absent = [name for name, genes in columns_of.items() if not genes]
    if len(absent) == len(columns_of):
        msg = (
            f"No gene of the signatures {listing(absent)} is in the data "
            f"({adata.n_vars} genes such as {listing(adata.var_names[:3])}). "
            "Is the organism right, and are the gene names symbols?"
        )
        raise InputError(msg)
    if absent:
        add_note(adata, f"No gene of these signatures is in the data: {listing(absent)}.")
    n_genes = int(is_gene.sum())
    if n_genes < _WHOLE_CELL:
        add_note(
            adata,
            f"With {n_genes} genes in the data, scores rank a cell's genes within a chosen "
            "panel: myeloid states are comparable between these cells only.",
        )
    # Columns among the genes alone.
    position = np.cumsum(is_gene) - 1
    kept = {name: position[columns] for name, columns in columns_of.items() if columns}
    limit = max(min(max_rank, n_genes), *(len(columns) for columns in kept.values()))
    scores = np.empty((adata.n_obs, len(kept)), dtype=np.float32)
    chance = np.empty(adata.n_obs)
    for rows, chunk in count_chunks(adata, layer=layer):
        counts = chunk if n_genes == adata.n_vars else chunk[:, is_gene]
        counts.sum_duplicates()
        scores[rows], chance[rows] = rank_scores(counts, list(kept.values()), max_rank=limit)
    adata.obsm[keys.SIGNATURE_SCORES] = pd.DataFrame(
        scores, index=adata.obs_names, columns=list(kept)
    )
    adata.obs[keys.CHANCE_SCORE] = chance


def rank_scores(
    counts: sparse.csr_matrix, sets: Sequence[NDArray[np.integer]], *, max_rank: int
) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Mann-Whitney score of each gene set in each cell.

    Genes are ranked within the cell from the highest count (ties share their mean rank); genes
    without a count and ranks above `max_rank` are set to `max_rank + 1`. With R the sum of the
    set's ranks and n its size, the score is `1 - (R - n(n+1)/2) / (n max_rank - n(n-1)/2)`: 1 if
    the set's genes are the highest of the cell, 0 if none was seen within `max_rank`. The score of
    a cell depends on that cell alone, so chunks of cells can be scored one by one. This is UCell
    (Andreatta and Carmona 2021, doi 10.1016/j.csbj.2021.06.043), with 0 where nothing of the set
    was seen, also in a panel of fewer genes than `max_rank`.

    `counts` are whole numbers from 0, no entry twice; `sets` have the columns of each set, at least
    one and at most `max_rank`. Returns the scores, shape `(n_cells, n_sets)`, and the mean score of
    a single gene drawn at random from the cell, shape `(n_cells,)`: what a set without meaning is
    expected to have.
    """
    n_cells, n_genes = counts.shape
    # For each gene the sets that it is in, one after the other.
    pairs = sorted({(int(gene), i) for i, genes in enumerate(sets) for gene in genes})
    gene_of_pair, set_of_pair = np.array(pairs, dtype=np.int64).reshape(-1, 2).T.copy()
    first = np.searchsorted(gene_of_pair, np.arange(n_genes + 1))
    size = np.bincount(set_of_pair, minlength=len(sets)).astype(np.float64)
    gain, total = np.zeros((n_cells, len(sets))), np.zeros(n_cells)
    compiled(_add_gains)(
        counts.data, counts.indices, counts.indptr, first, set_of_pair, float(max_rank), gain, total
    )
    worst = size * max_rank - size * (size - 1) / 2
    rank_sum = size * (max_rank + 1) - gain
    scores = 1 - (rank_sum - size * (size + 1) / 2) / worst
    return scores.astype(np.float32), total / n_genes / max_rank


def _add_gains(
    data: NDArray[np.number],
    genes: NDArray[np.integer],
    indptr: NDArray[np.integer],
    first: NDArray[np.int64],
    set_of_pair: NDArray[np.int64],
    max_rank: float,
    gain: NDArray[np.float64],
    total: NDArray[np.float64],
) -> None:
    """Add up `max_rank + 1 - rank`, from 0, over the genes of each set and over all genes.

    Most counts of a cell are small and tied, so a table of how often each occurs gives the ranks
    without sorting; only the few above the table are sorted. Sums of halves, so exact in any order.
    The sets of gene g are `set_of_pair[first[g]:first[g + 1]]`.
    """
    often = np.empty(_SMALL + 1, dtype=np.int64)
    by_count = np.empty(_SMALL + 1)
    for cell in range(len(total)):
        start, stop = indptr[cell], indptr[cell + 1]
        own = data[start:stop]
        large = np.sort(own[own > _SMALL])
        often[:] = 0
        for count in own[own <= _SMALL]:
            often[int(count)] += 1
        above = len(large)
        # Of a stored 0 the gene has no count.
        by_count[0] = 0.0
        for count in range(_SMALL, 0, -1):
            by_count[count] = max(0.0, max_rank + 1 - (above + (often[count] + 1) / 2))
            above += often[count]
            total[cell] += often[count] * by_count[count]
        for j in range(start, stop):
            is_large = data[j] > _SMALL
            if not is_large and first[genes[j]] == first[genes[j] + 1]:
                continue
            if is_large:
                # Those with the same count share their mean rank.
                higher = len(large) - np.searchsorted(large, data[j], side="right")
                others = len(large) - higher - np.searchsorted(large, data[j], side="left")
                value = max(0.0, max_rank + 1 - (higher + (others + 1) / 2))
                total[cell] += value
            else:
                value = by_count[int(data[j])]
            for pair in range(first[genes[j]], first[genes[j] + 1]):
                gain[cell, set_of_pair[pair]] += value


def call_myeloid_states(
    adata: AnnData,
    *,
    min_interferon: float = 0.25,
    min_inflammatory: float = 0.15,
    min_hla_dr_low: float = 0.25,
) -> None:
    """Name the state of each monocyte and macrophage.

    The evidence of a state is the mean score of its signatures, less that of the signature that
    speaks against it: type I interferon response; inflammatory programme of monocytes with the
    responses to IL-1 and NF-kB; S100A-high less HLA-DR. The state is the one whose evidence is
    the largest multiple of its threshold, `resting` if none reaches its own. The scores are of
    each cell alone and the thresholds are fixed, so the state does not depend on what else is in
    the file. Target cytokines are in no signature, so the state does not restate who makes them.

    The subset of the monocyte (classical, intermediate, non-classical) is its population.

    Parameters
    ----------
    adata
        Cells x genes with `obs["lineage"]` and `obsm["signature_scores"]`.
    min_interferon
        Score of the type I interferon response from which a cell is `interferon_stimulated`. In
        blood monocytes six hours after interferon beta nine of ten are above 0.48, in their
        controls below 0.17 (Kang 2018, doi:10.1038/nbt.4042).
    min_inflammatory
        Mean of the three inflammatory scores from which a cell is `inflammatory`.
    min_hla_dr_low
        S100A-high score less that of HLA-DR from which a cell is `hla_dr_low`.

    Returns
    -------
    None. Writes `obs["myeloid_state"]`: category, missing outside monocytes and macrophages.

    Raises
    ------
    MissingKeyError
        If the scores are absent.

    Examples
    --------
    >>> import crs_sc as crs
    >>> adata = crs.datasets.toy_cohort()
    >>> crs.tl.score_signatures(adata, signatures=crs.genesets.signatures())
    >>> crs.tl.call_myeloid_states(adata)
    >>> states = adata.obs["myeloid_state"].value_counts()
    """
    check_obs(adata, lineage_key=keys.LINEAGE)
    if keys.SIGNATURE_SCORES not in adata.obsm:
        msg = f"`obsm` has no '{keys.SIGNATURE_SCORES}'. Run crs_sc.tl.score_signatures first."
        raise MissingKeyError(msg)
    scores = adata.obsm[keys.SIGNATURE_SCORES]
    thresholds = (min_interferon, min_inflammatory, min_hla_dr_low)
    multiples, absent = {}, []
    for (state, up, down), threshold in zip(MYELOID_STATES, thresholds, strict=True):
        if any(name not in scores for name in (*up, *([down] if down else []))):
            absent.append(state)
            continue
        evidence = scores[list(up)].mean(axis=1) - (scores[down] if down else 0.0)
        multiples[state] = (evidence / threshold).to_numpy()
    if absent:
        add_note(adata, f"Signatures of these myeloid states were not scored: {listing(absent)}.")
    names = np.array([*multiples, RESTING])
    best = np.full(adata.n_obs, len(multiples))
    if multiples:
        multiple = np.column_stack(list(multiples.values()))
        best = np.where(multiple.max(axis=1) >= 1, multiple.argmax(axis=1), best)
    states = pd.Series(names[best], index=adata.obs_names)
    states[~adata.obs[keys.LINEAGE].isin(["Monocyte", "Macrophage"])] = None
    adata.obs[keys.MYELOID_STATE] = pd.Categorical(states, categories=names)
