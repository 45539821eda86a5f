"""The names in code and the lists in data/*.tsv are the same, and reading them costs nothing."""

from __future__ import annotations

import subprocess
import sys

import pytest

from crs_sc import keys

TABLES = {name for name in vars(keys) if name.endswith("_TABLE")}


@pytest.mark.parametrize("spec", keys.ALL_KEYS, ids=lambda spec: f"{spec.slot}.{spec.name}")
def test_slots_have_a_constant_and_a_meaning(spec: keys.KeySpec) -> None:
    assert spec.slot in {"X", "layers", "obs", "var", "obsm", "varm", "obsp", "uns"}
    if spec.slot != "X":
        assert getattr(keys, spec.constant) == spec.name
    assert spec.meaning.endswith(".")
    assert spec.dtype
    assert spec.producer


@pytest.mark.parametrize("spec", keys.TABLES.values(), ids=lambda spec: spec.name)
def test_tables_are_whole(spec: keys.TableSpec) -> None:
    assert getattr(keys, f"{spec.name.upper()}_TABLE") is spec
    assert len(set(spec.names)) == len(spec.names)
    assert set(spec.index) <= set(spec.names)
    assert {column.dtype for column in spec.columns} <= {"str", "int", "float", "bool"}
    assert all(column.meaning for column in spec.columns)
    # A place on the page comes with everything that the page needs.
    assert bool(spec.section) == bool(spec.title) == bool(spec.most) == bool(spec.place)


def test_every_table_and_slot_is_listed_once() -> None:
    assert {f"{name.upper()}_TABLE" for name in keys.TABLES} == TABLES
    slots = [(spec.slot, spec.name) for spec in keys.ALL_KEYS]
    assert len(set(slots)) == len(slots)


def test_reading_the_lists_is_light() -> None:
    code = "import sys, crs_sc.keys; print({'pandas', 'numpy', 'anndata'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
