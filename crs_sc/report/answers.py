"""What the report says on top: who makes it, does the treatment shift it, from the tables alone."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from crs_sc import keys
from crs_sc.plotting import feature_label
from crs_sc.report.words import (
    amount,
    cells_named,
    interval,
    listed,
    minus,
    percent,
    plural,
    pvalue,
    signed,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    import pandas as pd

    from crs_sc.comparison import Contrast

_HEADLINE = ("IL1B", "IL6", "Il1b", "Il6")
RESPONSES = ("il1_response", "il6_stat3_response", "ifn_gamma_response", "nfkb_response")


def ordered_arms(contrasts: Sequence[Contrast], arms: Iterable[str]) -> list[str]:
    """Arms from the baseline outwards, as the contrasts name them; others after them by name."""
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
    """Rank populations by their largest mean share of any of the genes in any arm."""
    rows = by_condition.loc[by_condition["gene"].isin(list(genes)) & (by_condition["share"] > 0)]
    largest = rows.groupby("population", observed=True)["share"].max().reset_index()
    ranked = largest.sort_values(["share", "population"], ascending=[False, True])
    return [str(name) for name in ranked["population"].head(most)]


FEW_UMI = 20


@dataclass(frozen=True)
class Answer:
    """One question and what the tables say.

    Attributes
    ----------
    topic
        The gene or the contrast.
    lead
        The answer in one sentence.
    lines
        What carries it: pairs of a label (arm, gene or response) and a sentence.
    """

    topic: str
    lead: str
    lines: tuple[tuple[str, str], ...]


def source_answers(
    tables: Mapping[str, pd.DataFrame], *, contrasts: Sequence[Contrast] = ()
) -> list[Answer]:
    """Say who makes each headline cytokine in each arm.

    Parameters
    ----------
    tables
        At least `ledger` and `ledger_by_condition`; `producers` and `production` if there. Where
        `production` finds no population that makes a cytokine, none is named as its source.
    contrasts
        For the order of the arms.

    Returns
    -------
    One answer a gene: its lead, and a sentence an arm.

    Examples
    --------
    >>> import crs_sc as crs
    >>> adata = crs.datasets.toy_cohort()
    >>> ledger = crs.tl.ledger(adata, genes=["IL1B", "IL6"])
    >>> tables = {"ledger": ledger, "ledger_by_condition": crs.tl.ledger_by_condition(ledger)}
    >>> [answer.topic for answer in crs.report.source_answers(tables)]
    ['IL1B', 'IL6']
    """
    ledger = tables.get("ledger")
    if ledger is None or ledger.empty:
        return []
    arms = ordered_arms(contrasts, ledger["condition"])
    answers = []
    for gene in headline_genes(ledger):
        found = {arm: _arm_facts(tables, gene, arm) for arm in arms}
        lines = tuple((arm, _arm_sentence(gene, facts)) for arm, facts in found.items())
        answers.append(Answer(gene, _source_lead(gene, found), lines))
    return answers


def _arm_facts(tables: Mapping[str, pd.DataFrame], gene: str, arm: str) -> dict[str, Any]:
    """Collect what the sentence about a gene in an arm needs."""
    ledger = tables["ledger"]
    rows = ledger.loc[(ledger["gene"] == gene) & (ledger["condition"] == arm)]
    shares = tables["ledger_by_condition"]
    shares = shares.loc[
        (shares["gene"] == gene) & (shares["condition"] == arm) & (shares["share"] > 0)
    ].sort_values(["share", "population"], ascending=[False, True])
    facts: dict[str, Any] = {
        "subjects": rows["subject"].nunique(),
        "cells": int(rows["n_cells"].sum()),
        "umi": float(rows["umi"].sum()),
        "ambient": float(rows["ambient_umi"].sum()),
        "corrected": float(rows["corrected_umi"].sum()),
        "sources": shares.to_dict("records"),
        "producers": None,
        "power": None,
        "everywhere": False,
    }
    production = tables.get("production")
    if production is not None and not production.empty:
        own = production.loc[(production["gene"] == gene) & (production["condition"] == arm)]
        is_made = own.loc[own["n_cells"] > 0, "state"] == keys.PRODUCER
        facts["everywhere"] = bool(is_made.all()) and len(is_made) > 2
        if not (own["state"] == keys.PRODUCER).any():
            facts["sources"] = []
            cells = float(own["n_cells"].sum())
            # The ledger gives all of it to ambient RNA; here the reader compares.
            facts["ambient"] = float(own["expected_ambient_umi"].sum())
            facts["power"] = float((own["power"] * own["n_cells"]).sum() / max(cells, 1.0))
    producers = tables.get("producers")
    if producers is not None and not producers.empty:
        own = producers.loc[(producers["gene"] == gene) & (producers["condition"] == arm)]
        facts["producers"] = own.groupby("population", observed=True)[
            ["n_producers", "n_cells"]
        ].sum()
    return facts


def _source_lead(gene: str, found: dict[str, dict[str, Any]]) -> str:
    leaders = {arm: facts["sources"][0] for arm, facts in found.items() if facts["sources"]}
    if not leaders and all(facts["power"] is not None for facts in found.values()):
        return f"No producers of {gene} were found in any arm: ambient RNA explains what was seen."
    if not leaders:
        return f"No source of {gene} can be named: no UMI above the ambient RNA in any arm."
    names = {str(row["population"]) for row in leaders.values()}
    if len(names) > 1:
        each = "; ".join(
            f"{cells_named(str(row['population']))} in {arm} ({percent(float(row['share']))})"
            for arm, row in leaders.items()
        )
        return f"The largest source of {gene} differs by arm: {each}."
    (name,) = names
    shares = sorted(float(row["share"]) for row in leaders.values())
    span = (
        percent(shares[0]) if len(shares) == 1 else interval(shares[0], shares[-1], as_percent=True)
    )
    missing = [arm for arm in found if arm not in leaders]
    where = "in every arm" if not missing else f"in {' and '.join(leaders)}"
    sentence = f"{upper(cells_named(name))} are the largest source of {gene} {where}"
    sentence += f" (mean share of its transcripts: {span})"
    if missing:
        sentence += f"; no source can be named in {' and '.join(missing)}"
    return sentence + "."


def _arm_sentence(gene: str, facts: dict[str, Any]) -> str:
    subjects = plural(facts["subjects"], "subject")
    if not facts["sources"] and facts["power"] is not None:
        return (
            f"No producers. {amount(facts['umi'])} UMI seen, {amount(facts['ambient'])} expected "
            f"from ambient RNA, in {facts['cells']:,} cells of {subjects}. "
            f"{_depth_clause(facts['power'])}"
        )
    if not facts["sources"]:
        return (
            f"No {gene} above the ambient RNA in any population ({amount(facts['umi'])} UMI seen, "
            f"{amount(facts['ambient'])} expected from ambient RNA; {facts['cells']:,} cells of "
            f"{subjects}). No source can be named."
        )
    first = facts["sources"][0]
    name = cells_named(str(first["population"]))
    seen = int(first["n_subjects"])
    within = interval(float(first["ci_low"]), float(first["ci_high"]), as_percent=True)
    bounds = f"95 % interval {within}" if within and seen > 1 else "one subject: no interval"
    sentence = f"{upper(name)}, {percent(float(first['share']))} of the transcripts ({bounds})"
    sentence += f" from {percent(float(first['cell_share']))} of the cells"
    sentence += _producer_clause(facts["producers"], str(first["population"]))
    whom = f"{seen} of {subjects}, the others without {gene} above ambient RNA"
    sentence += f"; {subjects if seen == facts['subjects'] else whom}."
    sentence += _runner_up(first, facts["sources"][1:])
    if facts["everywhere"]:
        sentence += (
            f" But every population holds more {gene} than ambient RNA explains: more often "
            "RNA of cells that were not captured, in an ambient profile pooled from the others, "
            "than production by all of them: give the empty droplets."
        )
    if facts["corrected"] < FEW_UMI:
        umi = amount(round(facts["corrected"], 1))
        sentence += f" Only {umi} UMI in all: too few to rank the sources."
    return sentence


def _depth_clause(power: float) -> str:
    """Say what the absence of producers is worth at this depth."""
    called = f"A typical producer would have been called with probability {percent(power)}"
    if power >= 0.8:
        return f"{called}, so few can have been missed."
    return f"{called}: at this depth producers can have been missed."


def _producer_clause(producers: Any, population: str) -> str:
    if producers is None or population not in producers.index:
        return ""
    if int(producers["n_producers"].sum()) == 0:
        return (
            ", though no single cell holds more UMI than ambient RNA explains "
            "(the share rests on sums over cells)"
        )
    made, cells = producers.loc[population, ["n_producers", "n_cells"]]
    return f", {percent(made / cells) if cells else 'none'} of them called producers"


def _runner_up(first: dict[str, Any], others: list[dict[str, Any]]) -> str:
    if not others or float(others[0]["share"]) < 0.05:
        return ""
    second = others[0]
    sentence = f" Next: {cells_named(str(second['population']))}, "
    sentence += percent(float(second["share"]))
    if float(second["ci_high"]) > float(first["ci_low"]):
        return sentence + "; the intervals overlap, so which is first is not certain."
    return sentence + "."


def upper(text: str) -> str:
    """Capitalise the first letter, unless the word is a name such as pDCs or cDC2."""
    word = text.split(" ", 1)[0]
    return text[:1].upper() + text[1:] if word.islower() or "-" in word else text


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

    Returns
    -------
    One answer a contrast, the output of the cytokines and the responses; none without contrasts.

    Examples
    --------
    >>> import crs_sc as crs
    >>> adata = crs.datasets.toy_cohort()
    >>> contrast = crs.Contrast("cart", treated="CART", reference="vehicle")
    >>> crs.tl.call_producers(adata, genes=["IL1B"])
    >>> ledger, made = crs.tl.ledger(adata, genes=["IL1B"]), crs.tl.producers(adata)
    >>> samples = adata.obs.groupby("sample", observed=True)[["subject", "condition"]].first()
    >>> parts = crs.tl.decompose(ledger, made, contrasts=[contrast], samples=samples)
    >>> tables = {"ledger": ledger, "producers": made, "decomposition": parts}
    >>> [answer.topic for answer in crs.report.shift_answers(tables, contrasts=[contrast])]
    ['cart: vehicle → CART']
    """
    ledger = tables.get("ledger")
    changes = tables.get("decomposition")
    if ledger is None or ledger.empty or changes is None or changes.empty:
        return []
    genes = headline_genes(ledger)
    output = _output(ledger, tables.get("producers"))
    main = next(iter(_main(tables, genes)), "")
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
            population = next(iter(_main(tables, [gene])), main)
            row = _row(tables, "shifts", name, gene, population)
            if row:
                text = f"In {cells_named(population)} {_shift_text(row)}"
                lines.append((f"{gene} level", text))
        more, responses = _responses(tables, name, main, contrast.baseline)
        lines += more
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
    return {
        str(gene): {str(arm): float(value) for arm, value in part.droplevel(0).items()}
        for gene, part in means.groupby(level=0)
    }


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


