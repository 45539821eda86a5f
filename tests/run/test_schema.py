"""The schema of a config says what `load_config` accepts."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import jsonschema
import pytest
import yaml
from click.testing import CliRunner

from crs_sc.cli import main
from crs_sc.errors import InputError
from crs_sc.run.config import dump_config, load_config
from crs_sc.run.schema import config_schema

if TYPE_CHECKING:
    from pathlib import Path

CONTRAST = {"name": "cart", "treated": "CART", "reference": "vehicle"}


def is_valid(content: Any) -> bool:
    return jsonschema.Draft202012Validator(config_schema()).is_valid(content)


def is_loaded(content: Any, folder: Path) -> bool:
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    try:
        load_config(path)
    except InputError:
        return False
    return True


@pytest.mark.parametrize(
    ("content", "accepted"),
    [
        ({"input": "a.h5ad"}, True),
        ({"input": ["a.h5ad", "b.h5ad"], "seed": 3, "organism": "mouse"}, True),
        ({"input": "a.h5ad", "contrasts": [CONTRAST], "shifts": {"min_cells": 5}}, True),
        ({"input": "a.h5ad", "contrasts": [CONTRAST | {"treated": 1, "baseline": 2.5}]}, True),
        ({"input": "a.h5ad", "quality_control": None, "genes": ["IL6"]}, True),
        ({"seed": 3}, False),
        ({"input": "a.h5ad", "sead": 3}, False),
        ({"input": "a.h5ad", "seed": -1}, False),
        ({"input": "a.h5ad", "seed": "three"}, False),
        ({"input": "a.h5ad", "organism": "rat"}, False),
        ({"input": "a.h5ad", "genes": []}, False),
        ({"input": "a.h5ad", "shifts": {"min_cell": 5}}, False),
        ({"input": "a.h5ad", "contrasts": [{"name": "cart"}]}, False),
        ({"input": "a.h5ad", "contrasts": [CONTRAST | {"pared": True}]}, False),
        ({"input": "a.h5ad", "columns": {"mouse": "id"}}, False),
    ],
)
def test_schema_and_loader_agree(content: Any, *, accepted: bool, tmp_path: Path) -> None:
    assert is_valid(content) is accepted
    assert is_loaded(content, tmp_path) is accepted


def test_resolved_settings_of_a_run_are_valid(small_cohort: Path) -> None:
    assert is_valid(yaml.safe_load(dump_config(load_config(small_cohort))))


def test_command_prints_the_schema() -> None:
    done = CliRunner().invoke(main, ["schema"])
    assert done.exit_code == 0
    assert json.loads(done.stdout) == config_schema()
    jsonschema.Draft202012Validator.check_schema(config_schema())
