"""Signature scores of single cells: time and memory on many cells, one table.

`python benchmarks/scores.py` writes a synthetic cohort of 200,000 cells x 20,000 genes (about 3 GB,
in a temporary folder) and scores 12 signatures in it, with the counts in memory and with the counts
on disk, each in a process of its own, of which the table gives the peak memory, alone and relative
to the counts. Both must give the same scores, bit for bit. `--file PATH` keeps the cohort there, or
uses it where it is; `--cells N` makes a smaller one. The counts are random numbers: the figures are
those of size.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import h5py
import numpy as np
import pandas as pd
from anndata.io import write_elem
from pseudobulk import N_POPULATIONS, gene_names, peak, random_counts

from crs_sc import keys, tl
from crs_sc.genesets import signatures
from crs_sc.io import open_h5ad

N_SIGNATURES = 12
BLOCK = 5_000
MEDIAN_UMI = 2_600


def write_cohort(path: Path, *, n_cells: int, n_genes: int) -> None:
    """Write counts block by block, as the package stores them: CSR float32, uncompressed."""
    rng = np.random.default_rng(0)
    profiles = rng.lognormal(0, 1.5, size=n_genes) * rng.lognormal(
        0, 0.7, size=(N_POPULATIONS, n_genes)
    )
    profiles /= profiles.sum(axis=1, keepdims=True)
    quantiles = (np.arange(1 << 18) + 0.5) / (1 << 18)
    tables = np.array([np.searchsorted(p.cumsum(), quantiles) for p in profiles], dtype=np.int32)
    tables = np.minimum(tables, n_genes - 1)
    with h5py.File(path, "w") as file:
        file.attrs["encoding-type"], file.attrs["encoding-version"] = "anndata", "0.1.0"
        write_elem(file, "layers", {})
        group = file["layers"].create_group(keys.COUNTS)
        group.attrs["encoding-type"], group.attrs["encoding-version"] = "csr_matrix", "0.1.0"
        group.attrs["shape"] = np.array([n_cells, n_genes])
        for name, kind in (("data", "f4"), ("indices", "i4")):
            group.create_dataset(name, (0,), kind, maxshape=(None,), chunks=(1 << 18,))
        indptr = [np.zeros(1, dtype=np.int64)]
        for start in range(0, n_cells, BLOCK):
            n = min(BLOCK, n_cells - start)
            population = rng.integers(N_POPULATIONS, size=n)
            counts = random_counts(rng, tables, population, n_genes, median_umi=MEDIAN_UMI)
            end = int(indptr[-1][-1])
            for name in ("data", "indices"):
                group[name].resize((end + counts.nnz,))
                group[name][end:] = getattr(counts, name)
            indptr.append(end + counts.indptr[1:].astype(np.int64))
        pointers = np.concatenate(indptr)
        # As scipy has it: 32 bits wherever they suffice.
        kind = np.int32 if pointers[-1] < np.iinfo(np.int32).max else np.int64
        group.create_dataset("indptr", data=pointers.astype(kind))
        names = pd.Index([f"cell{i}" for i in range(n_cells)], dtype=object)
        write_elem(file, "obs", pd.DataFrame(index=names))
        write_elem(file, "var", pd.DataFrame(index=pd.Index(gene_names(n_genes), dtype=object)))


def measure(path: Path, *, in_memory: bool) -> dict:
    """Score once; seconds, peak of memory and a digest of the scores."""
    adata = open_h5ad(path)
    if in_memory:
        adata.layers[keys.COUNTS] = adata.layers[keys.COUNTS].to_memory()
    loaded = peak()
    chosen = dict(list(signatures().items())[:N_SIGNATURES])
    start = time.perf_counter()
    tl.score_signatures(adata, signatures=chosen)
    seconds = time.perf_counter() - start
    scores = adata.obsm[keys.SIGNATURE_SCORES].to_numpy()
    return {
        "counts": "in memory" if in_memory else "on disk",
        "signatures": scores.shape[1],
        "seconds": seconds,
        "peak_before_gb": loaded,
        "peak_gb": peak(),
        "digest": hashlib.sha256(scores.tobytes()).hexdigest()[:12],
    }


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cells", type=int, default=200_000)
    parser.add_argument("--genes", type=int, default=20_000)
    parser.add_argument("--file", type=Path, help="where the cohort is kept")
    parser.add_argument("--measure", choices=("memory", "disk"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure:
        sys.stdout.write(json.dumps(measure(given.file, in_memory=given.measure == "memory")))
        return
    with TemporaryDirectory() as folder:
        path = given.file or Path(folder) / "cohort.h5ad"
        if not path.exists():
            write_cohort(path, n_cells=given.cells, n_genes=given.genes)
        with h5py.File(path) as file:
            n_cells, n_genes = file[f"layers/{keys.COUNTS}"].attrs["shape"]
            n_values = file[f"layers/{keys.COUNTS}/data"].shape[0]
        rows = []
        for where in ("memory", "disk"):
            done = subprocess.run(
                [sys.executable, __file__, "--measure", where, "--file", str(path)],
                capture_output=True, text=True, check=True,
            )  # fmt: skip
            rows.append(json.loads(done.stdout))
    table = pd.DataFrame(rows)
    gigabytes = n_values * 8 / 1e9
    table.insert(5, "peak_over_counts", table["peak_gb"] / gigabytes)
    print(
        f"{n_cells:,} cells x {n_genes:,} genes, {n_values / n_cells:.0f} genes a cell, counts "
        f"{gigabytes:.2f} GB"
    )
    print(table.to_string(index=False, float_format=lambda value: f"{value:.2f}"))
    if table["digest"].nunique() > 1:
        sys.exit("The scores differ between memory and disk.")


if __name__ == "__main__":
    main()
