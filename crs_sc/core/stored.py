"""Arrays of an HDF5 file, block by block: past the library where they lie in the file as they are.

HDF5 copies what it reads once more and lets no other thread read meanwhile.
"""

from __future__ import annotations

import os
import weakref
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["StoredArray"]

_HELD = 3


class StoredArray:
    """A one-dimensional data set of a file that is open for reading.

    Parameters
    ----------
    dataset
        An h5py data set, in one piece or chunked, compressed or not, of any kind of numbers.
    block
        Values that are usually read at a time.
    """

    def __init__(self, dataset: Any, *, block: int) -> None:
        self._dataset = dataset
        self._length, self._places = _places(dataset)
        if self._places is not None:
            # Its own, so that closing the file cannot make it that of another one.
            self._file = os.dup(dataset.file.id.get_vfd_handle())
            weakref.finalize(self, os.close, self._file)
        self._buffers = _Buffers(dataset.dtype, min(block, int(dataset.shape[0])))

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Read some of the values.

        The memory of what was read before is used again only if nothing refers to it any more.
        """
        if self._places is None:
            found: NDArray[Any] = self._dataset[start:stop]
            return found.astype(found.dtype.newbyteorder("="), copy=False)
        values = self._buffers.take(stop - start)
        at = start
        while at < stop:
            chunk, within = divmod(at, self._length)
            n = min(self._length - within, stop - at)
            part = values[at - start : at - start + n]
            _fill(self._file, part, self._places[chunk] + within * values.itemsize)
            at += n
        return values


class _Buffers:
    """Memory for arrays of one kind, given out again once the array before is gone."""

    def __init__(self, dtype: np.dtype[Any], size: int) -> None:
        self._dtype, self._size = dtype, size
        self._lent: list[tuple[NDArray[Any], weakref.ref[NDArray[Any]]]] = []

    def take(self, n: int) -> NDArray[Any]:
        """Array of some length, its values whatever they are."""
        if n == 0:
            return np.empty(0, dtype=self._dtype)
        free = [memory for memory, array in self._lent if array() is None and len(memory) >= n]
        memory = free[0] if free else np.empty(max(n, self._size), dtype=self._dtype)
        # numpy does not look behind an array from a buffer: its slices keep it alive, not `memory`.
        array: NDArray[Any] = np.frombuffer(memory.data, dtype=self._dtype, count=n)
        others = [pair for pair in self._lent if pair[0] is not memory]
        # Three are in use at a time; one that somebody keeps for longer is theirs.
        self._lent = [*others[-_HELD:], (memory, weakref.ref(array))]
        return array


def _fill(file: int, values: NDArray[Any], offset: int) -> None:
    """Read an array from its place in a file."""
    rest = memoryview(values).cast("B")
    while len(rest):
        n = os.preadv(file, [rest], offset)
        if n == 0:
            # HDF5 would give zeros.
            msg = "The file ends before its values do: it was cut short while it was open."
            raise OSError(msg)
        rest, offset = rest[n:], offset + n


def _places(dataset: Any) -> tuple[int, list[int] | None]:
    """Length of the chunks of a data set and where each begins; None if they must be decoded."""
    import h5py

    file, n = dataset.file, int(dataset.shape[0])
    is_plain = (
        hasattr(os, "preadv")
        and file.driver == "sec2"
        and file.mode == "r"
        and file.userblock_size == 0
        and dataset.dtype.isnative
        and dataset.dtype.kind in "iuf"
        and dataset.id.get_create_plist().get_nfilters() == 0
        and dataset.id.get_type().equal(h5py.h5t.py_create(dataset.dtype))
    )
    if not is_plain or n == 0:
        return max(n, 1), None
    if dataset.chunks is None:
        # None also of what lies in another file.
        offset = dataset.id.get_offset()
        return n, None if offset is None else [int(offset)]
    length = int(dataset.chunks[0])
    offsets: dict[int, int | None] = {}
    dataset.id.chunk_iter(lambda one: offsets.update({one.chunk_offset[0]: one.byte_offset}))
    # A chunk that was never written is not in the file.
    places = [offsets.get(start) for start in range(0, n, length)]
    return length, None if None in places else [int(place or 0) for place in places]
