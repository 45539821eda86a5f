"""A simulated cohort of any size with 20,000 genes, on disk, for `benchmarks/pipeline.py`.

`crs_sc.datasets` simulates the cohort and its truth, with some 2,000 genes that have a name. What a
real file has beside them, and what costs the time, is added here: background genes whose counts
depend on the population, as many UMI as a quarter of what the cell has of the named ones. A doublet
has those of both of its cells.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy import sparse

from crs_sc.datasets import iter_samples
from crs_sc.datasets.write import growing_h5ad

if TYPE_CHECKING:
    from pathlib import Path

N_SAMPLES, N_GENES, N_MOUSE = 16, 20_000, 300
BACKGROUND = 0.25
BLOCK = 5_000
CONFIG = """\
input: cohort.h5ad
columns: {sample: lib, subject: mouse, condition: arm}
contrasts:
  - {name: cart, treated: CART, reference: vehicle}
  - {name: anakinra, treated: CART_anakinra, reference: CART, baseline: vehicle}
  - {name: tocilizumab, treated: CART_tocilizumab, reference: CART, baseline: vehicle}
genes: [IL1B, IL6]
organism: human+mouse
transgene: [CAR]
seed: 0
"""


def write_cohort(folder: Path, *, n_cells: int) -> Path:
    """Write `cohort.h5ad`, `config.yaml` and `cells.tsv` (the truth of the droplets).

    The config comes last: a folder with one is finished.
    """
    settings = {"cells_per_sample": n_cells // N_SAMPLES, "n_background_genes": 1080}
    first = next(iter_samples(settings | {"cells_per_sample": 50}))
    n_more = N_GENES - len(first.genes)
    # A few of them of the mouse, as a cohort of two genomes is only taken for one with enough.
    prefixes = ["mm10___Background" if i < N_MOUSE else "GRCh38_BACKGROUND" for i in range(n_more)]
    genes = [*first.genes, *(f"{prefix}{i:05d}" for i, prefix in enumerate(prefixes))]
    names = {"lib": "sample", "mouse": "subject", "arm": "condition"}
    samples = [f"lib{i + 1:02d}" for i in range(N_SAMPLES)]
    columns = {
        "lib": samples,
        "mouse": [s.replace("lib", "mouse") for s in samples],
        "arm": ["vehicle", "CART", "CART_anakinra", "CART_tocilizumab"],
    }
    background = Background(n_more)
    cells = []
    with growing_h5ad(
        folder / "cohort.h5ad", genes=genes, columns=columns, description="Simulated."
    ) as file:
        for number, sample in enumerate(iter_samples(settings)):
            rng = np.random.default_rng([1, number])
            identity = {lab: sample.identity[name] for lab, name in names.items()}
            for start in range(0, len(sample.cells), BLOCK):
                rows = slice(start, start + BLOCK)
                truth = sample.cells.iloc[rows]
                counts = sparse.hstack(
                    [sample.counts[rows], background.draw(truth, rng)], format="csr"
                )
                file.append(counts, truth["cell"].tolist(), identity)
            cells.append(sample.cells)
    pd.concat(cells).to_csv(folder / "cells.tsv", sep="\t", index=False)
    config = folder / "config.yaml"
    config.write_text(CONFIG, encoding="utf-8")
    return config


class Background:
    """Background genes: a profile a population, around one of all."""

    def __init__(self, n_genes: int) -> None:
        self._rng = np.random.default_rng(0)
        self._base = self._rng.lognormal(0, 1.5, size=n_genes)
        self._quantiles = (np.arange(1 << 18) + 0.5) / (1 << 18)
        self._tables: dict[str, np.ndarray] = {}

    def draw(self, cells: pd.DataFrame, rng: np.random.Generator) -> sparse.csr_matrix:
        """Draw the counts of these droplets; none where the cell is a mouse's."""
        umi = np.where(cells["species"] == "human", BACKGROUND * cells["n_umi"], 0)
        is_pair = (cells["droplet"] == "doublet").to_numpy()
        total = sparse.csr_matrix((len(cells), len(self._base)), dtype=np.float32)
        for column, share in (
            ("population", np.where(is_pair, 0.5, 1.0)),
            ("partner", np.where(is_pair, 0.5, 0.0)),
        ):
            depth = rng.poisson(umi * share)
            total += self._of(cells[column].to_numpy(dtype=str), depth, rng)
        return total.astype(np.float32)

    def _of(
        self, populations: np.ndarray, depth: np.ndarray, rng: np.random.Generator
    ) -> sparse.csr_matrix:
        genes = np.empty(int(depth.sum()), dtype=np.int32)
        rows = np.repeat(np.arange(len(depth), dtype=np.int32), depth)
        for name in np.unique(populations):
            own = (populations == name)[rows]
            genes[own] = rng.choice(self._table(name), size=int(own.sum()))
        ones = np.ones(len(rows), dtype=np.float32)
        shape = (len(depth), len(self._base))
        counts = sparse.csr_matrix((ones, (rows, genes)), shape=shape)
        counts.sum_duplicates()
        return counts

    def _table(self, population: str) -> np.ndarray:
        """Genes at even quantiles of the profile of a population."""
        if population not in self._tables:
            profile = self._base * self._rng.lognormal(0, 0.5, size=len(self._base))
            edges = profile.cumsum() / profile.sum()
            genes = np.searchsorted(edges, self._quantiles)
            self._tables[population] = np.minimum(genes, len(profile) - 1).astype(np.int32)
        return self._tables[population]
