"""Who makes it: producer calls and the source ledger."""

from crs_sc.sources.ledger import ledger, ledger_by_condition
from crs_sc.sources.producers import call_producers, producers, production
from crs_sc.sources.receivers import receivers

__all__ = [
    "call_producers",
    "ledger",
    "ledger_by_condition",
    "producers",
    "production",
    "receivers",
]
