"""Principal components, integration, neighbours and UMAP."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy import sparse
from threadpoolctl import threadpool_limits

from crs_sc import keys
from crs_sc.core.arrays import as_csr
from crs_sc.core.blocks import columns_of
from crs_sc.core.checks import add_note, check_obs
from crs_sc.core.neighbours import distance_matrix, fuzzy_graph, neighbours_of
from crs_sc.errors import CrsWarning, InputError, MissingKeyError

if TYPE_CHECKING:
    from anndata import AnnData
    from numpy.typing import NDArray

__all__ = ["embed", "layout", "umap_positions"]


def embed(
    adata: AnnData,
    *,
    n_comps: int = 30,
    n_neighbors: int = 15,
    integrate: bool | None = None,
    batch_key: str = keys.BATCH,
    condition_key: str = keys.CONDITION,
    with_layout: bool = True,
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
    with_layout
        Lay the cells out by UMAP too. Nothing but the map depends on it; :func:`layout` does it
        later.
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
        If there are fewer than three cells or two selected genes, or `n_neighbors` is below 2.

    Notes
    -----
    The components are those of `scanpy.pp.pca`. Neighbours are exact up to 30,000 cells, and above
    that at least 98 % of those of a sample of cells.

    Examples
    --------
    >>> import crs_sc as crs
    >>> adata = crs.datasets.toy_cohort()
    >>> crs.tl.embed(adata, n_comps=10, with_layout=False)
    >>> adata.obsm["X_pca"].shape[1]
    10
    """
    selected = np.flatnonzero(selected_genes(adata))
    if adata.n_obs < 3:
        msg = f"{adata.n_obs} cells are too few to embed; at least 3 are needed."
        raise InputError(msg)
    if n_neighbors < 2:
        msg = f"n_neighbors must be at least 2 (a cell is among its own), got {n_neighbors!r}."
        raise InputError(msg)
    if len(selected) < 2:
        msg = f"{len(selected)} selected genes are too few to embed; at least 2 are needed."
        raise InputError(msg)
    part = components_of(columns_of(adata.X, selected), n_comps=n_comps, random_state=random_state)
    adata.obsm[keys.PCA] = part.obsm["X_pca"]
    loadings = np.zeros((adata.n_vars, part.obsm["X_pca"].shape[1]))
    loadings[selected] = part.varm["PCs"]
    adata.varm["PCs"] = loadings
    adata.uns["pca"] = {
        **part.uns["pca"],
        "params": {"zero_center": True, "mask_var": keys.HIGHLY_VARIABLE},
    }
    representation = represent(
        adata,
        integrate=integrate,
        batch_key=batch_key,
        condition_key=condition_key,
        random_state=random_state,
    )
    neighbour_graph(adata, representation, n_neighbors=n_neighbors)
    # An earlier map is not that of this graph.
    adata.obsm.pop(keys.UMAP, None)
    if with_layout:
        layout(adata, random_state=random_state)


def selected_genes(adata: AnnData) -> NDArray[np.bool_]:
    """Which genes were selected, shape `(n_genes,)`; MissingKeyError if none were."""
    if keys.HIGHLY_VARIABLE not in adata.var.columns:
        msg = f"`var` has no column '{keys.HIGHLY_VARIABLE}'. Run crs_sc.pp.select_genes first."
        raise MissingKeyError(msg)
    return np.asarray(adata.var[keys.HIGHLY_VARIABLE], dtype=bool)


def random_cells(n_cells: int, most: int, *, random_state: int) -> NDArray[np.int64]:
    """Random cells, ascending; all where there are no more than `most`."""
    rng = np.random.default_rng(random_state)
    return np.sort(rng.choice(n_cells, min(most, n_cells), replace=False))


