"""Write CSR matrices in one piece each; those that are on disk elsewhere by chunks of rows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse

from crs_sc.core.blocks import is_on_disk, matrix_chunks, parts_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

__all__ = ["can_be_copied", "stored_size", "write_by_rows"]


def can_be_copied(matrix: Any) -> bool:
    """Whether a matrix is on disk and stored there as it stands for."""
    return is_on_disk(matrix) and not any(hasattr(p, "stored_shape") for p in parts_of(matrix))


def stored_size(matrix: Any) -> int:
    """Bytes of such a matrix, about."""
    return 8 * sum(int(part.group["data"].shape[0]) for part in parts_of(matrix))


def write_by_rows(file: Any, matrices: Mapping[str, Any], options: Mapping[str, Any]) -> None:
    """Write them as anndata writes a CSR matrix, but not in pieces of a few kilobytes.

    Normalised values share the indices of their counts in the file: any reader finds both, and
    nothing is stored twice.

    Parameters
    ----------
    file
        HDF5 file.
    matrices
        By place in the file, such as `layers/counts`; in memory, or `can_be_copied`.
    options
        Of the data sets.
    """
    places = {id(matrix): place for place, matrix in matrices.items()}
    derived = {
        place: places[id(matrix.counts)]
        for place, matrix in matrices.items()
        if id(getattr(matrix, "counts", None)) in places
    }
    for place, matrix in matrices.items():
        if place not in derived:
            own = {name: matrices[name] for name, source in derived.items() if source == place}
            _write(file, place, matrix, own, options)


def _write(
    file: Any, place: str, matrix: Any, derived: Mapping[str, Any], options: Mapping[str, Any]
) -> None:
    """Write one matrix, and in the same pass those that are worked out from it."""
    if sparse.issparse(matrix):
        group = _group(file, place, matrix)
        for name in ("data", "indices", "indptr"):
            group.create_dataset(name, data=getattr(matrix, name), **options)
        return
    indptr = _pointers(matrix)
    shape = (int(indptr[-1]),)
    group = _group(file, place, matrix)
    data = group.create_dataset("data", shape, dtype=matrix.dtype, **options)
    indices = group.create_dataset("indices", shape, dtype=np.int32, **options)
    group.create_dataset("indptr", data=indptr, **options)
    others = []
    for name, other in derived.items():
        own = _group(file, name, other)
        own["indices"], own["indptr"] = indices, group["indptr"]
        others.append((other, own.create_dataset("data", shape, dtype=other.dtype, **options)))
    for rows, values in matrix_chunks(matrix):
        stored = slice(indptr[rows.start], indptr[rows.stop])
        data[stored], indices[stored] = values.data, values.indices
        for other, target in others:
            target[stored] = other.normalised(rows, values).data


def _group(file: Any, place: str, matrix: Any) -> Any:
    """Group of a CSR matrix as anndata has it."""
    group = file.require_group(place)
    group.attrs["encoding-type"] = "csr_matrix"
    group.attrs["encoding-version"] = "0.1.0"
    group.attrs["shape"] = np.array(matrix.shape, dtype=np.int64)
    return group


def _pointers(matrix: Any) -> NDArray[np.int64]:
    """Row pointers of a matrix in parts."""
    sizes = [np.diff(part.group["indptr"][...].astype(np.int64)) for part in parts_of(matrix)]
    return np.concatenate([[0], np.cumsum(np.concatenate(sizes))])
