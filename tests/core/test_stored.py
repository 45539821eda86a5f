"""Arrays read past HDF5: the same values, whatever their form, and none overwritten in use."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
import pytest

from crs_sc.core.stored import StoredArray

if TYPE_CHECKING:
    from pathlib import Path

VALUES = np.random.default_rng(0).integers(0, 200, 1000)


def _stored(path: Path, values: np.ndarray = VALUES, **options: Any) -> h5py.Dataset:
    with h5py.File(path, "w", userblock_size=options.pop("userblock_size", 0)) as file:
        file.create_dataset("before", data=np.arange(7))
        file.create_dataset("x", data=values, **options)
    return h5py.File(path, "r")["x"]


@pytest.mark.parametrize(
    ("dtype", "options", "is_direct"),
    [
        ("float32", {}, True),
        ("int64", {}, True),
        ("uint8", {"chunks": (64,)}, True),
        ("float32", {"chunks": (3000,), "maxshape": (None,)}, True),
        ("float32", {"chunks": (64,), "compression": "gzip"}, False),
        ("float32", {"chunks": (64,), "fletcher32": True}, False),
        ("int32", {"userblock_size": 512}, False),
        (">f4", {}, False),
        (">i8", {"chunks": (64,)}, False),
        ("bool", {}, False),
    ],
)
def test_values_are_those_of_h5py(
    dtype: str, options: dict[str, Any], tmp_path: Path, *, is_direct: bool
) -> None:
    values = VALUES.astype(dtype)
    dataset = _stored(tmp_path / "a.h5", values, **options)
    array = StoredArray(dataset, block=100)
    assert (array._places is not None) == is_direct
    for start, stop in ((0, 1000), (0, 0), (63, 65), (990, 1000), (5, 900), (64, 128)):
        found = array.read(start, stop)
        np.testing.assert_array_equal(found, values[start:stop])
        assert found.dtype == values.dtype.newbyteorder("=")
        assert found.dtype.isnative


def test_chunks_that_were_never_written_and_no_values(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("x", shape=(100,), chunks=(10,), dtype="f4", fillvalue=3)[:10] = 1
        file.create_dataset("late", shape=(100,), dtype="f4", fillvalue=3)
        file.create_dataset("none", shape=(0,), dtype="f4")
    with h5py.File(tmp_path / "a.h5", "r") as file:
        found = StoredArray(file["x"], block=10).read(5, 20)
        np.testing.assert_array_equal(found, [1] * 5 + [3] * 10)
        np.testing.assert_array_equal(StoredArray(file["late"], block=10).read(0, 3), [3] * 3)
        assert StoredArray(file["none"], block=10).read(0, 0).shape == (0,)


def test_what_is_in_use_is_not_overwritten_and_what_is_not_is(tmp_path: Path) -> None:
    array = StoredArray(_stored(tmp_path / "a.h5"), block=100)
    kept = [array.read(i, i + 50)[5:][::2] for i in range(20)]
    for i, values in enumerate(kept):
        np.testing.assert_array_equal(values, VALUES[i + 5 : i + 50 : 2])
    del kept, values
    places = set()
    for i in range(50):
        # A longer one is given room of its own.
        found = array.read(i, i + 100 + 200 * (i == 20))
        places.add(found.__array_interface__["data"][0])
        np.testing.assert_array_equal(found, VALUES[i : i + len(found)])
    # Four are held, and the longer one.
    assert len(places) <= 5


def test_a_file_that_is_open_for_writing_is_left_to_hdf5(tmp_path: Path) -> None:
    _stored(tmp_path / "a.h5").file.close()
    with h5py.File(tmp_path / "a.h5", "r+") as file:
        array = StoredArray(file["x"], block=100)
        file["x"][3] = 77
        assert array.read(3, 4)[0] == 77


def test_closing_the_file_does_not_take_another_in_its_place(tmp_path: Path) -> None:
    dataset = _stored(tmp_path / "a.h5")
    array = StoredArray(dataset, block=100)
    dataset.file.close()
    with (tmp_path / "other").open("wb") as other:
        other.write(bytes(100_000))
    with (tmp_path / "other").open("rb"):
        np.testing.assert_array_equal(array.read(0, 10), VALUES[:10])


def test_a_file_that_was_cut_short_is_an_error(tmp_path: Path) -> None:
    array = StoredArray(_stored(tmp_path / "a.h5"), block=100)
    with (tmp_path / "a.h5").open("r+b") as file:
        file.truncate(4000)
    with pytest.raises(OSError, match="cut short"):
        array.read(0, 1000)
