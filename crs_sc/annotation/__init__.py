"""What the cells are: types, myeloid states, transgene, signature scores, and cross-checks."""

from crs_sc.annotation.cell_types import annotate
from crs_sc.annotation.cross_check import (
    add_marker_opinion,
    add_opinion,
    check_labels,
    compare_opinions,
)
from crs_sc.annotation.scores import call_myeloid_states, score_signatures
from crs_sc.annotation.transfer import (
    celltypist_labels,
    require_celltypist,
    shared_genes,
    transfer_labels,
)
from crs_sc.annotation.transgene import call_transgene

__all__ = [
    "add_marker_opinion",
    "add_opinion",
    "annotate",
    "call_myeloid_states",
    "call_transgene",
    "celltypist_labels",
    "check_labels",
    "compare_opinions",
    "require_celltypist",
    "score_signatures",
    "shared_genes",
    "transfer_labels",
]
