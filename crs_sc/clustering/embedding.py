"""Principal components, integration, neighbours and UMAP."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from crs_sc import keys
from crs_sc._checks import add_note, check_obs
from crs_sc.errors import InputError, MissingKeyError

if TYPE_CHECKING:
    from anndata import AnnData
    from numpy.typing import NDArray

__all__ = ["embed"]


def embed(
    adata: AnnData,
    *,
    n_comps: int = 30,
    n_neighbors: int = 15,
    integrate: bool = False,
    batch_key: str = keys.BATCH,
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
        Neighbours of each cell in the graph; fewer in a small cohort.
    integrate
        Correct the components for `batch_key` with harmony. Tests never read them.
    batch_key
        Column of `obs`.
    random_state
        Seed.

    Returns
    -------
    None. Writes `obsm["X_pca"]`, `obsm["X_pca_harmony"]` (if integrated), `obsm["X_umap"]`, and
    the neighbour graph in `obsp`.

    Raises
    ------
    MissingKeyError
        If the genes were not selected.
    InputError
        If there are fewer than three cells.
    """
    import scanpy as sc

    if keys.HIGHLY_VARIABLE not in adata.var.columns:
        msg = f"`var` has no column '{keys.HIGHLY_VARIABLE}'. Run crs_sc.pp.select_genes first."
        raise MissingKeyError(msg)
    if adata.n_obs < 3:
        msg = f"{adata.n_obs} cells are too few to embed; at least 3 are needed."
        raise InputError(msg)
    n_selected = int(adata.var[keys.HIGHLY_VARIABLE].sum())
    sc.pp.pca(
        adata,
        n_comps=min(n_comps, adata.n_obs - 1, n_selected - 1),
        mask_var=keys.HIGHLY_VARIABLE,
        svd_solver="arpack",
        random_state=random_state,
        key_added=keys.PCA,
    )
    representation = keys.PCA
    if integrate:
        check_obs(adata, batch_key=batch_key)
        if adata.obs[batch_key].nunique() > 1:
            adata.obsm[keys.HARMONY] = _harmony(adata, batch_key, random_state=random_state)
            representation = keys.HARMONY
        else:
            add_note(adata, f"Not integrated: `{batch_key}` has a single value.")
    sc.pp.neighbors(
        adata,
        n_neighbors=min(n_neighbors, adata.n_obs - 1),
        use_rep=representation,
        random_state=random_state,
    )
    sc.tl.umap(adata, random_state=random_state, key_added=keys.UMAP)


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
