"""Where the cells are: embedding, integration and Leiden clusters."""

from crs_sc.clustering.embedding import embed
from crs_sc.clustering.leiden import cluster

__all__ = ["cluster", "embed"]
