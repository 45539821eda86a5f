"""What the report says beside its numbers: captions, how to read them, what they cannot say."""

from __future__ import annotations

from typing import TYPE_CHECKING

from crs_sc.report._format import listed

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pandas as pd

__all__ = [
    "CAPTIONS",
    "METHODS",
    "NEEDS_CONTRAST",
    "PLANTED",
    "READING",
    "SECTIONS",
    "TITLES",
    "UNADJUSTED",
    "limits",
    "never_sampled",
    "plural",
]

_NOWHERE = "What could be tested nowhere is left out; the table has it with the reason."

# Section, heading and what to look for, by figure.
CAPTIONS = {
    "qc_overview": ("qc", "Cells kept, depth and ambient RNA by sample", ""),
    "barnyard": (
        "qc",
        "UMI of both genomes",
        (
            "Only droplets called as the analysed species go on. Dashed: where the share of UMI "
            "alone would draw the line; the call takes out ambient RNA first."
        ),
    ),
    "umap_population": (
        "populations",
        "Cells by population",
        "For orientation only: distances and areas on such a map are not measurements.",
    ),
    "umap_condition": ("populations", "Cells by arm", ""),
    "umap_sample": ("populations", "Cells by sample", "A sample that stands apart is a batch."),
    "umap_species": ("populations", "Cells by species", ""),
    "markers": (
        "populations",
        "Marker genes of the populations",
        "The dots should lie along the diagonal. No target cytokine is a marker.",
    ),
    "cluster_stability": (
        "populations",
        "Clusters found again in subsamples of the cells",
        (
            "Left: filled is the chosen resolution; the line goes down to the worst subsample. "
            "Right: from 0.75 on a cluster is stable, below 0.6 it should not be trusted."
        ),
    ),
    "myeloid_states": (
        "populations",
        "States of the myeloid cells by sample",
        "Above each bar: cells with a state.",
    ),
    "source_shares": (
        "sources",
        "Source of the transcripts, sample by sample",
        "Ambient-corrected UMI. Above each bar: how many; shares of few UMI are pale.",
    ),
    "source_shares_all": ("sources", "Source of the other cytokines", ""),
    "producers": (
        "sources",
        "Producers by population and arm",
        (
            "Filled: more UMI than ambient RNA explains. Hollow: explained by ambient RNA. Small "
            "dot: no UMI, but the cells are too shallow to exclude producers."
        ),
    ),
    "ambient_expected": (
        "sources",
        "UMI seen against UMI expected from ambient RNA",
        "One point a population in a sample. On the line there is nothing but ambient RNA.",
    ),
    "stress_vs_cytokine": (
        "sources",
        "Handling stress against output",
        "If output follows stress within an arm, the handling may have made it.",
    ),
    "receivers": (
        "receivers",
        "From producers to receivers",
        (
            "Left: who makes it. Right: its receptors; a decoy or an antagonist keeps it from "
            "being heard. Without any UMI there is no point."
        ),
    ),
    "signature_points": (
        "shifts",
        "Responses, one point a subject",
        (
            "Line: mean of the arm. Below: estimates with 95 % interval and permutation p. A score "
            "is the mean over the genes that the population expresses, here in all arms together, "
            "in an estimate in its two arms, so that the two can differ a little."
        ),
    ),
    "shifts_signatures": ("shifts", "Shift of every signature in every population", _NOWHERE),
    "shifts_genes": ("shifts", "Shift of every cytokine in every population", _NOWHERE),
    "stress_adjustment": (
        "shifts",
        "Responses at equal handling stress",
        (
            "Grey band: shifts that are not relevant. Where the two estimates part, handling (or "
            "what the treatment does to the stress genes) may have made the shift."
        ),
    ),
    "trajectories": (
        "time",
        "Output over time, subject by subject",
        "Thin: a subject. Thick: the median of its arm.",
    ),
    "decomposition": (
        "decomposition",
        "Parts of the change in output",
        "The coloured parts add up to the diamond.",
    ),
    "waterfall": (
        "decomposition",
        "Step by step from the reference to the treated arm",
        "Each bar starts where the one before ended. Lines: 95 % intervals.",
    ),
    "reversal": ("reversal", "How far each drug brings each response back", _NOWHERE),
    "composition": ("composition", "Share of each population by arm", ""),
    "volcano": ("expression", "Differential expression of the main source", ""),
    "enrichment": ("expression", "Gene sets along the ranking", ""),
}

SECTIONS = (
    ("design", "Design"),
    ("qc", "Quality control"),
    ("populations", "Populations"),
    ("sources", "Who makes it"),
    ("receivers", "Who can hear it"),
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


TITLES = {
    "design": "Subjects and samples by arm",
    "qc": "Samples",
    "populations": "Clusters and their names",
    "opinions": "What others say of the populations",
    "clusters": "Clusters found again in subsamples",
    "clustering": "Resolutions that were tried",
    "subclusters": "The myeloid cells on their own genes",
    "integration": "Batches before and after integration",
    "circularity": "Clusters with and without the target cytokines",
    "gene_overlap": "Genes of signatures that also name cell types",
    "coverage": "Gene sets with genes that are not in the data",
    "ledger_by_condition": "Source shares of at least 2 %",
    "receivers": "Receptors above ambient RNA, in the arm with the highest level",
    "il1_tone": "IL-1 tone: agonists over antagonists (UMI beyond ambient RNA)",
    "production": "Is there any production beyond ambient RNA",
    "shifts": "Shifts with the smallest p",
    "exclusions": "Subjects that a test does without",
    "arm_by_time": "Shifts that grow or fade, with the smallest p",
    "onset": "Order of onset by subject",
    "decomposition": "Largest changes (UMI per sampled cell)",
    "reversal": "Reversals",
    "composition": "Shares of the populations",
    "expression": "Genes with the smallest p",
    "enrichment": "Gene sets with the smallest p",
}
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
    """Say beside the sources which cells are in no share: never in the tube, or left out.

    Parameters
    ----------
    tables
        Those of `populations`, `ledger` and `qc` that there are.
    """
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
