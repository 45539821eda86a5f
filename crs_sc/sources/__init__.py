"""Who makes it: producer calls and the source ledger."""

from crs_sc.core.condense import FewGenes, condense
from crs_sc.sources.il1_tone import il1_tone, tone_genes
from crs_sc.sources.ledger import ledger, ledger_by_condition
from crs_sc.sources.producers import call_producers, producers, production
from crs_sc.sources.receivers import receivers
from crs_sc.sources.weights import check_absolute_counts, weigh_cells

__all__ = [
    "FewGenes",
    "call_producers",
    "check_absolute_counts",
    "condense",
    "il1_tone",
    "ledger",
    "ledger_by_condition",
    "producers",
    "production",
    "receivers",
    "tone_genes",
    "weigh_cells",
]
