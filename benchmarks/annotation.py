"""Cell types against published labels: accuracy, confidence, missing types and stability.

`python benchmarks/annotation.py` takes about ten minutes on two cores and reads the real data in
`$CRS_SC_DATA` (`../shared/data`). `--only accuracy,missing,stability` chooses tables.

The cells are the labelled singlets, on the way a user takes: normalize, select_genes, embed,
cluster, annotate, all with their defaults. Beside crs_sc, on the same cells, clusters and markers:
ULM of decoupler (the t value of the slope, in closed form; checked against decoupler where it is
installed) and scanpy's score_genes, each as the type with the highest mean in the cluster.
CellTypist is left out: its models are not in its package, and none is downloaded here.
"""

from __future__ import annotations

import argparse
import os
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import anndata as ad
import numpy as np
import pandas as pd
import scanpy as sc
from sklearn.metrics import adjusted_rand_score

from crs_sc import genesets, keys, pp, tl

if TYPE_CHECKING:
    from scipy import sparse

DATA = Path(os.environ.get("CRS_SC_DATA", Path(__file__).parents[2] / "shared" / "data"))
DATA_SETS = ("kang ctrl arm", "kang stim arm", "kang both arms", "kang ctrl 12k", "pbmc4k")

# Published label -> lineage and type. A published T-cell state has no CD4 or CD8, and pbmc4k has
# one label for monocytes, dendritic cells and pDC: they count where they can be told.
MYELOID = ("Monocyte", "DC", "pDC", "Macrophage")
TRUTH = {
    "CD14+ Monocytes": ("Monocyte", "CD14"),
    "FCGR3A+ Monocytes": ("Monocyte", "FCGR3A"),
    "Dendritic cells": ("DC", "cDC"),
    "pDC": ("pDC", "pDC"),
    "Mononuclear phagocyte": ("any myeloid", "any myeloid"),
    "CD4 T cells": ("T", "CD4"),
    "CD4 T": ("T", "CD4"),
    "CD8 T cells": ("T", "CD8"),
    "CD8 T": ("T", "CD8"),
    "T activated": ("T", ""),
    "NK cells": ("NK", "NK"),
    "NK": ("NK", "NK"),
    "B cells": ("B", "B"),
    "B": ("B", "B"),
    "Megakaryocytes": ("Megakaryocyte", "Megakaryocyte"),
    "Erythroid": ("Erythroid", "Erythroid"),
}
# Population of crs_sc -> the published type that it is a part of. The published labels have no
# intermediate monocytes; they carry CD14.
PUBLISHED = {
    "Classical monocyte": "CD14",
    "Intermediate monocyte": "CD14",
    "Non-classical monocyte": "FCGR3A",
    "cDC1": "cDC",
    "cDC2": "cDC",
    "AS-DC": "cDC",
    "Migratory DC": "cDC",
    "CD4 T": "CD4",
    "Treg": "CD4",
    "CD8 T": "CD8",
    "Plasma cell": "B",
}
LINEAGES = genesets.lineages()


def labelled(name: str) -> ad.AnnData:
    """Labelled singlets of one data set."""
    if name == "pbmc4k":
        adata = ad.read_h5ad(DATA / "pbmc4k_soupx_2170.h5ad")
        adata.obs[keys.SAMPLE] = "pbmc4k"
    elif name == "kang ctrl 12k":
        adata = ad.read_h5ad(DATA / "kang_ctrl_12k_1287genes.h5ad")
    else:
        adata = ad.read_h5ad(DATA / "kang_ifnb_3800.h5ad")
        arm = name.split()[1]
        keep = adata.obs["demuxlet_call"] == "SNG"
        if arm != "both":
            keep &= adata.obs["condition"] == arm
        adata = adata[keep]
    adata = adata[adata.obs["cell_type"].isin(list(TRUTH))].copy()
    adata.obs["truth"] = adata.obs["cell_type"].astype(str)
    adata.layers[keys.COUNTS] = adata.X.copy()
    return adata


def clustered(adata: ad.AnnData, *, seed: int = 0) -> ad.AnnData:
    pp.normalize(adata)
    pp.select_genes(adata)
    tl.embed(adata, random_state=seed)
    tl.cluster(adata, random_state=seed)
    return adata


def verdicts(truth: pd.Series, population: pd.Series, lineage: pd.Series) -> pd.DataFrame:
    """Right or wrong by level; missing where a label or a call does not go that deep."""
    wanted = pd.DataFrame([TRUTH[label] for label in truth], columns=["lineage", "type"])
    found = pd.DataFrame(
        {
            "lineage": lineage.to_numpy(str),
            "type": population.astype(str).replace(PUBLISHED).to_numpy(),
        }
    )
    right = found == wanted
    either = (wanted["lineage"] == "any myeloid") & found["lineage"].isin(MYELOID)
    right.loc[either] = True
    is_myeloid = wanted["type"].isin(["CD14", "FCGR3A", "cDC", "pDC", "any myeloid"])
    table = pd.DataFrame(
        {
            "lineage": right["lineage"],
            "myeloid": right["type"].where(is_myeloid),
            "type": right["type"].where(wanted["type"] != ""),
        }
    ).astype("Float64")
    table[(found["lineage"] == keys.UNKNOWN).to_numpy()] = pd.NA
    return table


