"""Attribution alone, from disk: seconds and memory beside those of reading the file's arrays.

`python benchmarks/attribution.py` writes a simulated cohort of 1,000,000 cells x 20,000 genes in 16
samples with labels and ambient RNA (4 GB, in a temporary folder; two minutes) and computes what
`crs-sc attribute` does: producers, production, receivers, ledger, decomposition and shifts. Reading
and attribution are each done twice in a process of their own: with the file on disk only (cold; its
pages are given back to the system before) and in the system's cache (warm). `--file PATH` keeps the
cohort there, or uses it where it is; `--cells N` makes a smaller one, `--memory GB` sets the limit.
Reading means every array of the file (values, columns and row pointers of the counts, labels,
names) once, in blocks, as h5py gives them: nothing is checked, decoded or kept.
The counts are random numbers: the figures are those of size.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

# Heavy libraries are loaded before the clock starts.
import anndata  # noqa: F401
import h5py
import numba  # noqa: F401
import pandas as pd
import scipy.stats  # noqa: F401
from pseudobulk import CONTRASTS, peak, write_cohort

from crs_sc import keys
from crs_sc.run.attribute import attribution_tables, open_labelled
from crs_sc.run.config import RunConfig

BLOCK = 1 << 22
MEDIAN_UMI = 560


def read_arrays(path: Path) -> None:
    """Read every array of the file, a block at a time."""

    def read(_: str, node: object) -> None:
        if isinstance(node, h5py.Dataset):
            for start in range(0, node.shape[0] if node.shape else 0, BLOCK):
                node[start : start + BLOCK]

    with h5py.File(path) as file:
        file.visititems(read)


def attribute(path: Path, memory_limit: float | None) -> None:
    """Compute all tables, as `crs-sc attribute` does."""
    contrasts = [
        {"name": name, "treated": treated, "reference": reference, "baseline": baseline}
        for name, treated, reference, baseline in CONTRASTS
    ]
    columns = {name: name for name in (keys.SAMPLE, keys.SUBJECT, keys.CONDITION)}
    columns["label"] = keys.POPULATION
    config = RunConfig(
        input=[path], columns=columns, contrasts=contrasts, memory_limit=memory_limit
    )
    attribution_tables(open_labelled(config), config)


def forget(path: Path) -> None:
    """Give the pages of the file back, so that it is read from disk."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def measured(step: str, path: Path, *, cold: bool, memory: float | None) -> dict:
    """Do a step in a process of its own, imports not counted."""
    if cold:
        forget(path)
    command = [sys.executable, __file__, "--step", step, "--file", str(path)]
    if memory is not None:
        command += ["--memory", str(memory)]
    done = subprocess.run(
        command, capture_output=True, text=True, check=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
    )  # fmt: skip
    return {"step": step, "file": "cold" if cold else "warm", **json.loads(done.stdout)}


def do(step: str, path: Path, memory: float | None) -> None:
    """Do a step and write what it took, as JSON."""
    start, start_cpu = time.perf_counter(), time.process_time()
    if step == "read":
        read_arrays(path)
    else:
        attribute(path, memory)
    found = {
        "seconds": time.perf_counter() - start,
        "cpu_seconds": time.process_time() - start_cpu,
        "peak_gb": peak(),
    }
    sys.stdout.write(json.dumps(found))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cells", type=int, default=1_000_000)
    parser.add_argument("--genes", type=int, default=20_000)
    parser.add_argument("--samples", type=int, default=16)
    parser.add_argument("--file", type=Path, help="where the cohort is kept")
    parser.add_argument("--memory", type=float, help="memory_limit in GB")
    parser.add_argument("--step", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.step:
        do(given.step, given.file, given.memory)
        return
    with TemporaryDirectory() as folder:
        path = given.file or Path(folder) / "cohort.h5ad"
        if not path.exists():
            write_cohort(
                path,
                n_cells=given.cells,
                n_genes=given.genes,
                n_subjects=given.samples,
                median_umi=MEDIAN_UMI,
            )
        with h5py.File(path) as file:
            n_cells, n_genes = file[f"layers/{keys.COUNTS}"].attrs["shape"]
            n_values = file[f"layers/{keys.COUNTS}/data"].shape[0]
        rows = [
            measured(step, path, cold=cold, memory=given.memory)
            for cold in (True, False)
            for step in ("read", "attribute")
        ]
    table = pd.DataFrame(rows)
    print(
        f"{n_cells:,} cells x {n_genes:,} genes (simulated), {n_values / n_cells:.0f} genes a "
        f"cell, {8 * n_values / 1e9:.1f} GB of counts"
    )
    print(table.to_string(index=False, float_format=lambda value: f"{value:.2f}"))
    for state, part in table.groupby("file", sort=False):
        seconds = part.set_index("step")["seconds"]
        ratio = seconds["read"] / seconds["attribute"]
        print(f"{state}: {ratio:.2f} of the speed of reading the arrays")


if __name__ == "__main__":
    main()
