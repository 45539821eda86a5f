"""Labels for the cells from a reference, or from a model of CellTypist."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
from threadpoolctl import threadpool_limits

from crs_sc import genesets, keys
from crs_sc.annotation.cross_check import add_opinion
from crs_sc.core.arrays import group_sums
from crs_sc.core.blocks import count_chunks, counts_matrix, matrix_chunks
from crs_sc.core.checks import add_note, check_fraction, check_obs
from crs_sc.errors import InputError, MissingExtraError, listing

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Sequence

    from anndata import AnnData
    from numpy.typing import NDArray
    from scipy import sparse
    from sklearn.pipeline import Pipeline

__all__ = [
    "celltypist_labels",
    "log_normalised",
    "require_celltypist",
    "shared_genes",
    "telling_genes",
    "transfer_labels",
]

# With fewer genes in common, or fewer cells of a label, nothing can be learnt.
_FEWEST_SHARED = 50
_FEWEST_CELLS = 10
# Standard deviations from the mean of the reference beyond which a gene says no more.
_CLIP = 10.0
# Inverse strength of the penalty: hundreds of genes for few cells of a rare label.
_INVERSE_PENALTY = 0.01
# A gene that hardly varies in any cell is not made telling by that.
_SMALLEST_VARIANCE = 1e-3


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
        Name of these labels.
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

    Examples
    --------
    >>> import crs_sc as crs
    >>> adata = crs.datasets.toy_cohort()
    >>> labelled = adata[::2].copy()
    >>> crs.tl.transfer_labels(adata, reference=labelled, reference_key="population")
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
    known = log_normalised(counts[:, reference.var_names.get_indexer(shared)])
    genes = telling_genes(known, codes, n_genes=n_label_genes)
    # With several threads the last digits depend on their number, and nothing is faster.
    with threadpool_limits(limits=1):
        model = _classifier().fit(known[:, genes].toarray(), codes)
    columns = adata.var_names.get_indexer(shared)
    labels = np.empty(adata.n_obs, dtype=object)
    for rows, chunk in count_chunks(adata, layer=layer):
        expression = log_normalised(chunk[:, columns])
        probability = _probabilities(model, expression[:, genes].toarray())
        best = probability.argmax(axis=1)
        is_known = probability[np.arange(len(best)), best] >= min_probability
        is_known &= expression.getnnz(axis=1) > 0
        labels[rows] = np.where(is_known, names[best], keys.UNKNOWN)
    add_note(
        adata,
        f"Opinion '{opinion}': labels of {len(codes)} reference cells ({listing(names, most=40)}) "
        f"through {len(genes)} of {len(shared)} shared genes.",
    )
    add_opinion(adata, opinion=opinion, labels=labels)


def shared_genes(
    names: Iterable[str], reference_names: Iterable[str], *, exclude: Iterable[str] = ()
) -> pd.Index:
    """Genes of the reference that the data have too, in its order; raise if they are too few."""
    data, known = pd.Index(list(names)), pd.Index(list(reference_names))
    shared = known[known.isin(data) & ~known.isin([*exclude, keys.OTHER_GENES])]
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


def log_normalised(counts: sparse.csr_matrix) -> sparse.csr_matrix:
    """`log(1 + 10,000 count / total)`, as `sc.pp.normalize_total` and `log1p`; empty rows stay."""
    from sklearn.preprocessing import normalize

    result = normalize(counts.astype(np.float64), norm="l1", copy=False)
    result.data = np.log1p(1e4 * result.data)
    return result


def telling_genes(
    expression: sparse.csr_matrix, codes: NDArray[np.integer], *, n_genes: int
) -> NDArray[np.intp]:
    """Genes whose mean differs most between the labels, for how much they vary within the cells.

    The variance of the means of the labels over the standard deviation of all cells. Every label
    counts the same, so that a rare one has genes too. Columns, the most telling first.
    """
    from sklearn.utils.sparsefuncs import mean_variance_axis

    size = np.bincount(codes)
    means = group_sums(expression, codes, len(size)) / size[:, None]
    _, variance = mean_variance_axis(expression, axis=0)
    score = means.var(axis=0) / np.sqrt(np.maximum(variance, _SMALLEST_VARIANCE))
    return np.argsort(-score, kind="stable")[:n_genes]


def _classifier() -> Pipeline:
    """One logistic regression a label against the rest, on standardised genes.

    The classes are weighted to be of one size. This is the model of CellTypist (Dominguez Conde
    2022, doi 10.1126/science.abl5197).
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.multiclass import OneVsRestClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import FunctionTransformer, StandardScaler

    one = LogisticRegression(C=_INVERSE_PENALTY, class_weight="balanced", max_iter=500)
    clip = FunctionTransformer(np.clip, kw_args={"a_min": -_CLIP, "a_max": _CLIP})
    return make_pipeline(StandardScaler(), clip, OneVsRestClassifier(one))


