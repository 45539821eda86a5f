"""Is the comparison honest: null cohorts, real null data, power, intervals. One table.

`python benchmarks/comparison.py` takes about ten minutes on two free cores; `--cohorts N` sets
how many null cohorts are simulated (the other checks follow), `--only WORD` keeps the checks whose
name begins with it. Each line has a figure, how many tests or intervals it is a share of, and what
was asked of it.
"""

from __future__ import annotations

import argparse
import itertools
import warnings
from concurrent.futures import ProcessPoolExecutor
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import scanpy as sc
from _cells import adjusted, cell_cohort, cell_scores, kang, wilcoxon
from _simulated import (
    CHANGES,
    CYTOKINES,
    SIGNATURES,
    null_units,
    planted_parts,
    simulate_bulk,
    simulate_sources,
    units_of,
)
from threadpoolctl import threadpool_limits

from crs_sc import keys, tl
from crs_sc.comparison import Contrast

if TYPE_CHECKING:
    import anndata as ad

DESIGNS = ("3v3", "4v4", "5v5", "paired 6")
SUBJECTS = (3, 4, 5, 8)
MODEL, PERMUTATION, FAMILY, COVER = "0.03-0.07", "<= 0.05", "<= 0.05", "0.92-0.98"
# The fits of PyDESeq2 are most of the time: two populations, a large and a rare one, stand for all.
EXPRESSION_POPULATIONS = ["Classical monocyte", "pDC"]


def line(check: str, setting: str, figure: str, values: object, asked: str = "") -> dict:
    """One line of the table: the mean of the values."""
    values = np.asarray(values, dtype=float)
    values = values[np.isfinite(values)]
    mean = values.mean() if len(values) else np.nan
    return {"check": check, "setting": setting, "figure": figure, "n": len(values),
            "found": mean, "asked": asked}  # fmt: skip


# --- null ---------------------------------------------------------------------------------------


def contrast_of(units: pd.DataFrame) -> Contrast:
    return Contrast("null", "CART", "vehicle", paired=bool(units["subject"].duplicated().any()))


def outcomes(bulk: ad.AnnData, contrast: Contrast, *, populations: list[str] | None = None) -> dict:
    """P values of every table for one contrast: model, permutation and adjusted."""
    ask = {"contrasts": [contrast]}
    small = bulk if populations is None else bulk[bulk.obs["population"].isin(populations)]
    shifts = tl.shifts(bulk, signatures=SIGNATURES, genes=CYTOKINES, **ask)
    expression = tl.expression(small, **ask)
    tables = {
        "shifts, signatures": shifts[shifts["kind"] == "signature"],
        "shifts, genes": shifts[shifts["kind"] == "gene"],
        "shifts, family": shifts,
        "composition": tl.composition(bulk, **ask),
        "expression": expression,
    }
    wald = expression.assign(pvalue=expression["pvalue_wald"])
    tables["PyDESeq2's own p"] = wald.assign(padj=adjusted(wald["pvalue"]))
    return {name: p_values(table) for name, table in tables.items()}


def p_values(table: pd.DataFrame) -> dict:
    """Shares of one cohort, and whether it has a false call."""
    p = table["pvalue"].dropna()
    permutation = table.get("pvalue_permutation", pd.Series(dtype=float)).dropna()
    return {
        "n": len(p),
        "model": float((p <= 0.05).sum()),
        "n_permutation": len(permutation),
        "permutation": float((permutation <= 0.05).sum()),
        "called": float((table["padj"] <= 0.05).any()),
    }


def null_cohort(design: str, seed: int) -> dict:
    rng = np.random.default_rng([seed, DESIGNS.index(design)])
    units = null_units(design)
    bulk = simulate_bulk(units, rng, shifts={})
    return outcomes(bulk, contrast_of(units), populations=EXPRESSION_POPULATIONS)


