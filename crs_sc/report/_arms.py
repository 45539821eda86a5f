"""What the report takes from the design: the order of arms, the genes and cells to talk about."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import pandas as pd

    from crs_sc.comparison import Contrast

__all__ = ["headline_genes", "main_sources", "ordered_arms"]

_HEADLINE = ("IL1B", "IL6", "Il1b", "Il6")
RESPONSES = ("il1_response", "il6_stat3_response", "ifn_gamma_response", "nfkb_response")


def ordered_arms(contrasts: Sequence[Contrast], arms: Iterable[str]) -> list[str]:
    """Arms from the baseline outwards, as the contrasts name them; others after them by name.

    Parameters
    ----------
    contrasts
        What was compared.
    arms
        Arms of the cohort.
    """
    present = {str(arm) for arm in arms}
    named = [contrast.baseline for contrast in contrasts if contrast.baseline]
    treated = {contrast.treated for contrast in contrasts}
    named += [one.reference for one in contrasts if one.reference not in treated]
    for contrast in contrasts:
        named += [contrast.reference, contrast.treated]
    first = [name for name in dict.fromkeys(named) if name in present]
    return first + sorted(present.difference(first))


def headline_genes(ledger: pd.DataFrame) -> list[str]:
    """IL1B and IL6 where the ledger has them, else its first two genes."""
    genes = [str(gene) for gene in dict.fromkeys(ledger["gene"])]
    return [gene for gene in _HEADLINE if gene in genes] or genes[:2]


def main_sources(by_condition: pd.DataFrame, genes: Sequence[str], *, most: int) -> list[str]:
    """Rank populations by their largest mean share of any of the genes in any arm.

    Parameters
    ----------
    by_condition
        The table `ledger_by_condition`.
    genes
        Genes that count.
    most
        How many to return at the most.
    """
    rows = by_condition.loc[by_condition["gene"].isin(list(genes)) & (by_condition["share"] > 0)]
    largest = rows.groupby("population", observed=True)["share"].max().reset_index()
    ranked = largest.sort_values(["share", "population"], ascending=[False, True])
    return [str(name) for name in ranked["population"].head(most)]
