"""Cell types against published labels: accuracy, confidence, missing types and stability.

`python benchmarks/annotation.py` takes about ten minutes on two cores and reads the real data in
`$CRS_SC_DATA` (`../shared/data`). `--only` chooses tables, by default all:
`accuracy,labels,confidence,missing,stability,states,mouse`.

Labels: published ones of the Kang data and pbmc4k; provisional ones of combat, a rough guess made
by others from markers; in ecciteseq the surface proteins of each cell (CD4, CD8, CD19, CD56,
CD11c), which no transcript has a part in. `pbmc4k, NK as T` is pbmc4k with the cells that are
labelled NK and show two UMI or more of CD3D, CD3E, CD3G and TRAC left out.

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
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
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
DATA_SETS = (
    "kang ctrl arm",
    "kang stim arm",
    "kang both arms",
    "kang ctrl 12k",
    "pbmc4k",
    "combat",
    "ecciteseq",
)

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
    "T cells": ("T", ""),
    "Myeloid protein": ("any myeloid", "any myeloid"),
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
    elif name == "combat":
        adata = ad.read_h5ad(DATA / "combat_covid_pbmc.h5ad")
        adata.obs["cell_type"] = adata.obs["cell_type_provisional"]
    elif name == "ecciteseq":
        adata = ad.read_h5ad(DATA / "ecciteseq_pbmc_500.h5ad")
        adata.obs[keys.SAMPLE] = name
        adata.obs["cell_type"] = by_protein(adata.obsm["adt"])
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


def by_protein(adt: pd.DataFrame) -> np.ndarray:
    """Label of each cell by counts of its surface proteins, empty where they do not tell.

    CD8 between 50 and 250 is left out: NK cells have it dimly.
    """
    label = np.full(len(adt), "", dtype=object)
    cd4, cd8 = adt["CD4"] > 100, adt["CD8"] > 250
    neither = (adt["CD4"] < 50) & (adt["CD8"] < 50)
    label[cd4 & (adt["CD8"] < 50)] = "CD4 T"
    label[cd8 & (adt["CD4"] < 50)] = "CD8 T"
    label[neither & (adt["CD56"] > 30)] = "NK"
    label[(adt["CD11c"] > 100) & (adt["CD19"] < 50)] = "Myeloid protein"
    label[adt["CD19"] > 100] = "B"
    return label


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
    if "NK" in set(adata.obs["truth"]):
        right = ~labelled_nk_but_t(adata)
        rows |= {
            f"{method}, NK as T": accuracy(
                adata.obs["truth"][right], called[right], called[right].map(LINEAGES)
            )
            for method, called in calls.items()
        }
    return pd.DataFrame(rows).T


def by_labels(adata: ad.AnnData) -> pd.DataFrame:
    """How far the published labels can be told from the expression at all.

    A logistic regression learns them (on the principal components, the markers, and the markers
    of the neighbours) and is tried on the fifth of the cells that it has not seen. Then the same
    without the 5 % of the cells of which it is least sure.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    names = genesets.match_genes(genesets.load_cell_types()["symbol"].unique(), adata.var_names)
    markers = adata[:, list(dict.fromkeys(names.values()))].X
    around = (adata.obsp["connectivities"] > 0).astype(float)
    around = around.multiply(1 / around.sum(axis=1)).tocsr()
    features = np.hstack([adata.obsm[keys.PCA], markers.toarray(), (around @ markers).toarray()])
    truth = adata.obs["truth"].to_numpy(str)
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=300))
    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    share = cross_val_predict(model, features, truth, cv=folds, method="predict_proba")
    called = np.array([TRUTH[label] for label in np.unique(truth)])[share.argmax(axis=1)]
    wanted = np.array([TRUTH[label] for label in truth])
    right = called == wanted
    myeloid = np.isin(wanted[:, 1], ["CD14", "FCGR3A", "cDC", "pDC", "any myeloid"])
    sure = share.max(axis=1) >= np.quantile(share.max(axis=1), 0.05)
    rows = {
        name: {
            "lineage": right[kept, 0].mean(),
            "myeloid": right[kept & myeloid, 1].mean(),
            "type": right[kept & (wanted[:, 1] != ""), 1].mean(),
        }
        for name, kept in (("all cells", np.ones(len(truth), dtype=bool)), ("surest 95 %", sure))
    }
    return pd.DataFrame(rows).T


def labelled_nk_but_t(adata: ad.AnnData) -> np.ndarray:
    """Cells that are labelled NK and show the T-cell receptor complex."""
    genes = genesets.match_genes(["CD3D", "CD3E", "CD3G", "TRAC"], adata.var_names)
    umi = np.asarray(adata[:, list(genes.values())].layers[keys.COUNTS].sum(axis=1)).ravel()
    return (adata.obs["truth"] == "NK").to_numpy() & (umi >= 2)


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


