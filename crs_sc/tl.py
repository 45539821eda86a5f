"""Everything that answers the question, under the short name that the ecosystem expects."""

from crs_sc.annotation import annotate, call_myeloid_states, call_transgene, score_signatures
from crs_sc.clustering import cluster, embed
from crs_sc.comparison import (
    check_design,
    composition,
    decompose,
    enrichment,
    expression,
    pseudobulk,
    reversal,
    shifts,
)
from crs_sc.sources import (
    call_producers,
    ledger,
    ledger_by_condition,
    producers,
    production,
    receivers,
)

__all__ = [
    "annotate",
    "call_myeloid_states",
    "call_producers",
    "call_transgene",
    "check_design",
    "cluster",
    "composition",
    "decompose",
    "embed",
    "enrichment",
    "expression",
    "ledger",
    "ledger_by_condition",
    "producers",
    "production",
    "pseudobulk",
    "receivers",
    "reversal",
    "score_signatures",
    "shifts",
]
