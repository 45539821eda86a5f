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
    scripts = Path(sys.executable).parent
    command = [
        str(scripts / "snakemake"), "-s", str(ROOT / "pipelines" / "Snakefile"),
        "--profile", str(ROOT / "pipelines" / "profiles" / "laptop"), "--directory", str(out),
        "--cores", "2", "--config", f"run={config}", f"out={out}", *more,
    ]  # fmt: skip
    environment = os.environ | {"PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}"}
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


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
