"""Settings: every default is that of a signature, and what is wrong is named."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING

import pytest
import yaml

from crs_sc.errors import InputError
from crs_sc.run.config import (
    STAGE_FUNCTIONS,
    RunConfig,
    dump_config,
    load_config,
    parameter_help,
    parse_config,
    settings_of,
)
from crs_sc.run.init import _TRANSGENE, guess_contrasts
from crs_sc.run.stages import chosen_genes

if TYPE_CHECKING:
    from pathlib import Path

FUNCTIONS = [function for functions in STAGE_FUNCTIONS.values() for function in functions]


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda f: f.__name__)
def test_defaults_are_those_of_the_signature(function: object) -> None:
    section = getattr(RunConfig(input=["x.h5ad"]), function.__name__)
    signature = inspect.signature(function).parameters
    for name in settings_of(function):
        assert getattr(section, name) == signature[name].default
        assert parameter_help(function).get(name), f"{name} is not documented"


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


def test_contrasts_are_guessed_from_the_names() -> None:
    arms = ["CART", "CART_anakinra", "CART_tocilizumab", "vehicle"]
    assert guess_contrasts(arms, set()) == [
        {"name": "CART", "treated": "CART", "reference": "vehicle"},
        {"name": "anakinra", "treated": "CART_anakinra", "reference": "CART",
         "baseline": "vehicle"},
        {"name": "tocilizumab", "treated": "CART_tocilizumab", "reference": "CART",
         "baseline": "vehicle"},
    ]  # fmt: skip
    paired = guess_contrasts(["ctrl", "stim"], {("ctrl", "stim"), ("stim", "ctrl")})
    assert paired == [{"name": "stim", "treated": "stim", "reference": "ctrl", "paired": True}]
    assert guess_contrasts(["only"], set()) == []


def test_receptors_that_end_in_car_are_no_transgene() -> None:
    assert not [name for name in ("OSCAR", "FCAR", "CARD9", "SCARB1") if _TRANSGENE.match(name)]
    names = ("CAR", "anti-CD19_CAR", "CD19CAR", "CAR_scFv", "FMC63-28z", "WPRE", "Yescarta")
    assert all(_TRANSGENE.match(name) for name in names)