def _probabilities(model: Pipeline, expression: NDArray[np.float64]) -> NDArray[np.float64]:
    """Probability of each label for itself, shape `(n_cells, n_labels)`.

    They do not add up to 1, as those of `predict_proba` would: a cell of no known type can be
    unlike all of them.
    """
    from scipy.special import expit

    score = model.decision_function(expression)
    # Of two labels scikit-learn gives the second against the first.
    return np.asarray(expit(np.column_stack([-score, score]) if score.ndim == 1 else score))


# --- CellTypist ----------------------------------------------------------------------------------


def celltypist_labels(
    adata: AnnData,
    *,
    model: str | os.PathLike[str],
    min_probability: float = 0.5,
    opinion: str = "celltypist",
    layer: str = keys.COUNTS,
) -> None:
    """Ask CellTypist for the type of each cell, to be compared with the populations.

    Nothing is downloaded: the model is a file of yours, such as `Immune_All_Low.pkl` from
    celltypist.org. A model is a pickle, and reading a pickle can run any code: use only one that
    you trust. The genes are asked by symbol. CellTypist's own smoothing over clusters
    (`majority_voting`) is not used, so that its answer does not depend on our clusters.

    Parameters
    ----------
    adata
        Cells x all genes with log-normalised `X`, or without `X` and with raw counts, in memory or
        from `io.open_h5ad`.
    model
        Model file.
    min_probability
        A cell whose best label has less is `Unknown`.
    opinion
        Name of these labels.
    layer
        Layer with raw counts, which are used where there is no `X`.

    Returns
    -------
    None. Writes the column `opinion` of `obsm["opinions"]`, CellTypist's labels as they are.

    Raises
    ------
    MissingExtraError
        If CellTypist is not installed.
    MissingKeyError
        If there are neither `X` nor counts.
    InputError
        If there is no such model, it is none, or it shares no gene with the data.

    Examples
    --------
    >>> import crs_sc as crs
    >>> adata = crs.datasets.toy_cohort()
    >>> crs.tl.celltypist_labels(adata, model="Immune_All_Low.pkl")  # doctest: +SKIP
    """
    check_fraction("min_probability", min_probability)
    path = Path(model).expanduser()
    if not path.is_file():
        msg = (
            f"There is no CellTypist model '{path}'. Get one from celltypist.org (nothing is "
            "downloaded for you) and give its path."
        )
        raise InputError(msg)
    fitted = _load(path)
    if not adata.var_names.isin(list(fitted.features)).any():
        msg = (
            f"No gene of the data ({adata.var_names[0]}, ...) is in the model '{path}' "
            f"({fitted.features[0]}, ...). Is it a model of this organism?"
        )
        raise InputError(msg)
    labels = np.empty(adata.n_obs, dtype=object)
    if adata.X is not None:
        chunks = matrix_chunks(adata.X)
    else:
        counted = count_chunks(adata, layer=layer)
        chunks = ((rows, log_normalised(counts)) for rows, counts in counted)
    for rows, values in chunks:
        labels[rows] = _classify(values, adata.var_names, fitted, min_probability)
    add_opinion(adata, opinion=opinion, labels=labels)


def require_celltypist() -> Any:
    """Import CellTypist, or say how to get it."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    try:
        import celltypist
    except ImportError as error:
        package = "CellTypist"
        raise MissingExtraError(package, "celltypist") from error
    # It takes over the logging of the whole program.
    root.handlers[:] = handlers
    root.setLevel(level)
    return celltypist


def _load(path: Path) -> Any:
    """Read the model file; never the network, which CellTypist asks for a name without a folder."""
    require_celltypist()
    from celltypist.models import Model

    try:
        return Model.load(str(path.resolve()))
    except Exception as error:
        msg = f"'{path}' is no CellTypist model: {' '.join(str(error).split())}"
        raise InputError(msg) from error


def _classify(
    values: sparse.csr_matrix, genes: pd.Index, fitted: Any, min_probability: float
) -> NDArray[np.object_]:
    """Labels of some cells."""
    import anndata as ad
    import celltypist

    logger = logging.getLogger("celltypist.logger")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        answer = celltypist.annotate(
            ad.AnnData(values, var=pd.DataFrame(index=genes)), model=fitted
        )
    finally:
        logger.setLevel(level)
    best = answer.predicted_labels["predicted_labels"].astype(object).to_numpy()
    probability = answer.probability_matrix.to_numpy().max(axis=1)
    return np.where(probability >= min_probability, best, keys.UNKNOWN)
