"""Open an h5ad whose counts stay on disk, for what goes over them once in chunks of cells."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from crs_sc import keys
from crs_sc.errors import InputError, MissingKeyError, listing
from crs_sc.io._kind import file_kind, one_error

if TYPE_CHECKING:
    import os

    from anndata import AnnData

__all__ = ["open_h5ad"]

_IN_MEMORY = ("obs", "var", "obsm", "varm", "uns")
_MEND = "Read it with crs_sc.read, which finds the counts, and write it with crs_sc.io.write_h5ad."


def open_h5ad(path: str | os.PathLike[str], *, layer: str = keys.COUNTS) -> AnnData:
    """Open a cohort that this package wrote, its counts left on disk.

    All of `pp`, `tl` and `pl` but `pp.call_doublets` give on it, bit for bit, what they give on the
    cohort in memory, and need memory for a few chunks of cells and the genes that they look at;
    `pp.normalize` leaves `X` to be worked out when it is read. anndata's own `backed="r"` leaves
    only `X` on disk.

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
        counts = _counts_group(file, path, layer)
        parts = {name: read_elem(file[name]) for name in _IN_MEMORY if name in file}
        X, graphs = file.get("X"), file.get("obsp", {})
        return ad.AnnData(
            sparse_dataset(X) if _is_csr(X) else None,
            **parts,
            obsp={name: sparse_dataset(graphs[name]) for name in graphs if _is_csr(graphs[name])},
            layers={layer: sparse_dataset(counts)},
        )


def _is_csr(group: Any) -> bool:
    return group is not None and str(group.attrs.get("encoding-type", "")) == "csr_matrix"


def _counts_group(file: Any, path: Path, layer: str) -> Any:
    """Group of the layer with the counts, if they can be read cell by cell."""
    layers = file.get("layers", {})
    if layer not in layers:
        msg = f"'{path}' has no layer '{layer}' (raw counts). Layers: {listing(layers)}. {_MEND}"
        raise MissingKeyError(msg)
    kind = str(layers[layer].attrs.get("encoding-type", "no known encoding"))
    if kind != "csr_matrix":
        msg = (
            f"layers['{layer}'] of '{path}' is stored as {kind}; only csr_matrix can be read cell "
            f"by cell. {_MEND}"
        )
        raise InputError(msg)
    return layers[layer]
