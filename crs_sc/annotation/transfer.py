"""Another opinion: the labels of a reference, carried over to the cells."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd

from crs_sc import genesets, keys
from crs_sc.annotation._transfer import fit_labels, log_normalised, telling_genes
from crs_sc.annotation.opinions import add_opinion
from crs_sc.core.blocks import count_chunks, counts_matrix
from crs_sc.core.checks import add_note, check_fraction, check_obs
from crs_sc.errors import InputError, listing

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from anndata import AnnData
    from numpy.typing import NDArray

__all__ = ["shared_genes", "transfer_labels"]

_FEWEST_SHARED = 50
_FEWEST_CELLS = 10


def transfer_labels(
    adata: AnnData,
    *,
    reference: AnnData,
    reference_key: str = keys.LABEL,
    organism: Literal["human", "mouse"] = "human",
    exclude: Sequence[str] = (),
    n_label_genes: int = 500,
    max_reference_cells: int = 2_000,
    min_probability: float = 0.5,
    opinion: str = "reference",
    layer: str = keys.COUNTS,
    random_state: int = 0,
) -> None:
    """Carry the labels of a reference over to the cells, each cell by itself.

    Both are normalised over the genes that they share. The genes that tell the labels of the
    reference apart are standardised by the reference, and a logistic regression for each label
    against the rest gives its probability. The answer for a cell does not depend on the others,
    so a sample of T cells alone stays T cells. A cell that is no better than `min_probability` for
    any label is `Unknown`. That is little protection against a type that the reference lacks: NK
    cells without NK cells in the reference come back as CD8 T cells. The reference must hold the
    types that are expected.

    Parameters
    ----------
    adata
        Cells x genes.
    reference
        Labelled cells x genes, from `read` (`columns={"label": ...}`).
    reference_key
        Column of the reference's `obs` with the labels. Cells without one, and labels that mean
        "unknown" or "doublet" or have fewer than 10 cells, are left out.
    organism
        Whose target cytokines are never among the genes.
    exclude
        More genes that must not decide, such as the cytokines of the ledger.
    n_label_genes
        Genes that are used.
    max_reference_cells
        Cells of each label that are used, drawn at random where there are more.
    min_probability
        Smallest probability of the best label.
    opinion
        Name of the opinion.
    layer
        Layer with raw counts, of both.
    random_state
        Seed.

    Returns
    -------
    None. Writes the column `opinion` of `obsm["opinions"]`.

    Raises
    ------
    MissingKeyError
        If the column or the layer is absent.
    InputError
        If fewer than 50 genes are shared, or fewer than two labels can be used.
    """
    check_fraction("min_probability", min_probability)
    if n_label_genes < 1 or max_reference_cells < _FEWEST_CELLS:
        msg = (
            f"n_label_genes must be at least 1 and max_reference_cells at least {_FEWEST_CELLS}, "
            f"got {n_label_genes!r} and {max_reference_cells!r}."
        )
        raise InputError(msg)
    barred = {*genesets.target_cytokines(organism=organism), *exclude}
    shared = shared_genes(adata.var_names, reference.var_names, exclude=barred)
    cells, codes, names = _labelled(
        reference, reference_key, max_cells=max_reference_cells, random_state=random_state
    )
    counts = counts_matrix(reference, layer=layer)[cells]
    counts = counts[:, reference.var_names.get_indexer(shared)]
    known = log_normalised(counts, np.asarray(counts.sum(axis=1)).ravel())
    genes = telling_genes(known, codes, n_genes=n_label_genes)
    model = fit_labels(known[:, genes].toarray(), codes)
    columns = adata.var_names.get_indexer(shared)
    found = np.empty(adata.n_obs, dtype=object)
    for rows, chunk in count_chunks(adata, layer=layer):
        own = chunk[:, columns]
        totals = np.asarray(own.sum(axis=1, dtype=np.float64)).ravel()
        probability = model.probabilities(log_normalised(own[:, genes], totals).toarray())
        best = probability.argmax(axis=1)
        is_known = probability[np.arange(len(best)), best] >= min_probability
        found[rows] = np.where(is_known & (totals > 0), names[best], keys.UNKNOWN)
    add_note(
        adata,
        f"Opinion '{opinion}': labels of {len(codes)} reference cells ({listing(names, most=40)}) "
        f"through {len(genes)} of {len(shared)} shared genes.",
    )
    add_opinion(adata, opinion=opinion, labels=found)


def shared_genes(
    names: Iterable[str], reference_names: Iterable[str], *, exclude: Iterable[str] = ()
) -> pd.Index:
    """Genes of the reference that the data have too, in its order; raise if they are too few."""
    data, known = pd.Index(list(names)), pd.Index(list(reference_names))
    shared = known[known.isin(data) & ~known.isin(list(exclude))]
    if len(shared) < _FEWEST_SHARED:
        msg = (
            f"The reference shares {len(shared)} genes with the data ({len(data)} such as "
            f"{listing(data[:3])}; the reference has {listing(known[:3])}); at least "
            f"{_FEWEST_SHARED} are needed. Is it of the same organism?"
        )
        raise InputError(msg)
    return shared


def _labelled(
    reference: AnnData, key: str, *, max_cells: int, random_state: int
) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.object_]]:
    """Rows of the reference that are used, the code of each one's label, and the labels."""
    if key in reference.obs and reference.obs[key].isna().all():
        msg = f"`obs['{key}']` (reference_key) of the reference is empty for every cell."
        raise InputError(msg)
    if key not in reference.obs:
        check_obs(reference, reference_key=key)
    labels = reference.obs[key].astype(object)
    labels = labels.where(labels.notna(), keys.UNKNOWN).astype(str).to_numpy()
    meaning = genesets.name_labels(labels)
    rng = np.random.default_rng(random_state)
    kept = []
    for name in sorted(set(labels)):
        rows = np.flatnonzero(labels == name)
        if meaning.get(name) == keys.UNKNOWN or len(rows) < _FEWEST_CELLS:
            continue
        few = rows if len(rows) <= max_cells else rng.choice(rows, size=max_cells, replace=False)
        kept.append((name, np.sort(few)))
    if len(kept) < 2:
        counted = pd.Series(labels).value_counts()
        msg = (
            f"The reference has {len(kept)} label(s) with {_FEWEST_CELLS} cells in "
            f"`obs['{key}']`; two are needed. Labels: "
            f"{listing(f'{name} ({n})' for name, n in counted.items())}."
        )
        raise InputError(msg)
    cells = np.concatenate([rows for _, rows in kept])
    codes = np.repeat(np.arange(len(kept)), [len(rows) for _, rows in kept])
    return cells, codes, np.array([name for name, _ in kept], dtype=object)
