"""Short tables for the page: a few columns and rows, and where the whole table is."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from crs_sc import keys
from crs_sc.plotting import feature_label, population_order
from crs_sc.report.answers import headline_genes
from crs_sc.report.words import amount, percent

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

_SETS = frozenset({"feature", "gene_set"})
_VOCABULARY = frozenset({"status", "state", "verdict", "reason", "state_first", "state_second"})
VERDICTS = {
    keys.CHANGED_WITHIN_MARGIN: "changed, within the margin",
    keys.EQUIVALENT: "no relevant change",
}


@dataclass(frozen=True)
class PageTable:
    """A table as the page shows it."""

    # Heading, explanation for the mouse, and whether the column holds numbers.
    columns: list[tuple[str, str, bool]]
    # For each cell the text and the value that sorting uses.
    rows: list[list[tuple[str, str]]]
    # Rows of the whole table, and its name in `tables/`, empty if there is none.
    total: int
    file: str = ""


def page_table(
    table: pd.DataFrame, *, columns: Sequence[str], most: int, file: str = "", total: int = 0
) -> PageTable:
    """Take columns and the first rows of a table and write the numbers for a reader."""
    chosen = [name for name in columns if name in table.columns]
    known = {column.name: column for column in keys.TABLES[file].columns} if file else {}
    meaning = {name: column.meaning for name, column in known.items()}
    shares = {name for name, column in known.items() if column.unit == "share"}
    shares |= {name for name in chosen if "share" in name}
    numeric = {name: pd.api.types.is_numeric_dtype(table[name]) for name in chosen}
    rows = [
        [_cell(name, row[name], is_share=name in shares) for name in chosen]
        for row in table.head(most)[chosen].to_dict("records")
    ]
    heads = [(name.replace("_", " "), meaning.get(name, ""), numeric[name]) for name in chosen]
    return PageTable(heads, rows, max(total, len(table)), file)


def _cell(name: str, value: Any, *, is_share: bool) -> tuple[str, str]:
    """Text and sort value of one cell."""
    if value is None or value is pd.NA or (isinstance(value, float) and math.isnan(value)):
        return "", ""
    if isinstance(value, bool | str):
        text = str(value)
        if name in _SETS:
            text = feature_label(text)
        elif name in _VOCABULARY:
            text = VERDICTS.get(text, text).replace("_", " ")
        return text, str(value)
    number = float(value)
    if is_share:
        return percent(number), repr(number)
    if isinstance(value, int | np.integer):
        return f"{int(value):,}", repr(number)
    if name.startswith(("pvalue", "padj")):
        return ("<0.0001" if number < 1e-4 else f"{number:.2g}"), repr(number)
    return amount(number), repr(number)


def page_tables(tables: Mapping[str, pd.DataFrame], *, arms: Sequence[str]) -> dict[str, PageTable]:
    """Build the short tables of the page from the tables of the contract."""
    made: dict[str, PageTable] = {}
    for spec in sorted(keys.TABLES.values(), key=lambda spec: spec.place):
        table = tables.get(spec.name)
        if not spec.place or table is None or table.empty:
            continue
        if "condition" in table:
            table = table.assign(
                place=table["condition"].map({arm: i for i, arm in enumerate(arms)})
            )
        chosen = _ROWS.get(spec.name, _as_they_are)(table)
        if len(chosen):
            made[spec.name] = page_table(
                chosen, columns=spec.shown, most=spec.most, file=spec.name, total=len(table)
            )
    return made


def _as_they_are(table: pd.DataFrame) -> pd.DataFrame:
    return table


def _of_headlines(table: pd.DataFrame) -> pd.DataFrame:
    return table.loc[table["gene"].isin(headline_genes(table))]


def _large_shares(table: pd.DataFrame) -> pd.DataFrame:
    rows = _of_headlines(table)
    rows = rows.loc[rows["share"] >= 0.02].sort_values(
        ["gene", "place", "share"], ascending=[True, True, False], kind="stable"
    )
    return rows.rename(columns={"ci_low": "share_ci_low", "ci_high": "share_ci_high"})


def _highest(table: pd.DataFrame) -> pd.DataFrame:
    heads = headline_genes(table.assign(gene=table["cytokine"]))
    rows = table.loc[(table["state"] == keys.ABOVE_AMBIENT) & table["cytokine"].isin(heads)]
    rows = rows.sort_values("cpm", ascending=False, kind="stable")
    return rows.drop_duplicates(["cytokine", "gene", "population"]).sort_index()


def _with_tone(table: pd.DataFrame) -> pd.DataFrame:
    rows = table.loc[table["status"].isin([keys.OK, keys.AGONIST_ONLY, keys.ANTAGONIST_ONLY])]
    size = rows.groupby("population")["agonist_umi"].transform("sum")
    order, upwards = ["size", "population", "place", "sample"], [False, True, True, True]
    return rows.assign(size=size).sort_values(order, ascending=upwards, kind="stable")


def _seen(table: pd.DataFrame) -> pd.DataFrame:
    rows = _of_headlines(table)
    return rows.loc[rows["umi"] > 0].sort_values(["gene", "place", "pvalue"], kind="stable")


def _smallest_p(table: pd.DataFrame) -> pd.DataFrame:
    return table.loc[table["pvalue"].notna()].sort_values(["padj", "pvalue"], kind="stable")


def _largest_changes(table: pd.DataFrame) -> pd.DataFrame:
    """Of each gene and contrast the largest changes first; units are UMI per cell."""
    rows = _of_headlines(table)
    rows = rows.loc[rows["total"].abs() > 0]
    size = rows["total"].abs()
    size /= size.groupby(rows["gene"]).transform("max")
    return rows.loc[size.sort_values(ascending=False, kind="stable").index]


def _by_population(table: pd.DataFrame) -> pd.DataFrame:
    """By contrast (and feature) as they come, and by the order of the populations."""
    rows = table.loc[table["reversal"].notna()] if "reversal" in table else table
    rank = {one: i for i, one in enumerate(population_order(rows["population"]))}
    by = [name for name in ("contrast", "feature") if name in rows]
    order = pd.DataFrame({name: pd.factorize(rows[name])[0] for name in by}, index=rows.index)
    order = order.assign(population=rows["population"].map(rank))
    return rows.loc[order.sort_values([*by, "population"], kind="stable").index]


# Which rows of a table (with the `place` of their arm) the page shows and in which order.
_ROWS: dict[str, Callable[[pd.DataFrame], pd.DataFrame]] = {
    "gene_overlap": lambda table: table.loc[table["marker_of"].astype(str) != ""],
    "coverage": lambda table: table.loc[table["n_found"] < table["n_genes"]],
    "ledger_by_condition": _large_shares,
    "receivers": _highest,
    "il1_tone": _with_tone,
    "production": _seen,
    **dict.fromkeys(("shifts", "arm_by_time", "expression", "enrichment"), _smallest_p),
    "decomposition": _largest_changes,
    **dict.fromkeys(("reversal", "composition"), _by_population),
}


def planted_and_found(
    truth: Mapping[str, pd.DataFrame], tables: Mapping[str, pd.DataFrame]
) -> dict[str, PageTable]:
    """Put what was planted in a simulated cohort beside what was found."""
    made = {}
    if "ledger" in truth and "ledger" in tables:
        made["sources"] = _compare_shares(truth["ledger"], tables["ledger"])
    for name, index, value, least in (
        ("decomposition", ["contrast", "gene", "population"], "total", 0.0),
        ("shifts", ["contrast", "feature", "population"], "estimate", 0.25),
    ):
        planted, found = truth.get(name), tables.get(name)
        if planted is None or found is None or found.empty or planted.empty or value not in planted:
            continue
        ends = (f"{value}_ci_low", f"{value}_ci_high", "ci_low", "ci_high")
        extra = [end for end in ends if end in found]
        both = planted[[*index, value]].merge(
            found[[*index, value, *extra]], on=index, suffixes=("_planted", "_found")
        )
        both = both.rename(columns={f"{value}_planted": "planted", f"{value}_found": "found"})
        both = _of_headlines(both) if name == "decomposition" else both
        both = both.loc[both["planted"].abs() > least]
        both = both.sort_values("planted", key=lambda column: -column.abs(), kind="stable")
        made[name] = page_table(both, columns=[*index, "planted", "found", *extra], most=20)
    return {name: table for name, table in made.items() if table.rows}


def _compare_shares(truth: pd.DataFrame, found: pd.DataFrame) -> PageTable:
    """Compare mean shares of the headline genes by arm, where a tenth or more was planted."""
    index = ["gene", "condition", "population"]

    def means(table: pd.DataFrame, name: str) -> pd.Series:
        rows = table.loc[table["gene"].isin(headline_genes(found))]
        by_subject = rows.groupby([*index, "subject"], observed=True)["share"].mean()
        return by_subject.groupby(level=index).mean().rename(name)

    both = pd.concat([means(truth, "planted_share"), means(found, "found_share")], axis=1)
    rows = both.reset_index()
    rows = rows.loc[(rows["planted_share"] >= 0.1) | (rows["found_share"] >= 0.1)]
    rows = rows.sort_values(
        ["gene", "condition", "planted_share"], ascending=[True, True, False], kind="stable"
    )
    return page_table(rows, columns=[*index, "planted_share", "found_share"], most=40)
