"""Who makes it, against planted truth in simulated cohorts: one table, medians over cohorts.

`python benchmarks/sources.py` takes about ten minutes on two cores; `--cohorts N` changes how many
cohorts are simulated, `--scale` measures time and memory on 200,000 cells x 20,000 genes instead.
Populations are the planted ones, so that the figures are those of ambient RNA, producers and
ledger alone.
"""

from __future__ import annotations

import argparse
import resource
import time
import warnings
from pathlib import Path
from tempfile import TemporaryDirectory

import anndata as ad
import numpy as np
import pandas as pd
from scipy import sparse, stats

from crs_sc import keys, pp, read, tl
from crs_sc.core.ambient import take_counts
from crs_sc.datasets import SimulatedCohort, simulate_cohort

GENES = ["IL1B", "IL6"]
AMBIENT = (0.0, 0.05, 0.1, 0.2, 0.3)
CELLS = (500, 1000, 2000, 5000)
RARITY = (0.1, 0.3, 1.0)
ARMS = ("vehicle", "CART")


def settings_of(cohort: int) -> dict:
    """Go through the values of ambient, size, rarity of IL6 and lysis, cohort by cohort."""
    return {
        "arms": ARMS,
        "n_subjects_per_arm": 4,
        "contamination": AMBIENT[cohort % len(AMBIENT)],
        "cells_per_sample": CELLS[(cohort // len(AMBIENT)) % len(CELLS)],
        "production_scale": {"IL6": RARITY[cohort % len(RARITY)]},
        "lysis": {"Monocyte": 3.0} if cohort % 2 else None,
        "random_state": 1000 + cohort,
    }


def analysed(cohort: SimulatedCohort, folder: Path) -> tuple[ad.AnnData, ad.AnnData]:
    """Good human singlets with planted populations and estimated ambient RNA, and all droplets."""
    path = folder / "cohort.h5ad"
    cohort.adata.write_h5ad(path)
    columns = {"sample": "lib", "subject": "mouse", "condition": "arm"}
    everything = read(path, columns=columns, organism="human+mouse")
    pp.call_species(everything)
    adata = pp.select_species(everything)
    pp.quality_control(adata)
    pp.estimate_ambient(adata)
    cells = cohort.truth["cells"].set_index("cell")
    good = cells.index[(cells["droplet"] == "singlet") & (cells["species"] == "human")]
    adata = adata[adata.obs_names.isin(good)].copy()
    adata.obs["population"] = cells["population"].reindex(adata.obs_names).to_numpy()
    return adata, everything


def with_true_ambient(
    adata: ad.AnnData, cohort: SimulatedCohort, everything: ad.AnnData
) -> ad.AnnData:
    """Give the same cells ambient RNA that was planted: profile and share, of human genes."""
    oracle = adata.copy()
    ambient = cohort.truth["soup"].copy()
    ambient["symbol"] = ambient["gene"].str.replace(r"^(GRCh38_|mm10___)", "", regex=True)
    human = ambient[ambient["gene"].str.startswith("GRCh38_")]
    profile = human.pivot_table(index="symbol", columns="sample", values="share", aggfunc="sum")
    profile = profile.reindex(adata.var_names).fillna(0.0)
    oracle.varm[keys.AMBIENT_PROFILE] = profile / profile.sum()
    cells = cohort.truth["cells"].set_index("cell").loc[adata.obs_names]
    is_human = (everything.var[keys.GENOME].astype(str) == "human").to_numpy()
    counts = everything[adata.obs_names].layers["counts"]
    human_umi = np.asarray(counts[:, is_human].sum(axis=1)).ravel()
    mouse_umi = np.asarray(counts[:, ~is_human].sum(axis=1)).ravel()
    sums = pd.DataFrame(
        {"ambient": cells["n_ambient_umi"].to_numpy() - mouse_umi, "umi": human_umi,
         "sample": adata.obs["sample"].astype(str).to_numpy()}
    ).groupby("sample").sum()  # fmt: skip
    fraction = sums["ambient"] / sums["umi"]
    table = oracle.uns[keys.UNS][keys.CONTAMINATION].copy()
    table["ambient_fraction"] = fraction.reindex(table.index)
    table["ambient_upper"] = table["ambient_fraction"]
    oracle.uns[keys.UNS] = oracle.uns[keys.UNS] | {keys.CONTAMINATION: table}
    return oracle


def share_error(truth: pd.DataFrame, share: pd.Series) -> pd.Series:
    """Mean absolute error over populations and samples, by cytokine."""
    known = truth["share"].dropna()
    gap = (known - share.reindex(known.index).fillna(0.0)).abs()
    return gap.groupby("gene").mean()


def naive_shares(adata: ad.AnnData, ledger: pd.DataFrame) -> tuple[pd.Series, pd.Series]:
    """UMI by label without correction, and mean log-expression, as shares."""
    index = ledger.set_index(["gene", "population", "sample"])
    umi = index["umi"] / index.groupby(["gene", "sample"])["umi"].transform("sum")
    pp.normalize(adata)
    frame = pd.DataFrame(adata[:, GENES].X.toarray(), columns=GENES)
    frame["population"] = adata.obs["population"].astype(str).to_numpy()
    frame["sample"] = adata.obs["sample"].astype(str).to_numpy()
    mean = frame.groupby(["population", "sample"])[GENES].mean()
    share = mean / mean.groupby("sample").transform("sum")
    long = share.reset_index().melt(["population", "sample"], var_name="gene", value_name="share")
    return umi, long.set_index(["gene", "population", "sample"])["share"]


def call_quality(adata: ad.AnnData, cohort: SimulatedCohort, oracle: ad.AnnData) -> pd.DataFrame:
    """Compare our calls, UMI > 0 and the best call: false discoveries and recall."""
    made = cohort.truth["producer_cells"]
    exact = take_counts(oracle, GENES, sample_key="sample", layer="counts")
    rows = []
    for column, gene in enumerate(GENES):
        is_producer = adata.obs_names.isin(made.loc[made["gene"] == gene, "cell"])
        called = (adata.obsm[keys.PRODUCER_STATE][gene] == keys.PRODUCER).to_numpy()
        best = best_call(cohort, adata, gene, exact.umi[:, column], exact.expected[:, column])
        row = {"gene": gene, "producers": int(is_producer.sum())}
        for name, call in (("ours", called), ("umi>0", exact.umi[:, column] > 0), ("best", best)):
            row[f"fdr_{name}"] = (call & ~is_producer).sum() / max(call.sum(), 1)
            row[f"recall_{name}"] = (call & is_producer).sum() / max(is_producer.sum(), 1)
        rows.append(row)
    return pd.DataFrame(rows).set_index("gene")


def best_call(
    cohort: SimulatedCohort, adata: ad.AnnData, gene: str, umi: np.ndarray, ambient: np.ndarray
) -> np.ndarray:
    """Call by the posterior probability under the planted rates, false discoveries at 5 %."""
    rates = cohort.truth["production_rates"]
    rates = rates[rates["gene"] == gene].set_index(["sample", "population"])
    of_cell = pd.MultiIndex.from_arrays(
        [adata.obs["sample"].astype(str), adata.obs["population"].astype(str)]
    )
    probability = rates["probability"].reindex(of_cell).fillna(0.0).to_numpy()
    mean = rates["umi"].reindex(of_cell).fillna(1.0).to_numpy()
    silent = (1 - probability) * stats.poisson.pmf(umi, ambient)
    # A producer has one UMI and a Poisson number more.
    making = probability * stats.poisson.pmf(umi - 1, np.maximum(mean - 1, 0.1) + ambient)
    posterior = np.divide(making, making + silent, out=np.zeros(len(umi)), where=making > 0)
    order = np.argsort(-posterior, kind="stable")
    false = np.cumsum(1 - posterior[order]) / np.arange(1, len(order) + 1)
    call = np.zeros(len(umi), dtype=bool)
    call[order[false <= 0.05]] = True
    return call & (umi > 0)


def coverage(cohort: SimulatedCohort, ledger: pd.DataFrame, by_arm: pd.DataFrame) -> dict:
    """Share of the 95 % intervals that hold the planted share: of the animal, and of the arm."""
    rates = cohort.truth["production_rates"]
    rates = rates[rates["gene"].isin(GENES)].set_index(["gene", "population", "sample"])
    index = ledger.set_index(["gene", "population", "sample"])
    output = (rates["probability"] * rates["umi"]).reindex(index.index).fillna(0.0)
    output *= index["n_cells"]
    planted = output / output.groupby(["gene", "sample"]).transform("sum")
    rows = index.assign(planted=planted)
    rows = rows[rows["share"].notna() & (rows["planted"] > 0)]
    held = (rows["ci_low"] <= rows["planted"]) & (rows["planted"] <= rows["ci_high"])
    arm = rows.groupby(["gene", "population", "condition"])["planted"].mean()
    known = by_arm.set_index(["gene", "population", "condition"]).assign(planted=arm).dropna()
    inside = (known["ci_low"] <= known["planted"]) & (known["planted"] <= known["ci_high"])
    return {"sample": held, "arm": inside}


def one_cohort(cohort_number: int) -> dict:
    """All figures of one simulated cohort."""
    settings = settings_of(cohort_number)
    cohort = simulate_cohort(**settings)
    with TemporaryDirectory() as folder:
        adata, everything = analysed(cohort, Path(folder))
    oracle = with_true_ambient(adata, cohort, everything)
    ledger = tl.ledger(adata, genes=GENES)
    truth = cohort.truth["ledger"]
    truth = truth[truth["gene"].isin(GENES)].set_index(["gene", "population", "sample"])
    row = ["gene", "population", "sample"]
    umi_share, log_share = naive_shares(adata, ledger)
    errors = pd.DataFrame(
        {
            "ours": share_error(truth, ledger.set_index(row)["share"]),
            "oracle": share_error(truth, tl.ledger(oracle, genes=GENES).set_index(row)["share"]),
            "naive": share_error(truth, umi_share),
            "mean_log": share_error(truth, log_share),
        }
    )
    tl.call_producers(adata, genes=GENES)
    found = adata.uns[keys.UNS][keys.CONTAMINATION]["ambient_fraction"]
    planted = oracle.uns[keys.UNS][keys.CONTAMINATION]["ambient_fraction"]
    return settings | {
        "errors": errors,
        "calls": call_quality(adata, cohort, oracle),
        "held": coverage(cohort, ledger, tl.ledger_by_condition(ledger)),
        "contamination_error": float((found - planted).abs().mean()),
    }


def print_table(results: list[dict]) -> None:
    rows = []
    for ambient in AMBIENT:
        mine = [result for result in results if result["contamination"] == ambient]
        if not mine:
            continue
        for gene in GENES:
            errors = pd.DataFrame([result["errors"].loc[gene] for result in mine]).median()
            calls = pd.DataFrame([result["calls"].loc[gene] for result in mine])
            held = {
                kind: pd.concat([result["held"][kind] for result in mine])
                for kind in ("sample", "arm")
            }
            rows.append(
                {"ambient": ambient, "gene": gene, "cohorts": len(mine)}
                | {f"mae_{name}": errors[name] for name in errors.index}
                | {"mae/oracle": errors["ours"] / errors["oracle"]}
                | calls.drop(columns="producers").median().to_dict()
                | {f"cover_{k}": held[k].xs(gene, level="gene").mean() for k in held}
                | {"rho_error": np.mean([result["contamination_error"] for result in mine])}
            )
    for gene in GENES:
        for kind in ("sample", "arm"):
            held = pd.concat([result["held"][kind].xs(gene, level="gene") for result in results])
            print(f"95 % intervals, {kind}, all levels, {gene}: {held.mean():.3f} of {len(held)}")
    table = pd.DataFrame(rows)
    print(table.to_string(index=False, float_format=lambda value: f"{value:.4f}"))


def print_scale(n_cells: int = 200_000, n_genes: int = 20_000, per_cell: int = 1_500) -> None:
    """Time and memory of producer calls and ledger, ten cytokines, 24 samples, 15 populations."""
    rng = np.random.default_rng(0)
    # One gene out of each of `per_cell` stretches, so that the genes of a cell differ.
    stretch = n_genes // per_cell
    index = rng.integers(stretch, size=(n_cells, per_cell), dtype=np.int32)
    index += np.arange(per_cell, dtype=np.int32) * stretch
    counts = sparse.csr_matrix(
        (np.ones(index.size, dtype=np.float32), index.ravel(),
         np.arange(n_cells + 1, dtype=np.int64) * per_cell),
        shape=(n_cells, n_genes),
    )  # fmt: skip
    genes = [f"gene{i}" for i in range(n_genes)]
    samples = [f"s{i % 24:02d}" for i in range(n_cells)]
    adata = ad.AnnData(
        obs=pd.DataFrame(
            {"sample": samples, "subject": samples, "condition": [name[-1] for name in samples],
             "population": rng.choice([f"p{i}" for i in range(15)], n_cells)},
            index=[str(i) for i in range(n_cells)],
        ).astype("category"),
        var=pd.DataFrame(index=genes),
        layers={"counts": counts},
    )  # fmt: skip
    names = sorted(set(samples))
    adata.varm[keys.AMBIENT_PROFILE] = pd.DataFrame(1 / n_genes, index=genes, columns=names)
    ambient = pd.DataFrame({"ambient_fraction": 0.08, "ambient_upper": 0.1}, index=names)
    adata.uns[keys.UNS] = {keys.CONTAMINATION: ambient}
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    start = time.perf_counter()
    tl.call_producers(adata, genes=genes[:10])
    tl.production(tl.producers(adata))
    tl.ledger(adata, genes=genes[:10])
    seconds = time.perf_counter() - start
    size = (counts.data.nbytes + counts.indices.nbytes + counts.indptr.nbytes) / 1e9
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(f"cells {n_cells}  genes {n_genes}  seconds {seconds:.1f}  counts {size:.2f} GB  "
          f"peak {peak:.2f} GB (before: {before:.2f})  peak/counts {peak / size:.2f}")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cohorts", type=int, default=30)
    parser.add_argument("--scale", action="store_true")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    if arguments.scale:
        print_scale()
        return
    print_table([one_cohort(i) for i in range(arguments.cohorts)])


if __name__ == "__main__":
    main()