def null_lines(check: str, setting: str, cohorts: list[dict]) -> list[dict]:
    """Lines of each table: share of small p, and cohorts with a call."""
    lines = []
    for name in cohorts[0]:
        frame = pd.DataFrame([cohort[name] for cohort in cohorts])
        ours = not name.startswith(("PyDESeq2", "cells"))
        if name != "shifts, family":
            for kind, count, asked in (
                ("model", "n", MODEL), ("permutation", "n_permutation", PERMUTATION)
            ):  # fmt: skip
                total = frame[count].sum()
                if total:
                    share = line(check, setting, f"{name}: {kind} p <= 0.05", [
                        frame[kind].sum() / total], asked if ours else "")  # fmt: skip
                    lines.append(share | {"n": int(total)})
        if not name.startswith("shifts, s") and name != "shifts, genes":
            lines.append(
                line(
                    check,
                    setting,
                    f"{name}: cohorts with a call at FDR 0.05",
                    frame["called"],
                    FAMILY if ours else "",
                )
            )
    return lines


# --- cells --------------------------------------------------------------------------------------


def cell_null(design: str, seed: int) -> dict:
    paired = design.startswith("paired")
    n = int(design[-1])
    adata = cell_cohort(5_000 + seed, n=n, effect=0.0, paired=paired)
    contrast = Contrast("null", "CART", "vehicle", paired=paired)
    result = outcomes(tl.pseudobulk(adata), contrast)
    return result | {"cells, Wilcoxon (scanpy)": p_values(wilcoxon(adata))}


# --- real null ----------------------------------------------------------------------------------


def real_null(split: int) -> dict:
    """One of the 35 ways to set four donors against four."""
    adata = kang()
    donors = sorted(adata.obs["subject"].unique())
    ways = [way for way in itertools.combinations(donors, 4) if donors[0] in way]
    first = adata.obs["subject"].isin(ways[split])
    adata.obs["condition"] = np.where(first, "vehicle", "CART")
    result = outcomes(tl.pseudobulk(adata), Contrast("null", "CART", "vehicle"))
    return result | {"cells, Wilcoxon (scanpy)": p_values(wilcoxon(adata))}


# --- power --------------------------------------------------------------------------------------


def power_cohort(seed: int, effect: float) -> dict[str, pd.DataFrame]:
    """P or score of each method for signatures, and for their genes, with what was planted."""
    adata = cell_cohort(9_000 + seed, effect=effect)
    bulk = tl.pseudobulk(adata)
    ask = {"contrasts": [Contrast("cart", "CART", "vehicle")]}
    member = {g: name for name, genes in SIGNATURES.items() for g in genes}
    shifts = tl.shifts(bulk, signatures=SIGNATURES, genes=list(member), **ask)
    by_kind = {kind: part.set_index(["population", "feature"]) for kind, part in
               shifts.groupby("kind")}  # fmt: skip
    expression = tl.expression(bulk, **ask)
    expression = expression[expression["gene"].isin(member)].set_index(["population", "gene"])
    cells = wilcoxon(adata).set_index(["population", "gene"])["pvalue"]
    genes = pd.DataFrame(
        {
            "crs_sc shifts": by_kind["gene"]["pvalue"],
            "crs_sc expression": expression["pvalue"],
            "PyDESeq2": expression["pvalue_wald"],
            "cells, Wilcoxon": cells,
        }
    ).dropna()
    scores = expression.assign(name=[member[gene] for _, gene in expression.index])
    mean = scores.groupby(["population", "name"])["statistic"].mean().abs()
    signatures = pd.DataFrame(
        {
            "crs_sc shifts": by_kind["signature"]["pvalue"],
            "PyDESeq2, mean of Wald": -mean,
            "cells, Wilcoxon on the mean": cell_scores(adata),
        }
    ).dropna()
    planted = adata.uns["planted"]
    planted = planted[planted["contrast"].str.startswith("cart")]
    planted = planted.set_index(["population", "feature"])["estimate"]
    planted = planted[~planted.index.duplicated()]
    size = {"signatures": planted.reindex(signatures.index).abs()}
    of_gene = pd.MultiIndex.from_tuples([(k, member[gene]) for k, gene in genes.index])
    size["genes"] = pd.Series(planted.reindex(of_gene).abs().to_numpy(), index=genes.index)
    return {"signatures": signatures.assign(planted=size["signatures"]),
            "genes": genes.assign(planted=size["genes"])}  # fmt: skip


