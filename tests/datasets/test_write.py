from __future__ import annotations

import tracemalloc

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import yaml

from crs_sc import io, keys
from crs_sc.datasets import read_settings, simulate_cohort, simulate_to_disk, write_cohort
from crs_sc.errors import InputError
from crs_sc.run.config import load_config


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


@pytest.mark.parametrize(("part_size", "n_empty_droplets"), [(10_000, 0), (25, 0), (25, 40)])
def test_cohort_on_disk_is_the_cohort_in_memory(tmp_path, monkeypatch, part_size, n_empty_droplets):
    monkeypatch.setattr("crs_sc.datasets.sampling.PART_SIZE", part_size)
    settings = {
        "arms": ["vehicle", "CART"],
        "n_subjects_per_arm": 2,
        "cells_per_sample": 60,
        "n_background_genes": 20,
        "n_empty_droplets": n_empty_droplets,
        "timepoints": ["d0", "d2"],
        "courses": {"IL6": {"d0": 0.0, "d2": 0.5}},
        "batches": {"number": 2},
        "noise": {"depth_sd": 0.4},
        "random_state": 5,
    }
    memory, disk = tmp_path / "memory", tmp_path / "disk"
    write_cohort(simulate_cohort(**settings), memory)
    config = simulate_to_disk(disk, settings=settings)
    assert config == disk / "config.yaml"
    files = sorted(path.relative_to(memory) for path in memory.rglob("*") if path.is_file())
    assert files == sorted(path.relative_to(disk) for path in disk.rglob("*") if path.is_file())
    assert len(files) == 14 + (1 if n_empty_droplets == 0 else 1 + 2 * 8)
    for name in files:
        if name.suffix != ".h5ad":
            assert (memory / name).read_bytes() == (disk / name).read_bytes(), name
            continue
        first, second = ad.read_h5ad(memory / name), ad.read_h5ad(disk / name)
        assert (first.X != second.X).nnz == 0
        assert first.X.dtype == second.X.dtype == np.float32
        pd.testing.assert_frame_equal(first.obs, second.obs)
        pd.testing.assert_frame_equal(first.var, second.var)
        assert dict(first.uns) == dict(second.uns)
    loaded = load_config(config)
    assert loaded.columns.timepoint == "day"
    assert loaded.columns.batch == "batch"
    assert [contrast.within for contrast in loaded.contrasts] == ["timepoint"]


def test_settings_of_a_cohort_make_it_again(cohort, tmp_path):
    write_cohort(cohort, tmp_path / "a")
    settings = read_settings(tmp_path / "a" / "truth" / "settings.yaml")
    assert settings == cohort.settings["parameters"]
    simulate_to_disk(tmp_path / "b", settings=settings)
    for name in ("ledger", "cells", "soup", "production_rates"):
        first, second = (tmp_path / x / "truth" / f"{name}.tsv" for x in "ab")
        assert first.read_bytes() == second.read_bytes()
    (tmp_path / "flat.yaml").write_text("cells_per_sample: 30\n", encoding="utf-8")
    assert read_settings(tmp_path / "flat.yaml") == {"cells_per_sample": 30}
    (tmp_path / "bad.yaml").write_text("- 1\n", encoding="utf-8")
    with pytest.raises(InputError, match="must hold settings by name"):
        read_settings(tmp_path / "bad.yaml")
    with pytest.raises(InputError, match="cannot be read"):
        read_settings(tmp_path / "none.yaml")


def test_sheet_and_raw_matrices_are_what_a_run_reads(tmp_path):
    settings = {
        "arms": ["vehicle", "CART"],
        "n_subjects_per_arm": 1,
        "cells_per_sample": 60,
        "n_background_genes": 0,
        "n_empty_droplets": 3000,
    }
    config = load_config(simulate_to_disk(tmp_path, settings=settings))
    adata = io.read(config.input[0], columns=config.columns.mapping(), organism=config.organism)
    truth = io.read_table(tmp_path / "truth" / "cells.tsv")
    assert adata.obs_names.to_list() == truth["cell"].to_list()
    assert adata.obs["sample"].astype(str).to_list() == truth["sample"].to_list()
    assert adata.obs["condition"].astype(str).to_list() == truth["condition"].to_list()
    ambient = io.read_table(tmp_path / "truth" / "soup.tsv")
    for raw, rows in adata.obs.groupby(keys.RAW_PATH, observed=True):
        found = io.empty_droplet_profile(tmp_path / str(raw), organism=config.organism)
        own = ambient[ambient["sample"] == str(rows["sample"].iloc[0])].set_index("gene")["share"]
        assert set(found.index) == set(own.index)
        # About 120,000 UMI.
        assert (found - own[found.index]).abs().sum() < 0.1
        assert found["GRCh38_LYZ"] == pytest.approx(own["GRCh38_LYZ"], rel=0.1)


def test_cohort_that_was_not_finished_has_no_config(tmp_path, monkeypatch):
    settings = {"cells_per_sample": 30, "n_subjects_per_arm": 1, "n_background_genes": 0}
    simulate_to_disk(tmp_path, settings=settings)
    before = (tmp_path / "cohort.h5ad").read_bytes()

    def fail(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("crs_sc.datasets.truth.Book.tables", fail)
    with pytest.raises(InputError, match="No space left"):
        simulate_to_disk(tmp_path, settings=settings | {"random_state": 1})
    assert not (tmp_path / "config.yaml").exists()
    assert (tmp_path / "cohort.h5ad").read_bytes() == before
    assert not [path for path in tmp_path.rglob(".*") if path.is_file()]


def test_memory_does_not_grow_with_the_number_of_samples(tmp_path):
    def peak(n_subjects):
        settings = {
            "arms": ["CART"],
            "n_subjects_per_arm": n_subjects,
            "cells_per_sample": 300,
            "n_background_genes": 0,
        }
        tracemalloc.start()
        simulate_to_disk(tmp_path / str(n_subjects), settings=settings)
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    few, many = peak(2), peak(14)
    # The counts of a sample take 1 MB.
    assert many - few < 2e6
    assert (tmp_path / "14" / "cohort.h5ad").stat().st_size > 10e6
    assert few < 100e6


def test_memory_does_not_grow_with_the_size_of_a_sample(tmp_path, monkeypatch):
    monkeypatch.setattr("crs_sc.datasets.sampling.PART_SIZE", 300)

    def peak(n_cells):
        settings = {
            "arms": ["CART"],
            "n_subjects_per_arm": 1,
            "cells_per_sample": n_cells,
            "n_background_genes": 0,
        }
        tracemalloc.start()
        simulate_to_disk(tmp_path / str(n_cells), settings=settings)
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    few, many = peak(600), peak(2700)
    assert many - few < 2e6
    assert (tmp_path / "2700" / "cohort.h5ad").stat().st_size > 6e6
