from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from crs_sc import keys
from crs_sc.errors import InputError
from crs_sc.io import _tables, read_table, write_table
from crs_sc.keys import Column

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(autouse=True)
def _a_table_of_seven_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    """Columns are added to the tables of the contract as the package grows."""
    columns = (
        Column("cluster", "str", ""), Column("population", "str", ""), Column("lineage", "str", ""),
        Column("confidence", "float", ""), Column("runner_up", "str", ""),
        Column("margin", "float", ""), Column("n_cells", "int", ""),
    )  # fmt: skip
    spec = replace(keys.TABLES["populations"], columns=columns)
    monkeypatch.setitem(keys.TABLES, "populations", spec)


def populations(**changes: object) -> pd.DataFrame:
    frame = pd.DataFrame(
        {
            "cluster": ["0", "1"],
            "population": ["NK", "NA"],
            "lineage": ["NK", "Unknown"],
            "confidence": [0.1 + 0.2, np.nan],
            "runner_up": ["CD8 T", None],
            "margin": [1e-300, -np.inf],
            "n_cells": [12, 3],
        }
    )
    return frame.assign(**changes)


def test_bytes_and_types(tmp_path: Path) -> None:
    path = tmp_path / "populations.tsv"
    write_table(populations(), path)
    assert path.read_bytes() == (
        b"cluster\tpopulation\tlineage\tconfidence\trunner_up\tmargin\tn_cells\n"
        b"0\tNK\tNK\t0.30000000000000004\tCD8 T\t1e-300\t12\n"
        b"1\tNA\tUnknown\t\t\t-inf\t3\n"
    )
    got = read_table(path)
    assert list(got["cluster"]) == ["0", "1"]
    assert list(got["population"]) == ["NK", "NA"]
    assert list(got["runner_up"]) == ["CD8 T", ""]
    assert got["n_cells"].dtype == np.int64
    assert got["confidence"].dtype == np.float64
    assert got["confidence"].iloc[0] == 0.1 + 0.2


def test_whole_numbers_beside_gaps(tmp_path: Path) -> None:
    columns = {column.name: column.dtype for column in keys.QC_TABLE.columns}
    row = {name: "s" if kind == "str" else 2.0 for name, kind in columns.items()}
    frame = pd.DataFrame([row, {**row, "n_doublets": np.nan}])
    write_table(frame, tmp_path / "qc.tsv")
    got = read_table(tmp_path / "qc.tsv")
    assert got["n_doublets"].tolist() == [2, pd.NA]
    assert "2.0\t" not in (tmp_path / "qc.tsv").read_text().split("\n")[1][:8]
    assert got["n_cells_in"].dtype == np.int64


@pytest.mark.parametrize(
    ("frame", "match"),
    [
        (populations().drop(columns="margin"), "lacks margin"),
        (populations(extra=1), "unknown extra"),
        (populations()[list(reversed(populations().columns))], "another order"),
        (populations(n_cells=[1.5, 2.0]), "'n_cells' must hold whole numbers, got 1.5"),
    ],
)
def test_columns_are_a_contract(tmp_path: Path, frame: pd.DataFrame, match: str) -> None:
    with pytest.raises(InputError, match=match):
        write_table(frame, tmp_path / "populations.tsv")
    assert not list(tmp_path.iterdir())


def test_reading_what_is_no_table(tmp_path: Path) -> None:
    path = tmp_path / "populations.tsv"
    with pytest.raises(InputError, match="There is no table"):
        read_table(path)
    path.write_text("a\tb\n1\t2\n")
    with pytest.raises(InputError, match=r"populations.tsv' lacks"):
        read_table(path)
    write_table(populations(), path)
    path.write_text(path.read_text().replace("\t12\n", "\tmany\n"))
    with pytest.raises(InputError, match="'n_cells' must hold int"):
        read_table(path)


def test_unknown_table_is_written_as_it_is(tmp_path: Path) -> None:
    frame = pd.DataFrame({"a": ["x\ty", 'q"', "NA"], "b": [0.1, np.nan, 3e22], "c": [1, 2, 3]})
    write_table(frame, tmp_path / "free.tsv")
    pd.testing.assert_frame_equal(read_table(tmp_path / "free.tsv"), frame, check_dtype=False)


@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.lists(
        st.tuples(
            st.text(st.characters(blacklist_categories=("Cs", "Cc")), max_size=8),
            st.floats(allow_infinity=True),
            st.integers(-(2**53), 2**53),
        ),
        min_size=1,
        max_size=6,
    )
)
def test_round_trip(tmp_path: Path, rows: list[tuple[str, float, int]]) -> None:
    n = len(rows)
    frame = pd.DataFrame(
        {
            "cluster": [row[0] for row in rows],
            "population": ["p"] * n,
            "lineage": [row[0][::-1] for row in rows],
            "confidence": [row[1] for row in rows],
            "runner_up": [""] * n,
            "margin": [-row[1] for row in rows],
            "n_cells": [row[2] for row in rows],
        }
    )
    path = tmp_path / "populations.tsv"
    write_table(frame, path)
    first = path.read_bytes()
    got = read_table(path)
    pd.testing.assert_frame_equal(got, frame, check_dtype=False, check_exact=True)
    write_table(got, path)
    assert path.read_bytes() == first


def test_a_long_table_has_the_same_bytes_in_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    frame = pd.DataFrame({"name": [f"g{i}" for i in range(50)], "value": np.geomspace(1e-9, 1, 50)})
    write_table(frame, tmp_path / "whole.tsv")
    monkeypatch.setattr(_tables, "_ROWS", 7)
    for n_jobs in (1, 2):
        write_table(frame, tmp_path / "parts.tsv", n_jobs=n_jobs)
        assert (tmp_path / "parts.tsv").read_bytes() == (tmp_path / "whole.tsv").read_bytes()