def power_lines(null: list[dict], planted: list[dict], *, rate: float = 0.05) -> list[dict]:
    """Share of the planted changes beyond the threshold that a share `rate` of null tests pass.

    Each method has the threshold that holds the rate in truth, in each population: cells as
    replicates are wrong by a factor that grows with the cells of a population, so that one
    threshold for all would be none for the large ones.
    """
    lines = []
    for kind in ("signatures", "genes"):
        quiet = pd.concat([cohort[kind] for cohort in null])
        changed = pd.concat([cohort[kind] for cohort in planted])
        changed = changed[changed["planted"] > 0.1]
        populations = changed.index.get_level_values(0)
        for name in (name for name in quiet.columns if name != "planted"):
            limit = quiet[name].groupby(level=0).quantile(rate)
            seen = changed[name].to_numpy() <= limit.reindex(populations).to_numpy()
            asked = ">= best other" if name.startswith("crs_sc") else ""
            lines.append(line("power", f"4v4, {kind}, 5 % false", name, seen, asked))
    return lines


# --- decomposition and reversal -----------------------------------------------------------------

PARTS = ["total", "composition", "producer_fraction", "intensity"]


def decomposition_cohort(n: int, change: str, seed: int) -> dict:
    rng = np.random.default_rng([seed, n, list(CHANGES).index(change)])
    ledger, producers, samples = simulate_sources(n, change, rng)
    contrast = Contrast("cart", "CART", "vehicle")
    table = tl.decompose(
        ledger, producers, contrasts=[contrast], samples=samples, n_bootstrap=1000
    ).set_index("population")
    table = table.drop(index="Other")
    truth = planted_parts(change).loc[table.index]
    held = {
        part: ((table[f"{part}_ci_low"] <= truth[part]) & (truth[part] <= table[f"{part}_ci_high"]))
        .where(table[f"{part}_ci_low"].notna())
        .astype(float)
        for part in PARTS
    }
    whole = table["total"].drop(index=keys.ALL_POPULATIONS).sum()
    gap = max(
        (table[PARTS[1:]].sum(axis=1) - table["total"]).abs().max(),
        abs(table.loc[keys.ALL_POPULATIONS, "total"] - whole),
    )
    row = table.loc["Monocyte"]
    over = {p: row[f"{p}_ci_low"] <= 0 <= row[f"{p}_ci_high"] for p in PARTS[1:]}
    return {"held": held, "gap": gap, "over": over, "largest": row[PARTS[1:]].abs().idxmax()}


def decomposition_lines(results: dict[tuple[int, str], list[dict]]) -> list[dict]:
    check = "decomposition"
    everything = [cohort for cohorts in results.values() for cohort in cohorts]
    lines = [line(check, "all", "largest gap of a sum", [max(c["gap"] for c in everything)],
                  "<= 1e-9")]  # fmt: skip
    for n in SUBJECTS:
        for part in PARTS:
            held = [c["held"][part] for (m, _), cs in results.items() if m == n for c in cs]
            lines.append(line(check, f"{n}v{n}", f"interval of {part} covers", pd.concat(held),
                              COVER))  # fmt: skip
    for change in CHANGES:
        held = [v for (_, c), cs in results.items() if c == change
                for cohort in cs for v in cohort["held"].values()]  # fmt: skip
        lines.append(line(check, change, "intervals cover", pd.concat(held), COVER))
    for change, part in (("fewer monocytes", "composition"),
                         ("quieter monocytes", "producer_fraction")):  # fmt: skip
        cohorts = results[4, change]
        lines.append(line(check, f"4v4, {change}", f"largest part is {part}",
                          [c["largest"] == part for c in cohorts], ">= 0.95"))  # fmt: skip
        others = [c["over"][p] for c in cohorts for p in PARTS[1:] if p != part]
        lines.append(line(check, f"4v4, {change}", "other parts' intervals over 0", others,
                          ">= 0.92"))  # fmt: skip
        lines.append(line(check, f"4v4, {change}", f"interval of {part} leaves out 0",
                          [not c["over"][part] for c in cohorts]))  # fmt: skip
    return lines


SHIFTED = ("il1_response", "type1_ifn_response", "hla_dr")


