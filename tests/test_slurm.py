"""The workflow through a real Slurm: a job is killed half way, and the restart mends it.

Not part of `make test`; `make test-slurm` runs it. A Slurm must be there, or a script that starts
one must be named by SLURM_START.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from conftest import FinishedRun

pytestmark = pytest.mark.slurm

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = Path(sys.executable).parent


@pytest.fixture(scope="module")
def partition() -> Iterator[str]:
    """Partition of a Slurm that takes jobs."""
    script = os.environ.get("SLURM_START")
    if script:
        subprocess.run(["bash", script], check=True, capture_output=True, timeout=300)
    if shutil.which("sinfo") is None:
        pytest.skip("there is no Slurm here (no `sinfo`), and SLURM_START names no script")
    asked = subprocess.run(["sinfo", "-h", "-o", "%R"], capture_output=True, text=True, check=False)
    if asked.returncode or not asked.stdout.strip():
        pytest.skip(f"Slurm does not answer: {asked.stderr.strip()}")
    yield asked.stdout.split()[0]
    if script:
        subprocess.run(["bash", script, "stop"], check=False, capture_output=True, timeout=60)


def start(out: Path, config: Path, partition: str) -> subprocess.Popen[bytes]:
    """Start the workflow as `pipelines/README.md` says, and return at once."""
    # A shared disk and a job queue of many users need not be waited for here.
    command = [
        SCRIPTS / "snakemake", "-s", ROOT / "pipelines" / "Snakefile",
        "--profile", ROOT / "pipelines" / "profiles" / "slurm", "--directory", out,
        "--latency-wait", "10", "--seconds-between-status-checks", "2",
        "--slurm-init-seconds-before-status-checks", "2", "--retries", "0",
        "--slurm-no-account", "--slurm-status-command", "squeue",
        "--default-resources", f"slurm_partition={partition}",
        "--config", f"run={config}", f"out={out}",
    ]  # fmt: skip
    environment = os.environ | {
        "PATH": f"{SCRIPTS}{os.pathsep}{os.environ['PATH']}",
        "OMP_NUM_THREADS": "1",
    }
    with (out / "snakemake.log").open("ab") as log:
        return subprocess.Popen(
            [str(part) for part in command], stdout=log, stderr=log, env=environment
        )


def job_of(stage: str) -> str:
    """Slurm's number of a running job of a stage; empty if none is running."""
    asked = subprocess.run(
        ["squeue", "-h", "-t", "R", "-o", "%i %k"], capture_output=True, text=True, check=True
    )
    rows = [line.split(maxsplit=1) for line in asked.stdout.splitlines()]
    return next((row[0] for row in rows if len(row) > 1 and stage in row[1]), "")


def test_killed_job_is_done_again_and_the_tables_are_those_of_a_run(
    partition: str, small_run: FinishedRun, tmp_path: Path
) -> None:
    first = start(tmp_path, small_run.config, partition)
    deadline = time.monotonic() + 900
    killed = ""
    while first.poll() is None and time.monotonic() < deadline:
        # The stage that takes longest; killed once it has begun to work.
        if not killed and (killed := job_of("rule_cluster")):
            time.sleep(3)
            subprocess.run(["scancel", "--signal=KILL", killed], check=True)
        time.sleep(0.5)
    log = (tmp_path / "snakemake.log").read_text(errors="replace")
    assert killed, log[-3000:]
    assert first.wait(timeout=300) != 0, log[-3000:]
    assert not (tmp_path / "work" / "cluster.json").exists()
    qc = {path: path.stat().st_mtime_ns for path in (tmp_path / "work" / "qc").iterdir()}
    assert qc

    second = start(tmp_path, small_run.config, partition)
    assert second.wait(timeout=900) == 0, (tmp_path / "snakemake.log").read_text()[-3000:]
    # What was done is not done again.
    assert qc == {path: path.stat().st_mtime_ns for path in (tmp_path / "work" / "qc").iterdir()}
    for path in (small_run.out / "tables").iterdir():
        assert (tmp_path / "tables" / path.name).read_bytes() == path.read_bytes(), path.name
    assert (tmp_path / "report.html").is_file()
