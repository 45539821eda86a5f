"""Sentences on all tests: verdicts, handling stress, who is left out, what comes first."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from crs_sc import keys
from crs_sc.report._arms import RESPONSES
from crs_sc.report._format import pvalue

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pandas as pd

__all__ = ["exclusion_sentence", "onset_sentences", "shift_sentences"]


def shift_sentences(tables: Mapping[str, pd.DataFrame]) -> list[str]:
    """Count the verdicts of all tests, and those that handling stress does not take away.

    Parameters
    ----------
    tables
        That of `shifts`, if there.
    """
    shifts = tables.get("shifts")
    if shifts is None:
        return []
    counts = shifts["verdict"].value_counts()
    total = int(counts.reindex(list(keys.VERDICTS)).sum())
    if not total:
        return []
    margin = shifts["margin"].max()
    within = "" if math.isnan(margin) else f" (within \u00b1{margin:g} log2)"
    told = [
        f"{int(counts[verdict]):,} {words}"
        for verdict, words in (
            (keys.CHANGED, "changed"),
            (keys.CHANGED_WITHIN_MARGIN, "changed by less than what is relevant"),
            (keys.EQUIVALENT, f"show no relevant change{within}"),
            (keys.INCONCLUSIVE, "are inconclusive: neither a change nor its absence is shown"),
        )
        if verdict in counts
    ]
    said = [f"Of {total:,} tests {', '.join(told)}."]
    changed = shifts.loc[
        (shifts["verdict"] == keys.CHANGED)
        & shifts["feature"].isin(RESPONSES)
        & shifts["estimate_stress_adjusted"].notna()
    ]
    if len(changed):
        same_way = changed["estimate"] * changed["estimate_stress_adjusted"] > 0
        low, high = changed["ci_low_stress_adjusted"], changed["ci_high_stress_adjusted"]
        kept = int((same_way & (low * high > 0)).sum())
        said.append(
            f"Of {len(changed)} shifts of a response that changed, {kept} go the same way at equal "
            "handling stress with an interval that leaves out zero. The treatment may itself move "
            "the stress genes, so both estimates are given."
        )
    return said


def exclusion_sentence(tables: Mapping[str, pd.DataFrame]) -> list[str]:
    """Name the populations that tests do without in some subject for want of cells.

    Parameters
    ----------
    tables
        That of `exclusions`, if there.
    """
    table = tables.get("exclusions")
    if table is None:
        return []
    few = table.loc[table["reason"].isin([keys.NO_CELLS, keys.TOO_FEW_CELLS])]
    units = few[["population", "subject", "condition"]].drop_duplicates()
    if units.empty:
        return []
    counts = units["population"].value_counts(sort=False)
    order = sorted(counts.index, key=lambda name: (-counts[name], name))
    told = ", ".join(f"{name} {counts[name]}" for name in order)
    return [f"Subjects left out because they have too few cells of a population: {told}."]


def onset_sentences(tables: Mapping[str, pd.DataFrame]) -> list[str]:
    """Say for each arm which cytokine came first, in how many subjects, with the sign test.

    Parameters
    ----------
    tables
        That of `onset`, if there.
    """
    table = tables.get("onset")
    if table is None:
        return []
    said = []
    for arm, rows in table.groupby("condition", sort=False, observed=True):
        row = rows.iloc[0]
        names = {"first": row["first"], "second": row["second"]}
        told = [
            f"{names[order]} came first in {int(row[f'n_{order}'])}"
            for order in ("first", "second")
            if row[f"n_{order}"]
        ]
        if row["n_tied"]:
            told.append(f"both set in at the same time point in {int(row['n_tied'])}")
        if row["n_unknown"]:
            told.append(f"the order cannot be known in {int(row['n_unknown'])}")
        test = "no test, as no subject has an order"
        if not math.isnan(row["pvalue"]):
            test = f"exact sign test p {pvalue(float(row['pvalue']), float(row['pvalue_floor']))}"
        subjects = "subject" if len(rows) == 1 else "subjects"
        said.append(f"{arm}, {len(rows)} {subjects}: {', '.join(told)}; {test}.")
    return said
