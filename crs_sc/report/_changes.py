"""Does the treatment shift it: the sentences on top of the report, from the tables."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from crs_sc import keys
from crs_sc.plotting import feature_label
from crs_sc.report._answers import Answer, upper
from crs_sc.report._arms import RESPONSES, headline_genes, main_sources
from crs_sc.report._format import amount, cells_named, interval, listed, percent, pvalue, signed

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pandas as pd

    from crs_sc.comparison import Contrast

__all__ = ["shift_answers"]

_PARTS = {
    "composition": ("more {cells}", "fewer {cells}"),
    "producer_fraction": ("more producers among {cells}", "fewer producers among {cells}"),
    "intensity": ("more {gene} per producer in {cells}", "less {gene} per producer in {cells}"),
}
_WHY_NOT = {
    keys.TOO_FEW_CELLS: "too few cells",
    keys.TOO_FEW_SUBJECTS: "too few subjects for a test",
    keys.CONFOUNDED: "arm and batch cannot be told apart",
    keys.ABSENT_IN_REFERENCE: "the population is absent in the reference arm",
    keys.ABSENT_IN_TREATED: "the population is absent in the treated arm",
    keys.NOT_MEASURED: "the gene is not in the data",
    keys.NOT_DETECTED: "too few UMI beyond ambient RNA to compare",
    keys.TOO_FEW_GENES: "too few genes with UMI enough to compare",
}


def shift_answers(
    tables: Mapping[str, pd.DataFrame], *, contrasts: Sequence[Contrast]
) -> list[Answer]:
    """Say what each contrast does to the output of the headline cytokines and to the responses.

    Parameters
    ----------
    tables
        Those of `decomposition`, `shifts`, `reversal` and `ledger` that there are.
    contrasts
        What was compared; none gives an empty list.
    """
    ledger = tables.get("ledger")
    changes = tables.get("decomposition")
    if ledger is None or ledger.empty or changes is None or changes.empty:
        return []
    genes = headline_genes(ledger)
    output = _output(ledger, tables.get("producers"))
    answers = []
    for name in dict.fromkeys(str(value) for value in changes["contrast"]):
        contrast = next((one for one in contrasts if one.name == name.partition("@")[0]), None)
        if contrast is None:
            continue
        lines, leads = [], []
        for gene in genes:
            rows = changes.loc[(changes["contrast"] == name) & (changes["gene"] == gene)]
            # The ledger has no time points, so a contrast within them has no level to refer to.
            levels = output.get(gene, {}) if contrast.within is None else {}
            lead, detail = _change(gene, rows, levels.get(contrast.reference, math.nan))
            leads.append(lead)
            lines.append((gene, upper(detail)))
            lines += _tested(tables, name, gene, genes)
        lines += _responses(tables, name, genes, contrast)
        responses = _changed_responses(tables, name, genes)
        # A drug is judged by the response that it blocks.
        leads = [*responses, *leads] if contrast.baseline else [*leads, *responses]
        title = f"{name}: {contrast.reference} \u2192 {contrast.treated}"
        answers.append(Answer(title, upper("; ".join(leads)) + ".", tuple(lines)))
    return answers


def _output(ledger: pd.DataFrame, producers: pd.DataFrame | None) -> dict[str, dict[str, float]]:
    """Corrected UMI per sampled cell by gene and arm: mean over subjects.

    As in the decomposition, a population counts for a subject only if it has a called producer.
    """
    per_cell = ledger["corrected_umi"] / ledger["n_cells"].where(ledger["n_cells"] > 0)
    rows = ledger.assign(output=(ledger["cell_share"] * per_cell).fillna(0.0))
    if producers is not None and not producers.empty:
        unit = ["gene", "population", "condition", "subject"]
        makers = producers.groupby(unit, observed=True)["n_producers"].sum().rename("makers")
        rows = rows.merge(makers.reset_index(), on=unit, how="left")
        rows["output"] = rows["output"].where(rows["makers"] > 0, 0.0)
    index = ["gene", "condition", "subject", "sample"]
    by_sample = rows.groupby(index, observed=True)["output"].sum()
    by_subject = by_sample.groupby(level=index[:3]).mean()
    means = by_subject.groupby(level=index[:2]).mean()
    result: dict[str, dict[str, float]] = {}
    for row in means.reset_index().to_dict("records"):
        result.setdefault(str(row["gene"]), {})[str(row["condition"])] = float(row["output"])
    return result


def _change(gene: str, rows: pd.DataFrame, before: float) -> tuple[str, str]:
    """Describe the change of output: a short clause, and a sentence with the parts."""
    rows = rows.dropna(subset=["total"])
    whole = rows.loc[rows["population"] == keys.ALL_POPULATIONS]
    rows = rows.drop(index=whole.index)
    if rows.empty or whole.empty:
        return f"{gene} could not be compared", "no comparison could be made."
    total, low, high = (
        float(whole[name].iloc[0]) for name in ("total", "total_ci_low", "total_ci_high")
    )
    scale = float(rows["total"].abs().sum())
    if scale == 0 or bool((rows["status"] == keys.NO_PRODUCERS).all()):
        return (
            f"{gene} is made in neither arm",
            "no output above ambient RNA in either arm, so there is nothing to compare.",
        )
    known = not math.isnan(low)
    clear = known and (low > 0 or high < 0)
    size = _relative(total, before)
    levels = _levels(total, before, interval(1000 * low, 1000 * high))
    parts = _parts(gene, rows)
    if clear:
        lead = f"{gene} output per sampled cell {'rises' if total > 0 else 'falls'}{size}"
        # A part whose interval spans zero is told below, not in the headline.
        lead += "".join(f" ({words})" for _, words, _, (start, end) in parts[:1] if start * end > 0)
    elif known:
        way = "up" if total > 0 else "down"
        lead = (
            f"{gene} output per sampled cell: inconclusive, the interval spans zero "
            f"(estimate: {way}{size})"
        )
    else:
        lead = (
            f"{gene} output per sampled cell is {'higher' if total > 0 else 'lower'}{size}, "
            "without an interval (too few subjects)"
        )
    return lead, f"{levels}. {_part_list(parts)}"


def _levels(total: float, before: float, within: str) -> str:
    """Give output before and after, or the change where that before is not known."""
    change = signed(1000 * total)
    told = f"95 % interval {within}" if within else ""
    if math.isnan(before):
        return f"{change} UMI per 1,000 sampled cells" + (f" ({told})" if told else "")
    after = max(before + total, 0.0)
    text = f"from {amount(1000 * before)} to {amount(1000 * after)} UMI per 1,000 sampled cells"
    return text + (f" (change {change}, {told})" if told else "")


def _relative(total: float, before: float) -> str:
    if math.isnan(before):
        return f" by {amount(1000 * abs(total))} UMI per 1,000 cells"
    if before <= 0:
        return " from none"
    ratio = (before + total) / before
    if ratio >= 2:
        return f" {ratio:.0f}-fold" if ratio >= 9.5 else f" {ratio:.1f}-fold"
    return f" by {percent(abs(total) / before)}"


def _parts(gene: str, rows: pd.DataFrame) -> list[tuple[float, str, float, tuple[float, float]]]:
    """Describe every part of the change: size, words, value and interval, the largest first."""
    parts = []
    for row in rows.to_dict("records"):
        for part, (more, fewer) in _PARTS.items():
            value = float(row[part])
            if math.isnan(value) or value == 0:
                continue
            words = (more if value > 0 else fewer).format(
                cells=cells_named(str(row["population"])), gene=gene
            )
            ends = float(row[f"{part}_ci_low"]), float(row[f"{part}_ci_high"])
            parts.append((abs(value), words, value, ends))
    return sorted(parts, key=lambda item: (-item[0], item[1]))


def _part_list(parts: list[tuple[float, str, float, tuple[float, float]]]) -> str:
    """Name the largest parts of the change, at most three."""
    whole = sum(item[0] for item in parts)
    told = [item for item in parts if item[0] >= 0.1 * whole][:3] or parts[:1]
    if not told:
        return "No part of it can be named."
    texts = []
    for _, words, value, (low, high) in told:
        text = f"{words} ({signed(1000 * value)}"
        within = interval(1000 * low, 1000 * high)
        if within:
            text += f", 95 % interval {within}"
            text += ", spans zero" if low <= 0 <= high else ""
        texts.append(text + ")")
    return "Mostly " + "; ".join(texts) + "."


def _tested(
    tables: Mapping[str, pd.DataFrame], contrast: str, gene: str, genes: Sequence[str]
) -> list[tuple[str, str]]:
    """Give the test of the gene itself in its main source."""
    population = _main_source(tables, [gene]) or _main_source(tables, genes)
    row = _shift(tables, contrast, gene, population)
    if row is None or population is None:
        return []
    return [(f"{gene} level", f"In {cells_named(population)} {_shift_text(row)}")]


def _main_source(tables: Mapping[str, pd.DataFrame], genes: Sequence[str]) -> str | None:
    table = tables.get("ledger_by_condition")
    if table is None or table.empty:
        return None
    return next(iter(main_sources(table, genes, most=1)), None)


def _shift(
    tables: Mapping[str, pd.DataFrame], contrast: str, feature: str, population: str | None
) -> dict[Any, Any] | None:
    table = tables.get("shifts")
    if table is None or table.empty or population is None:
        return None
    rows = table.loc[
        (table["contrast"] == contrast)
        & (table["feature"] == feature)
        & (table["population"] == population)
    ].to_dict("records")
    return rows[0] if rows else None


def _shift_text(row: dict[Any, Any]) -> str:
    status = str(row["status"])
    why = _WHY_NOT.get(status, status.replace("_", " "))
    estimate = float(row["estimate"])
    if math.isnan(estimate):
        return f"not tested ({why})."
    text = f"{estimate:+.2f} log2".replace("-", "\u2212")
    low, high = float(row["ci_low"]), float(row["ci_high"])
    if not math.isnan(low):
        text += f" (95 % interval {low:.2f} to {high:.2f})".replace("-", "\u2212")
    permuted = float(row["pvalue_permutation"])
    if math.isnan(permuted) and math.isnan(float(row["pvalue"])):
        return f"{text}, no p ({why})."
    text += f", permutation p {pvalue(permuted, float(row['pvalue_floor']))}"
    text += f", adjusted model p {pvalue(float(row['padj']))}."
    return text + _verdict_text(row) + _adjusted_text(row)


def _verdict_text(row: dict[Any, Any]) -> str:
    """Give the verdict in words; a p that is not small is never taken for no change."""
    margin = float(row["margin"])
    within = "" if math.isnan(margin) else f" (\u00b1{margin:g} log2)"
    words = {
        keys.CHANGED: "Changed",
        keys.CHANGED_WITHIN_MARGIN: f"Changed, but by less than what is relevant{within}",
        keys.EQUIVALENT: f"No relevant change{within}",
        keys.INCONCLUSIVE: "Inconclusive: neither a change nor its absence is shown",
    }
    verdict = row["verdict"]
    return f" {words[verdict]}." if verdict in words else ""


def _adjusted_text(row: dict[Any, Any]) -> str:
    """Give the estimate at equal handling stress where there is one."""
    estimate = float(row["estimate_stress_adjusted"])
    if math.isnan(estimate):
        return ""
    low, high = (float(row[f"ci_{end}_stress_adjusted"]) for end in ("low", "high"))
    text = f" At equal handling stress {estimate:+.2f} ({low:.2f} to {high:.2f})."
    return text.replace("-", "\u2212")


def _responses(
    tables: Mapping[str, pd.DataFrame], contrast: str, genes: Sequence[str], asked: Contrast
) -> list[tuple[str, str]]:
    """Give the response signatures in the main source, and how far a drug brings them back."""
    population = _main_source(tables, genes)
    lines = []
    for feature in RESPONSES[:3]:
        row = _shift(tables, contrast, feature, population)
        if row is None or population is None:
            continue
        text = f"In {cells_named(population)} {_shift_text(row)}"
        text += _reversal_text(tables, contrast, feature, population, asked.baseline)
        lines.append((feature_label(feature), text))
    return lines


def _changed_responses(
    tables: Mapping[str, pd.DataFrame], contrast: str, genes: Sequence[str]
) -> list[str]:
    """Name the responses that changed in the main source: a blocker is judged by them."""
    population = _main_source(tables, genes)
    moved: dict[str, list[str]] = {"rise": [], "fall": []}
    for feature in RESPONSES[:3]:
        row = _shift(tables, contrast, feature, population)
        if row is not None and row["verdict"] == keys.CHANGED:
            estimate = float(row["estimate"])
            size = f"{estimate:+.1f} log2".replace("-", "\u2212")
            way = "rise" if estimate > 0 else "fall"
            moved[way].append(f"{feature_label(feature)} ({size})")
    return [
        f"{listed(names)} {way if len(names) > 1 else way + 's'} in {cells_named(str(population))}"
        for way, names in moved.items()
        if names
    ]


def _reversal_text(
    tables: Mapping[str, pd.DataFrame],
    contrast: str,
    feature: str,
    population: str,
    baseline: str | None,
) -> str:
    table = tables.get("reversal")
    if baseline is None or table is None or table.empty:
        return ""
    rows = table.loc[
        (table["contrast"] == contrast)
        & (table["feature"] == feature)
        & (table["population"] == population)
    ].to_dict("records")
    if not rows or math.isnan(float(rows[0]["reversal"])):
        return ""
    row = rows[0]
    within = interval(float(row["ci_low"]), float(row["ci_high"]), as_percent=True)
    text = f" Reversal towards {baseline}: {percent(float(row['reversal']))}"
    return text + (f" (95 % interval {within})." if within else ".")