def _main(tables: Mapping[str, pd.DataFrame], genes: Sequence[str]) -> list[str]:
    """Name the main source of these genes where there is one."""
    table = tables.get("ledger_by_condition")
    return [] if table is None or table.empty else main_sources(table, genes, most=1)


def _row(
    tables: Mapping[str, pd.DataFrame], name: str, contrast: str, feature: str, population: str
) -> dict[Any, Any]:
    """Take the row of a table of shifts or reversals; empty where there is none."""
    table = tables.get(name)
    if table is None or table.empty:
        return {}
    rows = table.loc[
        (table["contrast"] == contrast)
        & (table["feature"] == feature)
        & (table["population"] == population)
    ]
    return next(iter(rows.to_dict("records")), {})


def _shift_text(row: dict[Any, Any]) -> str:
    status = str(row["status"])
    why = _WHY_NOT.get(status, status.replace("_", " "))
    estimate, low, high = (float(row[name]) for name in ("estimate", "ci_low", "ci_high"))
    if math.isnan(estimate):
        return f"not tested ({why})."
    text = f"{estimate:+.2f} log2"
    if not math.isnan(low):
        text += f" (95 % interval {low:.2f} to {high:.2f})"
    text = minus(text)
    permuted = float(row["pvalue_permutation"])
    if math.isnan(permuted) and math.isnan(float(row["pvalue"])):
        return f"{text}, no p ({why})."
    text += f", permutation p {pvalue(permuted, float(row['pvalue_floor']))}"
    text += f", adjusted model p {pvalue(float(row['padj']))}."
    # A p that is not small is never taken for no change: the verdict says what is shown.
    within = _within(float(row["margin"]))
    verdicts = {
        keys.CHANGED: "Changed",
        keys.CHANGED_WITHIN_MARGIN: f"Changed, but by less than what is relevant{within}",
        keys.EQUIVALENT: f"No relevant change{within}",
        keys.INCONCLUSIVE: "Inconclusive: neither a change nor its absence is shown",
    }
    if row["verdict"] in verdicts:
        text += f" {verdicts[row['verdict']]}."
    ends = ("estimate", "ci_low", "ci_high")
    estimate, low, high = (float(row[f"{end}_stress_adjusted"]) for end in ends)
    if math.isnan(estimate):
        return text
    return text + minus(f" At equal handling stress {estimate:+.2f} ({low:.2f} to {high:.2f}).")


