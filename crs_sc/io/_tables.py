"""The tables of `OUT/tables`: written exactly as `keys.TABLES` says, read back with its types."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from crs_sc import keys
from crs_sc.core.parallel import parallel_map
from crs_sc.errors import InputError, listing
from crs_sc.io._write import atomic_path

if TYPE_CHECKING:
    import os

__all__ = ["read_absolute_counts", "read_table", "read_text_table", "write_table"]

# Rows that are made text at a time.
_ROWS = 20_000


def _check_columns(found: list[str], spec: keys.TableSpec, *, where: str) -> None:
    if found == spec.names:
        return
    lacking = [name for name in spec.names if name not in found]
    extra = [name for name in found if name not in spec.names]
    parts = [f"lacks {listing(lacking)}"] if lacking else []
    parts += [f"has the unknown {listing(extra)}"] if extra else []
    wrong = " and ".join(parts) or "has its columns in another order or twice"
    msg = f"{where} {wrong}. Columns of '{spec.name}': {', '.join(spec.names)}."
    raise InputError(msg)


def _typed(values: pd.Series, column: keys.Column, *, table: str) -> pd.Series:
    """One column with the type that its spec names; whole numbers stay whole beside gaps."""
    if column.dtype == "float":
        return pd.Series(pd.to_numeric(values), dtype="float64")
    if column.dtype == "str":
        return values.astype("object").where(values.notna(), "").astype(str)
    if column.dtype == "bool":
        return values.astype("boolean" if values.isna().any() else "bool")
    numbers = pd.Series(pd.to_numeric(values), dtype="Float64").mask(values.isna())
    present = numbers.dropna().to_numpy(dtype=np.float64)
    broken = present[present != np.rint(present)]
    if len(broken):
        msg = f"Table '{table}', column '{column.name}' must hold whole numbers, got {broken[0]}."
        raise InputError(msg)
    return numbers.astype("Int64" if numbers.isna().any() else "int64")


def write_table(
    frame: pd.DataFrame, path: str | os.PathLike[str], *, n_jobs: int = 1
) -> pd.DataFrame:
    r"""Write a table: tabs, a header, `\n`, missing values empty, floats that read back the same.

    A table whose stem is one of `keys.TABLES` must have exactly those columns, in that order.

    Parameters
    ----------
    frame
        One row an observation; the index is not written.
    path
        The final path; written atomically.
    n_jobs
        Processes over which the rows of a long table are spread.

    Returns
    -------
    The table as `read_table` gives it.

    Raises
    ------
    InputError
        If the columns or types are not those of the table, the folder cannot be written to, or
        the disk is full.

    Examples
    --------
    >>> import tempfile
    >>> import pandas as pd
    >>> import crs_sc as crs
    >>> table = pd.DataFrame({"gene": ["IL1B", "IL6"], "umi": [3, 0]})
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     written = crs.io.write_table(table, f"{folder}/genes.tsv")
    """
    path = Path(path)
    spec = keys.TABLES.get(path.stem)
    if spec is not None:
        _check_columns(list(frame.columns), spec, where=f"The table for '{path.name}'")
        frame = frame.reset_index(drop=True)
        frame = pd.DataFrame(
            {one.name: _typed(frame[one.name], one, table=spec.name) for one in spec.columns}
        )
    calls = [(frame.iloc[i : i + _ROWS], i == 0) for i in range(0, max(len(frame), 1), _ROWS)]
    # Not over a cluster, where the table would travel for less than its way takes.
    texts = (
        parallel_map(_text, calls, n_jobs=n_jobs) if n_jobs > 1 else [_text(*one) for one in calls]
    )
    with (
        atomic_path(path) as temporary,
        temporary.open("w", encoding="utf-8", newline="\n") as file,
    ):
        file.writelines(texts)
    return frame


def _text(rows: pd.DataFrame, header: bool) -> str:  # noqa: FBT001
    return rows.to_csv(sep="\t", index=False, lineterminator="\n", na_rep="", header=header)


def read_table(path: str | os.PathLike[str]) -> pd.DataFrame:
    r"""Read a table that `write_table` wrote.

    Parameters
    ----------
    path
        Where it is.

    Returns
    -------
    DataFrame. For a table of `keys.TABLES`: strings (empty where missing), float64 (NaN where
    missing), int64 (Int64 if any is missing) and bool (boolean if any is missing). For any other
    table the types are guessed and only an empty field is missing.

    Raises
    ------
    InputError
        If the file is not there, is no table, or has not the columns of its name.

    Examples
    --------
    >>> import tempfile
    >>> import crs_sc as crs
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     crs.io.write_text("gene\tumi\nIL1B\t3\n", f"{folder}/genes.tsv")
    ...     table = crs.io.read_table(f"{folder}/genes.tsv")
    >>> table.shape
    (1, 2)
    """
    path = Path(path)
    spec = keys.TABLES.get(path.stem)
    dtype = None if spec is None else str
    frame = read_text_table(path, "table", sep="\t", dtype=dtype, na_values=[""])
    if spec is None:
        return frame
    _check_columns(list(frame.columns), spec, where=f"'{path}'")
    columns = {}
    for column in spec.columns:
        try:
            columns[column.name] = _parsed(frame[column.name], column, table=spec.name)
        except (TypeError, ValueError) as error:
            msg = f"'{path}', column '{column.name}' must hold {column.dtype}: {error}"
            raise InputError(msg) from error
    return pd.DataFrame(columns)


def _parsed(text: pd.Series, column: keys.Column, *, table: str) -> pd.Series:
    """One column of text with the type that its spec names."""
    if column.dtype == "float":
        # pandas' own parser of strings is off by one bit now and then; Python's is exact.
        texts = text.to_numpy(dtype=object, na_value="nan")
        return pd.Series(np.fromiter(map(float, texts), np.float64, len(texts)))
    if column.dtype == "bool":
        text = text.map({"True": True, "False": False}, na_action="ignore")
    return _typed(text, column, table=table)


def read_absolute_counts(path: Path) -> pd.DataFrame:
    r"""Read a table of cells per microlitre by sample and population.

    Parameters
    ----------
    path
        Tab-separated, with the columns sample, population and cells_per_ul.

    Returns
    -------
    DataFrame as in the file; names are strings, so that a sample `01` stays one.

    Raises
    ------
    InputError
        If the file is not there or is no table.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> import crs_sc as crs
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "counts.tsv")
    ...     text = "sample\tpopulation\tcells_per_ul\n01\tMonocytes\t350\n"
    ...     crs.io.write_text(text, path)
    ...     crs.io.read_absolute_counts(path)["sample"].tolist()
    ['01']
    """
    return read_text_table(
        path,
        "table of absolute counts",
        sep="\t",
        dtype={keys.SAMPLE: str, keys.POPULATION: str},
        na_values={keys.CELLS_PER_UL: [""]},
        index_col=False,
    )


def read_text_table(path: Path, what: str, *, sep: str, **options: Any) -> pd.DataFrame:
    """Read a table as text, with one clear error; nothing is missing unless `na_values` says so."""
    try:
        table: pd.DataFrame = pd.read_csv(path, sep=sep, keep_default_na=False, **options)
    except FileNotFoundError as error:
        msg = f"There is no {what} '{path}'."
        raise InputError(msg) from error
    except (OSError, ValueError) as error:
        between = "tabs" if sep == "\t" else "commas"
        msg = f"The {what} '{path}' cannot be read as a table with {between}: {error}"
        raise InputError(msg) from error
    return table
