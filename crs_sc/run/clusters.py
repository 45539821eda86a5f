"""What a run says of its clusters: how stable, how mixed, and whether they are circular."""

from __future__ import annotations

from typing import TYPE_CHECKING

from crs_sc import clustering, keys

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pandas as pd
    from anndata import AnnData

    from crs_sc.run.config import RunConfig

__all__ = ["cluster_tables", "population_tables"]


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
    clustering.subcluster(
        adata,
        # Not on what is measured in them later.
        exclude=[*genes, *config.transgene],
        random_state=config.seed,
        n_jobs=n_jobs,
        **config.subcluster,
    )
    return {
        "clusters": clustering.cluster_table(adata),
        "subclusters": clustering.subcluster_table(adata),
        "circularity": clustering.circularity(adata, genes=genes, random_state=config.seed),
        "gene_overlap": clustering.gene_overlap(
            adata, signatures=signatures, markers=panels, genes=genes
        ),
    }
