"""Settings: every default is that of a signature, and what is wrong is named."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import jsonschema
import pytest
import yaml
from click.testing import CliRunner
from pydantic import BaseModel

from crs_sc import genesets, pp, tl
from crs_sc.cli import main
from crs_sc.errors import InputError
from crs_sc.run.config import (
    SETTINGS_OF,
    RunConfig,
    config_schema,
    dump_config,
    load_config,
    parse_config,
    sections_of,
)
from crs_sc.run.inputs import chosen_genes

if TYPE_CHECKING:
    from pathlib import Path

# Parameters that the run itself supplies.
SUPPLIED = {
    "sample_key", "subject_key", "condition_key", "batch_key", "label_key", "weight_key",
    "population_key", "cluster_key", "group_key", "timepoint_key", "key_added", "layer",
    "random_state", "n_jobs", "organism", "transgene", "genes", "signatures", "gene_sets",
    "contrasts", "samples", "columns", "exclude", "empty_profiles", "opinion",
    "counts", "with_layout",
}  # fmt: skip
SECTIONS = {name: model for stage in SETTINGS_OF for name, model in sections_of(stage).items()}


@pytest.mark.parametrize("name", SECTIONS)
def test_a_section_has_the_settings_and_defaults_of_its_function(name: str) -> None:
    function = getattr(tl, name, None) or getattr(pp, name)
    settings = {
        parameter.name: parameter.default
        for parameter in inspect.signature(function).parameters.values()
        if parameter.kind is parameter.KEYWORD_ONLY
        and parameter.default is not parameter.empty
        and parameter.name not in SUPPLIED
    }
    section = getattr(RunConfig(input=["x.h5ad"]), name)
    assert dict(**section) == settings
    for field in SECTIONS[name].model_fields.values():
        assert field.description


def test_every_section_belongs_to_a_stage_and_the_genes_are_those_of_the_package() -> None:
    config = RunConfig(input=["x.h5ad"])
    assert config.genes == genesets.TARGET_CYTOKINES
    found = {n for n, value in config if isinstance(value, BaseModel) and n != "columns"}
    assert found == set(SECTIONS)


def test_a_config_is_read_without_the_science() -> None:
    code = "import sys, crs_sc.run.config; print({'numpy', 'pandas', 'scanpy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_dump_reads_back_to_the_same_settings(tmp_path: Path) -> None:
    content = {
        "input": "a.h5ad",
        "contrasts": [{"name": "c", "treated": "x", "reference": "y", "paired": True}],
        "cluster": {"resolutions": [0.5, 1.5]},
    }
    config = parse_config(content, folder=tmp_path, name="test")
    path = tmp_path / "again.yaml"
    path.write_text(dump_config(config), encoding="utf-8")
    assert load_config(path) == config
    assert config.input == (tmp_path / "a.h5ad",)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({}, "input"),
        ({"input": "a", "colour": 1}, "colour"),
        ({"input": "a", "columns": {"donor": "x"}}, "columns.donor"),
        ({"input": "a", "organism": "rat"}, "rat"),
        ({"input": "a", "seed": -1}, "seed"),
        ({"input": "a", "genes": []}, "genes"),
        ({"input": "a", "contrasts": [{"name": "", "treated": "x", "reference": "y"}]}, "empty"),
        ({"input": "a", "contrasts": [{"name": "c", "treated": "x"}]}, "reference"),
        (
            {"input": "a", "contrasts": [{"name": "c", "treated": "x", "referenz": "y"}]},
            "referenz",
        ),
        ({"input": "a", "quality_control": {"n_mad": 3}}, "quality_control.n_mad"),
    ],
)
def test_wrong_settings_are_named(tmp_path: Path, content: dict, words: str) -> None:
    with pytest.raises(InputError, match=words):
        parse_config(content, folder=tmp_path, name="config.yaml")


def test_counts_and_a_column_of_weights_exclude_each_other(tmp_path: Path) -> None:
    (tmp_path / "counts.tsv").write_text("sample\tpopulation\tcells_per_ul\n", encoding="utf-8")
    content = {"input": "a.h5ad", "absolute_counts": "counts.tsv"}
    config = parse_config(content, folder=tmp_path, name="config.yaml")
    assert config.absolute_counts == tmp_path / "counts.tsv"
    content["columns"] = {"sampling_weight": "w"}
    with pytest.raises(InputError, match="used: Value error, both `absolute_counts` and") as caught:
        parse_config(content, folder=tmp_path, name="config.yaml")
    assert "got" not in str(caught.value)
    with pytest.raises(InputError, match=r"absolute_counts names '.*nothing.tsv', which is not"):
        parse_config(
            {"input": "a", "absolute_counts": "nothing.tsv"}, folder=tmp_path, name="config.yaml"
        )


def test_not_yaml(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("a: [1,", encoding="utf-8")
    with pytest.raises(InputError, match="cannot be read as YAML"):
        load_config(path)
    path.write_text("- a\n- b\n", encoding="utf-8")
    with pytest.raises(InputError, match="not a config"):
        load_config(path)


def test_a_repeated_key_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("input: a\nseed: 1\nseed: 2\n", encoding="utf-8")
    with pytest.raises(InputError, match="'seed' is there twice"):
        load_config(path)


def test_files_that_are_named_must_be_there(tmp_path: Path) -> None:
    for key in ("gene_sets", "truth"):
        with pytest.raises(InputError, match=f"{key} names .*nowhere"):
            parse_config({"input": "a", key: "nowhere"}, folder=tmp_path, name="c")


def test_conditions_may_be_numbers_and_optional_columns_are_off_unless_mapped() -> None:
    contrast = {"name": "c", "treated": 1, "reference": True}
    config = RunConfig(input=["a"], contrasts=[contrast])
    assert (config.contrasts[0].treated, config.contrasts[0].reference) == ("1", "True")
    assert config.columns.mapping() == dict.fromkeys(
        ("batch", "timepoint", "label", "sampling_weight")
    )


def test_genes_are_those_of_the_organism_and_resolved() -> None:
    assert "Il6" in chosen_genes(RunConfig(input=["a"], organism="mouse"))
    assert chosen_genes(RunConfig(input=["a"], genes=["IL8", "IL6"])) == ["CXCL8", "IL6"]


def test_all_settings_survive_yaml() -> None:
    text = dump_config(RunConfig(input=["x.h5ad"]))
    assert set(yaml.safe_load(text)) == set(RunConfig.model_fields)


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
