"""Cells for `benchmarks/comparison.py`: simulated and real ones, and tests that count cells."""

from __future__ import annotations

import os
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import scanpy as sc
from _simulated import SIGNATURES
from scipy import stats

from crs_sc.datasets import simulate_cohort


def cell_cohort(seed: int, *, n: int = 4, effect: float, paired: bool = False) -> ad.AnnData:
    """Simulate cells without ambient RNA, doublets and debris, of two arms."""
    cohort = simulate_cohort(
        arms=("vehicle", "CART"),
        n_subjects_per_arm=n,
        paired=paired,
        contamination=0.0,
        erythroid_soup=0.0,
        doublet_rate=0.0,
        cross_species_rate=0.0,
        other_species_fraction=0.0,
        low_quality_rate=0.0,
        n_background_genes=200,
        effect_scale=effect,
        noise={"subject_sd": 0.2, "response_sd": 0.3},
        random_state=seed,
    )
    adata = cohort.adata
    adata.var_names = adata.var_names.str.replace(r"^GRCh38_", "", regex=True)
    cells = cohort.truth["cells"].set_index("cell").loc[adata.obs_names]
    for name in ("sample", "subject", "condition", "population"):
        adata.obs[name] = pd.Categorical(cells[name].astype(str))
    adata = adata[:, ~adata.var_names.duplicated()].copy()
    # CAR T cells are in one arm only.
    adata = adata[adata.obs["population"] != "CAR T"].copy()
    adata.layers["counts"] = adata.X.copy()
    adata.uns["planted"] = cohort.truth["shifts"]
    return adata


def wilcoxon(adata: ad.AnnData, *, min_cells: int = 10) -> pd.DataFrame:
    """Test every gene of every population with the cells as replicates, as scanpy does by default.

    Genes with a count in at least ten cells of the population.
    """
    tables = []
    for population in sorted(adata.obs["population"].unique()):
        cells = adata[adata.obs["population"] == population].copy()
        sizes = cells.obs["condition"].value_counts()
        if len(sizes) < 2 or sizes.min() < min_cells:
            continue
        sc.pp.filter_genes(cells, min_cells=min_cells)
        sc.pp.normalize_total(cells, target_sum=1e4)
        sc.pp.log1p(cells)
        sc.tl.rank_genes_groups(
            cells, "condition", groups=["CART"], reference="vehicle", method="wilcoxon"
        )
        found = sc.get.rank_genes_groups_df(cells, "CART")
        tables.append(
            pd.DataFrame(
                {"population": population, "gene": found["names"], "pvalue": found["pvals"]}
            )
        )
    table = pd.concat(tables, ignore_index=True)
    return table.assign(padj=adjusted(table["pvalue"]))


def cell_scores(adata: ad.AnnData) -> pd.Series:
    """Wilcoxon p of the mean log-expression of each signature over cells."""
    cells = adata.copy()
    sc.pp.normalize_total(cells, target_sum=1e4)
    sc.pp.log1p(cells)
    treated = (cells.obs["condition"] == "CART").to_numpy()
    population = cells.obs["population"].astype(str).to_numpy()
    found = {}
    for name, genes in SIGNATURES.items():
        score = np.asarray(cells[:, [g for g in genes if g in cells.var_names]].X.mean(axis=1))
        for k in np.unique(population):
            of = population == k
            test = stats.mannwhitneyu(score.ravel()[of & treated], score.ravel()[of & ~treated])
            found[k, name] = test.pvalue
    return pd.Series(found)


def adjusted(pvalues: pd.Series) -> np.ndarray:
    result = np.full(len(pvalues), np.nan)
    known = pvalues.notna().to_numpy()
    result[known] = stats.false_discovery_control(pvalues[known])
    return result


def kang() -> ad.AnnData | None:
    """Control cells of eight donors; None where the data are not at hand."""
    beside = Path(__file__).parents[2] / "shared" / "data"
    path = Path(os.environ.get("CRS_SC_DATA", beside)) / "kang_ctrl_12k_1287genes.h5ad"
    if not path.exists():
        return None
    adata = ad.read_h5ad(path)
    adata.layers["counts"] = adata.X.copy()
    for name, column in (("sample", "sample"), ("subject", "donor"), ("population", "cell_type")):
        adata.obs[name] = adata.obs[column].astype(str)
    return adata
