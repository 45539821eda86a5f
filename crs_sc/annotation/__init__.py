"""What the cells are: types, myeloid states, transgene, signature scores, and other opinions."""

from crs_sc.annotation.cell_types import annotate
from crs_sc.annotation.celltypist import celltypist_labels, require_celltypist
from crs_sc.annotation.label_check import add_marker_opinion, check_labels
from crs_sc.annotation.myeloid import call_myeloid_states
from crs_sc.annotation.opinions import add_opinion, compare_opinions
from crs_sc.annotation.scores import score_signatures
from crs_sc.annotation.transfer import shared_genes, transfer_labels
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
