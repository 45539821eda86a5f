"""What the cells are: cell types, myeloid states, the transgene and signature scores."""

from crs_sc.annotation.cell_types import annotate
from crs_sc.annotation.myeloid import call_myeloid_states
from crs_sc.annotation.scores import score_signatures
from crs_sc.annotation.transgene import call_transgene

__all__ = ["annotate", "call_myeloid_states", "call_transgene", "score_signatures"]