def _trial(task: tuple[str, str, int]) -> tuple[str, pd.Series]:
    """Lineages under another seed, or in 80 % of the cells."""
    warnings.simplefilter("ignore")
    name, kind, seed = task
    trial = labelled(name)
    if kind == "80 % of the cells":
        rng = np.random.default_rng(seed)
        keep = rng.choice(trial.n_obs, int(0.8 * trial.n_obs), replace=False)
        trial = trial[np.sort(keep)].copy()
    clustered(trial, seed=seed)
    tl.annotate(trial, random_state=seed)
    return kind, trial.obs[keys.LINEAGE].astype(str)


def stability(name: str, *, n_seeds: int, n_jobs: int) -> pd.DataFrame:
    """Lineages under other seeds and in 80 % of the cells, against those of seed 0."""
    _, base = _trial((name, "seed", 0))
    kinds = ("seed", "80 % of the cells")
    tasks = [(name, kind, seed) for seed in range(1, n_seeds + 1) for kind in kinds]
    with ProcessPoolExecutor(n_jobs, mp_context=get_context("spawn")) as pool:
        trials = list(pool.map(_trial, tasks))
    rows = [
        (kind, adjusted_rand_score(base.reindex(lineage.index), lineage))
        for kind, lineage in trials
    ]
    found = pd.DataFrame(rows, columns=["kind", "ari"]).groupby("kind")["ari"]
    return found.agg(["size", "mean", "min"])


def states() -> pd.DataFrame:
    """Share of each myeloid state among the cells that crs_sc calls monocytes, by arm."""
    shares = {}
    for name in ("kang both arms", "combat"):
        adata = clustered(labelled(name))
        tl.annotate(adata)
        tl.score_signatures(adata, signatures=genesets.signatures())
        tl.call_myeloid_states(adata)
        own = adata.obs[adata.obs[keys.LINEAGE] == "Monocyte"]
        arm, state = own["condition"].astype(str), own[keys.MYELOID_STATE].astype(str)
        shares[name] = pd.crosstab(arm, state, normalize="index")
    return pd.concat(shares, names=["data", "arm"]).fillna(0.0)


def mouse() -> tuple[pd.Series, pd.DataFrame]:
    """Lineages of the mouse cells, and producers (10 reads or more) by stimulus and hour."""
    adata = ad.read_h5ad(DATA / "shalek_bmdc_lps_mouse.h5ad")
    adata = adata[~adata.obs["label_suspect"].astype(bool)].copy()
    adata.layers[keys.COUNTS] = adata.X.copy()
    adata.obs[keys.SAMPLE] = (
        adata.obs["stimulus"].astype(str) + " " + adata.obs["time_h"].astype(str)
    )
    clustered(adata)
    tl.annotate(adata, organism="mouse")
    makes = pd.DataFrame(
        adata[:, ["Il1a", "Il1b", "Il6"]].layers[keys.COUNTS].toarray() >= 10,
        index=adata.obs_names,
        columns=["Il1a", "Il1b", "Il6"],
    )
    by = [adata.obs["stimulus"].astype(str), adata.obs["time_h"].astype(int)]
    return adata.obs[keys.LINEAGE].value_counts(normalize=True), makes.groupby(by).mean()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--only", default="accuracy,labels,confidence,missing,stability,states,mouse"
    )
    parser.add_argument("--data", default=",".join(DATA_SETS))
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--jobs", type=int, default=2, help="processes of the table of stability")
    arguments = parser.parse_args()
    chosen = arguments.only.split(",")
    names = arguments.data.split(",")
    warnings.simplefilter("ignore")
    pd.set_option("display.width", 160)
    tables, learnt, sure, missing = {}, {}, {}, {}
    start = time.perf_counter()
    for name in names if {"accuracy", "labels", "confidence", "missing"} & set(chosen) else ():
        adata = clustered(labelled(name))
        tables[name] = compared(adata)
        sure[name] = confidence(adata)
        if "labels" in chosen:
            learnt[name] = by_labels(adata)
        if "missing" in chosen and name not in ("combat", "ecciteseq"):
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
    if "labels" in chosen:
        print(
            "\nLabels learnt from the expression by logistic regression, on cells it has not seen"
        )
        print(pd.concat(learnt, names=["data", "cells"]).round(3).to_string())
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
            name: stability(name, n_seeds=arguments.seeds, n_jobs=arguments.jobs)
            for name in ("kang both arms", "pbmc4k")
        }
        print(pd.concat(found).round(3).to_string())
    if "states" in chosen:
        print("\nStates of monocytes by arm (wanted: stim is interferon-stimulated, ctrl is not)")
        print(states().round(3).to_string())
    if "mouse" in chosen:
        lineages, producers = mouse()
        print("\nMouse dendritic cells of Shalek 2014: lineages, and share of producers by hour")
        print(lineages.round(3).to_string())
        print(producers.round(2).to_string())
    print(f"\n{time.perf_counter() - start:.0f} s in all")


if __name__ == "__main__":
    main()
