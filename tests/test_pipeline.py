"""The Snakemake workflow on a small simulated cohort: the same tables as `crs-sc run`."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from conftest import FinishedRun

ROOT = Path(__file__).resolve().parents[1]


def snakemake(out: Path, config: Path, *more: str) -> subprocess.CompletedProcess[str]:
    return snakemake_of(out, "--config", f"run={config}", f"out={out}", *more)


def snakemake_of(out: Path, *more: str) -> subprocess.CompletedProcess[str]:
    scripts = Path(sys.executable).parent
    command = [
        str(scripts / "snakemake"), "-s", str(ROOT / "pipelines" / "Snakefile"),
        "--profile", str(ROOT / "pipelines" / "profiles" / "laptop"), "--directory", str(out),
        "--cores", "2", *more,
    ]  # fmt: skip
    environment = os.environ | {"PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}"}
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


def said(done: subprocess.CompletedProcess[str]) -> str:
    """What it printed: errors of a dry run go to stdout."""
    return done.stdout + done.stderr


@pytest.mark.pipeline
def test_workflow_makes_the_tables_of_a_run(small_run: FinishedRun, tmp_path: Path) -> None:
    done = snakemake(tmp_path, small_run.config)
    assert done.returncode == 0, done.stderr[-3000:]
    for path in (small_run.out / "tables").iterdir():
        assert (tmp_path / "tables" / path.name).read_bytes() == path.read_bytes(), path.name
    assert (tmp_path / "report.html").is_file()
    assert (tmp_path / "logs" / "qc" / "lib01.log").is_file()
    (tmp_path / "work" / "compare.json").unlink()
    again = snakemake(tmp_path, small_run.config, "--dry-run")
    assert "rule compare" in again.stdout
    assert "rule qc" not in again.stdout


@pytest.mark.pipeline
def test_missing_settings_are_said_before_any_job(tmp_path: Path) -> None:
    done = snakemake(tmp_path, tmp_path / "none.yaml")
    assert done.returncode != 0
    assert "There is no config" in done.stderr


@pytest.mark.pipeline
def test_unusable_configs_and_sheets_are_refused_before_any_job(
    small_cohort: Path, tmp_path: Path
) -> None:
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text(f"input: {small_cohort.parent / 'cohort.h5ad'}\nsead: 1\n", encoding="utf-8")
    done = snakemake(tmp_path, wrong, "--dry-run")
    assert done.returncode != 0
    assert "sead" in said(done)
    sheet = tmp_path / "sheet.tsv"
    sheet.write_text("path\tsubject\nnot_there.h5ad\tm1\n", encoding="utf-8")
    wrong.write_text("input: sheet.tsv\n", encoding="utf-8")
    done = snakemake(tmp_path, wrong, "--dry-run")
    assert done.returncode != 0
    assert "not_there.h5ad" in said(done)


@pytest.mark.pipeline
def test_several_cohorts_go_into_folders_of_their_own(small_cohort: Path, tmp_path: Path) -> None:
    cohorts = tmp_path / "cohorts.yaml"
    cohorts.write_text(f"cohorts: {{a: {small_cohort}, b: {small_cohort}}}\n", encoding="utf-8")
    done = snakemake_of(tmp_path, "--configfile", str(cohorts), "--config", f"out={tmp_path}", "-n")
    assert done.returncode == 0, done.stderr
    for name in ("a", "b"):
        assert f"{tmp_path}/{name}/work/samples.tsv" in done.stdout
    both = snakemake_of(
        tmp_path, "--configfile", str(cohorts), "--config", f"out={tmp_path}",
        f"run={small_cohort}", "-n",
    )  # fmt: skip
    assert both.returncode != 0
    assert "--config run=" in said(both)
