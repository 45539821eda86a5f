"""The report: one HTML file that needs nothing else."""

from __future__ import annotations

import base64
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import pandas as pd

from crs_sc import keys
from crs_sc.comparison import Contrast, check_design
from crs_sc.core.checks import sample_table
from crs_sc.io import write_text
from crs_sc.report.answers import (
    exclusion_sentence,
    headline_genes,
    onset_sentences,
    ordered_arms,
    shift_answers,
    shift_sentences,
    source_answers,
)
from crs_sc.report.figures import FIGURES
from crs_sc.report.populations import cluster_sentences, opinion_sentences, responder_sentences
from crs_sc.report.tables import PageTable, page_table, page_tables, planted_and_found
from crs_sc.report.words import (
    DESIGN,
    METHODS,
    NEEDS_CONTRAST,
    PLANTED,
    READING,
    SECTIONS,
    UNADJUSTED,
    limits,
    listed,
    never_sampled,
    plural,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from anndata import AnnData


@dataclass(frozen=True)
class PageFigure:
    """One embedded figure."""

    name: str
    title: str
    caption: str
    source: str
    half: bool


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

    Examples
    --------
    >>> from pathlib import Path
    >>> import crs_sc as crs
    >>> adata = crs.datasets.toy_cohort()
    >>> ledger = crs.tl.ledger(adata, genes=["IL1B"])
    >>> tables = {"ledger": ledger, "ledger_by_condition": crs.tl.ledger_by_condition(ledger)}
    >>> crs.report.write_report(
    ...     adata, tables, [], Path("report.html"), config={}, provenance={"crs_sc": "0.1.0"}
    ... )
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    contrasts = _contrasts(config)
    filled = {name: table for name, table in tables.items() if not table.empty}
    planted = planted_and_found(truth, filled) if truth else {}
    samples = _samples(adata, filled, contrasts)
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


def _samples(
    adata: AnnData | None, tables: Mapping[str, pd.DataFrame], contrasts: Sequence[Contrast]
) -> pd.DataFrame:
    """List the samples with subject and condition (with cells also the rest of the design)."""
    if adata is not None:
        covariates = dict.fromkeys(name for one in contrasts for name in one.covariates)
        return sample_table(adata, covariates=list(covariates))
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
        f"{plural(len(samples), 'sample')} of {plural(samples['subject'].nunique(), 'subject')} "
        f"in {plural(len(arms), 'arm')} ({', '.join(arms)})"
    )
    if "qc" in tables:
        qc = tables["qc"]
        text += (
            f"; {int(qc['n_cells_out'].sum()):,} of {int(qc['n_cells_in'].sum()):,} barcodes kept"
        )
    return text + "."


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
    short = page_tables(tables, arms=ordered_arms(contrasts, samples["condition"]))
    made = []
    for key, title in SECTIONS:
        paragraphs = _paragraphs(key, adata, tables, contrasts, samples)
        pictures = [figure for section, figure in shown if section == key]
        parts = [
            (keys.TABLES[name].title, table)
            for name, table in short.items()
            if keys.TABLES[name].section == key
        ]
        if key == "design":
            parts = _design_tables(samples, contrasts)
        if key == "planted":
            parts = [(PLANTED[name], table) for name, table in planted.items()]
        if key in NEEDS_CONTRAST and not (pictures or parts):
            continue
        if paragraphs or pictures or parts:
            made.append(PageSection(key, title, paragraphs, pictures, parts))
    return made


def _embedded(figures: Sequence[Path]) -> list[tuple[str, PageFigure]]:
    """Embed one file of each figure, the SVG where there is one."""
    files: dict[str, Path] = {}
    for path in figures:
        if path.stem not in files or path.suffix == ".svg":
            files[path.stem] = path
    made = []
    for kind, spec in FIGURES.items():
        for path in (path for stem, path in files.items() if stem.partition("--")[0] == kind):
            which = path.stem.partition("--")[2].replace("--", ", ")
            media = "svg+xml" if path.suffix == ".svg" else "png"
            content = base64.b64encode(path.read_bytes()).decode("ascii")
            title = f"{spec.title}: {which}" if which else spec.title
            source = f"data:image/{media};base64,{content}"
            figure = PageFigure(path.stem, title, spec.caption, source, spec.is_half)
            made.append((spec.section, figure))
    return made


