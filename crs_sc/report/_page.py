"""The report: one HTML file that needs nothing else."""

from __future__ import annotations

import base64
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import pandas as pd

from crs_sc import keys
from crs_sc._checks import sample_table
from crs_sc.comparison import Contrast, check_design
from crs_sc.io import write_text
from crs_sc.report._answers import shift_answers, source_answers
from crs_sc.report._arms import headline_genes, ordered_arms
from crs_sc.report._figures import ORDER
from crs_sc.report._tables import PageTable, page_table, page_tables, planted_and_found

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from anndata import AnnData

__all__ = ["write_report"]

# Section, heading and what to look for, by figure.
_CAPTIONS = {
    "qc_overview": ("qc", "Cells kept, depth and soup by sample", ""),
    "barnyard": (
        "qc",
        "UMI of both genomes",
        "Only cells of the analysed species go on; what is off the axes is soup or a doublet.",
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
    "myeloid_states": (
        "populations",
        "States of the myeloid cells by sample",
        "Above each bar: cells with a state.",
    ),
    "source_shares": (
        "sources",
        "Source of the transcripts, sample by sample",
        "Soup-corrected UMI. Above each bar: how many there are; a share of few UMI says little.",
    ),
    "source_shares_all": ("sources", "Source of the other cytokines", ""),
    "producers": (
        "sources",
        "Producers by population and arm",
        "Filled: cells with more UMI than the soup explains. Hollow: UMI that the soup explains.",
    ),
    "ambient_expected": (
        "sources",
        "UMI seen against UMI expected from the soup",
        "One point a population in a sample. On the line there is nothing but soup.",
    ),
    "stress_vs_cytokine": (
        "sources",
        "Handling stress against output",
        "If output follows stress within an arm, the handling may have made it.",
    ),
    "signature_points": (
        "shifts",
        "Responses, one point a subject",
        "Estimates with 95 % interval and permutation p. Line: mean of the arm.",
    ),
    "shifts_signatures": ("shifts", "Shift of every signature in every population", ""),
    "shifts_genes": ("shifts", "Shift of every cytokine in every population", ""),
    "decomposition": (
        "decomposition",
        "Parts of the change in output",
        "The coloured parts add up to the diamond.",
    ),
    "reversal": ("reversal", "How far each drug brings each response back", ""),
    "composition": ("composition", "Share of each population by arm", ""),
    "volcano": ("expression", "Differential expression of the main source", ""),
    "enrichment": ("expression", "Gene sets along the ranking", ""),
}

_SECTIONS = (
    ("design", "Design"),
    ("qc", "Quality control"),
    ("populations", "Populations"),
    ("sources", "Who makes it"),
    ("shifts", "Shifts"),
    ("decomposition", "More cells, more producers, or more per producer"),
    ("reversal", "Reversal by the drug"),
    ("composition", "Composition"),
    ("expression", "Expression and enrichment"),
    ("planted", "Planted and found"),
    ("coverage", "Coverage of the gene sets"),
    ("limits", "What this cannot say"),
    ("methods", "Methods and provenance"),
)
_NEEDS_CONTRAST = frozenset({"shifts", "decomposition", "reversal", "composition", "expression"})


@dataclass(frozen=True)
class PageFigure:
    """One embedded figure."""

    name: str
    title: str
    caption: str
    source: str


@dataclass(frozen=True)
class PageSection:
    """One section: paragraphs, figures, tables."""

    key: str
    title: str
    paragraphs: list[str]
    figures: list[PageFigure]
    tables: list[tuple[str, PageTable]]


def write_report(
    adata: AnnData | None,
    tables: Mapping[str, pd.DataFrame],
    figures: Sequence[Path],
    path: Path,
    *,
    config: Mapping[str, Any],
    provenance: Mapping[str, Any],
    truth: Mapping[str, pd.DataFrame] | None = None,
) -> None:
    """Write the report of a run: one HTML file, figures embedded, no network.

    Parameters
    ----------
    adata
        The cohort, for its notes and samples; None: the report does without.
    tables
        Tables of the contract by name; those that are missing or empty are passed over.
    figures
        Files from `write_figures`; of each figure the SVG is embedded, else the PNG.
    path
        Where to write. The whole tables are linked as `tables/NAME.tsv` beside it.
    config
        Settings as resolved: `contrasts` (mappings with the fields of `Contrast`), `seed` and
        whatever else; `simulated: true` or a `truth` put up the banner of a simulated cohort.
    provenance
        Versions, inputs, times; shown as they are.
    truth
        Planted tables of a simulated cohort.

    Raises
    ------
    InputError
        If the file cannot be written.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    contrasts = _contrasts(config)
    filled = {name: table for name, table in tables.items() if not table.empty}
    planted = planted_and_found(truth, filled) if truth else {}
    samples = _samples(adata, filled)
    environment = Environment(
        loader=PackageLoader("crs_sc.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.get_template("report.html.j2").render(
        simulated=bool(config.get("simulated") or config.get("truth") or truth),
        summary=_summary(samples, filled, contrasts),
        sources=source_answers(filled, contrasts=contrasts),
        shifts=shift_answers(filled, contrasts=contrasts),
        no_shift=_no_shift(contrasts, filled),
        sections=_sections(adata, filled, figures, contrasts, samples, planted),
        settings=_flat(config),
        provenance=_flat({k: v for k, v in provenance.items() if k != "settings"}),
        version=str(provenance.get("crs_sc", "")),
    )
    write_text(page, path)


def _contrasts(config: Mapping[str, Any]) -> list[Contrast]:
    known = {field.name for field in fields(Contrast)}
    return [
        one
        if isinstance(one, Contrast)
        else Contrast(**{name: value for name, value in one.items() if name in known})
        for one in config.get("contrasts") or ()
    ]


def _samples(adata: AnnData | None, tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Samples with subject and condition (and time point and batch, if there are cells)."""
    if adata is not None:
        return sample_table(adata)
    for name in ("qc", "ledger"):
        if name in tables:
            rows = tables[name][["sample", "subject", "condition"]].astype(str)
            return rows.drop_duplicates().set_index("sample").sort_index()
    return pd.DataFrame(columns=["subject", "condition"])


def _summary(
    samples: pd.DataFrame, tables: Mapping[str, pd.DataFrame], contrasts: Sequence[Contrast]
) -> str:
    arms = ordered_arms(contrasts, samples["condition"])
    text = (
        f"{_plural(len(samples), 'sample')} of {_plural(samples['subject'].nunique(), 'subject')} "
        f"in {_plural(len(arms), 'arm')} ({', '.join(arms)})"
    )
    if "qc" in tables:
        qc = tables["qc"]
        text += (
            f"; {int(qc['n_cells_out'].sum()):,} of {int(qc['n_cells_in'].sum()):,} barcodes kept"
        )
    return text + "."


def _plural(number: int, noun: str) -> str:
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def _no_shift(contrasts: Sequence[Contrast], tables: Mapping[str, pd.DataFrame]) -> str:
    if not contrasts:
        return (
            "No contrast was set, so nothing is said about the effect of a treatment. Name one "
            "under `contrasts:` in the config to have the arms compared."
        )
    if "decomposition" not in tables:
        return "The contrasts gave no result; the table of the design says why."
    return ""


def _sections(
    adata: AnnData | None,
    tables: Mapping[str, pd.DataFrame],
    figures: Sequence[Path],
    contrasts: Sequence[Contrast],
    samples: pd.DataFrame,
    planted: Mapping[str, PageTable],
) -> list[PageSection]:
    shown = _embedded(figures)
    short = page_tables(tables)
    short["design"] = _design_table(samples, contrasts)
    place: dict[str, list[str]] = {
        "design": ["design"],
        "sources": ["ledger_by_condition"],
        "expression": ["expression", "enrichment"],
        "planted": [],
    }
    made = []
    for key, title in _SECTIONS:
        paragraphs = _paragraphs(key, adata, tables, contrasts, samples)
        pictures = [figure for section, figure in shown if section == key]
        parts = [(_TITLES[n], short[n]) for n in place.get(key, [key]) if n in short]
        if key == "design" and contrasts:
            parts += _contrast_table(samples, contrasts)
        if key == "planted":
            parts = [(_PLANTED[name], table) for name, table in planted.items()]
        if key in _NEEDS_CONTRAST and not contrasts and not pictures:
            continue
        if paragraphs or pictures or parts:
            made.append(PageSection(key, title, paragraphs, pictures, parts))
    return made


_TITLES = {
    "design": "Subjects, samples and cells by arm",
    "qc": "Samples",
    "populations": "Clusters and their names",
    "coverage": "Gene sets with genes that are not in the data",
    "ledger_by_condition": "Source shares of at least 2 %",
    "shifts": "Shifts with the smallest p",
    "decomposition": "Largest changes (UMI per sampled cell)",
    "reversal": "Reversals",
    "composition": "Shares of the populations",
    "expression": "Genes with the smallest p",
    "enrichment": "Gene sets with the smallest p",
}
_PLANTED = {
    "sources": "Source shares, planted and found",
    "decomposition": "Change of output per sampled cell, planted and found",
    "shifts": "Shifts, planted and found (log2 units)",
}


def _embedded(figures: Sequence[Path]) -> list[tuple[str, PageFigure]]:
    """Embed one file of each figure, the SVG where there is one."""
    files: dict[str, Path] = {}
    for path in figures:
        if path.stem not in files or path.suffix == ".svg":
            files[path.stem] = path
    known = [path for path in files.values() if path.stem.partition("--")[0] in _CAPTIONS]
    known.sort(key=lambda path: (ORDER.index(path.stem.partition("--")[0]), path.stem))
    made = []
    for path in known:
        kind, _, which = path.stem.partition("--")
        section, title, caption = _CAPTIONS[kind]
        media = "svg+xml" if path.suffix == ".svg" else "png"
        content = base64.b64encode(path.read_bytes()).decode("ascii")
        full = f"{title}: {which}" if which else title
        figure = PageFigure(path.stem, full, caption, f"data:image/{media};base64,{content}")
        made.append((section, figure))
    return made


def _design_table(samples: pd.DataFrame, contrasts: Sequence[Contrast]) -> PageTable:
    by = [name for name in ("condition", "timepoint") if name in samples.columns]
    rows = (
        samples.reset_index()
        .groupby(by, observed=True)
        .agg(subjects=("subject", "nunique"), samples=("subject", "size"))
        .reset_index()
    )
    rank = {arm: i for i, arm in enumerate(ordered_arms(contrasts, samples["condition"]))}
    rows = rows.sort_values("condition", key=lambda column: column.map(rank), kind="stable")
    return page_table(rows, columns=[*by, "subjects", "samples"], most=60)


def _contrast_table(
    samples: pd.DataFrame, contrasts: Sequence[Contrast]
) -> list[tuple[str, PageTable]]:
    design = check_design(samples, contrasts=contrasts)
    return [
        (
            "What each contrast can answer",
            page_table(design, columns=list(design.columns), most=60),
        )
    ]


def _paragraphs(
    key: str,
    adata: AnnData | None,
    tables: Mapping[str, pd.DataFrame],
    contrasts: Sequence[Contrast],
    samples: pd.DataFrame,
) -> list[str]:
    if key == "qc":
        notes = [] if adata is None else adata.uns.get(keys.UNS, {}).get(keys.NOTES, [])
        return [str(note) for note in notes]
    if key == "limits":
        return _limits(tables, samples)
    if key == "planted":
        return []
    if key == "methods":
        return list(_METHODS)
    if key == "sources" and "ledger" in tables:
        genes = ", ".join(dict.fromkeys(tables["ledger"]["gene"].astype(str)))
        return [f"Cytokines: {genes}. Headlines are for {', '.join(_heads(tables))}."]
    if key in _NEEDS_CONTRAST and contrasts:
        return [_READING[key]] if key in _READING else []
    return []


def _heads(tables: Mapping[str, pd.DataFrame]) -> list[str]:
    return headline_genes(tables["ledger"])


_READING = {
    "shifts": (
        "Subjects are the replicates, never cells. The permutation p exchanges the arms of "
        "subjects; its floor is the smallest value that this number of subjects can give, so a p "
        "at the floor is the strongest answer the design allows. The adjusted p is "
        "Benjamini-Hochberg over the whole table."
    ),
    "decomposition": (
        "Output is the soup-corrected UMI per sampled cell. Its change is split exactly into cell "
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


def _limits(tables: Mapping[str, pd.DataFrame], samples: pd.DataFrame) -> list[str]:
    """Say what the numbers cannot carry, from what was and was not sampled."""
    said = [
        "Transcripts are not secreted protein. IL-1 beta needs cleavage and release, IL-6 mRNA is "
        "short-lived, and after tocilizumab serum IL-6 rises while its signal is blocked. Serum "
        "levels answer another question.",
    ]
    present: set[str] = set()
    for name in ("populations", "ledger"):
        if name in tables:
            present |= set(tables[name]["population"].astype(str))
    never = ["endothelial and stromal cells"]
    never += [] if "Neutrophil" in present else ["neutrophils"]
    never += [] if "Macrophage" in present else ["tissue macrophages"]
    missing = f"{', '.join(never[:-1])} and {never[-1]}" if len(never) > 1 else never[0]
    said.append(
        f"Shares are of what was sampled and passed QC. Not seen here: {missing}. "
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
                "Without empty droplets the soup was estimated from the cells themselves. If one "
                "cell type breaks more easily than the others, its genes are underestimated in it."
            )
    smallest = samples.groupby("condition")["subject"].nunique().min() if len(samples) else 0
    if smallest < 4:
        said.append(
            f"The smallest arm has {_plural(int(smallest), 'subject')}. With three against three "
            "no permutation p can be below 0.1, with one in an arm there is none."
        )
    said.append(
        "No UMI does not mean no transcript: at this depth a rare or weak producer can be missed. "
        "The table `producers` counts the cells that are too shallow to tell."
    )
    return said


_METHODS = (
    "Producer: a cell whose UMI of the gene exceed what a Poisson soup explains "
    "(Benjamini-Hochberg within gene and sample). UMI above zero alone is never a producer call, "
    "and nothing is imputed.",
    "Ledger: UMI less the expected soup, summed by population; raw UMI, because scaling to equal "
    "depth would erase the larger RNA content of monocytes. Shares by arm are means over subjects "
    "with a bootstrap interval over subjects.",
    "Shifts: least squares on pseudobulk scores (mean log2(CPM + 1)), one value a subject and "
    "population. Target cytokines are in no marker panel and in no response score. Expression: "
    "PyDESeq2. Enrichment: gseapy prerank on the Wald statistic.",
)


def _flat(content: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """List nested settings as pairs of a dotted name and a text."""
    pairs: list[tuple[str, str]] = []
    for name, value in content.items():
        full = f"{prefix}{name}"
        if isinstance(value, dict) and value:
            pairs += _flat(value, f"{full}.")
        elif isinstance(value, list | tuple):
            pairs.append((full, "; ".join(_one(item) for item in value)))
        else:
            pairs.append((full, "" if value is None else str(value)))
    return pairs


def _one(item: object) -> str:
    if isinstance(item, dict):
        return ", ".join(f"{name} {value}" for name, value in item.items() if value)
    return str(item)
