"""What the report says beside its numbers, and how it writes numbers and names."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pandas as pd

_PLURALS = {
    "Classical monocyte": "classical monocytes",
    "Intermediate monocyte": "intermediate monocytes",
    "Non-classical monocyte": "non-classical monocytes",
    "Macrophage": "macrophages",
    "AS-DC": "AS-DCs",
    "Migratory DC": "migratory DCs",
    "pDC": "pDCs",
    "Neutrophil": "neutrophils",
    "Mast cell": "mast cells",
    "Plasma cell": "plasma cells",
    "Megakaryocyte": "megakaryocytes",
    "Erythroid": "erythroid cells",
    "HSPC": "progenitors",
    "B-ALL blast": "B-ALL blasts",
    "AML blast": "AML blasts",
    "Unknown": "cells of unknown type",
}


def cells_named(population: str) -> str:
    """Name a population in a sentence: `Classical monocyte` -> `classical monocytes`."""
    if population in _PLURALS:
        return _PLURALS[population]
    if population.endswith("s"):
        return population
    return f"{population}s" if population.lower().endswith("cell") else f"{population} cells"


def minus(text: str) -> str:
    """Write the minus of numbers as a minus."""
    return text.replace("-", "\u2212")


def amount(value: float) -> str:
    """Three significant digits, thousands separated, no exponent for everyday sizes."""
    if math.isnan(value):
        return "not known"
    size = abs(value)
    if size >= 100:
        return minus(f"{value:,.0f}")
    if size == 0:
        return "0"
    if size < 1e-4:
        return minus(f"{value:.1e}")
    digits = max(0, 2 - math.floor(math.log10(size)))
    text = f"{value:.{digits}f}"
    if "." in text:
        text = text.rstrip("0").rstrip(".")
    return minus(text)


def signed(value: float) -> str:
    """`amount` with its sign always shown."""
    return f"+{amount(value)}" if value > 0 else amount(value)


def listed(names: Sequence[str]) -> str:
    """Join names as a sentence does: `a, b and c`."""
    return f"{', '.join(names[:-1])} and {names[-1]}" if len(names) > 1 else "".join(names)


def percent(share: float) -> str:
    """Share as a percentage: whole numbers from 10 %, one decimal below."""
    if math.isnan(share):
        return "not known"
    value = 100 * share
    if 0 < abs(value) < 0.1:
        return "less than 0.1 %"
    digits = 0 if abs(value) >= 9.95 or value == 0 else 1
    return minus(f"{value:,.{digits}f} %")


def interval(low: float, high: float, *, as_percent: bool = False) -> str:
    """`80 to 93 %`, or `0.8 to 1.2`; empty where there is none."""
    if math.isnan(low) or math.isnan(high):
        return ""
    if not as_percent:
        return f"{amount(low)} to {amount(high)}"
    start, end = percent(low), percent(high)
    return f"{start.removesuffix(' %')} to {end}"


def pvalue(p: float, floor: float = math.nan) -> str:
    """`0.029 (floor 0.029)`: p and the smallest that the design can reach."""
    if math.isnan(p):
        return "no p"
    text = _small(p)
    return text if math.isnan(floor) else f"{text} (floor {_small(floor)})"


def _small(p: float) -> str:
    if p < 1e-4:
        return "below 0.0001"
    return f"{p:.2g}" if p < 0.995 else "1"


SECTIONS = (
    ("design", "Design"),
    ("qc", "Quality control"),
    ("populations", "Populations"),
    ("sources", "Who makes it"),
    ("receivers", "Potential responders (receptor expression)"),
    ("shifts", "Shifts"),
    ("time", "Over time"),
    ("decomposition", "More cells, more producers, or more per producer"),
    ("reversal", "Reversal by the drug"),
    ("composition", "Composition"),
    ("expression", "Expression and enrichment"),
    ("planted", "Planted and found"),
    ("coverage", "Coverage of the gene sets"),
    ("limits", "What this cannot say"),
    ("methods", "Methods and provenance"),
)
NEEDS_CONTRAST = frozenset({"shifts", "decomposition", "reversal", "composition", "expression"})


DESIGN = {"samples": "Subjects and samples by arm", "contrasts": "What each contrast can answer"}
PLANTED = {
    "sources": "Source shares, planted and found",
    "decomposition": "Change of output per sampled cell, planted and found",
    "shifts": "Shifts, planted and found (log2 units)",
}


READING = {
    "shifts": (
        "Subjects are the replicates, never cells. The permutation p exchanges the arms of "
        "subjects; its floor is the smallest value that this number of subjects can give, so a p "
        "at the floor is the strongest answer the design allows. The adjusted p is "
        "Benjamini-Hochberg over the whole table. A p that is not small says nothing by itself: "
        "only where the interval lies within the margin is there no relevant change."
    ),
    "decomposition": (
        "Output is the corrected UMI per sampled cell. Its change is split exactly into cell "
        "share, share of producers among the cells, and UMI per producer."
    ),
    "reversal": (
        "0: the drug does nothing; 1: back to baseline. Judge tocilizumab by the IL-6/STAT3 "
        "response and anakinra by the IL-1 response, not by the transcript of the cytokine."
    ),
    "composition": (
        "Shares of cells depend on each other: if one population grows, the others shrink. "
        "Without absolute counts a fall cannot be told from a rise elsewhere."
    ),
}


# Sections whose numbers leave the covariates of a contrast aside.
UNADJUSTED = {
    "decomposition": "the parts add up to the difference of the arms as they are.",
    "reversal": "it is a ratio of differences of the arms as they are.",
}


PROTEIN = (
    "Transcripts are not secreted protein. IL-1 beta needs cleavage and release, IL-6 mRNA is "
    "short-lived, and after tocilizumab serum IL-6 rises while its signal is blocked. Serum "
    "levels answer another question."
)


def never_sampled(tables: Mapping[str, pd.DataFrame]) -> list[str]:
    """Say beside the sources which cells are in no share: never in the tube, or left out."""
    why = {"neutrophils": "neutrophils (absent from PBMC, and mostly lost in droplets)"}
    unseen = [why.get(name, name) for name in _unseen(tables)]
    said = [f"Never sampled, so in no share: {listed(unseen)}."]
    if "qc" in tables:
        left_out = {
            "n_other_species": "cell of the other species",
            "n_cross_species": "droplet with cells of both species",
            "n_doublets": "doublet",
        }
        counts = {name: int(tables["qc"][name].fillna(0).sum()) for name in left_out}
        parts = [plural(n, left_out[name]) for name, n in counts.items() if n]
        if parts:
            said.append(f"Sampled but left out of every share: {listed(parts)}.")
        if counts["n_other_species"]:
            said[-1] += " The other species' cytokines are other genes and are never added up."
    return said


def _unseen(tables: Mapping[str, pd.DataFrame]) -> list[str]:
    """Cells that make cytokines in the body and are not among the populations."""
    present: set[str] = set()
    for name in ("populations", "ledger"):
        if name in tables:
            present |= set(tables[name]["population"].astype(str))
    never = ["endothelial and stromal cells"]
    never += [] if "Neutrophil" in present else ["neutrophils"]
    return never + ([] if "Macrophage" in present else ["tissue macrophages"])


def limits(tables: Mapping[str, pd.DataFrame], samples: pd.DataFrame) -> list[str]:
    """Say what the numbers cannot carry, from what was and was not sampled."""
    said = [PROTEIN]
    said.append(
        f"Shares are of what was sampled and passed QC. Not seen here: {listed(_unseen(tables))}. "
        "If they make the cytokine, no number on this page shows it."
    )
    if "qc" in tables:
        qc = tables["qc"]
        other = int(qc["n_other_species"].fillna(0).sum())
        if other:
            said.append(
                f"{other:,} cells of the other species were left out; what they make is a "
                "different gene and is not in any share."
            )
        if bool((qc["ambient_source"].astype(str).str.contains("pool")).any()):
            said.append(
                "Without empty droplets the profile was estimated from the cells themselves. If "
                "one cell type breaks more easily than the rest, it is underestimated in them."
            )
    smallest = samples.groupby("condition")["subject"].nunique().min() if len(samples) else 0
    if smallest < 4:
        said.append(
            f"The smallest arm has {plural(int(smallest), 'subject')}. With three against three "
            "no permutation p can be below 0.1, with one in an arm there is none."
        )
    said.append(
        "No UMI does not mean no transcript: at this depth a rare or weak producer can be missed. "
        "The table of producers counts the cells that are too shallow to tell."
    )
    return said


METHODS = (
    (
        "Producer: a cell whose UMI of the gene exceed what a Poisson ambient RNA explains "
        "(Benjamini-Hochberg within gene and sample). UMI above zero alone is never a producer "
        "call, and nothing is imputed."
    ),
    (
        "Ledger: UMI less those of ambient RNA, by population; raw UMI, because scaling to "
        "equal depth would erase the larger RNA content of monocytes. Shares by arm are means "
        "over subjects with a bootstrap interval over subjects."
    ),
    (
        "Shifts: least squares on pseudobulk scores (mean log2(CPM + 1) over the genes of the "
        "signature that the population expresses), one value a subject and population. Target "
        "cytokines are in no marker panel and in no response score. Expression: fold changes of "
        "PyDESeq2 with a quasi-likelihood p, moderated across the genes. Enrichment: gseapy "
        "prerank on the Wald statistic."
    ),
    (
        "Verdicts: changed (adjusted p of a difference at most 0.05), no relevant change (adjusted "
        "p of two one-sided tests that the shift lies within the margin at most 0.05), "
        "inconclusive (neither)."
    ),
)


def plural(number: int, noun: str) -> str:
    """`1 subject`, `4 subjects`; the first word carries the ending."""
    first, gap, rest = noun.partition(" ")
    return f"{number:,} {first}" + ("" if number == 1 else "s") + gap + rest
