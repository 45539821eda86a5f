"""From raw counts to the cells and genes that the later stages use."""

from __future__ import annotations

from crs_sc.preprocessing.ambient import estimate_ambient
from crs_sc.preprocessing.doublets import call_doublets
from crs_sc.preprocessing.genes import normalize, select_genes
from crs_sc.preprocessing.merge import merge_samples
from crs_sc.preprocessing.qc import filter_cells, qc_table, quality_control
from crs_sc.preprocessing.species import call_species, select_species

__all__ = [
    "call_doublets",
    "call_species",
    "estimate_ambient",
    "filter_cells",
    "merge_samples",
    "normalize",
    "qc_table",
    "quality_control",
    "select_genes",
    "select_species",
]