def accuracy(truth: pd.Series, population: pd.Series, lineage: pd.Series) -> dict[str, float]:
    table = verdicts(truth, population, lineage)
    unknown = float((lineage.to_numpy(str) == keys.UNKNOWN).mean())
    return {**{level: float(table[level].mean()) for level in table}, "unknown": unknown}


def ulm(expression: sparse.csr_matrix, weights: np.ndarray) -> np.ndarray:
    """Univariate linear model of decoupler: t value of the slope of expression on the weights.

    `expression` is cells x genes, `weights` genes x sets; the result cells x sets.
    """
    n = expression.shape[1]
    x = weights - weights.mean(axis=0)
    mean = np.asarray(expression.mean(axis=1)).ravel()
    square = np.asarray(expression.multiply(expression).sum(axis=1)).ravel()
    spread = np.sqrt(square - n * mean**2)
    r = (expression @ x) / np.outer(spread, np.sqrt((x**2).sum(axis=0)))
    return r * np.sqrt((n - 2) / ((1 - r) * (1 + r)))


def marker_weights(adata: ad.AnnData) -> pd.DataFrame:
    """Weights of the markers, genes x types; types with fewer than three markers are left out."""
    table = genesets.load_cell_types()
    table = table[table["role"] == "marker"]
    names = genesets.match_genes(table["symbol"].unique(), adata.var_names)
    table = table[table["symbol"].isin(list(names))].assign(
        gene=lambda rows: rows["symbol"].map(names)
    )
    wide = table.pivot_table(index="gene", columns="set", values="weight", aggfunc="max")
    wide = wide.reindex(adata.var_names).fillna(0.0)
    return wide.loc[:, (wide > 0).sum() >= 3]


def by_cluster(adata: ad.AnnData, scores: np.ndarray, types: list[str]) -> pd.Series:
    """Type with the highest mean score in the cluster of each cell."""
    mean = pd.DataFrame(scores, columns=types).groupby(adata.obs[keys.CLUSTER].to_numpy()).mean()
    return adata.obs[keys.CLUSTER].astype(str).map(mean.idxmax(axis=1))


def decoupler_ulm(adata: ad.AnnData, weights: pd.DataFrame) -> float | None:
    """Largest difference of decoupler's own ULM from the closed form; None without decoupler."""
    try:
        import decoupler
    except ImportError:
        return None
    net = (
        weights.rename_axis("target")
        .reset_index()
        .melt("target", var_name="source", value_name="weight")
    )
    cells = pd.DataFrame(
        adata.X[:50].toarray(), index=adata.obs_names[:50], columns=adata.var_names
    )
    found, _ = decoupler.mt.ulm(cells, net[net["weight"] != 0], tmin=3)
    mine = pd.DataFrame(ulm(adata.X[:50], weights.to_numpy()), found.index, weights.columns)
    return float((found[weights.columns] - mine).abs().to_numpy().max())


def compared(adata: ad.AnnData) -> pd.DataFrame:
    """Accuracy of each method on one data set."""
    weights = marker_weights(adata)
    calls = {"ULM by cluster": by_cluster(adata, ulm(adata.X, weights.to_numpy()), list(weights))}
    scored = np.empty((adata.n_obs, weights.shape[1]))
    for i, name in enumerate(weights):
        genes = weights.index[weights[name] > 0]
        sc.tl.score_genes(adata, genes, score_name="_score", random_state=0)
        scored[:, i] = adata.obs.pop("_score")
    calls["score_genes by cluster"] = by_cluster(adata, scored, list(weights))
    tl.annotate(adata)
    calls["crs_sc"] = adata.obs[keys.POPULATION].astype(str)
    rows = {
        method: accuracy(adata.obs["truth"], called, called.map(LINEAGES))
        for method, called in calls.items()
    }
    return pd.DataFrame(rows).T


def confidence(adata: ad.AnnData) -> pd.DataFrame:
    """Cells of each row of the populations table, and how many are right at the type level."""
    right = verdicts(adata.obs["truth"], adata.obs[keys.POPULATION], adata.obs[keys.LINEAGE])[
        "type"
    ]
    return pd.DataFrame(
        {
            "confidence": adata.obs[keys.CONFIDENCE].to_numpy(),
            "right": right.to_numpy(dtype=float, na_value=np.nan),
        }
    ).dropna()


