"""Where the cells are: embedding, integration and Leiden clusters."""

from crs_sc.clustering.circularity import circularity, gene_overlap
from crs_sc.clustering.embedding import embed, layout, layout_input, umap_positions
from crs_sc.clustering.integration import integration_table
from crs_sc.clustering.leiden import cluster, cluster_table
from crs_sc.clustering.subclusters import subcluster, subcluster_table

__all__ = [
    "circularity",
    "cluster",
    "cluster_table",
    "embed",
    "gene_overlap",
    "integration_table",
    "layout",
    "layout_input",
    "subcluster",
    "subcluster_table",
    "umap_positions",
]
