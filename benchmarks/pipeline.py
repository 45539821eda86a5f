"""The whole run, stage by stage, beside the plain scanpy pipeline of the tutorials.

`python benchmarks/pipeline.py --cells 50000` simulates a cohort of 16 samples x 20,000 genes (in a
temporary folder; `--folder` keeps it), analyses it by `crs-sc run`, by the plain scanpy pipeline,
and prints seconds, seconds of processor and peak memory of each step, their ratio, and what the
two agree on: doublets against the planted ones, neighbours against the exact ones, clusters.
`crs-sc run` is run three times, and the one in the middle counts. Each way is a process of its
own. On a machine with other work the seconds of processor are what to compare. `--only ours`
leaves scanpy out, which takes most of the time.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import threading
import time
import warnings
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd
from _large import write_cohort

PAGE = os.sysconf("SC_PAGE_SIZE")
MYELOID = ("Classical monocyte", "Non-classical monocyte", "cDC2")


class Watch:
    """Processor seconds and resident memory of a process and its children, sampled."""

    def __init__(self, pid: int) -> None:
        self._pid, self._peak, self._stop = pid, 0.0, threading.Event()
        self._start, self._last_cpu = time.perf_counter(), 0.0
        self._cpu = 0.0
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()

    def _sample(self) -> None:
        while not self._stop.wait(0.2):
            used, resident = tree_use(self._pid)
            # A child that ended and was not waited for takes its seconds along.
            self._cpu = max(self._cpu, used)
            self._peak = max(self._peak, resident)

    def lap(self) -> dict[str, float]:
        """Seconds, seconds of processor and peak since the last lap."""
        time.sleep(0.25)
        now, cpu, peak = time.perf_counter(), self._cpu, self._peak
        row = {"seconds": now - self._start, "cpu": cpu - self._last_cpu, "peak_gb": peak}
        self._start, self._last_cpu, self._peak = now, cpu, 0.0
        return row

    def stop(self) -> None:
        """End the sampling."""
        self._stop.set()


def tree_use(pid: int) -> tuple[float, float]:
    """Seconds of processor and resident GB of a process and of those that it started."""
    try:
        folder = Path(f"/proc/{pid}")
        fields = (folder / "stat").read_text().rpartition(")")[2].split()
        resident = int((folder / "statm").read_text().split()[1]) * PAGE / 1e9
        started = [path.read_text().split() for path in folder.glob("task/*/children")]
    except (OSError, IndexError):
        return 0.0, 0.0
    used = sum(int(field) for field in fields[11:15]) / os.sysconf("SC_CLK_TCK")
    for child in (int(name) for names in started for name in names):
        more, others = tree_use(child)
        used, resident = used + more, resident + others
    return used, resident


def run_ours(config: Path, out: Path) -> pd.DataFrame:
    """`crs-sc run`, by the lines it prints when a stage is done."""
    command = [sys.executable, "-m", "crs_sc", "run", str(config), "-o", str(out), "--force"]
    rows: dict[str, dict[str, float]] = {}
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    ) as p:
        watch = Watch(p.pid)
        last = []
        for line in p.stderr:
            last = [*last[-5:], line]
            name, _, rest = line.strip().rpartition(": ")
            if not rest.endswith(" s") or " " in name:
                continue
            lap = watch.lap()
            row = rows.setdefault(name.partition("/")[0], dict.fromkeys(lap, 0.0))
            row["seconds"] += lap["seconds"]
            row["cpu"] += lap["cpu"]
            row["peak_gb"] = max(row["peak_gb"], lap["peak_gb"])
        watch.stop()
    if p.returncode:
        raise SystemExit("".join(last))
    return pd.DataFrame(rows).T


def run_scanpy(cohort: Path, out: Path) -> pd.DataFrame:
    """Run the plain pipeline in a process of its own."""
    command = [sys.executable, __file__, "--plain", str(cohort), "--folder", str(out)]
    subprocess.run(command, check=True)
    return pd.read_csv(out / "steps.tsv", sep="\t", index_col=0)


def plain_pipeline(cohort: Path, out: Path) -> None:
    """Do what the tutorials of scanpy do; leaves times and results in `out`."""
    warnings.simplefilter("ignore")
    watch, rows = Watch(os.getpid()), {}

    @contextmanager
    def step(name: str):
        watch.lap()
        yield
        rows[name] = watch.lap()
        pd.DataFrame(rows).T.to_csv(out / "steps.tsv", sep="\t")

    with step("read and QC"):
        import anndata as ad
        import scanpy as sc

        adata = ad.read_h5ad(cohort)
        is_mouse = adata.var_names.str.startswith("mm10___")
        mouse = np.asarray(adata.X[:, is_mouse].sum(axis=1)).ravel()
        total = np.asarray(adata.X.sum(axis=1)).ravel()
        adata = adata[mouse < 0.1 * total, ~is_mouse].copy()
        adata.var_names = adata.var_names.str.replace("GRCh38_", "")
        adata.var["mt"] = np.asarray(adata.var_names.str.startswith("MT-"), dtype=bool)
        sc.pp.calculate_qc_metrics(adata, qc_vars=["mt"], inplace=True)
        adata = adata[adata.obs["pct_counts_mt"] < 20].copy()
        sc.pp.filter_cells(adata, min_genes=200)
        sc.pp.filter_genes(adata, min_cells=3)
    with step("doublets"):
        sc.pp.scrublet(adata, batch_key="lib", random_state=0, verbose=False)
        adata.obs[["doublet_score"]].to_csv(out / "doublets.tsv", sep="\t")
        adata = adata[~adata.obs["predicted_doublet"].astype(bool)].copy()
    with step("normalise and HVG"):
        adata.layers["counts"] = adata.X.copy()
        sc.pp.normalize_total(adata, target_sum=1e4)
        sc.pp.log1p(adata)
        sc.pp.highly_variable_genes(
            adata, layer="counts", flavor="seurat_v3", n_top_genes=2000, batch_key="lib"
        )
    with step("PCA"):
        sc.pp.pca(adata, n_comps=30)
    with step("neighbours"):
        sc.pp.neighbors(adata, n_neighbors=15)
    with step("Leiden"):
        sc.tl.leiden(adata, random_state=0)
        adata.obs[["leiden"]].to_csv(out / "clusters.tsv", sep="\t")
    with step("UMAP"):
        sc.tl.umap(adata)
    with step("markers (Wilcoxon)"):
        sc.tl.rank_genes_groups(adata, "leiden", method="wilcoxon")
    with step("score_genes"):
        from crs_sc.genesets import signatures

        for name, genes in signatures().items():
            sc.tl.score_genes(adata, [g for g in genes if g in adata.var_names], score_name=name)
    with step("pseudobulk and PyDESeq2"):
        deseq(adata, pd.read_csv(cohort.parent / "cells.tsv", sep="\t", index_col="cell"))
    with step("write"):
        adata.write_h5ad(out / "plain.h5ad")


def deseq(adata, cells: pd.DataFrame) -> None:
    """PyDESeq2 of each arm against the one it is compared with, by planted myeloid population."""
    import scanpy as sc
    from pydeseq2.dds import DeseqDataSet
    from pydeseq2.ds import DeseqStats

    adata.obs["population"] = cells["population"].reindex(adata.obs_names).to_numpy()
    for population in MYELOID:
        own = adata[adata.obs["population"] == population]
        bulk = sc.get.aggregate(own, by=["lib"], func="sum", layer="counts")
        sums = bulk.layers["sum"]
        counts = np.asarray(sums.todense() if hasattr(sums, "todense") else sums)
        arm = adata.obs.drop_duplicates("lib").set_index("lib")["arm"].astype(str)
        data = DeseqDataSet(
            counts=pd.DataFrame(counts.astype(int), index=bulk.obs_names, columns=bulk.var_names),
            metadata=pd.DataFrame({"arm": arm.reindex(bulk.obs["lib"]).to_numpy()}, bulk.obs_names),
            design="~arm",
            quiet=True,
        )
        data.deseq2()
        for treated, reference in (
            ("CART", "vehicle"),
            ("CART_anakinra", "CART"),
            ("CART_tocilizumab", "CART"),
        ):
            DeseqStats(data, contrast=["arm", treated, reference], quiet=True).summary()


def our_doublets(config: Path) -> tuple[pd.Series, float]:
    """Scores of all cells, as `qc` has them before it leaves the doublets out, and its seconds."""
    from crs_sc import preprocessing
    from crs_sc.run.config import load_config
    from crs_sc.run.inputs import input_files

    files, scores, seconds = input_files(load_config(config)), [], 0.0
    for sample in files.sample_sizes():
        adata = files.read([sample])
        preprocessing.call_species(adata, organism="human")
        adata = preprocessing.select_species(adata, organism="human")
        preprocessing.quality_control(adata)
        start = time.perf_counter()
        preprocessing.call_doublets(adata)
        seconds += time.perf_counter() - start
        scores.append(adata.obs["doublet_score"].dropna())
    return pd.concat(scores), seconds


def agreement(folder: Path, config: Path, *, with_plain: bool) -> list[tuple[str, float]]:
    """Compare what was found with the truth, the exact and the slow way."""
    import anndata as ad
    import scanpy as sc
    from sklearn.metrics import adjusted_rand_score, roc_auc_score
    from sklearn.neighbors import NearestNeighbors

    cells = pd.read_csv(config.parent / "cells.tsv", sep="\t", index_col="cell")
    doublet = cells["droplet"].eq("doublet")

    def auc(scores: pd.Series) -> float:
        known = cells.loc[scores.index, "droplet"].isin(["doublet", "singlet"])
        scores = scores[known.to_numpy()]
        return float(roc_auc_score(doublet.loc[scores.index], scores))

    scores, seconds = our_doublets(config)
    found = [
        ("seconds of doublets alone, crs_sc", seconds),
        ("AUC of planted doublets, crs_sc", auc(scores)),
    ]
    plain = folder / "plain"
    if with_plain:
        scores = pd.read_csv(plain / "doublets.tsv", sep="\t", index_col=0)["doublet_score"]
        found.append(("AUC of planted doublets, scanpy", auc(scores)))
    ours = ad.read_h5ad(folder / "ours" / "cohort.h5ad", backed="r")
    points = np.asarray(ours.obsm["X_pca"])
    graph = ours.obsp["distances"][:]
    checked = np.linspace(0, len(points) - 1, 1000).astype(int)
    exact = NearestNeighbors(n_neighbors=15, algorithm="brute").fit(points)
    known = exact.kneighbors(points[checked], return_distance=False)
    shared = [
        len(np.intersect1d(graph[i].indices, row[row != i][:14])) / 14
        for i, row in zip(checked, known, strict=True)
    ]
    found.append(("recall of exact neighbours", float(np.mean(shared))))
    if with_plain:
        # The same components and resolution, with scanpy's neighbours, weights and Leiden.
        chosen = ours.uns["crs_sc"]["clustering"]
        resolution = float(chosen.loc[chosen["chosen"].astype(bool), "resolution"].iloc[0])
        slow = ad.AnnData(np.zeros((len(points), 1), dtype=np.float32), obsm={"X_pca": points})
        sc.pp.neighbors(slow, n_neighbors=15, use_rep="X_pca")
        labels = []
        for seed in (0, 1):
            sc.tl.leiden(slow, resolution=resolution, random_state=seed, flavor="igraph",
                         n_iterations=2, directed=False)  # fmt: skip
            labels.append(slow.obs["leiden"].to_numpy())
        own = ours.obs["cluster"].to_numpy()
        found.append(("ARI of clusters with the slow way", adjusted_rand_score(own, labels[0])))
        found.append(("ARI of two seeds of the slow way", adjusted_rand_score(*labels)))
    return found


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cells", type=int, default=10_000)
    parser.add_argument("--folder", type=Path, help="where cohort and results are kept")
    parser.add_argument("--only", choices=["ours"], help="leave scanpy out")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    parser.add_argument("--plain", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.plain:
        plain_pipeline(given.plain, given.folder)
        return
    with TemporaryDirectory() as temporary:
        folder = given.folder or Path(temporary)
        config = folder / "config.yaml"
        if not config.exists():
            folder.mkdir(parents=True, exist_ok=True)
            write_cohort(folder, n_cells=given.cells)
        (folder / "plain").mkdir(exist_ok=True)
        runs = [run_ours(config, folder / "ours")]
        tables = {"crs-sc run": runs[0]}
        if given.only is None:
            tables["plain scanpy"] = run_scanpy(folder / "cohort.h5ad", folder / "plain")
            # Machines drift: ours before the other and, twice, after it.
            runs += [run_ours(config, folder / "ours") for _ in range(2)]
            tables["crs-sc run"] = sorted(runs, key=lambda run: run["seconds"].sum())[1]
        for name, table in tables.items():
            print(f"\n{name}, {given.cells:,} cells x 20,000 genes")
            print(totalled(table).to_string(), flush=True)
        if given.only is None:
            print("\nseconds of each run of crs-sc:", *(f"{r['seconds'].sum():.1f}" for r in runs))
            fast, slow = (totalled(table).loc["all"] for table in tables.values())
            for column in ("seconds", "cpu"):
                print(f"scanpy / median crs-sc, {column}: {slow[column] / fast[column]:.1f}")
        rows = {name: totalled(table).to_dict("index") for name, table in tables.items()}
        if given.json:
            given.json.write_text(json.dumps({"cells": given.cells, **rows}))
        print()
        for name, value in agreement(folder, config, with_plain=given.only is None):
            print(f"{name}: {value:.4f}")


def totalled(table: pd.DataFrame) -> pd.DataFrame:
    """Add the row `all`: sums, and the largest peak."""
    total = table.sum()
    total["peak_gb"] = table["peak_gb"].max()
    return pd.concat([table, total.to_frame("all").T]).round(2)


if __name__ == "__main__":
    main()