def without_each_type(adata: ad.AnnData) -> pd.DataFrame:
    """Take the rows of each type out of the table, and see what becomes of the cells."""
    table = genesets.load_cell_types()
    before = adata.obs[keys.POPULATION].astype(str).to_numpy()
    lineage_before = adata.obs[keys.LINEAGE].astype(str).to_numpy()
    size = pd.Series(before).value_counts().drop(keys.UNKNOWN, errors="ignore")
    rows = []
    for name in size.index[size >= 20]:
        trial = adata.copy()
        tl.annotate(trial, gene_sets=table[table["set"] != name])
        own = before == name
        lineage = trial.obs[keys.LINEAGE].astype(str).to_numpy()
        mostly = trial.obs[keys.POPULATION].astype(str)[own].value_counts().index[0]
        good = np.isin(lineage[own], [keys.UNKNOWN, LINEAGES[name]]).mean()
        kept = (lineage == lineage_before)[~own].mean()
        rows.append((name, int(size[name]), good, mostly, kept))
    columns = ["type", "n_cells", "unknown_or_parent", "mostly", "others_kept"]
    return pd.DataFrame(rows, columns=columns)


def stability(name: str, *, n_seeds: int) -> pd.DataFrame:
    """Lineages under other seeds and in 80 % of the cells, against those of seed 0."""
    base = clustered(labelled(name))
    tl.annotate(base)
    rows = []
    for seed in range(1, n_seeds + 1):
        rng = np.random.default_rng(seed)
        for kind in ("seed", "80 % of the cells"):
            trial = labelled(name)
            if kind != "seed":
                keep = rng.choice(trial.n_obs, int(0.8 * trial.n_obs), replace=False)
                trial = trial[np.sort(keep)].copy()
            clustered(trial, seed=seed)
            tl.annotate(trial, random_state=seed)
            other = base.obs[keys.LINEAGE].astype(str).reindex(trial.obs_names)
            rows.append((kind, adjusted_rand_score(other, trial.obs[keys.LINEAGE].astype(str))))
    found = pd.DataFrame(rows, columns=["kind", "ari"]).groupby("kind")["ari"]
    return found.agg(["mean", "min"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="accuracy,confidence,missing,stability")
    parser.add_argument("--data", default=",".join(DATA_SETS))
    parser.add_argument("--seeds", type=int, default=10)
    arguments = parser.parse_args()
    chosen = arguments.only.split(",")
    names = arguments.data.split(",")
    warnings.simplefilter("ignore")
    pd.set_option("display.width", 160)
    tables, sure, missing = {}, {}, {}
    start = time.perf_counter()
    for name in names if {"accuracy", "confidence", "missing"} & set(chosen) else ():
        adata = clustered(labelled(name))
        tables[name] = compared(adata)
        sure[name] = confidence(adata)
        if "missing" in chosen:
            missing[name] = without_each_type(adata)
        print(f"{name}: {adata.n_obs} cells, {time.perf_counter() - start:.0f} s", flush=True)
        if name == names[0]:
            difference = decoupler_ulm(adata, marker_weights(adata))
            text = "not installed" if difference is None else f"differs by {difference:.1e}"
            print(f"decoupler's own ULM: {text}")
    if "accuracy" in chosen:
        print("\nAccuracy over the cells not called Unknown (asked: lineage 0.97, myeloid 0.95,")
        print("type 0.88, unknown at most 0.05, and no method better)")
        print(pd.concat(tables, names=["data", "method"]).round(3).to_string())
    if "confidence" in chosen:
        print(
            "\nCells right at the type level, by confidence of their cluster (asked: 0.95 from 0.9)"
        )
        cells = pd.concat(sure)
        cells["from"] = pd.cut(
            cells["confidence"], [-1, 0.25, 0.5, 0.7, 0.8, 0.9, 1.01], right=False
        )
        print(
            cells.groupby("from", observed=True)["right"].agg(["size", "mean"]).round(3).to_string()
        )
    if "missing" in chosen:
        table = pd.concat(missing, names=["data", "turn"])
        print(
            "\nRows of a type out: share of its cells Unknown or in its lineage (80 % of turns"
            "\nasked), and share of the other cells that keep their lineage"
        )
        print(table.round(2).to_string())
        print(
            f"turns with at least half of the cells so: "
            f"{(table['unknown_or_parent'] >= 0.5).mean():.2f} of {len(table)}"
        )
    if "stability" in chosen:
        print("\nAdjusted Rand index of lineages (asked: 0.95)")
        found = {
            name: stability(name, n_seeds=arguments.seeds) for name in ("kang both arms", "pbmc4k")
        }
        print(pd.concat(found).round(3).to_string())


if __name__ == "__main__":
    main()
