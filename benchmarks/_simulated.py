"""Simulated pseudobulks and tables for `benchmarks/comparison.py`.

A thousand cohorts of cells would take hours, and no test of the comparison sees a cell: it sees
the pseudobulk and the tables of sources. They are drawn here as they would come out of the cells:
counts are gamma-Poisson, with the spread of genes and of whole responses between subjects, and with
what a finite number of cells adds. Everything goes through the public functions.
"""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
from scipy import sparse

from crs_sc.comparison.decomposition import shapley_parts
from crs_sc.genesets import signatures

# Share of the cells, and UMI of a cell relative to the others.
POPULATIONS = {
    "B": (0.10, 0.8),
    "CD4 T": (0.36, 0.8),
    "CD8 T": (0.16, 0.8),
    "Classical monocyte": (0.25, 1.6),
    "NK": (0.11, 0.8),
    "pDC": (0.02, 1.2),
}
SIGNATURES = signatures()
CYTOKINES = ["IL1B", "IL6", "TNF", "CXCL8", "CCL2", "IL1RN"]
GENES = sorted({g for genes in SIGNATURES.values() for g in genes} | set(CYTOKINES))
GENES += [f"BACKGROUND{i}" for i in range(230)]


def null_units(design: str) -> pd.DataFrame:
    """Subjects and arms of `3v3`, `4v4`, `5v5` or `paired 6`."""
    if design.startswith("paired"):
        n = int(design.split()[1])
        return units_of({"vehicle": n, "CART": n}, paired=True)
    n, m = (int(part) for part in design.split("v"))
    return units_of({"vehicle": n, "CART": m})


def units_of(arms: dict[str, int], *, paired: bool = False) -> pd.DataFrame:
    rows = [(f"{'m' if paired else arm}{i}", arm) for arm, n in arms.items() for i in range(n)]
    return pd.DataFrame(rows, columns=["subject", "condition"])


def simulate_bulk(
    units: pd.DataFrame, rng: np.random.Generator, *, shifts: dict[str, dict[str, float]]
) -> ad.AnnData:
    """Draw the pseudobulk of a cohort; `shifts` are log2 units by arm and signature.

    Between subjects: responses 0.25 log2 (half of it common to all populations), genes 0.25 log2 on
    the median with variances that spread like an inverse chi-square on 10 degrees of freedom, logit
    of shares 0.4. A subject that is seen twice keeps four fifths of its variance. Between cells: a
    squared coefficient of variation of 0.5.
    """
    of_subject, subjects = pd.factorize(units["subject"])
    n_units, n_pop, n_genes = len(units), len(POPULATIONS), len(GENES)

    def spread(*shape: int) -> np.ndarray:
        kept = rng.standard_normal((len(subjects), *shape))[of_subject]
        return np.sqrt(0.8) * kept + np.sqrt(0.2) * rng.standard_normal((n_units, *shape))

    member = np.array([[g in s for g in GENES] for s in SIGNATURES.values()], dtype=float)
    response = spread(1, len(member)) + spread(n_pop, len(member))
    level = 0.25 * np.sqrt(0.5) * response @ member
    sd = 0.25 * np.sqrt(10 / rng.chisquare(10, (n_pop, n_genes)))
    level += sd * spread(n_pop, n_genes)
    for arm, by_signature in shifts.items():
        of_arm = (units["condition"] == arm).to_numpy()
        planted = np.array([by_signature.get(name, 0.0) for name in SIGNATURES])
        level[of_arm] += planted @ np.minimum(member, 1)
    share, depth = np.array(list(POPULATIONS.values())).T
    shares = share * np.exp(0.4 * spread(n_pop))
    n_total = rng.lognormal(np.log(600), 0.4, n_units).astype(int)
    n_cells = np.array(
        [rng.multinomial(n, p / p.sum()) for n, p in zip(n_total, shares, strict=True)]
    )
    base = rng.lognormal(0, 1.5, (n_pop, n_genes))
    base *= 1_000 * depth[:, None] / base.sum(axis=1, keepdims=True)
    mean = n_cells[:, :, None] * base * 2**level
    shape = np.maximum(n_cells, 1)[:, :, None] / 0.5
    counts = rng.poisson(mean * rng.gamma(shape, 1 / shape, mean.shape)).astype(float)
    return as_bulk(units, n_cells, counts)


