"""Short tables for the page: a few columns and rows, and where the whole table is."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from crs_sc import keys
from crs_sc.plotting import feature_label, population_order
from crs_sc.report._arms import headline_genes
from crs_sc.report._format import amount, percent

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["VERDICTS", "PageTable", "page_table", "page_tables", "planted_and_found"]

_SHARES = frozenset(
    {
        "share", "cell_share", "median_mt_fraction", "ambient_fraction", "ambient_upper",
        "share_reference", "share_treated", "share_ci_low", "share_ci_high", "planted_share",
        "found_share", "fraction", "population_share", "subject_share", "condition_share",
        "myeloid_state_share", "mixed_share",
    }
)  # fmt: skip
_SETS = frozenset({"feature", "gene_set"})
_VOCABULARY = frozenset({"status", "state", "verdict", "reason", "state_first", "state_second"})
VERDICTS = {
    keys.CHANGED_WITHIN_MARGIN: "changed, within the margin",
    keys.EQUIVALENT: "no relevant change",
}


@dataclass(frozen=True)
class PageTable:
    """A table as the page shows it.

    Attributes
    ----------
    columns
        Heading, explanation for the mouse, and whether the column holds numbers.
    rows
        For each cell the text and the value that sorting uses.
    total
        Rows of the whole table.
    file
        Name of the whole table in `tables/`, empty if there is none.
    """

    columns: list[tuple[str, str, bool]]
    rows: list[list[tuple[str, str]]]
    total: int
    file: str = ""


def page_table(
    table: pd.DataFrame, *, columns: Sequence[str], most: int, file: str = "", total: int = 0
) -> PageTable:
    """Take columns and the first rows of a table and write the numbers for a reader.

    Parameters
    ----------
    table
        Rows in the order of the page.
    columns
        Columns to show; those that are absent are passed over.
    most
        Rows to show at the most.
    file
        Name of the whole table in `tables/`.
    total
        Rows of the whole table, if `table` holds only some.
    """
    chosen = [name for name in columns if name in table.columns]
    meaning = _meanings(file)
    numeric = {name: pd.api.types.is_numeric_dtype(table[name]) for name in chosen}
    rows = [
        [_cell(name, row[name]) for name in chosen]
        for row in table.head(most)[chosen].to_dict("records")
    ]
    heads = [(name.replace("_", " "), meaning.get(name, ""), numeric[name]) for name in chosen]
    return PageTable(heads, rows, max(total, len(table)), file)


def _meanings(file: str) -> dict[str, str]:
    if file not in keys.TABLES:
        return {}
    return {column.name: column.meaning for column in keys.TABLES[file].columns}


def _cell(name: str, value: Any) -> tuple[str, str]:
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
    if name in _SHARES:
        return percent(number), repr(number)
    if isinstance(value, int | np.integer):
        return f"{int(value):,}", repr(number)
    if name.startswith("p") and name in {"pvalue", "padj", "pvalue_permutation", "pvalue_floor"}:
        return ("<0.0001" if number < 1e-4 else f"{number:.2g}"), repr(number)
    return amount(number), repr(number)


def page_tables(tables: Mapping[str, pd.DataFrame], *, arms: Sequence[str]) -> dict[str, PageTable]:
    """Build the short tables of the page from the tables of the contract.

    Parameters
    ----------
    tables
        By name; those that are missing or empty are passed over.
    arms
        Arms in order.
    """
    made: dict[str, PageTable] = {}
    for name, (columns, most) in _SHOWN.items():
        table = tables.get(name)
        if table is None or table.empty:
            continue
        chosen = _select(name, table, arms)
        if len(chosen):
            made[name] = page_table(chosen, columns=columns, most=most, file=name, total=len(table))
    return made


_TESTED = ["estimate", "ci_low", "ci_high", "pvalue_permutation", "pvalue_floor", "padj"]
_SHOWN: dict[str, tuple[list[str], int]] = {
    "qc": (
        [
            "sample", "subject", "condition", "n_cells_in", "n_cells_out", "median_umi",
            "median_genes", "median_mt_fraction", "n_doublets", "n_other_species",
            "n_cross_species", "ambient_fraction", "ambient_upper", "note",
        ],
        60,
    ),
    "populations": (keys.POPULATIONS_TABLE.names, 60),
    "il1_tone": (
        [
            "condition", "population", "sample", "agonist_umi", "antagonist_umi", "log2_ratio",
            "ci_low", "ci_high", "release", "status",
        ],
        40,
    ),
    "opinions": (keys.OPINIONS_TABLE.names, 60),
    "clusters": (keys.CLUSTERS_TABLE.names, 60),
    "clustering": (keys.CLUSTERING_TABLE.names, 20),
    "subclusters": (keys.SUBCLUSTERS_TABLE.names, 30),
    "integration": (keys.INTEGRATION_TABLE.names, 30),
    "circularity": (keys.CIRCULARITY_TABLE.names, 30),
    "gene_overlap": (keys.GENE_OVERLAP_TABLE.names, 30),
    "coverage": (keys.COVERAGE_TABLE.names, 30),
    "ledger_by_condition": (
        [
            "gene", "condition", "population", "n_subjects", "share", "share_ci_low",
            "share_ci_high", "cell_share", "enrichment",
        ],
        40,
    ),
    "receivers": (
        [
            "cytokine", "gene", "role", "condition", "population", "n_subjects", "cpm", "ci_low",
            "ci_high", "fraction",
        ],
        40,
    ),
    "production": (
        [
            "gene", "condition", "population", "n_subjects", "n_cells", "n_producers", "umi",
            "expected_ambient_umi", "padj", "power", "state",
        ],
        40,
    ),
    "shifts": (
        [
            "contrast", "feature", "population", "verdict", *_TESTED, "estimate_stress_adjusted",
            "hedges_g", "loo_low", "loo_high", "n_genes",
        ],
        25,
    ),
    "exclusions": (keys.EXCLUSIONS_TABLE.names, 40),
    "arm_by_time": (
        ["contrast", "timepoint", "reference_timepoint", "feature", "population", *_TESTED],
        25,
    ),
    "onset": (
        [
            "condition", "subject", "first", "onset_first", "state_first", "second",
            "onset_second", "state_second", "order",
        ],
        60,
    ),
    "decomposition": (
        [
            "contrast", "gene", "population", "total", "total_ci_low", "total_ci_high",
            "composition", "producer_fraction", "intensity", "status",
        ],
        25,
    ),
    "reversal": (keys.REVERSAL_TABLE.names, 25),
    "composition": (
        ["contrast", "population", "share_reference", "share_treated", *_TESTED, "status"],
        40,
    ),
    "expression": (
        ["contrast", "population", "gene", "base_mean", "log2fc", "lfc_se", "pvalue", "padj"],
        20,
    ),
    "enrichment": (
        ["contrast", "population", "gene_set", "n_genes", "nes", "pvalue", "padj", "leading_edge"],
        20,
    ),
}  # fmt: skip


def _select(name: str, table: pd.DataFrame, arms: Sequence[str]) -> pd.DataFrame:
    """Choose and sort the rows that the page shows."""
    if name == "gene_overlap":
        return table.loc[table["marker_of"].astype(str) != ""]
    if name == "coverage":
        return table.loc[table["n_found"] < table["n_genes"]]
    if name == "ledger_by_condition":
        genes = headline_genes(table)
        rows = table.loc[table["gene"].isin(genes) & (table["share"] >= 0.02)]
        place = rows["condition"].map({arm: i for i, arm in enumerate(arms)})
        rows = rows.assign(place=place).sort_values(
            ["gene", "place", "share"], ascending=[True, True, False], kind="stable"
        )
        return rows.rename(columns={"ci_low": "share_ci_low", "ci_high": "share_ci_high"})
    if name == "receivers":
        heads = headline_genes(table.assign(gene=table["cytokine"]))
        rows = table.loc[(table["state"] == keys.ABOVE_AMBIENT) & table["cytokine"].isin(heads)]
        rows = rows.sort_values("cpm", ascending=False, kind="stable")
        return rows.drop_duplicates(["cytokine", "gene", "population"]).sort_index()
    if name == "il1_tone":
        rows = table.loc[table["status"].isin([keys.OK, keys.AGONIST_ONLY, keys.ANTAGONIST_ONLY])]
        place = rows["condition"].map({arm: i for i, arm in enumerate(arms)})
        size = rows.groupby("population")["agonist_umi"].transform("sum")
        rows = rows.assign(place=place, size=size)
        return rows.sort_values(["size", "population", "place", "sample"],
                                ascending=[False, True, True, True], kind="stable")  # fmt: skip
    if name == "production":
        rows = table.loc[table["gene"].isin(headline_genes(table)) & (table["umi"] > 0)]
        place = rows["condition"].map({arm: i for i, arm in enumerate(arms)})
        rows = rows.assign(place=place)
        return rows.sort_values(["gene", "place", "pvalue"], kind="stable")
    if name in {"shifts", "arm_by_time", "expression", "enrichment"}:
        rows = table.loc[table["pvalue"].notna()]
        return rows.sort_values(["padj", "pvalue"], kind="stable")
    if name == "decomposition":
        rows = table.loc[table["gene"].isin(headline_genes(table)) & (table["total"].abs() > 0)]
        # Of each gene and contrast the largest changes first; units are UMI per cell.
        size = rows["total"].abs() / rows.groupby("gene")["total"].transform(
            lambda values: values.abs().max()
        )
        return rows.loc[size.sort_values(ascending=False, kind="stable").index]
    if name == "reversal":
        rows = table.loc[table["reversal"].notna()]
        rank = {one: i for i, one in enumerate(population_order(rows["population"]))}
        order = pd.DataFrame(
            {
                "contrast": pd.factorize(rows["contrast"])[0],
                "feature": pd.factorize(rows["feature"])[0],
                "population": rows["population"].map(rank).to_numpy(),
            },
            index=rows.index,
        )
        order = order.sort_values(["contrast", "feature", "population"], kind="stable")
        return rows.loc[order.index]
    if name == "composition":
        rank = {one: i for i, one in enumerate(population_order(table["population"]))}
        block = {one: i for i, one in enumerate(dict.fromkeys(table["contrast"]))}
        return table.assign(
            row=table["population"].map(rank), block=table["contrast"].map(block)
        ).sort_values(["block", "row"], kind="stable")
    return table


def planted_and_found(
    truth: Mapping[str, pd.DataFrame], tables: Mapping[str, pd.DataFrame]
) -> dict[str, PageTable]:
    """Put what was planted in a simulated cohort beside what was found.

    Parameters
    ----------
    truth
        `ledger`, `decomposition` and `shifts` in the columns of the tables, those that there are.
    tables
        What the run found.

    Returns
    -------
    Short tables by name: `sources`, `decomposition` and `shifts`.
    """
    made = {}
    if "ledger" in truth and "ledger" in tables:
        made["sources"] = _compare_shares(truth["ledger"], tables["ledger"])
    for name, index, value, least in (
        ("decomposition", ["contrast", "gene", "population"], "total", 0.0),
        ("shifts", ["contrast", "feature", "population"], "estimate", 0.25),
    ):
        if name not in truth or tables.get(name) is None or tables[name].empty:
            continue
        if value not in truth[name] or truth[name].empty:
            continue
        extra = [end for end in (f"{value}_ci_low", f"{value}_ci_high") if end in tables[name]]
        extra += [end for end in ("ci_low", "ci_high") if end in tables[name]]
        both = truth[name][[*index, value]].merge(
            tables[name][[*index, value, *extra]], on=index, suffixes=("_planted", "_found")
        )
        if name == "decomposition":
            both = both.loc[both["gene"].isin(headline_genes(both))]
        both = both.rename(columns={f"{value}_planted": "planted", f"{value}_found": "found"})
        both = both.loc[both["planted"].abs() > least]
        both = both.sort_values("planted", key=lambda column: -column.abs(), kind="stable")
        if len(both):
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