def neighbour_graph(adata: AnnData, representation: str, *, n_neighbors: int) -> None:
    """Write the graph and its settings as `scanpy.pp.neighbors` would.

    `n_neighbors` counts the cell itself, as scanpy does; there are fewer in a small cohort.
    """
    k = min(n_neighbors, adata.n_obs)
    indices, distances = neighbours_of(np.asarray(adata.obsm[representation]), k - 1)
    adata.obsp["distances"] = distance_matrix(indices, distances)
    adata.obsp["connectivities"] = fuzzy_graph(indices, distances)
    params = {"n_neighbors": k, "method": "umap", "metric": "euclidean", "use_rep": representation}
    names = {"connectivities_key": "connectivities", "distances_key": "distances"}
    adata.uns["neighbors"] = {**names, "params": params}


def components_of(expression: sparse.csr_matrix, *, n_comps: int, random_state: int = 0) -> AnnData:
    """Principal components by `scanpy.pp.pca`, as an AnnData of their own.

    They are fewer than cells or genes. The largest loading of a component is positive, and with one
    thread of the linear algebra the digits are the same on any number of processors.
    """
    import anndata as ad
    import scanpy as sc

    part = ad.AnnData(expression)
    with threadpool_limits(limits=1):
        sc.pp.pca(
            part,
            n_comps=min(n_comps, min(expression.shape) - 1),
            svd_solver="arpack",
            random_state=random_state,
        )
    return part


def represent(
    adata: AnnData, *, integrate: bool | None, batch_key: str, condition_key: str, random_state: int
) -> str:
    """Integrate the principal components where that is asked for or sound; key of the result.

    `integrate` None: where `batch_key` is in `obs` with several values, and some batch has cells
    of two conditions.
    """
    # What an earlier call left would be taken for the embedding of this one.
    adata.obsm.pop(keys.HARMONY, None)
    if integrate is False or (integrate is None and batch_key not in adata.obs.columns):
        return keys.PCA
    check_obs(adata, batch_key=batch_key)
    if adata.obs[batch_key].nunique() < 2:
        if integrate:
            add_note(adata, f"Not integrated: `{batch_key}` has a single value.")
        return keys.PCA
    if is_aliased(adata, batch_key=batch_key, condition_key=condition_key):
        done = "Integrated all the same" if integrate else "Not integrated"
        message = (
            f"Every `{batch_key}` has cells of one `{condition_key}` only, so what the batch does "
            f"cannot be told from what the condition does. {done}; the map and the clusters are "
            + ("without both." if integrate else "with both.")
        )
        warnings.warn(message, CrsWarning, stacklevel=3)
        add_note(adata, message)
        if not integrate:
            return keys.PCA
    adata.obsm[keys.HARMONY] = _harmony(adata, batch_key, random_state=random_state)
    return keys.HARMONY


def is_aliased(adata: AnnData, *, batch_key: str, condition_key: str) -> bool:
    """Whether each batch has one condition only, and there are several."""
    if condition_key not in adata.obs.columns:
        return False
    pairs = adata.obs[[batch_key, condition_key]].astype(str).drop_duplicates()
    return pairs[condition_key].nunique() > 1 and not pairs[batch_key].duplicated().any()


def _harmony(adata: AnnData, batch_key: str, *, random_state: int) -> NDArray[np.float32]:
    """Harmony of the principal components, `(n_cells, n_comps)` whatever the release returns."""
    from harmonypy import run_harmony

    components = np.asarray(adata.obsm[keys.PCA], dtype=np.float64)
    corrected = np.asarray(
        run_harmony(
            components,
            adata.obs[[batch_key]].astype(str),
            batch_key,
            random_state=random_state,
            verbose=False,
        ).Z_corr
    )
    # Releases before 0.1 return components x cells.
    if corrected.shape != components.shape:
        corrected = corrected.T
    return corrected.astype(np.float32)


