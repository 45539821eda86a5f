"""Labels carried over between real data sets: accuracy, Unknown, and types that are not known.

`python benchmarks/label_transfer.py` reads Kang 2018 (control and IFN-beta of 8 donors) and the 10x
PBMC 4k cells of the SoupX vignette from `$CRS_SC_DATA`, or `../shared/data`. The labels of one are
carried over to the other by `tl.transfer_labels` with its defaults. Accuracy is that of the cells
that are not `Unknown`, by lineage and by the finest published type; in PBMC 4k,
monocytes and dendritic cells are one. Below: without one type in the reference, what its cells are
called. kNN is the vote of 15 nearest neighbours in 30 principal components of the reference.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
from sklearn.decomposition import PCA
from sklearn.neighbors import KNeighborsClassifier

from crs_sc import genesets, keys, tl
from crs_sc.annotation.transfer import log_normalised, telling_genes

DATA = Path(os.environ.get("CRS_SC_DATA", Path(__file__).parents[2] / "shared" / "data"))
LINEAGE = {
    name: "myeloid" if x in ("Monocyte", "DC") else x for name, x in genesets.lineages().items()
}
LINEAGE |= {"DC": "myeloid", "Monocyte": "myeloid", "T": "T", "myeloid": "myeloid"}


def load(name: str, column: str = "cell_type") -> ad.AnnData:
    """Read counts and labels under common names, without cells that have none."""
    adata = ad.read_h5ad(DATA / f"{name}.h5ad")
    adata.var_names = pd.Index(genesets.resolve_symbols(adata.var_names))
    adata = adata[:, ~adata.var_names.duplicated()].copy()
    named = genesets.name_labels(adata.obs[column].astype(str))
    named["Mononuclear phagocyte"] = "myeloid"
    adata.obs[keys.LABEL] = adata.obs[column].astype(str).map(named).to_numpy(dtype=object)
    keep = ~adata.obs[keys.LABEL].isin([keys.UNKNOWN, "T"]).to_numpy()
    if "demuxlet_call" in adata.obs:
        keep &= (adata.obs["demuxlet_call"] == "SNG").to_numpy()
    adata = adata[keep].copy()
    adata.layers[keys.COUNTS] = adata.X.tocsr()
    return adata


def called(reference: ad.AnnData, query: ad.AnnData) -> np.ndarray:
    """Labels that `tl.transfer_labels` gives."""
    query = query.copy()
    tl.transfer_labels(query, reference=reference)
    return query.obsm[keys.OPINIONS]["reference"].astype(str).to_numpy()


def by_neighbours(reference: ad.AnnData, query: ad.AnnData) -> np.ndarray:
    """Vote of the nearest cells of the reference, on the same genes."""
    shared = reference.var_names.intersection(query.var_names)
    parts = [one[:, shared].layers[keys.COUNTS].tocsr() for one in (reference, query)]
    known, asked = map(log_normalised, parts)
    codes, names = pd.factorize(reference.obs[keys.LABEL].astype(str), sort=True)
    genes = telling_genes(known, codes, n_genes=500)
    pca = PCA(30, random_state=0).fit(known[:, genes].toarray())
    vote = KNeighborsClassifier(15).fit(pca.transform(known[:, genes].toarray()), codes)
    return np.asarray(names)[vote.predict(pca.transform(asked[:, genes].toarray()))]


def accuracy(truth: np.ndarray, found: np.ndarray) -> dict[str, float]:
    """Shares of the named cells that are right."""
    known = found != keys.UNKNOWN
    lineage = pd.Series(found).map(LINEAGE).to_numpy() == pd.Series(truth).map(LINEAGE).to_numpy()
    fine = np.where(truth == "myeloid", lineage, truth == found)
    return {
        "unknown": 1 - known.mean(),
        "lineage": lineage[known].mean(),
        "types": fine[known].mean(),
    }


def main() -> None:
    """Print the table."""
    if not DATA.is_dir():
        sys.exit(f"real data not found in {DATA} (set CRS_SC_DATA)")
    kang, pbmc = load("kang_ifnb_3800"), load("pbmc4k_soupx_2170")
    whole = load("kang_ctrl_12k_1287genes")
    control = kang[kang.obs["condition"] == "ctrl"].copy()
    treated = kang[kang.obs["condition"] == "stim"].copy()
    rows = []
    for name, reference, query in (
        ("kang control -> IFN-beta", control, treated),
        ("kang IFN-beta -> control", treated, control),
        ("kang control 12k -> IFN-beta", whole, treated),
        ("kang -> PBMC 4k", kang, pbmc),
    ):
        truth = query.obs[keys.LABEL].astype(str).to_numpy()
        for way, label in (("transfer_labels", called), ("kNN", by_neighbours)):
            found = label(reference, query)
            rows.append(
                {"from -> to": name, "way": way, "cells": len(truth)} | accuracy(truth, found)
            )
    print(pd.DataFrame(rows).to_string(index=False, float_format=lambda x: f"{x:.3f}"))
    rows = []
    for lost in ("B", "NK", "CD8 T", "DC", "Non-classical monocyte"):
        reference = control[control.obs[keys.LABEL] != lost].copy()
        found = called(reference, treated)[(treated.obs[keys.LABEL] == lost).to_numpy()]
        counted = pd.Series(found).value_counts(normalize=True)
        most = counted.drop(keys.UNKNOWN, errors="ignore")
        rows.append({"type left out": lost, "cells": len(found),
                     "unknown": counted.get(keys.UNKNOWN, 0.0),
                     "called most": most.index[0], "share": most.iloc[0]})  # fmt: skip
    print()
    print(pd.DataFrame(rows).to_string(index=False, float_format=lambda x: f"{x:.3f}"))


if __name__ == "__main__":
    main()
