"""Leiden clusters at the finest resolution that other seeds reproduce."""

from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from crs_sc import keys
from crs_sc._checks import store
from crs_sc.errors import InputError, MissingKeyError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData
    from numpy.typing import NDArray

__all__ = ["cluster"]


def cluster(
    adata: AnnData,
    *,
    resolutions: Sequence[float] = (0.25, 0.5, 1.0, 1.5, 2.0),
    min_stability: float = 0.9,
    n_seeds: int = 3,
    key_added: str = keys.CLUSTER,
    random_state: int = 0,
) -> None:
    """Partition the cells by Leiden at several resolutions and keep the best-supported one.

    The chosen resolution is the largest whose partitions from `n_seeds` seeds agree (mean pairwise
    adjusted Rand index) to at least `min_stability`; the most stable one where none does.

    Parameters
    ----------
    adata
        Cells x genes after :func:`embed`; only the neighbour graph is read.
    resolutions
        Each > 0; larger gives more clusters.
    min_stability
        Adjusted Rand index between seeds, at most 1.
    n_seeds
        Seeds a resolution, at least 2.
    key_added
        Column of `obs` that receives the labels.
    random_state
        First seed.

    Returns
    -------
    None. Writes `obs[key_added]`: category, labels by decreasing size from "0", and
    `uns["crs_sc"]["clustering"]`: DataFrame with resolution, n_clusters, stability, chosen.

    Raises
    ------
    MissingKeyError
        If the neighbour graph is absent.
    """
    if "connectivities" not in adata.obsp:
        msg = "`obsp` has no 'connectivities'. Run crs_sc.tl.embed first."
        raise MissingKeyError(msg)
    if not resolutions or min(resolutions) <= 0 or n_seeds < 2:
        msg = (
            "cluster needs resolutions > 0 and at least two seeds, got "
            f"resolutions={list(resolutions)}, n_seeds={n_seeds}."
        )
        raise InputError(msg)
    partitions = {
        resolution: [
            _leiden(adata, resolution, random_state=random_state + i) for i in range(n_seeds)
        ]
        for resolution in sorted(resolutions)
    }
    table = pd.DataFrame(
        {
            "resolution": list(partitions),
            "n_clusters": [len(np.unique(runs[0])) for runs in partitions.values()],
            "stability": [_agreement(runs) for runs in partitions.values()],
        }
    )
    stable = table.index[table["stability"] >= min_stability]
    chosen = stable[-1] if len(stable) else int(table["stability"].to_numpy().argmax())
    table["chosen"] = table.index == chosen
    labels = _by_size(partitions[float(table["resolution"].iloc[chosen])][0])
    names = pd.Index([str(i) for i in range(int(labels.max()) + 1)])
    adata.obs[key_added] = pd.Categorical.from_codes(labels, categories=names)
    store(adata, keys.CLUSTERING, table)


def _leiden(adata: AnnData, resolution: float, *, random_state: int) -> NDArray[np.int64]:
    import scanpy as sc

    column = "_crs_sc_leiden"
    sc.tl.leiden(
        adata,
        resolution=resolution,
        flavor="igraph",
        n_iterations=2,
        directed=False,
        random_state=random_state,
        key_added=column,
    )
    del adata.uns[column]
    return np.asarray(adata.obs.pop(column).cat.codes, dtype=np.int64)


def _agreement(runs: Sequence[NDArray[np.int64]]) -> float:
    """Mean pairwise adjusted Rand index."""
    from sklearn.metrics import adjusted_rand_score

    return float(np.mean([adjusted_rand_score(a, b) for a, b in combinations(runs, 2)]))


def _by_size(labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Renumber by decreasing size; equal sizes keep their order."""
    order = np.argsort(-np.bincount(labels), kind="stable")
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    return rank[labels]
