"""A small simulated cohort for examples and tests."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd
from scipy import sparse

from crs_sc import genesets, keys, preprocessing
from crs_sc.datasets.profiles import HUMAN_PREFIX
from crs_sc.datasets.simulate import DESCRIPTION, iter_samples
from crs_sc.errors import InputError

if TYPE_CHECKING:
    from anndata import AnnData

__all__ = ["toy_cohort"]

_SETTINGS = {
    "arms": ("vehicle", "CART"),
    "n_subjects_per_arm": 3,
    "cells_per_sample": 130,
    "n_background_genes": 0,
    "cross_species_rate": 0.0,
    "other_species_fraction": 0.0,
}


def toy_cohort(*, state: Literal["raw", "annotated"] = "annotated") -> AnnData:
    """Make a small **simulated** cohort: vehicle and CAR T cells, three mice each, human genes.

    Parameters
    ----------
    state
        `raw`: as `crs_sc.read` gives it, with doublets and debris. `annotated`: the good cells,
        with what producer calls, ledger, pseudobulks, shifts and figures need: ambient RNA and
        contamination as `pp.estimate_ambient` finds them, log-normalised `X`, and the planted
        truth as `population`, `lineage` and `cluster`. `X_umap` is drawn from the truth: each
        population has its place on a circle.

    Returns
    -------
    AnnData of some 700 cells and 700 genes; the same at every call, and the caller's own.

    Raises
    ------
    InputError
        If `state` is another.

    Examples
    --------
    >>> import crs_sc as crs
    >>> adata = crs.datasets.toy_cohort()
    >>> adata.obs["condition"].cat.categories.to_list()
    ['CART', 'vehicle']
    """
    if state not in ("raw", "annotated"):
        msg = f"state must be 'raw' or 'annotated', got {state!r}."
        raise InputError(msg)
    return _simulated()[0].copy() if state == "raw" else _annotated().copy()


@lru_cache(maxsize=1)
def _simulated() -> tuple[AnnData, pd.DataFrame]:
    """Simulate the raw cohort: the cohort, and the truth of its droplets."""
    from anndata import AnnData

    samples = list(iter_samples(_SETTINGS))
    genes = samples[0].genes
    human = np.asarray(genes.str.startswith(HUMAN_PREFIX))
    cells = pd.concat([sample.cells for sample in samples], ignore_index=True).set_index("cell")
    symbols = genes[human].str.removeprefix(HUMAN_PREFIX)
    adata = AnnData(
        obs=cells[[keys.SAMPLE, keys.SUBJECT, keys.CONDITION]].astype("category"),
        var=pd.DataFrame({keys.ORIGINAL_NAME: symbols}, index=symbols),
        uns={
            "description": DESCRIPTION,
            keys.UNS: {keys.MATRIX: "X", keys.ORGANISM: "human", keys.NOTES: []},
        },
    )
    counts = sparse.vstack([sample.counts for sample in samples], format="csr")
    adata.layers[keys.COUNTS] = sparse.csr_matrix(counts[:, human])
    adata.obs_names.name = adata.var_names.name = None
    return adata, cells


@lru_cache(maxsize=1)
def _annotated() -> AnnData:
    """Prepare the good cells of the raw cohort, with the planted truth as their types."""
    import scanpy as sc

    raw, cells = _simulated()
    adata = raw.copy()
    preprocessing.quality_control(adata)
    preprocessing.estimate_ambient(adata)
    singlet = (cells["droplet"] == "singlet").to_numpy()
    passed = (adata.obs[keys.QC_STATUS] == keys.PASS).to_numpy()
    adata = adata[singlet & passed].copy()
    preprocessing.normalize(adata)
    preprocessing.select_genes(adata)
    sc.pp.pca(adata, n_comps=20, mask_var=keys.HIGHLY_VARIABLE, random_state=0)
    population = cells.loc[adata.obs_names, keys.POPULATION]
    names = population.value_counts().index
    adata.obs[keys.POPULATION] = population.astype("category")
    adata.obs[keys.LINEAGE] = population.map(genesets.lineages()).astype("category")
    code = names.get_indexer(population)
    adata.obs[keys.CLUSTER] = pd.Categorical(code.astype(str), [str(k) for k in range(len(names))])
    angle = 2 * np.pi * code / len(names)
    centre = 10 * np.column_stack([np.cos(angle), np.sin(angle)])
    within = np.random.default_rng(0).standard_normal(centre.shape)
    adata.obsm[keys.UMAP] = (centre + within).astype(np.float32)
    return adata