def reversal_cohort(n: int, truth: float, seed: int) -> pd.DataFrame:
    """Reversals of the shifted responses; half way is only nearly so in log2(CPM + 1)."""
    rng = np.random.default_rng([seed, n, round(10 * truth)])
    units = units_of({"vehicle": n, "CART": n, "CART_drug": n})
    level = {"CART": 2.0, "CART_drug": 2.0 * (1 - truth)}
    shifts = {arm: dict.fromkeys(SHIFTED, value) for arm, value in level.items()}
    bulk = simulate_bulk(units, rng, shifts=shifts)
    contrast = Contrast("drug", "CART_drug", "CART", baseline="vehicle")
    table = tl.reversal(bulk, contrasts=[contrast], signatures=SIGNATURES)
    table = table[table["feature"].isin(SHIFTED)].set_index(["feature", "population"])
    table["held"] = (table["ci_low"] <= truth) & (truth <= table["ci_high"])
    table["called"] = table["ci_low"] > 0
    return table


def reversal_lines(results: dict[tuple[int, float], list[pd.DataFrame]]) -> list[dict]:
    lines = []
    for (n, truth), cohorts in results.items():
        table = pd.concat(cohorts)
        setting, given = f"{n} an arm, planted {truth:g}", table["status"] == keys.OK
        lines.append(line("reversal", setting, "interval covers", table.loc[given, "held"], COVER))
        if truth == 0:
            lines.append(line("reversal", setting, "called a reversal", table["called"],
                              "<= 0.05"))  # fmt: skip
    return lines


# --- the table ----------------------------------------------------------------------------------


def quiet() -> None:
    warnings.simplefilter("ignore")
    sc.settings.verbosity = 0
    threadpool_limits(1)


def checks(pool: ProcessPoolExecutor, n: int) -> dict[str, object]:
    """Name the checks; each is a function that answers with lines."""

    def run(function: object, settings: list[tuple]) -> dict[tuple, list]:
        answers = list(pool.map(function, *zip(*settings, strict=True), chunksize=1))
        grouped: dict[tuple, list] = {}
        for setting, answer in zip(settings, answers, strict=True):
            grouped.setdefault(setting[:-1], []).append(answer)
        return grouped

    def null() -> list[dict]:
        done = run(null_cohort, [(d, i) for d in DESIGNS for i in range(-(-n // len(DESIGNS)))])
        pooled = [c for cohorts in done.values() for c in cohorts]
        lines = [row for (d,), cohorts in done.items() for row in null_lines("null", d, cohorts)]
        return lines + null_lines("null", "all designs", pooled)

    def cells() -> list[dict]:
        done = run(cell_null, [(d, i) for d in DESIGNS for i in range(max(n // 200, 1))])
        return null_lines("cells null", "all designs", [c for cs in done.values() for c in cs])

    def real() -> list[dict]:
        if kang() is None:
            return [line("real null", "data not at hand", "", [])]
        splits = [("kang", i) for i in range(35)]
        done = run(_real_null, splits)
        return null_lines("real null", "Kang, 35 splits 4v4", done["kang",])

    def power() -> list[dict]:
        done = run(_power, [(effect, i) for effect in (0.0, 0.3) for i in range(max(n // 40, 2))])
        return power_lines(done[0.0,], done[0.3,])

    def decomposition() -> list[dict]:
        each = max(n // 10, 5)
        asked = [(m, change, i) for m in SUBJECTS for change in CHANGES for i in range(each)]
        return decomposition_lines(run(decomposition_cohort, asked))

    def reversal() -> list[dict]:
        each = max(n // 15, 5)
        asked = [(m, truth, i) for m in SUBJECTS for truth in (0.0, 0.5, 1.0) for i in range(each)]
        return reversal_lines(run(reversal_cohort, asked))

    return {"null": null, "cells": cells, "real": real, "power": power,
            "decomposition": decomposition, "reversal": reversal}  # fmt: skip


def _real_null(_: str, split: int) -> dict:
    return real_null(split)


def _power(effect: float, seed: int) -> dict:
    return power_cohort(seed, effect)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cohorts", type=int, default=1000)
    parser.add_argument("--only", default="")
    parser.add_argument("--jobs", type=int, default=2)
    arguments = parser.parse_args()
    quiet()
    lines = []
    with ProcessPoolExecutor(arguments.jobs, initializer=quiet) as pool:
        for name, check in checks(pool, arguments.cohorts).items():
            if name.startswith(arguments.only):
                lines += check()
    print(pd.DataFrame(lines).to_string(index=False, float_format=lambda value: f"{value:.4g}"))


if __name__ == "__main__":
    main()
