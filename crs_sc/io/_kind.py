"""Which format a path has, and one clear error for whatever a damaged file raises."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, Literal

from crs_sc.errors import CrsError, InputError, listing

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["Kind", "file_kind", "mtx_file", "one_error", "tenx_groups"]

Kind = Literal["h5ad", "10x-h5", "10x-mtx"]


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


def mtx_file(folder: Path) -> Path:
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
        mtx_file(path)
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
            if tenx_groups(file):
                return "10x-h5"
    msg = (
        f"'{path}' is HDF5 but neither AnnData (no 'obs' and 'var') nor 10x (no 'matrix'). "
        f"It holds: {listing(groups)}."
    )
    raise InputError(msg)


def tenx_groups(file: Any) -> list[str]:
    """Find the groups with a 10x matrix: `matrix` in Cell Ranger 3, one a genome in 2."""
    needed = {"barcodes", "data", "indices", "indptr", "shape"}
    return [name for name in file if hasattr(file[name], "keys") and needed <= set(file[name])]
