"""Do others say the same of the cells: one plain sentence an opinion."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from crs_sc import keys
from crs_sc.report._format import listed, percent

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["opinion_sentences"]

_WHO = {
    keys.MARKERS: "The markers, held against your labels",
    "celltypist": "CellTypist",
    "reference": "The labelled reference",
}
_CAVEAT = (
    "Opinions are not independent evidence of truth: a classifier gives every cell one of the "
    "types that it knows. Where one disagrees, look at the markers."
)


def opinion_sentences(opinions: pd.DataFrame) -> list[str]:
    """Say of each opinion how far it agrees, and where it does not.

    Parameters
    ----------
    opinions
        The table `opinions`.
    """
    said = []
    for opinion, rows in opinions.groupby("opinion", sort=False):
        whole = rows.loc[rows["population"] == keys.ALL_POPULATIONS].iloc[0]
        parts = rows.loc[rows["population"] != keys.ALL_POPULATIONS]
        text = f"{_WHO.get(str(opinion), str(opinion))}: "
        if whole["n_compared"] == 0:
            said.append(text + "no cell can be compared, because no name of a type is known.")
            continue
        text += f"the same lineage in {percent(whole['lineage_agreement'])}"
        if not np.isnan(whole["agreement"]):
            text += f" and the same type in {percent(whole['agreement'])}"
        text += f" of the {int(whole['n_compared']):,} cells that can be compared."
        against = parts.loc[parts["verdict"] == keys.DISAGREES]
        if len(against):
            named = [
                f"{row['population']} ({percent(row['other_share'])} {row['other_label']})"
                for row in against.to_dict("records")
            ]
            text += f" It disagrees about {listed(named)}."
        elif (parts["verdict"] == keys.AGREES).any():
            text += " It disagrees about the lineage of no population."
        said.append(text)
    return [*said, _CAVEAT] if said else []
