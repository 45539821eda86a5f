"""What the integration of batches does to the neighbours of a cell."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from crs_sc import keys
from crs_sc.clustering.embedding import is_aliased, random_cells
from crs_sc.clustering.leiden import Graph
from crs_sc.core.checks import check_obs
from crs_sc.core.neighbours import fuzzy_graph, neighbours_of
from crs_sc.errors import MissingKeyError

if TYPE_CHECKING:
    from anndata import AnnData
    from numpy.typing import NDArray

__all__ = ["integration_table"]

# Fewer cells of a batch have no groups of their own to conserve.
_MIN_BATCH_CELLS = 50


def integration_table(
    adata: AnnData,
    *,
    batch_key: str = keys.BATCH,
    condition_key: str = keys.CONDITION,
    label_key: str | None = None,
    n_neighbors: int = 30,
    max_cells: int = 5000,
    random_state: int = 0,
) -> pd.DataFrame:
    """Measure the embedding before and after the integration: mixing, and what is conserved.

    Mixing is the share of neighbours from other batches over that of a random mixture; batches of
    other composition do not reach 1, and need not. Conservation asks within each batch, where
    there is nothing to integrate: the share of a cell's neighbours of its own batch that have its
    label. Without labels of the user, these are Leiden clusters of the batch alone, before the
    integration. An integration that mixes without loss raises the first and keeps the second.

    Parameters
    ----------
    adata
        Cells x genes after :func:`embed`.
    batch_key, condition_key
        Columns of `obs`.
    label_key
        Column of `obs` with labels of the user.
    n_neighbors
        Neighbours that are looked at.
    max_cells
        Random cells that are looked at, at the most.
    random_state
        Seed.

    Returns
    -------
    Columns of `keys.INTEGRATION_TABLE`: one row a batch, and one for all of them; none without
    `batch_key`. What is after an integration is empty without one.

    Raises
    ------
    MissingKeyError
        If the embedding, or the labels, are absent.

    Examples
    --------
    >>> import crs_sc as crs
    >>> adata = crs.datasets.toy_cohort()
    >>> crs.tl.integration_table(adata, batch_key="subject")["batch"].iloc[-1]
    'All'
    """
    if keys.PCA not in adata.obsm:
        msg = f"`obsm` has no '{keys.PCA}'. Run crs_sc.tl.embed first."
        raise MissingKeyError(msg)
    if batch_key not in adata.obs.columns:
        return pd.DataFrame(columns=keys.INTEGRATION_TABLE.names)
    check_obs(adata, batch_key=batch_key)
    cells = random_cells(adata.n_obs, max_cells, random_state=random_state)
    batch, names = pd.factorize(adata.obs[batch_key].astype(str).to_numpy()[cells], sort=True)
    embeddings = {"before": np.asarray(adata.obsm[keys.PCA])[cells]}
    if keys.HARMONY in adata.obsm:
        embeddings["after"] = np.asarray(adata.obsm[keys.HARMONY])[cells]
    if label_key is not None:
        check_obs(adata, label_key=label_key)
        labels, _ = pd.factorize(adata.obs[label_key].astype(str).to_numpy()[cells], sort=True)
    else:
        labels = _clusters_by_batch(embeddings["before"], batch, random_state=random_state)
    k = min(n_neighbors, len(cells) - 1)
    sizes = np.bincount(batch, minlength=len(names))
    table = pd.DataFrame({"batch": [*names, keys.ALL_BATCHES], "n_cells": [*sizes, len(cells)]})
    for when in ("before", "after"):
        mixing = conserved = np.full(len(names), np.nan)
        if when in embeddings:
            points = embeddings[when]
            mixing = foreign_share(neighbours_of(points, k)[0], batch, len(names))
            conserved = _conservation(points, batch, labels, len(names), n_neighbors=k)
        for name, values in (("mixing", mixing), ("conservation", conserved)):
            known = np.isfinite(values)
            mean = np.average(values[known], weights=sizes[known]) if known.any() else np.nan
            table[f"{name}_{when}"] = [*values, mean]
    aliased = is_aliased(adata, batch_key=batch_key, condition_key=condition_key)
    table["status"] = keys.CONFOUNDED if aliased else keys.OK
    table["conditions"] = ""
    if condition_key in adata.obs.columns:
        pairs = adata.obs[[batch_key, condition_key]].astype(str).drop_duplicates()
        arms = pairs.sort_values(condition_key).groupby(batch_key)[condition_key].agg(",".join)
        table["conditions"] = table["batch"].map(arms).fillna("")
    chosen: pd.DataFrame = table[keys.INTEGRATION_TABLE.names]
    return chosen


def _clusters_by_batch(
    points: NDArray[np.floating], batch: NDArray[np.integer], *, random_state: int
) -> NDArray[np.int64]:
    """Leiden clusters of each batch alone; one cluster where it has too few cells."""
    labels = np.zeros(len(batch), dtype=np.int64)
    for code in range(int(batch.max()) + 1):
        cells = np.flatnonzero(batch == code)
        if len(cells) >= _MIN_BATCH_CELLS:
            graph = Graph.of(fuzzy_graph(*neighbours_of(points[cells], 15)))
            labels[cells] = graph.leiden(1.0, random_state=random_state)
    return labels


def _conservation(
    points: NDArray[np.floating],
    batch: NDArray[np.integer],
    labels: NDArray[np.integer],
    n_batches: int,
    *,
    n_neighbors: int,
) -> NDArray[np.float64]:
    """Share of neighbours within the batch that have the label, by batch."""
    kept = np.full(n_batches, np.nan)
    for code in range(n_batches):
        cells = np.flatnonzero(batch == code)
        if len(cells) >= _MIN_BATCH_CELLS:
            k = min(n_neighbors, len(cells) - 1)
            kept[code] = same_label_share(neighbours_of(points[cells], k)[0], labels[cells])
    return kept


def foreign_share(
    neighbours: NDArray[np.intp], batch: NDArray[np.integer], n_batches: int
) -> NDArray[np.float64]:
    """Neighbours from other batches relative to a random mixture, mean by batch.

    Shape `(n_batches,)`: 0 where a batch has only neighbours of its own, 1 where it has those of a
    random mixture, NaN for a batch without cells.
    """
    size = np.bincount(batch, minlength=n_batches)
    # A cell is not its own neighbour.
    expected = (len(batch) - size) / max(len(batch) - 1, 1)
    foreign = (batch[neighbours] != batch[:, None]).mean(axis=1)
    total = np.bincount(batch, weights=foreign, minlength=n_batches)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(total / size / expected)


def same_label_share(neighbours: NDArray[np.intp], labels: NDArray[np.integer]) -> float:
    """Mean share of the neighbours of a cell that have its label."""
    return float((labels[neighbours] == labels[:, None]).mean())
