"""The packaged table of receptors: what a cell needs to hear a cytokine, and what catches it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from crs_sc.genesets._tables import Organism, check_organism, packaged_table

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["RECEPTOR_ROLES", "load_receptors"]

RECEPTOR_ROLES = ("receptor", "co-receptor", "decoy", "antagonist")


def load_receptors(*, organism: Organism = "human") -> pd.DataFrame:
    """Receptor side of each cytokine, one row a cytokine and gene.

    Parameters
    ----------
    organism
        `human` or `mouse`. A pair without orthologues is left out: the mouse has no CXCL8.

    Returns
    -------
    DataFrame with columns cytokine, gene, role and source. A cell can hear a cytokine with any
    one `receptor` and every `co-receptor`; a `decoy` binds it without a signal, an `antagonist`
    takes its place at the receptor.

    Raises
    ------
    InputError
        If the organism is unknown.
    """
    check_organism(organism)
    table = packaged_table("receptors").copy()
    if organism == "human":
        return table
    pairs = packaged_table("orthologs")
    pairs = pairs.loc[pairs["mouse"] != "", ["human", "mouse"]]
    for column in ("cytokine", "gene"):
        moved = table.merge(pairs, left_on=column, right_on="human", how="inner")
        table = moved.assign(**{column: moved["mouse"]}).drop(columns=["human", "mouse"])
    return table
