"""What the user pointed at: one file, a list of files, or a sample sheet of files."""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from crs_sc import keys
from crs_sc.errors import InputError, MissingKeyError, listing
from crs_sc.io._tables import read_text_table

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Entry", "is_sheet", "resolve_source", "source_files"]

_SHEETS = {".tsv": "\t", ".txt": "\t", ".csv": ","}
# Names that Cell Ranger gives to every sample's output.
_NO_NAMES = frozenset(
    {
        "outs", "count", "matrix", "filtered_feature_bc_matrix", "raw_feature_bc_matrix",
        "sample_filtered_feature_bc_matrix", "sample_raw_feature_bc_matrix",
        "filtered_gene_bc_matrices", "raw_gene_bc_matrices", "filtered_gene_bc_matrices_h5",
        "grch38", "hg19", "mm10", "grcm39",
    }
)  # fmt: skip


@dataclass(frozen=True)
class Entry:
    """One file or folder of the cohort.

    `name` is the sample of its cells unless a column says otherwise: the file's name, or that of
    the nearest folder that is not one of Cell Ranger's. `columns` is what the sample sheet says of
    all its cells.
    """

    path: Path
    name: str
    columns: dict[str, str] = field(default_factory=dict)


def is_sheet(path: Path) -> bool:
    """Whether a path is a sample sheet, by its suffix."""
    return path.suffix.lower() in _SHEETS and not path.is_dir()


def _name(path: Path) -> str:
    absolute = path.absolute()
    # Only the suffix of a file is not part of its name: folders may have dots in theirs.
    first = absolute.name if path.is_dir() else absolute.stem
    for part in (first, *(parent.name for parent in absolute.parents)):
        if part and part.lower() not in _NO_NAMES:
            return part
    return first


def _read_sheet(path: Path) -> list[Entry]:
    sep = _SHEETS[path.suffix.lower()]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)
            # Else a tab too many at the end of each row moves all columns by one.
            table = read_text_table(path, "sample sheet", sep=sep, dtype=str, index_col=False)
    except pd.errors.ParserWarning as error:
        msg = (
            f"The sample sheet '{path}' has rows with more fields than its header. Name every "
            "column, and leave no separator at the end of a row."
        )
        raise InputError(msg) from error
    if "path" not in table.columns:
        msg = (
            f"The sample sheet '{path}' has no column 'path'. Columns: {listing(table.columns)}. "
            "It must name one h5ad, 10x .h5 or 10x matrix folder a row."
        )
        raise MissingKeyError(msg)
    empty = int((table["path"] == "").sum())
    if empty or table.empty:
        found = f"{empty} rows without a path" if empty else "no rows"
        msg = f"The sample sheet '{path}' has {found}."
        raise InputError(msg)
    files = [path.parent / Path(name).expanduser() for name in table.pop("path")]
    rows = table.to_dict("records") if len(table.columns) else [{}] * len(files)
    return [
        Entry(file, _name(file), {str(name): value for name, value in row.items()})
        for file, row in zip(files, rows, strict=True)
    ]


def _paths(source: str | os.PathLike[str] | Sequence[str | os.PathLike[str]]) -> list[Path]:
    named = [source] if isinstance(source, str | os.PathLike) else source
    return [Path(item).expanduser() for item in named]


def resolve_source(
    source: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
) -> list[Entry]:
    """List the files of a cohort: a file, folder or sheet, or a list of files and folders."""
    paths = _paths(source)
    if not paths:
        msg = "No input file was named."
        raise InputError(msg)
    if len(paths) > 1 and any(is_sheet(path) for path in paths):
        msg = (
            f"A list of files cannot hold a sample sheet: {listing(paths)}. Give the sheet "
            "alone, or name its files."
        )
        raise InputError(msg)
    if is_sheet(paths[0]):
        entries = _read_sheet(paths[0])
    else:
        entries = [Entry(path, _name(path)) for path in paths]
    resolved = [entry.path.resolve() for entry in entries]
    twice = [path for path in dict.fromkeys(resolved) if resolved.count(path) > 1]
    if twice:
        msg = f"The same file is named twice: {listing(twice)}."
        raise InputError(msg)
    return entries


def source_files(source: str | os.PathLike[str] | Sequence[str | os.PathLike[str]]) -> list[Path]:
    r"""List every file of a cohort: the sample sheet, its files, and the raw matrices it names.

    Parameters
    ----------
    source
        As for `read`.

    Returns
    -------
    Paths, the sheet first.

    Raises
    ------
    InputError
        If a file is not there, or the sheet cannot be used.

    Examples
    --------
    >>> import tempfile
    >>> import crs_sc as crs
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     crs.io.write_text("path\ncells.h5ad\n", f"{folder}/sheet.tsv")
    ...     crs.io.write_text("", f"{folder}/cells.h5ad")
    ...     [path.name for path in crs.io.source_files(f"{folder}/sheet.tsv")]
    ['sheet.tsv', 'cells.h5ad']
    """
    entries = resolve_source(source)
    files = [path for path in _paths(source) if is_sheet(path)]
    folder = files[0].parent if files else Path()
    paths = [entry.path for entry in entries]
    raw = (entry.columns.get(keys.RAW_PATH, "") for entry in entries)
    for path in [*paths, *(folder / name for name in dict.fromkeys(raw) if name)]:
        if path.is_dir():
            files += sorted(inner for inner in path.iterdir() if inner.is_file())
        elif path.is_file():
            files.append(path)
        else:
            msg = f"There is no file '{path}'."
            raise InputError(msg)
    return files