def _within(margin: float, *, word: str = "") -> str:
    return "" if math.isnan(margin) else f" ({word}\u00b1{margin:g} log2)"


def _responses(
    tables: Mapping[str, pd.DataFrame], contrast: str, population: str, baseline: str | None
) -> tuple[list[tuple[str, str]], list[str]]:
    """Give the response signatures in the main source, and in a clause those that changed.

    A blocker is judged by these clauses; beside each signature stands how far it is brought back.
    """
    lines = []
    moved: dict[str, list[str]] = {"rise": [], "fall": []}
    for feature in RESPONSES[:3]:
        row = _row(tables, "shifts", contrast, feature, population)
        if not row:
            continue
        text = f"In {cells_named(population)} {_shift_text(row)}"
        back = _row(tables, "reversal", contrast, feature, population) if baseline else {}
        lines.append((feature_label(feature), text + _reversal_text(back, baseline)))
        if row["verdict"] == keys.CHANGED:
            estimate = float(row["estimate"])
            size = minus(f"{estimate:+.1f} log2")
            moved["rise" if estimate > 0 else "fall"].append(f"{feature_label(feature)} ({size})")
    clauses = [
        f"{listed(names)} {way if len(names) > 1 else way + 's'} in {cells_named(population)}"
        for way, names in moved.items()
        if names
    ]
    return lines, clauses


def _reversal_text(row: dict[Any, Any], baseline: str | None) -> str:
    if not row or math.isnan(float(row["reversal"])):
        return ""
    within = interval(float(row["ci_low"]), float(row["ci_high"]), as_percent=True)
    text = f" Reversal towards {baseline}: {percent(float(row['reversal']))}"
    return text + (f" (95 % interval {within})." if within else ".")


def shift_sentences(tables: Mapping[str, pd.DataFrame]) -> list[str]:
    """Count the verdicts of all tests, and those that handling stress does not take away."""
    shifts = tables.get("shifts")
    if shifts is None:
        return []
    counts = shifts["verdict"].value_counts()
    total = int(counts.reindex(list(keys.VERDICTS)).sum())
    if not total:
        return []
    within = _within(shifts["margin"].max(), word="within ")
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
    """Name the populations that tests do without in some subject for want of cells."""
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
    """Say for each arm which cytokine came first, in how many subjects, with the sign test."""
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
