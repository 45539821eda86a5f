"""Open one file of any of the three formats; whatever is wrong with it becomes one clear error."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from crs_sc.errors import InputError, listing
from crs_sc.io._kind import Kind, file_kind, mtx_file, one_error, tenx_groups
from crs_sc.io._matrix import StoredMatrix, read_compressed, read_node, read_rows

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray
    from scipy import sparse

__all__ = ["RawFile", "open_file"]

# Counts of a part of the reads only; never the counts of the cell.
_PARTIAL_LAYERS = ("spliced", "unspliced", "ambiguous")
_GENE_EXPRESSION = "Gene Expression"


@dataclass(frozen=True)
class RawFile:
    """One file as it is, before names are mapped.

    Attributes
    ----------
    path, kind
        Where it is and its format.
    obs, var
        As in the file, indexed by cell and gene names as strings.
    counts
        CSR float32, cells x genes (only the cells that were asked for); None where none were found
        or none were asked for.
    where
        Which matrix holds the counts, such as `layers['counts']`; None if none does.
    states
        What each matrix that was looked at holds, in words.
    columns
        Position of each gene in the file, where features were left out.
    n_stored
        Values of the matrix with the counts, as stored; 0 without one.
    notes
        What was left out.
    """

    path: Path
    kind: Kind
    obs: pd.DataFrame
    var: pd.DataFrame
    counts: sparse.csr_matrix | None
    where: str | None
    states: dict[str, str]
    columns: NDArray[np.intp] | None = None
    n_stored: int = 0
    notes: list[str] = field(default_factory=list)


def open_file(
    path: Path,
    *,
    keep: bool = True,
    corrected: bool = False,
    rows: NDArray[np.intp] | None = None,
) -> RawFile:
    """Open an h5ad, a 10x .h5 or a 10x matrix folder and find its counts.

    Parameters
    ----------
    path
        File or folder.
    keep
        Build the counts matrix; else only say where the counts are.
    corrected
        Take counts with fractions, as a correction for ambient RNA leaves them, and round them.
    rows
        Positions of the cells whose counts are wanted, sorted; None for all. Where the counts are
        is then judged by the beginning of the file and these cells.

    Raises
    ------
    InputError
        If the file is not there, of another format, damaged, or holds counts with NaN, negative,
        fractional or impossible values.
    """
    kind = file_kind(path)
    readers = {"h5ad": _open_h5ad, "10x-h5": _open_tenx_h5, "10x-mtx": _open_mtx}
    with one_error(path):
        raw = readers[kind](path, keep=keep, corrected=corrected, rows=rows)
    return _gene_expression_only(raw)


def _names(values: Any) -> pd.Index:
    if isinstance(values, pd.Index) and values.dtype == "str" and not values.hasnans:
        return values
    decoded = [v.decode() if isinstance(v, bytes) else v for v in np.asarray(values, dtype=object)]
    return pd.Index(["" if pd.isna(v) else str(v) for v in decoded], dtype="str")


def _frame(file: Any, name: str) -> pd.DataFrame:
    """`obs` or `var` of an h5ad, whatever version wrote it, with names as strings."""
    from anndata.io import read_elem

    frame = read_elem(file[name])
    if not isinstance(frame, pd.DataFrame):
        msg = (
            f"'{file.filename}' was written by an anndata older than 0.7. Open it with anndata "
            "and write it again."
        )
        raise InputError(msg)
    frame.index = _names(frame.index)
    return frame


def _open_h5ad(
    path: Path, *, keep: bool, corrected: bool, rows: NDArray[np.intp] | None
) -> RawFile:
    import h5py

    with h5py.File(path, "r") as file:
        obs, var = _frame(file, "obs"), _frame(file, "var")
        layers = list(file["layers"]) if "layers" in file else []
        others = [name for name in layers if name != "counts" and name not in _PARTIAL_LAYERS]
        candidates = [
            (f"layers['{name}']", f"layers/{name}") for name in layers if name == "counts"
        ]
        candidates += [("X", "X")] if "X" in file else []
        extra = {f"layers['{name}']": f"layers/{name}" for name in others}
        candidates += extra.items()
        candidates += [("raw.X", "raw/X")] if "raw" in file and "X" in file["raw"] else []
        states: dict[str, str] = {} if "X" in file else {"X": "not there"}
        for where, node in candidates:
            its_var = _frame(file, "raw/var") if where == "raw.X" else var
            try:
                stored = read_node(
                    file[node],
                    keep=keep,
                    corrected=corrected and where not in extra,
                    rows=rows,
                )
            except InputError as error:
                msg = f"'{path}' is damaged: {where}: {error}. Copy or write it again."
                raise InputError(msg) from error
            _check_shape(path, where, stored, obs=obs, var=its_var)
            states[where] = stored.summary.describe()
            if where not in extra and stored.csr is None:
                _check_damage(path, where, stored, obs=obs, var=its_var)
            if stored.csr is not None or stored.summary.state == "counts":
                notes = _rounded(path, where, stored)
                return RawFile(
                    path, "h5ad", obs, its_var, stored.csr, where, states,
                    n_stored=stored.n_stored, notes=notes,
                )  # fmt: skip
    return RawFile(path, "h5ad", obs, var, None, None, states)


def _check_shape(
    path: Path, where: str, stored: StoredMatrix, *, obs: pd.DataFrame, var: pd.DataFrame
) -> None:
    if stored.shape != (len(obs), len(var)):
        msg = (
            f"'{path}' does not fit together: {where} is {stored.shape[0]} x {stored.shape[1]}, "
            f"but there are {len(obs)} cells and {len(var)} genes. Write it again."
        )
        raise InputError(msg)


def _check_damage(
    path: Path, where: str, stored: StoredMatrix, *, obs: pd.DataFrame, var: pd.DataFrame
) -> None:
    if stored.summary.is_damaged_counts and stored.first_bad is not None:
        row, column = stored.first_bad
        msg = (
            f"'{path}': {where} holds counts, but {stored.summary.faults} among its values; the "
            f"first is cell '{obs.index[row]}', gene '{var.index[column]}'. Raw counts are whole "
            "and not negative: the file is damaged or was changed. Write it again from the raw "
            "data."
        )
        raise InputError(msg)


def _rounded(path: Path, where: str, stored: StoredMatrix) -> list[str]:
    """Note that corrected counts were rounded; none where they were whole."""
    if stored.summary.n_fractional == 0:
        return []
    note = (
        f"{path.name}: values of {where}, declared as corrected counts, had fractions and were "
        "rounded to whole UMI."
    )
    return [note]


def _text(values: Any) -> list[str]:
    return [v.decode() if isinstance(v, bytes) else str(v) for v in values[...]]


def _open_tenx_h5(
    path: Path, *, keep: bool, corrected: bool, rows: NDArray[np.intp] | None
) -> RawFile:
    import h5py

    with h5py.File(path, "r") as file:
        groups = tenx_groups(file)
        if len(groups) > 1:
            msg = (
                f"'{path}' has one matrix a genome ({listing(groups)}), as Cell Ranger 2 wrote "
                "them. Give the matrix folder of one genome, or run Cell Ranger 3 or later."
            )
            raise InputError(msg)
        group = file[groups[0]]
        if "features" in group:
            features = group["features"]
            columns = {"gene_ids": _text(features["id"])}
            columns |= {
                column: _text(features[name])
                for column, name in (("feature_types", "feature_type"), ("genome", "genome"))
                if name in features
            }
            names = _text(features["name"])
        else:
            names = _text(group["gene_names"])
            columns = {"gene_ids": _text(group["genes"]), "genome": [groups[0]] * len(names)}
        obs = pd.DataFrame(index=_names(_text(group["barcodes"])))
        var = pd.DataFrame(columns, index=_names(names), dtype="str")
        n_genes, n_cells = (int(n) for n in group["shape"][...])
        data, indices, indptr = (group[name] for name in ("data", "indices", "indptr"))
        return _tenx(
            path,
            "10x-h5",
            obs,
            var,
            (data, indices, indptr),
            (n_cells, n_genes),
            keep=keep,
            corrected=corrected,
            rows=rows,
        )


def _tenx(
    path: Path,
    kind: Kind,
    obs: pd.DataFrame,
    var: pd.DataFrame,
    arrays: tuple[Any, Any, Any],
    shape: tuple[int, int],
    *,
    keep: bool,
    corrected: bool,
    rows: NDArray[np.intp] | None,
) -> RawFile:
    """Check the matrix of a 10x file against its barcodes and features."""
    try:
        if rows is None:
            stored = read_compressed(
                *arrays, shape=shape, by_column=False, keep=keep, corrected=corrected
            )
        else:
            stored = read_rows(*arrays, shape=shape, rows=rows, corrected=corrected)
    except InputError as error:
        msg = f"'{path}' is damaged: {error}. Copy or download it again."
        raise InputError(msg) from error
    _check_shape(path, "the matrix", stored, obs=obs, var=var)
    states = {"matrix": stored.summary.describe()}
    if stored.csr is None:
        _check_damage(path, "the matrix", stored, obs=obs, var=var)
        where = "matrix" if stored.summary.state == "counts" else None
        return RawFile(path, kind, obs, var, None, where, states)
    notes = _rounded(path, "the matrix", stored)
    return RawFile(
        path, kind, obs, var, stored.csr, "matrix", states, n_stored=stored.n_stored, notes=notes
    )


def _companion(matrix: Path, *names: str) -> Path:
    prefix = matrix.name.removesuffix(".gz").removesuffix("matrix.mtx")
    for name in names:
        for suffix in (".gz", ""):
            path = matrix.with_name(f"{prefix}{name}{suffix}")
            if path.is_file():
                return path
    msg = f"Beside '{matrix}' there is no {prefix}{' or '.join(names)} (or .gz)."
    raise InputError(msg)


def _open_mtx(
    folder: Path, *, keep: bool, corrected: bool, rows: NDArray[np.intp] | None
) -> RawFile:
    from scipy import io as scipy_io
    from scipy import sparse

    matrix = mtx_file(folder)
    tables = {
        name: pd.read_csv(
            _companion(matrix, *files), sep="\t", header=None, dtype=str, keep_default_na=False,
            quoting=3,
        )
        for name, files in (
            ("obs", ("barcodes.tsv",)),
            ("var", ("features.tsv", "genes.tsv")),
        )
    }  # fmt: skip
    features = tables["var"]
    var = pd.DataFrame(index=_names(features[min(1, features.shape[1] - 1)]))
    var["gene_ids"] = features[0].to_numpy()
    if features.shape[1] > 2:
        var["feature_types"] = features[2].to_numpy()
    obs = pd.DataFrame(index=_names(tables["obs"][0]))
    if rows is not None and not len(rows):
        # Text has no beginning that is quick to read, and nowhere else to find counts.
        none = sparse.csr_matrix((0, len(var)), dtype=np.float32)
        states = {"matrix": "not read"}
        n_stored = int(scipy_io.mminfo(matrix)[2])
        return RawFile(folder, "10x-mtx", obs, var, none, "matrix", states, n_stored=n_stored)
    csr = sparse.csr_matrix(scipy_io.mmread(matrix, spmatrix=True).T)
    return _tenx(
        folder,
        "10x-mtx",
        obs,
        var,
        (csr.data, csr.indices, csr.indptr),
        csr.shape,
        keep=keep,
        corrected=corrected,
        rows=rows,
    )


def _gene_expression_only(raw: RawFile) -> RawFile:
    """Leave out antibodies, guides and other features that are not genes."""
    if "feature_types" not in raw.var.columns:
        return raw
    keep = (raw.var["feature_types"].astype(str) == _GENE_EXPRESSION).to_numpy()
    if keep.all() or not keep.any():
        return raw
    note = (
        f"{raw.path.name}: {int((~keep).sum())} features that are not gene expression were left "
        f"out ({listing(raw.var.loc[~keep, 'feature_types'].astype(str).unique())})."
    )
    counts = None if raw.counts is None else raw.counts[:, np.flatnonzero(keep)]
    return replace(
        raw,
        var=raw.var.loc[keep],
        counts=counts,
        columns=np.flatnonzero(keep),
        notes=[*raw.notes, note],
    )
