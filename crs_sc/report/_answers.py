"""Who makes it: the sentences on top of the report, from the tables and nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from crs_sc import keys
from crs_sc.report._arms import headline_genes, ordered_arms
from crs_sc.report._format import amount, cells_named, interval, percent

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pandas as pd

    from crs_sc.comparison import Contrast

__all__ = ["Answer", "count", "source_answers", "upper"]

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
        "soup": float(rows["ambient_umi"].sum()),
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
            facts["soup"] = float(own["expected_ambient_umi"].sum())
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
    subjects = count(facts["subjects"], "subject")
    if not facts["sources"] and facts["power"] is not None:
        return (
            f"No producers. {amount(facts['umi'])} UMI seen, {amount(facts['soup'])} expected from "
            f"ambient RNA, in {facts['cells']:,} cells of {subjects}. "
            f"{_depth_clause(facts['power'])}"
        )
    if not facts["sources"]:
        return (
            f"No {gene} above the ambient RNA in any population ({amount(facts['umi'])} UMI seen, "
            f"{amount(facts['soup'])} expected from ambient RNA; {facts['cells']:,} cells of "
            f"{subjects}). No source can be named."
        )
    first = facts["sources"][0]
    name = cells_named(str(first["population"]))
    seen, within = (
        int(first["n_subjects"]),
        interval(float(first["ci_low"]), float(first["ci_high"]), as_percent=True),
    )
    bounds = f"95 % interval {within}" if within and seen > 1 else "one subject: no interval"
    sentence = f"{upper(name)}, {percent(float(first['share']))} of the transcripts ({bounds})"
    sentence += f" from {percent(float(first['cell_share']))} of the cells"
    sentence += _producer_clause(facts["producers"], str(first["population"]))
    sentence += f"; {_subject_clause(gene, seen, facts['subjects'])}."
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


def _subject_clause(gene: str, seen: int, subjects: int) -> str:
    if seen == subjects:
        return count(subjects, "subject")
    return f"{seen} of {subjects} subjects, the others without {gene} above ambient RNA"


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


def count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number:,} {noun}s"