def _design_tables(
    samples: pd.DataFrame, contrasts: Sequence[Contrast]
) -> list[tuple[str, PageTable]]:
    """Subjects and samples by arm, and what each contrast can answer."""
    by = [name for name in ("condition", "timepoint") if name in samples.columns]
    rows = samples.reset_index().groupby(by, observed=True)["subject"].agg(["nunique", "size"])
    rows = rows.reset_index().rename(columns={"nunique": "subjects", "size": "samples"})
    rank = {arm: i for i, arm in enumerate(ordered_arms(contrasts, samples["condition"]))}
    rows = rows.sort_values("condition", key=lambda column: column.map(rank), kind="stable")
    made = [(DESIGN["samples"], page_table(rows, columns=[*by, "subjects", "samples"], most=60))]
    if contrasts and all(name in samples for one in contrasts for name in one.covariates):
        design = check_design(samples, contrasts=contrasts)
        # What no contrast has (pairs, blocks, covariates, notes) needs no column.
        columns = [name for name in design.columns if design[name].replace(0, "").ne("").any()]
        made.append((DESIGN["contrasts"], page_table(design, columns=columns, most=60)))
    return made


def _paragraphs(
    key: str,
    adata: AnnData | None,
    tables: Mapping[str, pd.DataFrame],
    contrasts: Sequence[Contrast],
    samples: pd.DataFrame,
) -> list[str]:
    said: list[str] = []
    if key == "qc" and adata is not None:
        said = [str(note) for note in adata.uns.get(keys.UNS, {}).get(keys.NOTES, [])]
    elif key == "limits":
        said = limits(tables, samples)
    elif key == "methods":
        said = list(METHODS)
    elif key == "sources" and "ledger" in tables:
        genes = ", ".join(dict.fromkeys(tables["ledger"]["gene"].astype(str)))
        heads = f"Cytokines: {genes}. Headlines are for {', '.join(_heads(tables))}."
        said = [heads, *never_sampled(tables)]
    elif key == "receivers" and {"receivers", "ledger"} <= set(tables):
        said = responder_sentences(tables["receivers"], _heads(tables))
    elif key == "populations":
        said = opinion_sentences(tables["opinions"]) if "opinions" in tables else []
        said += cluster_sentences(tables)
    elif key == "time":
        said = onset_sentences(tables)
    elif key in NEEDS_CONTRAST and contrasts:
        said = [READING[key]] if key in READING else []
        adjusted = [one.name for one in contrasts if one.covariates]
        if key == "shifts":
            said += [*shift_sentences(tables), *exclusion_sentence(tables)]
        elif adjusted and key in UNADJUSTED:
            said.append(f"Not adjusted for the covariates of {listed(adjusted)}: {UNADJUSTED[key]}")
    return said


def _heads(tables: Mapping[str, pd.DataFrame]) -> list[str]:
    return headline_genes(tables["ledger"])


def _flat(content: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """List nested settings as pairs of a dotted name and a text."""
    pairs: list[tuple[str, str]] = []
    for name, value in content.items():
        if isinstance(value, dict) and value:
            pairs += _flat(value, f"{prefix}{name}.")
            continue
        text = "" if value is None else str(value)
        if isinstance(value, list | tuple):
            text = "; ".join(_one(item) for item in value)
        pairs.append((f"{prefix}{name}", text))
    return pairs


def _one(item: object) -> str:
    if isinstance(item, dict):
        return ", ".join(f"{name} {value}" for name, value in item.items() if value)
    return str(item)
