"""A run on disk: the contract of files, restart, and the same bytes twice."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import yaml

from crs_sc import Run, keys, load_config
from crs_sc.errors import InputError, MissingKeyError
from crs_sc.io import read_table, write_table
from crs_sc.report import planted_beside_found, share_errors
from crs_sc.run.check import check_report

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import FinishedRun


def tables_of(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((out / "tables").iterdir())}


@pytest.fixture
def copy_of_run(small_run: FinishedRun, tmp_path: Path) -> FinishedRun:
    shutil.copytree(small_run.out, tmp_path / "out")
    return type(small_run)(small_run.config, tmp_path / "out", small_run.truth)


def test_every_table_of_the_contract_is_there_with_its_columns(small_run: FinishedRun) -> None:
    for name, table in keys.TABLES.items():
        path = small_run.out / "tables" / f"{name}.tsv"
        assert path.read_text(encoding="utf-8").splitlines()[0].split("\t") == table.names
        frame = read_table(path)
        # Without a drug arm there is nothing to reverse, at one time point no course, without
        # batches nothing to integrate, and nobody else was asked.
        is_empty = name in ("reversal", "arm_by_time", "onset", "integration", "opinions")
        assert (len(frame) == 0) == is_empty, name
        assert not frame.duplicated(list(table.index)).any(), name


def test_other_files_of_the_contract(small_run: FinishedRun) -> None:
    out = small_run.out
    png = {path.stem for path in (out / "figures").glob("*.png")}
    assert png == {path.stem for path in (out / "figures").glob("*.svg")}
    assert {"source_shares", "umap_population", "producers"} <= png
    provenance = json.loads((out / "provenance.json").read_text(encoding="utf-8"))
    assert provenance["versions"]["scanpy"].startswith("1.12")
    assert [len(value) for value in provenance["inputs"].values()] == [64]
    settings = yaml.safe_load((out / "config.yaml").read_text(encoding="utf-8"))
    assert settings["call_producers"]["alpha"] == 0.05
    report = (out / "report.html").read_text(encoding="utf-8")
    assert "imulated" in report
    assert 'src="http' not in report


def test_cohort_opens_and_keeps_whole_counts(small_run: FinishedRun) -> None:
    adata = ad.read_h5ad(small_run.out / "cohort.h5ad")
    counts = adata.layers["counts"]
    assert (counts.data % 1 == 0).all()
    totals = np.expm1(adata.X).sum(axis=1)
    np.testing.assert_allclose(np.asarray(totals).ravel(), 1e4, rtol=1e-3)
    assert adata.raw is None
    assert adata.obs_names.is_unique
    assert set(adata.obs[keys.QC_STATUS].astype(str)) == {"pass"}


def test_only_registered_keys_are_written(small_run: FinishedRun) -> None:
    adata = ad.read_h5ad(small_run.out / "cohort.h5ad")
    known = {(spec.slot, spec.name) for spec in keys.ALL_KEYS}
    users = {"lib", "mouse", "arm"}
    scanpys = {"neighbors", "X_pca", "X_umap", "PCs", "pca", "connectivities", "distances"}
    for slot in ("obs", "var", "obsm", "varm", "obsp", "uns", "layers"):
        names = {name for name in getattr(adata, slot) if name is not None}
        unknown = {name for name in names if (slot, name) not in known} - users - scanpys
        assert not unknown, f"{slot}: {unknown}"


def test_planted_source_is_found(small_run: FinishedRun) -> None:
    truth = read_table(small_run.truth / "ledger.tsv")
    found = read_table(small_run.out / "tables" / "ledger.tsv")
    errors = share_errors(truth, found)
    # Where a sample made a UMI or two in all, QC may leave out the one cell that made them.
    made = truth.groupby(["gene", "sample"])["corrected_umi"].sum()
    enough = made.reindex(pd.MultiIndex.from_frame(errors[["gene", "sample"]])) >= 10
    errors = errors[enough.to_numpy()]
    assert len(errors) > 30
    assert (errors["planted"] - errors["found"]).abs().mean() <= 0.02
    cart = errors[errors["condition"] == "CART"]
    for _, group in cart.groupby(["gene", "sample"]):
        best = group.loc[group["found"].idxmax(), "population"]
        assert best == group.loc[group["planted"].idxmax(), "population"]


def test_parts_add_up_and_the_silent_population_is_silent(small_run: FinishedRun) -> None:
    parts = read_table(small_run.out / "tables" / "decomposition.tsv")
    gap = parts["total"] - parts[["composition", "producer_fraction", "intensity"]].sum(axis=1)
    assert gap.abs().max() < 1e-9
    shifts = read_table(small_run.out / "tables" / "shifts.tsv")
    silent = shifts[shifts["population"] == "NK"]
    assert len(silent) > 10
    assert not (silent["padj"] <= 0.05).any()
    assert "nothing was planted" in planted_beside_found(small_run.out / "tables", small_run.truth)


def test_second_run_is_skipped_and_a_fresh_one_has_the_same_bytes(
    small_run: FinishedRun, tmp_path: Path
) -> None:
    before = {p: p.stat().st_mtime_ns for p in small_run.out.rglob("*") if p.is_file()}
    Run(load_config(small_run.config), small_run.out).all_stages()
    after = {p: p.stat().st_mtime_ns for p in small_run.out.rglob("*") if p.is_file()}
    assert after == before
    Run(load_config(small_run.config), tmp_path, n_jobs=2).all_stages()
    assert tables_of(tmp_path) == tables_of(small_run.out)


def test_a_damaged_table_is_made_again(copy_of_run: FinishedRun) -> None:
    whole = tables_of(copy_of_run.out)
    table = copy_of_run.out / "tables" / "ledger.tsv"
    table.write_bytes(table.read_bytes()[:-20])
    Run(load_config(copy_of_run.config), copy_of_run.out).all_stages()
    assert tables_of(copy_of_run.out) == whole


def test_a_changed_setting_redoes_what_depends_on_it(copy_of_run: FinishedRun) -> None:
    config = load_config(copy_of_run.config)
    changed = config.model_copy(update={"call_producers": config.call_producers.model_copy(
        update={"alpha": 0.2})})  # fmt: skip
    before = (copy_of_run.out / "work" / "annotate.json").stat().st_mtime_ns
    producers = read_table(copy_of_run.out / "tables" / "producers.tsv")["n_producers"].sum()
    Run(changed, copy_of_run.out).stage("sources")
    assert (copy_of_run.out / "work" / "annotate.json").stat().st_mtime_ns == before
    assert read_table(copy_of_run.out / "tables" / "producers.tsv")["n_producers"].sum() > producers
    with pytest.raises(InputError, match="Stage 'compare' needs 'sources'"):
        Run(config, copy_of_run.out).stage("compare")


def test_a_later_stage_alone_uses_the_settings_of_the_earlier(copy_of_run: FinishedRun) -> None:
    config = load_config(copy_of_run.config)
    section = config.normalize.model_copy(update={"target_sum": 5000.0})
    changed = config.model_copy(update={"normalize": section})
    for stage in ("cluster", "annotate", "sources"):
        Run(changed, copy_of_run.out).stage(stage)
    totals = np.expm1(ad.read_h5ad(copy_of_run.out / "cohort.h5ad").X).sum(axis=1)
    np.testing.assert_allclose(np.asarray(totals).ravel(), 5000, rtol=1e-3)


def test_a_config_of_the_user_in_the_output_folder_stays(copy_of_run: FinishedRun) -> None:
    mine = copy_of_run.out / "config.yaml"
    mine.write_text(copy_of_run.config.read_text(encoding="utf-8"), encoding="utf-8")
    Run(load_config(copy_of_run.config), copy_of_run.out).all_stages()
    assert mine.read_text(encoding="utf-8") == copy_of_run.config.read_text(encoding="utf-8")


def test_figures_of_other_settings_do_not_stay(copy_of_run: FinishedRun) -> None:
    old = copy_of_run.out / "figures" / "decomposition.png"
    assert old.is_file()
    config = load_config(copy_of_run.config).model_copy(update={"contrasts": ()})
    Run(config, copy_of_run.out).all_stages()
    assert not old.exists()
    assert (copy_of_run.out / "figures" / "source_shares.png").is_file()


def test_stage_without_the_one_before_says_so(small_cohort: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="Stage 'cluster' needs 'qc/lib01'"):
        Run(load_config(small_cohort), tmp_path).stage("cluster")


def test_killed_at_any_instant_the_restart_finishes_with_the_same_tables(
    small_run: FinishedRun, tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "crs_sc", "-q", "run", str(small_run.config), "-o",
               str(tmp_path)]  # fmt: skip
    for seconds in (6.0, 12.0):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True)
        time.sleep(seconds)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    assert tables_of(tmp_path) == tables_of(small_run.out)


def test_one_sample_and_no_contrast_works(small_cohort: Path, tmp_path: Path) -> None:
    adata = ad.read_h5ad(small_cohort.parent / "cohort.h5ad")
    adata[adata.obs["lib"] == "lib06"].copy().write_h5ad(tmp_path / "one.h5ad")
    (tmp_path / "config.yaml").write_text(
        "input: one.h5ad\norganism: human+mouse\ngenes: [IL1B]\n", encoding="utf-8"
    )
    Run(load_config(tmp_path / "config.yaml"), tmp_path / "out").all_stages()
    tables = {name: read_table(tmp_path / "out" / "tables" / f"{name}.tsv") for name in keys.TABLES}
    assert len(tables["ledger"]) > 0
    assert len(tables["shifts"]) == 0
    assert "contrast" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert pd.isna(tables["ledger_by_condition"]["ci_low"]).all()


def test_one_subject_an_arm_gives_estimates_and_no_p(small_cohort: Path, tmp_path: Path) -> None:
    adata = ad.read_h5ad(small_cohort.parent / "cohort.h5ad")
    adata[adata.obs["lib"].isin(["lib01", "lib04", "lib05"])].copy().write_h5ad(
        tmp_path / "few.h5ad"
    )
    settings = yaml.safe_load(small_cohort.read_text(encoding="utf-8"))
    del settings["truth"]
    (tmp_path / "config.yaml").write_text(
        yaml.safe_dump(settings | {"input": "few.h5ad"}), encoding="utf-8"
    )
    Run(load_config(tmp_path / "config.yaml"), tmp_path / "out").all_stages()
    shifts = read_table(tmp_path / "out" / "tables" / "shifts.tsv")
    few = shifts[shifts["status"] == keys.TOO_FEW_SUBJECTS]
    assert len(few) > 0
    assert few["estimate"].notna().any()
    assert shifts["pvalue"].isna().all()


def test_covariates_of_a_contrast_reach_every_place(small_cohort: Path, tmp_path: Path) -> None:
    adata = ad.read_h5ad(small_cohort.parent / "cohort.h5ad")
    ages = {name: 30.0 + 7 * i % 12 for i, name in enumerate(sorted(adata.obs["mouse"].unique()))}
    adata.obs["age"] = adata.obs["mouse"].astype(str).map(ages)
    adata.write_h5ad(tmp_path / "in.h5ad")
    settings = yaml.safe_load(small_cohort.read_text(encoding="utf-8")) | {"input": "in.h5ad"}
    del settings["truth"]
    cart = settings["contrasts"][0]
    path = tmp_path / "config.yaml"

    def asked(covariate: str) -> Path:
        contrasts = [cart | {"covariates": [covariate]}]
        path.write_text(yaml.safe_dump(settings | {"contrasts": contrasts}), encoding="utf-8")
        return path

    with pytest.raises(MissingKeyError, match="no column 'weight'"):
        Run(load_config(asked("weight")), tmp_path / "out").all_stages()
    assert not (tmp_path / "out" / "work").exists()
    config = load_config(asked("age"))
    text, is_sound = check_report(config)
    assert is_sound
    assert "covariates age" in text
    Run(config, tmp_path / "out").all_stages()
    tables = tmp_path / "out" / "tables"
    shifts = read_table(tables / "shifts.tsv")
    # A slope leaves no exact permutation, and a degree of freedom less.
    assert shifts["pvalue"].notna().any()
    assert shifts["pvalue_permutation"].isna().all()
    for name in ("decomposition", "composition", "expression", "exclusions"):
        assert set(read_table(tables / f"{name}.tsv")["contrast"]) == {cart["name"]}
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "covariates that are numbers (age)" in page
    assert "Not adjusted for the covariates of cart: the parts add up" in page


def test_what_was_written_is_what_is_read(small_run: FinishedRun, tmp_path: Path) -> None:
    for name in keys.TABLES:
        read = read_table(small_run.out / "tables" / f"{name}.tsv")
        written = write_table(read, tmp_path / f"{name}.tsv")
        pd.testing.assert_frame_equal(written, read)
