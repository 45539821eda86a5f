"""Open one file of any of the three formats; whatever is wrong with it becomes one clear error."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd

from crs_sc.errors import CrsError, InputError, listing
from crs_sc.io._matrix import StoredMatrix, read_compressed, read_node

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from scipy import sparse

__all__ = ["Kind", "RawFile", "file_kind", "open_file"]

Kind = Literal["h5ad", "10x-h5", "10x-mtx"]

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
        CSR float32, cells x genes; None where none were found or none were asked for.
    where
        Which matrix holds the counts, such as `layers['counts']`; None if none does.
    states
        What each matrix that was looked at holds, in words.
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
    notes: list[str] = field(default_factory=list)


@contextlib.contextmanager
def one_error(path: Path) -> Iterator[None]:
    """Turn whatever a damaged file makes the libraries raise into one error that names it."""
    try:
        yield
    except (CrsError, MemoryError):
        raise
    except Exception as error:
        text = " ".join(str(error).split())
        if "unable to lock file" in text:
            msg = (
                f"'{path}' is locked: another program has it open, or its file system has no "
                "locks. Close the other program, or set HDF5_USE_FILE_LOCKING=FALSE."
            )
        elif "truncated" in text or isinstance(error, EOFError):
            msg = f"'{path}' is truncated: its end is missing. Copy or download it again. ({text})"
        elif isinstance(error, PermissionError):
            msg = f"'{path}' may not be read: {error.strerror}."
        elif type(error).__name__ == "IORegistryError":
            msg = (
                f"'{path}' was written by a newer anndata, or is damaged: {text[:300]} "
                "Update anndata, or write the file again."
            )
        else:
            msg = (
                f"'{path}' is damaged and cannot be read ({type(error).__name__}: {text[:300]}). "
                "Copy or write it again."
            )
        raise InputError(msg) from error


def _mtx_file(folder: Path) -> Path:
    found = sorted([*folder.glob("*matrix.mtx.gz"), *folder.glob("*matrix.mtx")])
    if len(found) > 1:
        stems = {path.name.removesuffix(".gz") for path in found}
        found = found[:1] if len(stems) == 1 else found
    if len(found) != 1:
        held = listing(sorted(path.name for path in folder.iterdir()))
        msg = (
            f"The folder '{folder}' has {len(found)} files matrix.mtx(.gz) where one is needed "
            f"(10x: matrix, features, barcodes). It holds: {held}."
        )
        raise InputError(msg)
    return found[0]


def file_kind(path: Path) -> Kind:
    """Say which format a path has, by its content and not by its suffix.

    Raises
    ------
    InputError
        If it is not there, or none of the three.
    """
    import h5py

    if path.is_dir():
        _mtx_file(path)
        return "10x-mtx"
    if not path.is_file():
        msg = f"There is no file '{path}'."
        raise InputError(msg)
    if path.stat().st_size == 0:
        msg = f"'{path}' is empty (0 bytes). Copy or write it again."
        raise InputError(msg)
    with one_error(path):
        with path.open("rb") as stream:
            stream.read(1)
        if not h5py.is_hdf5(path):
            msg = (
                f"'{path}' is neither an h5ad nor a 10x .h5 file (it is not HDF5). Give an h5ad, "
                "a 10x .h5, a 10x matrix folder, or a sample sheet (.tsv or .csv)."
            )
            raise InputError(msg)
        with h5py.File(path, "r") as file:
            groups = list(file)
            if {"obs", "var"} <= set(groups):
                return "h5ad"
            if _tenx_groups(file):
                return "10x-h5"
    msg = (
        f"'{path}' is HDF5 but neither AnnData (no 'obs' and 'var') nor 10x (no 'matrix'). "
        f"It holds: {listing(groups)}."
    )
    raise InputError(msg)


def _tenx_groups(file: Any) -> list[str]:
    """Find the groups with a 10x matrix: `matrix` in Cell Ranger 3, one a genome in 2."""
    needed = {"barcodes", "data", "indices", "indptr", "shape"}
    return [name for name in file if hasattr(file[name], "keys") and needed <= set(file[name])]


def open_file(path: Path, *, keep: bool = True, corrected: bool = False) -> RawFile:
    """Open an h5ad, a 10x .h5 or a 10x matrix folder and find its counts.

    Parameters
    ----------
    path
        File or folder.
    keep
        Build the counts matrix; else only say where the counts are.
    corrected
        Take counts with fractions, as a correction for ambient RNA leaves them, and round them.

    Raises
    ------
    InputError
        If the file is not there, of another format, damaged, or holds counts with NaN, negative,
        fractional or impossible values.
    """
    kind = file_kind(path)
    readers = {"h5ad": _open_h5ad, "10x-h5": _open_tenx_h5, "10x-mtx": _open_mtx}
    with one_error(path):
        raw = readers[kind](path, keep=keep, corrected=corrected)
    return _gene_expression_only(raw)


def _names(values: Any) -> pd.Index:
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


def _open_h5ad(path: Path, *, keep: bool, corrected: bool) -> RawFile:
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
                    file[node], keep=keep, corrected=corrected and where not in extra
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
                return RawFile(path, "h5ad", obs, its_var, stored.csr, where, states, notes)
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
    summary = stored.summary
    if summary.n_fractional == 0:
        return []
    share = summary.n_fractional / summary.n_nonzero
    note = (
        f"{path.name}: {share:.1%} of the values of {where}, declared as corrected counts, had "
        "fractions and were rounded to whole UMI."
    )
    return [note]


def _text(values: Any) -> list[str]:
    return [v.decode() if isinstance(v, bytes) else str(v) for v in values[...]]


def _open_tenx_h5(path: Path, *, keep: bool, corrected: bool) -> RawFile:
    import h5py

    with h5py.File(path, "r") as file:
        groups = _tenx_groups(file)
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
) -> RawFile:
    """Check the matrix of a 10x file against its barcodes and features."""
    try:
        stored = read_compressed(
            *arrays, shape=shape, by_column=False, keep=keep, corrected=corrected
        )
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
    return RawFile(path, kind, obs, var, stored.csr, "matrix", states, notes)


def _companion(matrix: Path, *names: str) -> Path:
    prefix = matrix.name.removesuffix(".gz").removesuffix("matrix.mtx")
    for name in names:
        for suffix in (".gz", ""):
            path = matrix.with_name(f"{prefix}{name}{suffix}")
            if path.is_file():
                return path
    msg = f"Beside '{matrix}' there is no {prefix}{' or '.join(names)} (or .gz)."
    raise InputError(msg)


def _open_mtx(folder: Path, *, keep: bool, corrected: bool) -> RawFile:
    from scipy import io as scipy_io
    from scipy import sparse

    matrix = _mtx_file(folder)
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
    return replace(raw, var=raw.var.loc[keep], counts=counts, notes=[*raw.notes, note])