def as_bulk(units: pd.DataFrame, n_cells: np.ndarray, counts: np.ndarray) -> ad.AnnData:
    """Lay out `(n_units, n_populations)` cells and their counts as `tl.pseudobulk` does."""
    n_pop = len(POPULATIONS)
    obs = units.loc[np.repeat(units.index, n_pop)].reset_index(drop=True)
    obs["population"] = np.tile(list(POPULATIONS), len(units))
    obs["n_cells"] = n_cells.ravel()
    obs["n_cells_total"] = np.repeat(n_cells.sum(axis=1), n_pop)
    obs["weight"], obs["weight_total"] = obs["n_cells"] * 1.0, obs["n_cells_total"] * 1.0
    obs.index = ["|".join(row) for row in obs[["condition", "subject", "population"]].to_numpy()]
    X = sparse.csr_matrix(counts.reshape(len(obs), -1))
    layers = {"counts": X.copy(), "ambient": sparse.csr_matrix(X.shape)}
    return ad.AnnData(X=X, obs=obs, var=pd.DataFrame(index=GENES), layers=layers)


# Changes of cell share, producer share and UMI per producer in monocytes, as factors.
CHANGES = {
    "nothing": (1.0, 1.0, 1.0),
    "fewer monocytes": (0.3, 1.0, 1.0),
    "quieter monocytes": (1.0, 0.3, 1.0),
    "less per producer": (1.0, 1.0, 0.6),
    "more of all": (1.5, 2.0, 1.5),
}
# Share of cells, share of producers, UMI per producer; the rest of the cells produces nothing.
MAKERS = {"Monocyte": (0.2, 0.15, 3.0), "DC": (0.04, 0.2, 3.0), "Other": (0.76, 0.0, 1.0)}
# Spread between subjects of their logarithms.
SPREAD = (0.35, 0.3, 0.2)


def simulate_sources(
    n: int, change: str, rng: np.random.Generator, *, n_cells: int = 800
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Draw the tables `ledger` and `producers` of one gene, and the samples, with n mice an arm."""
    factors = np.ones((2 * n, len(MAKERS), 3))
    factors[n:, 0] = CHANGES[change]
    rates = np.array(list(MAKERS.values())) * factors
    rates = rates * np.exp(np.array(SPREAD) * rng.standard_normal(rates.shape))
    rates[:, -1, 0] = np.maximum(1 - rates[:, :-1, 0].sum(axis=1), 0.05)
    share = rates[..., 0] / rates[..., 0].sum(axis=1, keepdims=True)
    cells = np.array([rng.multinomial(n_cells, p) for p in share])
    made = rng.binomial(cells, np.minimum(rates[..., 1], 1))
    umi = made + rng.poisson(made * np.maximum(rates[..., 2] - 1, 0))
    samples = pd.DataFrame(
        {"subject": [f"m{i}" for i in range(2 * n)], "condition": ["vehicle"] * n + ["CART"] * n},
        index=[f"s{i}" for i in range(2 * n)],
    )
    index = pd.MultiIndex.from_product(
        [["IL6"], samples.index, list(MAKERS)], names=["gene", "sample", "population"]
    )
    table = pd.DataFrame(
        {
            "n_cells": cells.ravel(),
            "n_producers": made.ravel(),
            "corrected_umi": umi.ravel().astype(float),
            "cell_share": (cells / n_cells).ravel(),
        },
        index=index,
    ).reset_index()
    return table.drop(columns="n_producers"), table.drop(columns="corrected_umi"), samples


def planted_parts(change: str) -> pd.DataFrame:
    """Parts of the change of the expected outputs, by population, and for all together."""
    arms = []
    for factors in ((1.0, 1.0, 1.0), CHANGES[change]):
        rates = np.array(list(MAKERS.values()))
        rates[0] *= factors
        p, f, m = (rates * np.exp(np.array(SPREAD) ** 2 / 2)).T
        # A producer has one UMI and a Poisson number more.
        arms += [p, p * f, p * f * m]
    parts = pd.DataFrame(shapley_parts(*arms)._asdict(), index=list(MAKERS))
    parts.loc["All"] = parts.sum()
    return parts.drop(index="Other")
