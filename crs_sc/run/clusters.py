"""What a run says of its clusters: how stable, how mixed, and whether they are circular."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from crs_sc import clustering, keys, preprocessing
from crs_sc.core.blocks import rows_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from anndata import AnnData

    from crs_sc.run.config import RunConfig

__all__ = ["cluster_tables", "population_tables"]

# Myeloid cells in which genes are selected, at the most.
_MAX_CELLS = 20_000


def cluster_tables(adata: AnnData, config: RunConfig) -> dict[str, pd.DataFrame]:
    """Tables of the resolutions and of the batches.

    Parameters
    ----------
    adata
        The clustered cohort.
    config
        Settings.
    """
    labels = keys.LABEL if config.columns.label else None
    return {
        "clustering": adata.uns[keys.UNS][keys.CLUSTERING],
        "integration": clustering.integration_table(
            adata, label_key=labels, random_state=config.seed
        ),
    }


def population_tables(
    adata: AnnData,
    config: RunConfig,
    *,
    genes: Sequence[str],
    signatures: Mapping[str, Sequence[str]],
    panels: Mapping[str, Sequence[str]],
    n_jobs: int = 1,
) -> dict[str, pd.DataFrame]:
    """Cluster the myeloid cells again; tables of the clusters by cell type, and of circularity.

    Parameters
    ----------
    adata
        The annotated cohort.
    config
        Settings.
    genes
        Cytokines of the ledger.
    signatures, panels
        Genes by signature, and markers by cell type.
    n_jobs
        Processes.
    """
    subcluster_myeloid(adata, config, genes=genes, n_jobs=n_jobs)
    return {
        "clusters": clustering.cluster_table(adata),
        "subclusters": clustering.subcluster_table(adata),
        "circularity": clustering.circularity(adata, genes=genes, random_state=config.seed),
        "gene_overlap": clustering.gene_overlap(
            adata, signatures=signatures, markers=panels, genes=genes
        ),
    }


def subcluster_myeloid(
    adata: AnnData, config: RunConfig, *, genes: Sequence[str], n_jobs: int
) -> None:
    """Cluster the myeloid cells on the genes that vary among them, cytokines left out.

    Parameters
    ----------
    adata
        The annotated cohort.
    config
        Settings.
    genes
        Cytokines of the ledger.
    n_jobs
        Processes.
    """
    import anndata as ad

    cells = np.flatnonzero(adata.obs[keys.LINEAGE].isin(keys.MYELOID_LINEAGES).to_numpy())
    chosen: Sequence[str] = adata.var_names
    if len(cells):
        # Genes that vary in so many cells vary in all of them; more would be a copy of the counts.
        some = np.linspace(0, len(cells) - 1, min(len(cells), _MAX_CELLS)).astype(np.intp)
        cells = cells[some]
        part = ad.AnnData(
            obs=adata.obs.iloc[cells][[keys.SAMPLE]],
            var=pd.DataFrame(index=adata.var_names),
            layers={keys.COUNTS: rows_of(adata.layers[keys.COUNTS], cells)},
        )
        preprocessing.select_genes(
            part,
            exclude=[*genes, *config.transgene],
            **config.select_genes,
        )
        chosen = part.var_names[part.var[keys.HIGHLY_VARIABLE]]
    clustering.subcluster(
        adata,
        genes=chosen,
        random_state=config.seed,
        n_jobs=n_jobs,
        **config.subcluster,
    )
