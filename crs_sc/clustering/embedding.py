"""Principal components, integration, neighbours and UMAP."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from crs_sc import keys
from crs_sc.clustering._components import components_of
from crs_sc.clustering._graph import distance_matrix, fuzzy_graph, without_self
from crs_sc.clustering.integration import represent
from crs_sc.core.blocks import columns_of
from crs_sc.core.neighbours import nearest_neighbours
from crs_sc.core.threads import thread_count
from crs_sc.errors import InputError, MissingKeyError

if TYPE_CHECKING:
    from anndata import AnnData

__all__ = ["embed"]


def embed(
    adata: AnnData,
    *,
    n_comps: int = 30,
    n_neighbors: int = 15,
    integrate: bool | None = None,
    batch_key: str = keys.BATCH,
    condition_key: str = keys.CONDITION,
    random_state: int = 0,
) -> None:
    """Place the cells: PCA of the selected genes, optionally harmony, neighbours and UMAP.

    Parameters
    ----------
    adata
        Cells x genes with log-normalised `X` and `var["highly_variable"]`.
    n_comps
        Principal components; fewer in a small cohort.
    n_neighbors
        Neighbours of each cell in the graph, itself among them; fewer in a small cohort.
    integrate
        Correct the components for `batch_key` with harmony. Tests never read them. None: where
        the column is there with several values, and some batch has cells of two conditions.
    batch_key, condition_key
        Columns of `obs`.
    random_state
        Seed.

    Returns
    -------
    None. Writes `obsm["X_pca"]`, `obsm["X_pca_harmony"]` (if integrated), `obsm["X_umap"]`, and
    the neighbour graph in `obsp` and `uns["neighbors"]` as `scanpy.pp.neighbors` would.

    Raises
    ------
    MissingKeyError
        If the genes were not selected.
    InputError
        If there are fewer than three cells, or `n_neighbors` is below 2.

    Notes
    -----
    Neighbours are exact up to 30,000 cells, and above that at least 98 % of those of a sample of
    cells. The layout is UMAP's from the first two components.
    """
    from crs_sc.clustering._layout import layout, start_from

    if keys.HIGHLY_VARIABLE not in adata.var.columns:
        msg = f"`var` has no column '{keys.HIGHLY_VARIABLE}'. Run crs_sc.pp.select_genes first."
        raise MissingKeyError(msg)
    if adata.n_obs < 3:
        msg = f"{adata.n_obs} cells are too few to embed; at least 3 are needed."
        raise InputError(msg)
    if n_neighbors < 2:
        msg = f"n_neighbors must be at least 2 (a cell is among its own), got {n_neighbors!r}."
        raise InputError(msg)
    n_selected = int(adata.var[keys.HIGHLY_VARIABLE].sum())
    _components(adata, n_comps=min(n_comps, adata.n_obs - 1, n_selected - 1))
    representation = represent(
        adata,
        integrate=integrate,
        batch_key=batch_key,
        condition_key=condition_key,
        random_state=random_state,
    )
    _connect(adata, representation, k=min(n_neighbors, adata.n_obs))
    adata.obsm[keys.UMAP] = layout(
        adata.obsp["connectivities"],
        start_from(np.asarray(adata.obsm[representation])),
        n_threads=thread_count(),
        random_state=random_state,
    )


def _components(adata: AnnData, *, n_comps: int) -> None:
    """Write the principal components of the selected genes as `scanpy.pp.pca` does."""
    selected = np.flatnonzero(adata.var[keys.HIGHLY_VARIABLE].to_numpy(dtype=bool))
    found = components_of(columns_of(adata.X, selected), n_comps=n_comps)
    adata.obsm[keys.PCA] = found.points
    loadings = np.zeros((adata.n_vars, n_comps))
    loadings[selected] = found.loadings
    adata.varm["PCs"] = loadings
    adata.uns["pca"] = {
        "params": {"zero_center": True, "mask_var": keys.HIGHLY_VARIABLE},
        "variance": found.variance,
        "variance_ratio": found.variance / found.total_variance,
    }


def _connect(adata: AnnData, representation: str, *, k: int) -> None:
    """Write the graph of the `k` nearest neighbours, each cell among its own, as scanpy does."""
    found = nearest_neighbours(np.asarray(adata.obsm[representation]), k=k)
    indices, distances = without_self(*found)
    adata.obsp["distances"] = distance_matrix(indices, distances)
    adata.obsp["connectivities"] = fuzzy_graph(indices, distances)
    adata.uns["neighbors"] = {
        "connectivities_key": "connectivities",
        "distances_key": "distances",
        "params": {
            "n_neighbors": k,
            "method": "umap",
            "metric": "euclidean",
            "use_rep": representation,
        },
    }
