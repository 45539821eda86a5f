"""One file of any of the three formats; whatever is wrong with it becomes one clear error."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
from scipy import sparse

from crs_sc import keys
from crs_sc.errors import CrsError, InputError, MissingKeyError, listing
from crs_sc.io._genes import (
    Remarks,
    check_organism_name,
    find_genomes,
    guess_organism,
    label_genes,
)
from crs_sc.io._matrix import Reading, read_arrays, read_node
from crs_sc.io._sheet import is_sheet

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator

    from anndata import AnnData
    from numpy.typing import NDArray

    from crs_sc.io._matrix import StoredMatrix

__all__ = [
    "FileDescription",
    "Kind",
    "RawFile",
    "by_cell",
    "describe_file",
    "empty_droplet_profile",
    "file_kind",
    "gene_symbols",
    "one_error",
    "open_file",
    "open_h5ad",
    "require_counts",
]

Kind = Literal["h5ad", "10x-h5", "10x-mtx"]

# Counts of a part of the reads only; never the counts of the cell.
_PARTIAL_LAYERS = ("spliced", "unspliced", "ambiguous")
_GENE_EXPRESSION = "Gene Expression"
_IN_MEMORY = ("obs", "var", "obsm", "varm", "uns")
_MEND = "Read it with crs_sc.read, which finds the counts, and write it with crs_sc.io.write_h5ad."


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
            what = (
                "is locked: another program has it open, or its file system has no locks. Close "
                "the other program, or set HDF5_USE_FILE_LOCKING=FALSE."
            )
        elif "truncated" in text or isinstance(error, EOFError):
            what = f"is truncated: its end is missing. Copy or download it again. ({text})"
        elif isinstance(error, PermissionError):
            what = f"may not be read: {error.strerror}."
        elif type(error).__name__ == "IORegistryError":
            what = (
                f"was written by a newer anndata, or is damaged: {text[:300]} Update anndata, or "
                "write the file again."
            )
        else:
            what = (
                f"is damaged and cannot be read ({type(error).__name__}: {text[:300]}). Copy or "
                "write it again."
            )
        msg = f"'{path}' {what}"
        raise InputError(msg) from error


def _mtx_file(folder: Path) -> Path:
    """Matrix of a 10x folder."""
    found = sorted([*folder.glob("*matrix.mtx.gz"), *folder.glob("*matrix.mtx")])
    if len({path.name.removesuffix(".gz") for path in found}) != 1:
        held = listing(sorted(path.name for path in folder.iterdir()))
        msg = (
            f"The folder '{folder}' has {len(found)} files matrix.mtx(.gz) where one is needed "
            f"(10x: matrix, features, barcodes). It holds: {held}."
        )
        raise InputError(msg)
    return found[0]


def file_kind(path: Path) -> Kind:
    """Say which format a path has, by its content and not by its suffix."""
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
        with path.open("rb"):
            pass
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


@dataclass(frozen=True)
class RawFile:
    """One file as it is, before names are mapped.

    `obs` and `var` are indexed by cell and gene names as strings. `where` is the matrix that holds
    the counts, such as `layers['counts']`, `n_stored` its values as stored, `counts` the cells of
    it that were asked for, CSR float32; `states` says what each matrix that was looked at holds.
    `columns` has the position of each gene in the file, where features were left out.
    """

    path: Path
    kind: Kind
    obs: pd.DataFrame
    var: pd.DataFrame
    states: dict[str, str]
    counts: sparse.csr_matrix | None = None
    where: str | None = None
    n_stored: int = 0
    columns: NDArray[np.intp] | None = None
    notes: list[str] = field(default_factory=list)


def open_file(path: Path, reading: Reading | None = None) -> RawFile:
    """Open an h5ad, a 10x .h5 or a 10x matrix folder and find its counts."""
    readers = {"h5ad": _open_h5ad, "10x-h5": _open_tenx_h5, "10x-mtx": _open_mtx}
    reader = readers[file_kind(path)]
    with one_error(path):
        raw = reader(path, Reading() if reading is None else reading)
    return _gene_expression_only(raw)


def _decoded(values: Any) -> list[str]:
    return [v.decode() if isinstance(v, bytes) else str(v) for v in values]


def _names(values: Any) -> pd.Index:
    if isinstance(values, pd.Index) and values.dtype == "str" and not values.hasnans:
        return values
    values = pd.Series(np.asarray(values, dtype=object)).fillna("")
    return pd.Index(_decoded(values), dtype="str")


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


def _open_h5ad(path: Path, reading: Reading) -> RawFile:
    import h5py

    with h5py.File(path, "r") as file:
        raw = RawFile(path, "h5ad", _frame(file, "obs"), _frame(file, "var"), {})
        if "X" not in file:
            raw.states["X"] = "not there"
        layers = list(file["layers"]) if "layers" in file else []
        others = {
            f"layers['{name}']": f"layers/{name}"
            for name in layers
            if name != "counts" and name not in _PARTIAL_LAYERS
        }
        counts = "layers['counts']"
        candidates = {counts: "layers/counts", "X": "X"} | others | {"raw.X": "raw/X"}
        for where, node in candidates.items():
            if node not in file:
                continue
            # A layer of another name that is damaged, or has fractions, was never the counts.
            is_other = where in others
            corrected = reading.corrected and not is_other
            try:
                stored = read_node(file[node], replace(reading, corrected=corrected))
            except InputError as error:
                msg = f"'{path}' is damaged: {where}: {error}. Copy or write it again."
                raise InputError(msg) from error
            its_genes = replace(raw, var=_frame(file, "raw/var")) if where == "raw.X" else raw
            found = _judged(its_genes, where, where, stored, may_be_damaged=not is_other)
            if found.where is not None:
                return found
    return raw


def _judged(
    raw: RawFile, where: str, what: str, stored: StoredMatrix, *, may_be_damaged: bool = True
) -> RawFile:
    """Take the counts of a matrix, if it holds any; its state in either case."""
    if stored.shape != (len(raw.obs), len(raw.var)):
        msg = (
            f"'{raw.path}' does not fit together: {what} is {stored.shape[0]} x "
            f"{stored.shape[1]}, but there are {len(raw.obs)} cells and {len(raw.var)} genes. "
            "Write it again."
        )
        raise InputError(msg)
    summary = stored.summary
    raw.states[where] = summary.describe()
    bad = stored.first_bad
    if may_be_damaged and stored.csr is None and bad is not None and summary.is_damaged_counts:
        row, column = bad
        msg = (
            f"'{raw.path}': {what} holds counts, but {summary.faults} among its values; the "
            f"first is cell '{raw.obs.index[row]}', gene '{raw.var.index[column]}'. Raw counts are "
            "whole and not negative: the file is damaged or was changed. Write it again from the "
            "raw data."
        )
        raise InputError(msg)
    if stored.csr is None and summary.state != "counts":
        return raw
    note = (
        f"{raw.path.name}: values of {what}, declared as corrected counts, had fractions and were "
        "rounded to whole UMI."
    )
    return replace(
        raw,
        counts=stored.csr,
        where=where,
        n_stored=stored.n_stored,
        notes=[note] if summary.n_fractional else [],
    )


def _open_tenx_h5(path: Path, reading: Reading) -> RawFile:
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
            features, names = group["features"], _decoded(group["features/name"][...])
            places = {"gene_ids": "id", "feature_types": "feature_type", "genome": "genome"}
            columns = {
                c: _decoded(features[name][...]) for c, name in places.items() if name in features
            }
        else:
            names = _decoded(group["gene_names"][...])
            columns = {
                "gene_ids": _decoded(group["genes"][...]),
                "genome": [groups[0]] * len(names),
            }
        obs = pd.DataFrame(index=_names(_decoded(group["barcodes"][...])))
        var = pd.DataFrame(columns, index=_names(names), dtype="str")
        n_genes, n_cells = (int(n) for n in group["shape"][...])
        arrays = (group["data"], group["indices"], group["indptr"])
        return _tenx(RawFile(path, "10x-h5", obs, var, {}), arrays, (n_cells, n_genes), reading)


def _tenx(
    raw: RawFile, arrays: tuple[Any, Any, Any], shape: tuple[int, int], reading: Reading
) -> RawFile:
    """Read the matrix of a 10x file and check it against its barcodes and features."""
    try:
        stored = read_arrays(arrays, shape, reading)
    except InputError as error:
        msg = f"'{raw.path}' is damaged: {error}. Copy or download it again."
        raise InputError(msg) from error
    return _judged(raw, "matrix", "the matrix", stored)


def _companion(matrix: Path, *names: str) -> pd.DataFrame:
    """Table beside a matrix of the 10x folder."""
    prefix = matrix.name.removesuffix(".gz").removesuffix("matrix.mtx")
    options: Any = {"sep": "\t", "header": None, "dtype": str, "keep_default_na": False}
    for name in names:
        for path in (matrix.with_name(f"{prefix}{name}{end}") for end in (".gz", "")):
            if path.is_file():
                table: pd.DataFrame = pd.read_csv(path, quoting=3, **options)
                return table
    msg = f"Beside '{matrix}' there is no {prefix}{' or '.join(names)} (or .gz)."
    raise InputError(msg)


def _open_mtx(folder: Path, reading: Reading) -> RawFile:
    from scipy import io as scipy_io

    matrix = _mtx_file(folder)
    barcodes = _companion(matrix, "barcodes.tsv")
    features = _companion(matrix, "features.tsv", "genes.tsv")
    var = pd.DataFrame(index=_names(features[min(1, features.shape[1] - 1)]))
    var["gene_ids"] = features[0].to_numpy()
    if features.shape[1] > 2:
        var["feature_types"] = features[2].to_numpy()
    raw = RawFile(folder, "10x-mtx", pd.DataFrame(index=_names(barcodes[0])), var, {})
    if reading.rows is not None and not len(reading.rows):
        # Text has no beginning that is quick to read, and nowhere else to find counts.
        none = sparse.csr_matrix((0, len(var)), dtype=np.float32)
        raw.states["matrix"] = "not read"
        n_stored = int(scipy_io.mminfo(matrix)[2])
        return replace(raw, counts=none, where="matrix", n_stored=n_stored)
    csr = sparse.csr_matrix(scipy_io.mmread(matrix, spmatrix=True).T)
    return _tenx(raw, (csr.data, csr.indices, csr.indptr), csr.shape, reading)


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
    columns = np.flatnonzero(keep)
    return replace(
        raw,
        var=raw.var.loc[keep],
        counts=None if raw.counts is None else raw.counts[:, columns],
        columns=columns,
        notes=[*raw.notes, note],
    )


def require_counts(raw: RawFile) -> tuple[sparse.csr_matrix, str]:
    """Return the counts of a file and where they were, or say what there is instead."""
    if len(raw.obs) == 0 or len(raw.var) == 0:
        msg = f"'{raw.path}' has {len(raw.obs)} cells and {len(raw.var)} genes: nothing to read."
        raise InputError(msg)
    if raw.counts is not None and raw.where is not None:
        return raw.counts, raw.where
    held = "; ".join(f"{name}: {state}" for name, state in raw.states.items()) or "no matrix"
    msg = (
        f"'{raw.path}' has no raw counts. It holds {held}. Whole UMI numbers are needed: put them "
        "into layers['counts'] or X. If these are counts that were corrected for ambient RNA, "
        "declare them with corrected=True."
    )
    raise InputError(msg)


def _one_file(path: str | os.PathLike[str]) -> RawFile:
    """Look at all values of a file that is no sample sheet; none is kept."""
    path = Path(path).expanduser()
    if is_sheet(path):
        msg = f"'{path}' is a sample sheet. Name one of the files in it."
        raise InputError(msg)
    return open_file(path, Reading(keep=False))


@dataclass(frozen=True)
class FileDescription:
    """What one file holds, for guesses about a config.

    Attributes
    ----------
    path, kind
        Where it is, and its format by content.
    n_cells, n_genes
        Size.
    obs
        The file's own columns, indexed by cell name.
    var_names
        Gene names as in the file.
    genomes
        `human`, `mouse`, both, or none where neither can be told by prefix or Ensembl id.
    organism
        Guess of `human`, `mouse` or `human+mouse`; None where the names say nothing.
    counts
        Which matrix holds raw counts, such as `X`; None if none does.
    corrected_counts
        Which matrix holds counts if they are declared as corrected for ambient RNA, so that
        fractions are rounded; None where `counts` holds raw ones, or none can be read so.
    states
        What each matrix that was looked at holds, in words.
    """

    path: Path
    kind: Kind
    n_cells: int
    n_genes: int
    obs: pd.DataFrame
    var_names: pd.Index
    genomes: tuple[str, ...]
    organism: str | None
    counts: str | None
    corrected_counts: str | None
    states: dict[str, str]


def describe_file(path: str | os.PathLike[str]) -> FileDescription:
    """Look at one file: columns, genes, organism, and where its counts are.

    All values of the matrices are read, up to the first that holds counts, but none is kept. If
    none does, they are read again as counts that were corrected for ambient RNA.

    Parameters
    ----------
    path
        An h5ad, a 10x `.h5` or a 10x matrix folder.

    Returns
    -------
    What the file holds, and what was found in it.

    Raises
    ------
    InputError
        If the file cannot be read, or holds counts beside values that are none.

    Examples
    --------
    >>> import tempfile
    >>> import crs_sc as crs
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     crs.io.write_h5ad(crs.datasets.toy_cohort(state="raw"), f"{folder}/cells.h5ad")
    ...     crs.io.describe_file(f"{folder}/cells.h5ad").counts
    "layers['counts']"
    """
    raw = _one_file(path)
    genomes, corrected = find_genomes(raw.var), None
    if raw.where is None:
        # Where they cannot be read as such either, `states` says what there is.
        with contextlib.suppress(InputError):
            corrected = open_file(raw.path, Reading(corrected=True)).where
    return FileDescription(
        path=raw.path,
        kind=raw.kind,
        n_cells=len(raw.obs),
        n_genes=len(raw.var),
        obs=raw.obs,
        var_names=raw.var.index,
        genomes=tuple(name for name in ("human", "mouse") if (genomes == name).any()),
        organism=guess_organism(raw.var) if len(raw.var) else None,
        counts=raw.where,
        corrected_counts=corrected,
        states=raw.states,
    )


def gene_symbols(path: str | os.PathLike[str], *, organism: str = "human") -> list[str]:
    """Symbols of the genes of one file, without reading the counts into memory.

    Parameters
    ----------
    path
        An h5ad, a 10x `.h5` or a 10x matrix folder.
    organism
        `human`, `mouse`, `human+mouse` or `mouse+human`; of two genomes, the genes of the first.

    Returns
    -------
    Current symbols without genome prefix, each once.

    Raises
    ------
    InputError
        If the file cannot be read, or its genes are of another organism.

    Examples
    --------
    >>> import tempfile
    >>> import crs_sc as crs
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     crs.io.write_h5ad(crs.datasets.toy_cohort(state="raw"), f"{folder}/cells.h5ad")
    ...     symbols = crs.io.gene_symbols(f"{folder}/cells.h5ad")
    >>> "IL6" in symbols
    True
    """
    raw = _one_file(path)
    var, _ = label_genes(raw.var, organism=organism, path=raw.path.name, remarks=Remarks())
    if keys.GENOME not in var:
        return [str(name) for name in var.index]
    first = var[keys.GENOME].astype(str) == organism.split("+", maxsplit=1)[0]
    return [str(symbol) for symbol in var.loc[first, keys.SYMBOL]]


def empty_droplet_profile(
    path: str | os.PathLike[str], *, max_umi: int = 100, organism: str = "human"
) -> pd.Series:
    """Profile of ambient RNA from the empty droplets of a raw (unfiltered) 10x matrix.

    Parameters
    ----------
    path
        Raw matrix: 10x `.h5`, 10x matrix folder or h5ad.
    max_umi
        A droplet with more UMI than this may hold a cell and is left out.
    organism
        As for `read`.

    Returns
    -------
    Share of UMI by gene, named as `read` names the genes of that file; sums to 1.

    Raises
    ------
    InputError
        If the file cannot be read, or has no droplet with 1 to `max_umi` UMI.

    Examples
    --------
    >>> import tempfile
    >>> import crs_sc as crs
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     crs.io.write_h5ad(crs.datasets.toy_cohort(state="raw"), f"{folder}/raw.h5ad")
    ...     profile = crs.io.empty_droplet_profile(f"{folder}/raw.h5ad", max_umi=5000)
    >>> round(float(profile.sum()), 6)
    1.0
    """
    check_organism_name(organism)
    raw = open_file(Path(path).expanduser())
    counts, _ = require_counts(raw)
    var, gene = label_genes(raw.var, organism=organism, path=raw.path.name, remarks=Remarks())
    totals = np.asarray(counts.sum(axis=1, dtype=np.float64)).ravel()
    empty = (totals > 0) & (totals <= max_umi)
    if not empty.any():
        msg = (
            f"'{raw.path}' has no droplet with 1 to {max_umi} UMI (the smallest has "
            f"{totals.min():.0f}). Give the raw matrix, not the filtered one."
        )
        raise InputError(msg)
    sums = empty.astype(np.float64) @ counts
    by_gene = np.bincount(gene, weights=sums, minlength=len(var))
    return pd.Series(by_gene / by_gene.sum(), index=var.index, name=raw.path.name)


def open_h5ad(path: str | os.PathLike[str], *, layer: str = keys.COUNTS) -> AnnData:
    """Open a cohort that this package wrote, its counts left on disk.

    All of `pp`, `tl` and `pl` but `pp.call_doublets` give on it, bit for bit, what they give on the
    cohort in memory, and need memory for a few chunks of cells and the genes that they look at.
    anndata's own `backed="r"` leaves only `X` on disk.

    Parameters
    ----------
    path
        An h5ad, such as the `cohort.h5ad` of a run.
    layer
        Layer with raw counts, stored as CSR.

    Returns
    -------
    New AnnData, cells x genes: `obs`, `var`, `obsm`, `varm` and `uns` in memory, `layers[layer]`
    an `anndata.abc.CSRDataset`, and so are `X` and the graphs of `obsp` that are stored as CSR.
    Other layers are left out. The file is open for reading as long as the AnnData lives.
    `to_memory()` reads it all, a subset its own cells.

    Raises
    ------
    InputError
        If it cannot be read, is no h5ad, or the counts are not stored as CSR.
    MissingKeyError
        If the layer is absent.

    Examples
    --------
    >>> import tempfile
    >>> import crs_sc as crs
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     crs.io.write_h5ad(crs.datasets.toy_cohort(state="raw"), f"{folder}/cohort.h5ad")
    ...     adata = crs.io.open_h5ad(f"{folder}/cohort.h5ad")
    ...     small = crs.tl.condense(adata, genes=["IL1B", "IL6"])
    >>> small.n_vars
    3
    """
    import anndata as ad
    import h5py
    from anndata.io import read_elem, sparse_dataset

    path = Path(path).expanduser()
    if file_kind(path) != "h5ad":
        msg = f"'{path}' is not an h5ad. {_MEND}"
        raise InputError(msg)
    with one_error(path):
        file = h5py.File(path, "r")
        layers = file.get("layers", {})
        if layer not in layers:
            msg = (
                f"'{path}' has no layer '{layer}' (raw counts). Layers: {listing(layers)}. {_MEND}"
            )
            raise MissingKeyError(msg)
        counts = by_cell(layers[layer], path, f"layers['{layer}']")
        parts = {name: read_elem(file[name]) for name in _IN_MEMORY if name in file}
        others = {"X": file["X"]} if "X" in file else {}
        others |= {f"obsp/{name}": graph for name, graph in file.get("obsp", {}).items()}
        by_rows = {
            name: sparse_dataset(node)
            for name, node in others.items()
            if _encoding(node) == "csr_matrix"
        }
        X = by_rows.pop("X", None)
        graphs = {name.removeprefix("obsp/"): graph for name, graph in by_rows.items()}
        return ad.AnnData(X, **parts, obsp=graphs, layers={layer: counts})


def _encoding(node: Any) -> str:
    return str(node.attrs.get("encoding-type", "no known encoding"))


def by_cell(node: Any, path: Path, where: str) -> Any:
    """Matrix of a file that is left there, if it can be read cell by cell."""
    from anndata.io import sparse_dataset

    if _encoding(node) != "csr_matrix":
        msg = (
            f"{where} of '{path}' is stored as {_encoding(node)}; only csr_matrix can be read cell "
            f"by cell. {_MEND}"
        )
        raise InputError(msg)
    return sparse_dataset(node)
