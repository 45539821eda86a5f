"""Another opinion: CellTypist, with a model file that the user has."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from crs_sc import keys
from crs_sc.annotation.opinions import add_opinion
from crs_sc.core.blocks import matrix_chunks
from crs_sc.core.checks import check_fraction
from crs_sc.errors import InputError, MissingExtraError, MissingKeyError

if TYPE_CHECKING:
    import os

    from anndata import AnnData
    from scipy import sparse

__all__ = ["celltypist_labels", "require_celltypist"]


def celltypist_labels(
    adata: AnnData,
    *,
    model: str | os.PathLike[str],
    min_probability: float = 0.5,
    opinion: str = "celltypist",
) -> None:
    """Ask CellTypist for the type of each cell.

    Nothing is downloaded: the model is a file of yours, such as `Immune_All_Low.pkl` from
    celltypist.org. A model is a pickle, and reading a pickle can run any code: use only one that
    you trust. The genes are asked by symbol. CellTypist's own smoothing over clusters
    (`majority_voting`) is not used, so that its answer does not depend on our clusters.

    Parameters
    ----------
    adata
        Cells x genes with log-normalised `X`.
    model
        Model file.
    min_probability
        A cell whose best label has less is `Unknown`.
    opinion
        Name of the opinion.

    Returns
    -------
    None. Writes the column `opinion` of `obsm["opinions"]`, CellTypist's labels as they are.

    Raises
    ------
    MissingExtraError
        If CellTypist is not installed.
    MissingKeyError
        If `X` is absent.
    InputError
        If there is no such model, it is none, or it shares no gene with the data.
    """
    check_fraction("min_probability", min_probability)
    path = Path(model).expanduser()
    if not path.is_file():
        msg = (
            f"There is no CellTypist model '{path}'. Get one from celltypist.org (nothing is "
            "downloaded for you) and give its path."
        )
        raise InputError(msg)
    require_celltypist()
    if adata.X is None:
        msg = "`X` is empty. Run crs_sc.pp.normalize first."
        raise MissingKeyError(msg)
    fitted = _load(path)
    if not adata.var_names.isin(list(fitted.features)).any():
        msg = (
            f"No gene of the data ({adata.var_names[0]}, ...) is in the model '{path}' "
            f"({fitted.features[0]}, ...). Is it a model of this organism?"
        )
        raise InputError(msg)
    found = np.empty(adata.n_obs, dtype=object)
    for rows, values in matrix_chunks(adata.X):
        found[rows] = _classify(values, adata.var_names, fitted, min_probability)
    add_opinion(adata, opinion=opinion, labels=found)


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
) -> np.ndarray[Any, np.dtype[np.object_]]:
    """Labels of some cells."""
    import anndata as ad

    logger = logging.getLogger("celltypist.logger")
    level = logger.level
    logger.setLevel(logging.ERROR)
    cells = ad.AnnData(values, var=pd.DataFrame(index=genes))
    try:
        answer = require_celltypist().annotate(cells, model=fitted)
    finally:
        logger.setLevel(level)
    best = answer.predicted_labels["predicted_labels"].astype(object).to_numpy()
    probability = answer.probability_matrix.to_numpy().max(axis=1)
    return np.where(probability >= min_probability, best, keys.UNKNOWN)
