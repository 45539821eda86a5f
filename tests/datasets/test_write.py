from __future__ import annotations

import anndata as ad
import pandas as pd
import pytest
import yaml

from crs_sc import keys
from crs_sc.datasets import simulate_cohort, write_cohort


@pytest.fixture(scope="module")
def cohort():
    return simulate_cohort(n_subjects_per_arm=1, cells_per_sample=80, n_background_genes=50)


def test_written_cohort_can_be_read_again(cohort, tmp_path):
    config_path = write_cohort(cohort, tmp_path / "made")
    config = yaml.safe_load(config_path.read_text(encoding="utf-8"))
    assert config["columns"] == {"sample": "lib", "subject": "mouse", "condition": "arm"}
    assert [contrast["name"] for contrast in config["contrasts"]] == [
        "cart",
        "anakinra",
        "tocilizumab",
    ]
    assert config["contrasts"][0] == {"name": "cart", "treated": "CART", "reference": "vehicle"}
    assert config["contrasts"][1]["baseline"] == "vehicle"
    assert config["genes"] == ["IL1B", "IL6"]
    assert config["organism"] == "human+mouse"
    assert config["transgene"] == ["CAR"]
    assert "simulated" in config_path.read_text(encoding="utf-8").lower()

    adata = ad.read_h5ad(config_path.parent / config["input"])
    assert adata.shape == cohort.adata.shape
    assert (adata.X != cohort.adata.X).nnz == 0
    for name in ("ledger", "producers", "decomposition", "shifts"):
        table = pd.read_csv(config_path.parent / "truth" / f"{name}.tsv", sep="\t")
        assert list(table.columns) == keys.TABLES[name].names
        assert len(table) == len(cohort.truth[name])
    cells = pd.read_csv(config_path.parent / "truth" / "cells.tsv", sep="\t")
    assert cells["cell"].to_list() == adata.obs_names.to_list()
    settings = yaml.safe_load((config_path.parent / "truth" / "settings.yaml").read_text())
    assert settings == cohort.settings
    assert settings["simulated"] is True


def test_same_cohort_is_written_the_same(cohort, tmp_path):
    for name in ("a", "b"):
        write_cohort(cohort, tmp_path / name)
    for table in ("ledger.tsv", "shifts.tsv", "cells.tsv", "settings.yaml"):
        first, second = ((tmp_path / name / "truth" / table).read_bytes() for name in ("a", "b"))
        assert first == second


def test_one_arm_has_no_contrast(tmp_path):
    one = simulate_cohort(
        arms=("CART",), n_subjects_per_arm=1, cells_per_sample=60, n_background_genes=0
    )
    config = yaml.safe_load(write_cohort(one, tmp_path).read_text(encoding="utf-8"))
    assert "contrasts" not in config
    assert one.truth["shifts"].empty
    assert one.truth["decomposition"].empty
    assert list(one.truth["decomposition"].columns) == keys.DECOMPOSITION_TABLE.names