def layout(adata: AnnData, *, max_cells: int = 50_000, random_state: int = 0) -> None:
    """Lay the cells out in two dimensions by UMAP, for figures alone.

    Parameters
    ----------
    adata
        Cells x genes after :func:`embed`.
    max_cells
        Of more cells a random sample is laid out, and each other cell is placed among its
        neighbours.
    random_state
        Seed.

    Returns
    -------
    None. Writes `obsm["X_umap"]`, float32, shape `(n_cells, 2)`.

    Raises
    ------
    MissingKeyError
        If the neighbour graph is absent.

    Examples
    --------
    >>> import crs_sc as crs
    >>> adata = crs.datasets.toy_cohort()
    >>> crs.tl.layout(adata)  # doctest: +SKIP
    """
    adata.obsm[keys.UMAP] = umap_positions(
        *layout_input(adata), max_cells=max_cells, random_state=random_state
    )


def layout_input(adata: AnnData) -> tuple[sparse.csr_matrix, NDArray[np.float32]]:
    """Graph and components that `umap_positions` takes, which may go to another process."""
    params = adata.uns.get("neighbors", {}).get("params", {})
    representation = str(params.get("use_rep", keys.PCA))
    if "connectivities" not in adata.obsp or representation not in adata.obsm:
        msg = "`obsp` has no 'connectivities'. Run crs_sc.tl.embed first."
        raise MissingKeyError(msg)
    return as_csr(adata.obsp["connectivities"]), np.asarray(adata.obsm[representation])


def umap_positions(
    graph: sparse.csr_matrix,
    points: NDArray[np.floating],
    random_state: int = 0,
    *,
    max_cells: int = 50_000,
) -> NDArray[np.float32]:
    """Positions by `scanpy.tl.umap`, from the first two components; a function of arrays alone.

    Parameters
    ----------
    graph
        Weights of the edges, `(n_cells, n_cells)`.
    points
        Components, `(n_cells, n_comps)`.
    max_cells
        Of more cells a random sample is laid out; each other cell lies at the mean of its
        neighbours among them, weighted by the edges, or at the nearest of them where it has none.
    random_state
        Seed.

    Returns
    -------
    Shape `(n_cells, 2)`.
    """
    n_cells = len(points)
    if n_cells <= max_cells:
        return _umap(graph, points, random_state=random_state)
    drawn = random_cells(n_cells, max_cells, random_state=random_state)
    others = np.setdiff1d(np.arange(n_cells), drawn)
    placed = np.zeros((n_cells, 2), dtype=np.float32)
    placed[drawn] = _umap(graph[drawn][:, drawn], points[drawn], random_state=random_state)
    weights = graph[others][:, drawn]
    total = np.asarray(weights.sum(axis=1)).ravel()
    has_some = total > 0
    placed[others[has_some]] = (weights @ placed[drawn])[has_some] / total[has_some, None]
    if not has_some.all():
        from sklearn.neighbors import NearestNeighbors

        lost = others[~has_some]
        nearest = NearestNeighbors(n_neighbors=1).fit(points[drawn])
        placed[lost] = placed[drawn[nearest.kneighbors(points[lost], return_distance=False)[:, 0]]]
    return placed


def _umap(
    graph: sparse.csr_matrix, points: NDArray[np.floating], *, random_state: int
) -> NDArray[np.float32]:
    """Run `scanpy.tl.umap` on a graph, from the first two components; from a line if only one."""
    import anndata as ad
    import scanpy as sc

    start = np.zeros((len(points), 2), dtype=np.float32)
    first = points[:, :2]
    start[:, : first.shape[1]] = 10 * first / max(float(np.abs(first).max()), 1e-12)
    obs = pd.DataFrame(index=np.arange(len(points)).astype(str))
    cells = ad.AnnData(obs=obs, obsm={"X_start": start})
    cells.obsp["connectivities"] = sparse.csr_matrix(graph)
    params: dict[str, Any] = {"method": "umap", "use_rep": "X_start"}
    cells.uns["neighbors"] = {"connectivities_key": "connectivities", "params": params}
    with warnings.catch_warnings():
        # umap says of a seed that it takes one thread.
        warnings.simplefilter("ignore")
        sc.tl.umap(cells, init_pos="X_start", random_state=random_state)
    return np.asarray(cells.obsm["X_umap"], dtype=np.float32)
