"""`crs-sc init`: look at a file and write a commented config with the best guesses."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pandas as pd
import yaml

from crs_sc.errors import InputError, listing
from crs_sc.genesets import target_cytokines
from crs_sc.io import describe_file, write_text
from crs_sc.run.config import SETTINGS_OF, sections_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from pydantic import BaseModel


__all__ = ["guess_columns", "guess_contrasts", "write_guessed_config"]

# Column names in the order of preference; a name matches if it is one of these words, or has one
# of them as a part between underscores, dots or spaces.
_NAMES = {
    "sample": ("sample", "library", "lib", "sampleid", "channel", "orig.ident", "gem"),
    "subject": ("subject", "donor", "patient", "mouse", "animal", "individual", "participant"),
    "condition": ("condition", "arm", "treatment", "group", "stim", "stimulation", "stimulus",
                  "disease", "status"),
    "timepoint": ("timepoint", "time", "day", "hour", "hours", "visit"),
    "batch": ("batch", "pool", "chemistry", "plate", "run"),
    "sampling_weight": ("sampling_weight",),
    "label": ("cell_type", "celltype", "annotation", "cell_label", "labels", "label"),
}  # fmt: skip
_CONTROL = re.compile(
    r"^(vehicle|ctrl|control|untreated|unstim|healthy|baseline|naive|placebo|no_?car"
    r"|(veh|pbs|mock|pre|none|sham|nt)(?![a-z])|d(ay)?_?0(?!\d))",
    re.IGNORECASE,
)
# Real genes end in CAR too (OSCAR, FCAR), so the word must stand alone or after its target.
_TRANSGENE = re.compile(
    r"^((.*[_-])?CAR([_-].*)?|(CD\d+|BCMA|GD2|HER2)CAR|.*scFv.*|FMC63.*|WPRE.*|Yescarta|Kymriah"
    r"|.*transgene.*)$",
    re.IGNORECASE,
)
# A larger number of levels is not a design column.
_MOST_LEVELS = 500


def write_guessed_config(files: Sequence[Path], out: Path, *, overwrite: bool) -> Path:
    """Write a config for `files` with guesses that the user should read.

    Parameters
    ----------
    files
        Input files.
    out
        Config to write.
    overwrite
        Whether an existing file may be replaced.

    Raises
    ------
    InputError
        If a file cannot be read, or the config is there already.
    """
    if out.exists() and not overwrite:
        msg = f"'{out}' is there already. Give another name with -o, or --force to write over it."
        raise InputError(msg)
    found = [describe_file(path) for path in files]
    first = found[0]
    obs = pd.concat([item.obs for item in found], ignore_index=True)
    columns = guess_columns(obs)
    fractional = next((item.corrected_counts for item in found if item.corrected_counts), None)
    organism = first.organism or "human"
    where = first.counts or fractional or "none of its matrices"
    folder = out.resolve().parent
    paths = [_relative(path.resolve(), folder) for path in files]
    lines = [
        "# Settings of a crs_sc run. Every line is a guess or a default: read it before you run.",
        (
            f"# {len(files)} file(s), {sum(item.n_cells for item in found)} cells; the first has "
            f"{first.n_genes} genes, counts in {where}."
        ),
        *_yaml({"input": paths[0] if len(paths) == 1 else paths}),
        "",
        "# Your columns of `obs`. The subject (animal or patient) is the unit of replication.",
        f"# Columns: {listing(obs.columns, most=40)}",
        *_yaml({"columns": {k: v for k, v in columns.items() if k != "label"}}),
        *_suggestions(obs, columns, n_files=len(files)),
        "",
        *_contrast_lines(obs, columns),
        "",
        "# Cells per microlitre of blood, if they were counted, make the ledger that of the blood:",
        "# a TSV with the columns sample, population (or lineage) and cells_per_ul.",
        "# absolute_counts: counts.tsv",
        "",
        "# Other opinions about the cell types: labelled cells, a CellTypist model, and a TSV with",
        "# label and population where your labels have names of their own.",
        "# label_reference: reference.h5ad",
        "# celltypist_model: Immune_All_Low.pkl",
        "# label_names: names.tsv",
        "",
        "# Cytokines of the ledger.",
        *_yaml({"genes": target_cytokines(organism="mouse" if organism == "mouse" else "human")}),
        *_yaml({"organism": organism}),
        *_transgene_lines(list(first.var_names)),
        *_yaml({"seed": 0}),
        "",
        "# Everything below is a default. Take the comment signs away to change a value.",
        *_default_lines(corrected_in=fractional),
    ]
    write_text("\n".join(lines) + "\n", out)
    return out


def guess_columns(obs: pd.DataFrame) -> dict[str, str]:
    """Guess which column of `obs` is which.

    Parameters
    ----------
    obs
        One row a cell.

    Returns
    -------
    Canonical name and the user's column; names without a plausible column are left out. A sample
    must lie within one subject and one condition, and a time point and a batch hold whole samples.
    """
    usable = [str(c) for c in obs.columns if 1 <= obs[c].nunique() <= min(_MOST_LEVELS, len(obs))]
    guess: dict[str, str] = {}
    for name, words in _NAMES.items():
        ranked = sorted(
            (rank, position, column)
            for position, column in enumerate(usable)
            if column not in guess.values()
            and (rank := _match(column, words)) is not None
            and not obs[column].isna().any()
        )
        for _, _, column in ranked:
            if name == "condition" and obs[column].nunique() < 2 and len(ranked) > 1:
                continue
            guess[name] = column
            break
    sample = guess.get("sample")
    if sample is not None:
        for name in ("subject", "condition"):
            if (
                name in guess
                and (obs.groupby(sample, observed=True)[guess[name]].nunique() > 1).any()
            ):
                del guess["sample"]
                return guess
        for name in ("timepoint", "batch"):
            if (
                name in guess
                and (obs.groupby(sample, observed=True)[guess[name]].nunique() > 1).any()
            ):
                del guess[name]
    return guess


def guess_contrasts(conditions: Sequence[str], pairs: set[tuple[str, str]]) -> list[dict[str, Any]]:
    """Guess what to compare with what from the names of the conditions.

    A condition whose name begins with that of another (`CART_anakinra`, `CART`) is taken for a
    drug on top of it, with the control as baseline; every other one is compared with the control.

    Parameters
    ----------
    conditions
        Levels.
    pairs
        Pairs of conditions (in both orders) that hold the same subjects.
    """
    if len(conditions) < 2:
        return []
    controls = [name for name in conditions if _CONTROL.match(name)]
    control = controls[0] if controls else conditions[0]
    contrasts: list[dict[str, Any]] = []
    names = {""}
    for name in conditions:
        if name == control:
            continue
        parents = [
            other
            for other in conditions
            if other not in (name, control) and re.match(rf"{re.escape(other)}[ _+.-]+\w", name)
        ]
        reference = max(parents, key=len) if parents else control
        label = re.sub(r"\W+", "_", name[len(reference) :] if parents else name).strip("_")
        contrast: dict[str, Any] = {
            "name": label if label not in names else f"{label}_{len(contrasts) + 1}",
            "treated": name,
            "reference": reference,
        }
        if (name, reference) in pairs:
            contrast["paired"] = True
        if parents:
            contrast["baseline"] = control
        names.add(contrast["name"])
        contrasts.append(contrast)
    return contrasts


def _match(column: str, words: Sequence[str]) -> int | None:
    """Rank of a column name among `words`; None if it is none of them."""
    lower = column.lower()
    parts = re.split(r"[_. ]", lower)
    for rank, word in enumerate(words):
        if lower == word:
            return rank
        if word in parts or lower in (f"{word}s", f"{word}_id", f"{word}id"):
            return rank + len(words)
    return None


def _shared_subjects(obs: pd.DataFrame, columns: dict[str, str]) -> set[tuple[str, str]]:
    """Pairs of conditions most of whose subjects are the same."""
    if "subject" not in columns or "condition" not in columns:
        return set()
    subjects = {
        str(level): set(part[columns["subject"]].astype(str))
        for level, part in obs.groupby(columns["condition"], observed=True)
    }
    return {
        (a, b)
        for a in subjects
        for b in subjects
        if a != b
        and len(subjects[a] & subjects[b]) >= max(2, 0.5 * min(len(subjects[a]), len(subjects[b])))
    }


def _contrast_lines(obs: pd.DataFrame, columns: dict[str, str]) -> list[str]:
    if "condition" not in columns:
        return ["# No column looks like a condition, so nothing is compared:", "contrasts: []"]
    levels = sorted(obs[columns["condition"]].astype(str).unique())
    contrasts = guess_contrasts(levels, _shared_subjects(obs, columns))
    lines = [
        f"# Conditions: {listing(levels, most=40)}",
        "# treated less reference; paired: the same subjects in both; within: timepoint;",
        "# baseline: the contrast is also reported as a reversal towards that condition;",
        "# covariates: columns of the samples that the tests adjust for, such as [sex, age].",
    ]
    if not contrasts:
        return [*lines, "contrasts: []"]
    if not any(_CONTROL.match(level) for level in levels):
        lines.append(f"# No condition looks like a control; '{levels[0]}' is only the first.")
    rows = [
        "  - " + yaml.safe_dump(c, default_flow_style=True, sort_keys=False, width=1000).strip()
        for c in contrasts
    ]
    return [*lines, "contrasts:", *rows]


def _suggestions(obs: pd.DataFrame, columns: dict[str, str], *, n_files: int) -> list[str]:
    lines = [
        f"  # {name}: no column looks like it; every file is then one {name}"
        if name == "sample"
        else f"  # {name}: no column looks like it"
        for name in ("sample", "subject", "condition")
        if name not in columns
    ]
    mixed = [
        name
        for name in ("subject", "condition", "timepoint", "batch")
        if name in columns and obs[columns[name]].nunique() > n_files
    ]
    if "sample" not in columns and mixed:
        lines.append(f"  # A file holds more than one {mixed[0]}: name the library's column")
    if "label" in columns:
        n = obs[columns["label"]].nunique()
        lines.append(f"  # label: {columns['label']}   # take your own {n} cell types as they are")
    return lines


def _transgene_lines(var_names: Sequence[str]) -> list[str]:
    found = [name for name in var_names if _TRANSGENE.search(name)]
    if found:
        return _yaml({"transgene": found})
    return ["# transgene: [CAR]   # features of the CAR construct, if they are in the reference"]


def _default_lines(*, corrected_in: str | None) -> list[str]:
    """Every section with its defaults as comments."""
    lines = []
    for stage in SETTINGS_OF:
        sections = sections_of(stage)
        lines += [f"# --- {stage} ---"] if sections else []
        for name, section in sections.items():
            if name == "estimate_ambient" and corrected_in is not None:
                lines += [
                    f"# The counts in {corrected_in} have fractions, as CellBender or SoupX leave",
                    "# them: taken as corrected for ambient RNA, rounded, and not corrected again.",
                    "# If they are something else, give the raw counts and delete `corrected`.",
                ]
                lines += _section_lines(name, section, chosen={"corrected": True})
            else:
                lines += _section_lines(name, section, chosen={})
    return lines


def _section_lines(name: str, section: type[BaseModel], *, chosen: dict[str, Any]) -> list[str]:
    """Defaults of a section as comments, and the values that differ from them as settings."""
    rows = [f"{'' if chosen else '# '}{name}:"]
    for key, field in section.model_fields.items():
        default = chosen.get(key, field.default)
        value = yaml.safe_dump(
            list(default) if isinstance(default, tuple) else default, default_flow_style=True
        )
        value = value.replace("\n...", "").strip()
        rows.append(f"{' ' if key in chosen else '#'}   {key}: {value}   # {field.description}")
    return rows


def _yaml(content: dict[str, Any]) -> list[str]:
    flow = {key: value for key, value in content.items() if isinstance(value, list)}
    if flow:
        return [
            f"{key}: {yaml.safe_dump(value, default_flow_style=True, width=1000).strip()}"
            for key, value in flow.items()
        ]
    if content == {"columns": {}}:
        return ["columns: {}"]
    return yaml.safe_dump(content, sort_keys=False, width=1000).rstrip().splitlines()


def _relative(path: Path, folder: Path) -> str:
    return str(path.relative_to(folder)) if path.is_relative_to(folder) else str(path)
