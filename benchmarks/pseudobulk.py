"""Pseudobulk of a large cohort from disk, and every contrast after it: time and memory, one table.

`python benchmarks/pseudobulk.py` writes a synthetic cohort of 500,000 cells x 20,000 genes x 24
subjects (about 5 GB, in a temporary folder, some minutes) and goes over it in a process of its own,
whose peak memory the table gives and which has one thread of linear algebra, as a run has.
`--file PATH` keeps the cohort there, or uses it where it is; `--cells N` makes a smaller one. The
counts are random numbers: the figures are those of size.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import h5py
import numpy as np
import pandas as pd
from anndata.io import write_elem
from scipy import sparse

from crs_sc import Contrast, keys, tl
from crs_sc.genesets import signatures
from crs_sc.io import open_h5ad

ARMS = ("vehicle", "CART", "CART_anakinra", "CART_tocilizumab")
CONTRASTS = (
    ("cart", "CART", "vehicle", None),
    ("anakinra", "CART_anakinra", "CART", "vehicle"),
    ("tocilizumab", "CART_tocilizumab", "CART", "vehicle"),
)
CYTOKINES = ["IL1A", "IL1B", "IL6", "TNF", "CXCL8", "CCL2", "IL18", "IL1RN", "CSF2", "IFNG"]
N_POPULATIONS = 15
BLOCK = 5_000


def gene_names(n_genes: int) -> list[str]:
    """Genes of the packaged signatures and the cytokines first, numbered genes after them."""
    named = [gene for members in signatures().values() for gene in members]
    named = list(dict.fromkeys([*named, *CYTOKINES]))[:n_genes]
    return [*named, *(f"GENE{i:05d}" for i in range(n_genes - len(named)))]


def random_counts(
    rng: np.random.Generator,
    tables: np.ndarray,
    populations: np.ndarray,
    n_genes: int,
    *,
    median_umi: float,
) -> sparse.csr_matrix:
    """Multinomial counts of some cells from the profiles of their populations."""
    depth = np.rint(rng.lognormal(np.log(median_umi), 0.45, size=len(populations)))
    depth = depth.astype(np.int64)
    rows = np.repeat(np.arange(len(populations), dtype=np.int32), depth)
    draws = rng.integers(0, tables.shape[1], size=len(rows), dtype=np.int32)
    genes = tables[np.repeat(populations, depth), draws]
    ones = np.ones(len(rows), dtype=np.float32)
    counts = sparse.csr_matrix((ones, (rows, genes)), shape=(len(populations), n_genes))
    counts.sum_duplicates()
    return counts


def write_cohort(
    path: Path, *, n_cells: int, n_genes: int, n_subjects: int, median_umi: float = 1900
) -> None:
    """Write the cohort block by block, as the package stores it: CSR float32, uncompressed."""
    rng = np.random.default_rng(0)
    base = rng.lognormal(0, 1.8, size=n_genes)
    profiles = base * rng.lognormal(0, 0.7, size=(N_POPULATIONS, n_genes))
    profiles /= profiles.sum(axis=1, keepdims=True)
    quantiles = (np.arange(1 << 18) + 0.5) / (1 << 18)
    tables = np.array([np.searchsorted(p.cumsum(), quantiles) for p in profiles], dtype=np.int32)
    tables = np.minimum(tables, n_genes - 1)
    shares = rng.dirichlet(np.full(N_POPULATIONS, 3.0), size=n_subjects)
    subject = np.sort(np.arange(n_cells) % n_subjects)
    population = np.zeros(n_cells, dtype=np.int64)
    with h5py.File(path, "w") as file:
        file.attrs["encoding-type"], file.attrs["encoding-version"] = "anndata", "0.1.0"
        for name in ("obsm", "obsp", "varp"):
            write_elem(file, name, {})
        write_elem(file, "layers", {})
        group = file["layers"].create_group(keys.COUNTS)
        group.attrs["encoding-type"], group.attrs["encoding-version"] = "csr_matrix", "0.1.0"
        group.attrs["shape"] = np.array([n_cells, n_genes])
        for name, kind in (("data", "f4"), ("indices", "i4")):
            group.create_dataset(name, (0,), kind, maxshape=(None,), chunks=(1 << 18,))
        indptr = [np.zeros(1, dtype=np.int64)]
        for start in range(0, n_cells, BLOCK):
            rows = slice(start, min(start + BLOCK, n_cells))
            u = rng.random(rows.stop - start)[:, None]
            population[rows] = (u > shares[subject[rows]].cumsum(axis=1)[:, :-1]).sum(axis=1)
            counts = random_counts(rng, tables, population[rows], n_genes, median_umi=median_umi)
            end = int(indptr[-1][-1])
            for name in ("data", "indices"):
                group[name].resize((end + counts.nnz,))
                group[name][end:] = getattr(counts, name)
            indptr.append(end + counts.indptr[1:].astype(np.int64))
        group.create_dataset("indptr", data=np.concatenate(indptr))
        write_frames(file, subject, population, profiles, gene_names(n_genes))


def write_frames(
    file: h5py.File,
    subject: np.ndarray,
    population: np.ndarray,
    profiles: np.ndarray,
    genes: list[str],
) -> None:
    """Write obs, var, the profile of ambient RNA and its share."""
    samples = [f"s{i:02d}" for i in range(subject.max() + 1)]
    arms = [ARMS[i % len(ARMS)] for i in range(len(samples))]
    names = [f"population {k + 1:02d}" for k in range(N_POPULATIONS)]
    obs = pd.DataFrame(
        {
            keys.SAMPLE: pd.Categorical.from_codes(subject, samples),
            keys.SUBJECT: pd.Categorical.from_codes(subject, [f"m{s[1:]}" for s in samples]),
            keys.CONDITION: pd.Categorical(np.array(arms)[subject]),
            keys.POPULATION: pd.Categorical.from_codes(population, names),
        },
        index=pd.Index([f"cell{i}" for i in range(len(subject))], dtype=object),
    )
    index = pd.Index(genes, dtype=object)
    soup = pd.DataFrame(np.tile(profiles.mean(axis=0)[:, None], len(samples)), index=index)
    soup.columns = samples
    rate = pd.DataFrame(
        {"ambient_fraction": 0.05, "ambient_upper": 0.07},
        index=pd.Index(samples, dtype=object),
    )
    write_elem(file, "obs", obs)
    write_elem(file, "var", pd.DataFrame(index=index))
    write_elem(file, "varm", {keys.AMBIENT_PROFILE: soup})
    write_elem(file, "uns", {keys.UNS: {keys.CONTAMINATION: rate}})


def peak() -> float:
    """Largest resident memory of this process so far, GB."""
    status = Path("/proc/self/status")
    if status.exists():
        # What getrusage says starts, under Linux, with the peak of the process that started this.
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def measure(path: Path) -> list[dict]:
    """Go over the cohort step by step; seconds, and the peak of memory up to there."""
    rows = [{"step": "start", "seconds": 0.0, "peak_gb": peak(), "result": ""}]

    def timed(step: str, function, *args, **settings):
        start = time.perf_counter()
        result = function(*args, **settings)
        seconds = time.perf_counter() - start
        shape = " x ".join(f"{n:,}" for n in result.shape)
        rows.append({"step": step, "seconds": seconds, "peak_gb": peak(), "result": shape})
        return result

    adata = timed("open", open_h5ad, path)
    bulk = timed("pseudobulk", tl.pseudobulk, adata)
    contrasts = [
        Contrast(name, treated, reference, baseline=baseline)
        for name, treated, reference, baseline in CONTRASTS
    ]
    settings = {"contrasts": contrasts, "signatures": signatures(), "genes": CYTOKINES}
    timed("shifts", tl.shifts, bulk, **settings)
    timed("reversal", tl.reversal, bulk, **settings)
    timed("composition", tl.composition, bulk, contrasts=contrasts)
    timed("expression", tl.expression, bulk, contrasts=contrasts)
    return rows


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cells", type=int, default=500_000)
    parser.add_argument("--genes", type=int, default=20_000)
    parser.add_argument("--subjects", type=int, default=24)
    parser.add_argument("--file", type=Path, help="where the cohort is kept")
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure:
        sys.stdout.write(json.dumps(measure(given.file)))
        return
    with TemporaryDirectory() as folder:
        path = given.file or Path(folder) / "cohort.h5ad"
        if not path.exists():
            write_cohort(path, n_cells=given.cells, n_genes=given.genes, n_subjects=given.subjects)
        with h5py.File(path) as file:
            n_cells, n_genes = file[f"layers/{keys.COUNTS}"].attrs["shape"]
            n_values = file[f"layers/{keys.COUNTS}/data"].shape[0]
        done = subprocess.run(
            [sys.executable, __file__, "--measure", "--file", str(path)],
            capture_output=True, text=True, check=True,
            env=os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        )  # fmt: skip
    print(f"{n_cells:,} cells x {n_genes:,} genes, {n_values / n_cells:.0f} genes a cell")
    table = pd.DataFrame(json.loads(done.stdout))
    print(table.to_string(index=False, float_format=lambda value: f"{value:.2f}"))


if __name__ == "__main__":
    main()
