"""A made-up cohort of four arms with four mice each: tables and cells with plausible numbers.

The numbers only have to look like a study; nothing is computed from them but pictures and text.
"""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
from scipy import sparse

from crs_sc import keys

ARMS = ("vehicle", "CART", "CART_anakinra", "CART_tocilizumab")
CONTRASTS = (
    {"name": "cart", "treated": "CART", "reference": "vehicle"},
    {"name": "anakinra", "treated": "CART_anakinra", "reference": "CART", "baseline": "vehicle"},
    {"name": "tocilizumab", "treated": "CART_tocilizumab", "reference": "CART",
     "baseline": "vehicle"},
)  # fmt: skip
LINEAGES = {
    "Classical monocyte": "Monocyte",
    "Intermediate monocyte": "Monocyte",
    "Non-classical monocyte": "Monocyte",
    "cDC2": "DC",
    "pDC": "pDC",
    "CD4 T": "T",
    "CD8 T": "T",
    "CAR T": "T",
    "NK": "NK",
    "B": "B",
    "B-ALL blast": "Blast",
    "Unknown": "Unknown",
}
CELLS = (160, 40, 30, 30, 12, 120, 90, 60, 50, 45, 90, 14)
GENES = ("IL1B", "IL6", "TNF", "CXCL8", "IL1RN")
# UMI per cell in the strongest arm, by gene, for the makers.
OUTPUT = {
    "IL1B": {"Classical monocyte": 2.6, "Intermediate monocyte": 1.2, "cDC2": 0.5},
    "IL6": {"Classical monocyte": 0.22, "Intermediate monocyte": 0.10, "cDC2": 0.02},
    "TNF": {"Classical monocyte": 0.6, "cDC2": 0.3, "CAR T": 0.25, "NK": 0.05},
    "CXCL8": {"Classical monocyte": 5.0, "Intermediate monocyte": 2.0},
    "IL1RN": {"Classical monocyte": 0.7, "Intermediate monocyte": 0.3},
}
MYELOID = ("Classical monocyte", "Intermediate monocyte", "Non-classical monocyte", "cDC2")
RECEPTORS = {
    "IL1B": {
        "IL1R1": ("receptor", (*MYELOID, "CD4 T")),
        "IL1RAP": ("co-receptor", MYELOID),
        "IL1R2": ("decoy", MYELOID[:2]),
        "IL1RN": ("antagonist", MYELOID[:1]),
    },
    "IL6": {
        "IL6R": ("receptor", (*MYELOID, "CD4 T")),
        "IL6ST": ("co-receptor", (*MYELOID, "CD4 T", "CD8 T", "B")),
    },
}
LEVEL = {"vehicle": 0.04, "CART": 1.0, "CART_anakinra": 0.35, "CART_tocilizumab": 0.8}
SIGNATURES = ("il1_response", "il6_stat3_response", "ifn_gamma_response", "nfkb_response", "hla_dr")
MOVES = {
    ("cart", "il1_response"): 1.4,
    ("cart", "il6_stat3_response"): 1.1,
    ("cart", "ifn_gamma_response"): 1.6,
    ("cart", "nfkb_response"): 0.9,
    ("anakinra", "il1_response"): -1.2,
    ("anakinra", "il6_stat3_response"): -0.6,
    ("tocilizumab", "il6_stat3_response"): -1.0,
}
MOVED = ("il1_response", "il6_stat3_response")
MARKER_OF = {
    "CD14": ("Classical monocyte", "Intermediate monocyte"),
    "VCAN": ("Classical monocyte",),
    "FCGR3A": ("Non-classical monocyte", "Intermediate monocyte", "NK"),
    "CD1C": ("cDC2",),
    "LILRA4": ("pDC",),
    "CD3D": ("CD4 T", "CD8 T", "CAR T"),
    "CD8A": ("CD8 T",),
    "NKG7": ("NK", "CD8 T"),
    "MS4A1": ("B",),
    "PAX5": ("B", "B-ALL blast"),
}
RESPONSE_GENES = ("NFKBIZ", "CXCL5", "SOCS3", "BCL3", "PIM1", "CXCL9", "STAT1", "BIRC3", "TRAF1")


def design() -> pd.DataFrame:
    rows = [
        (f"{arm.removeprefix('CART_')[:3].lower()}{i}", f"mouse_{4 * a + i}", arm)
        for a, arm in enumerate(ARMS)
        for i in range(1, 5)
    ]
    return pd.DataFrame(rows, columns=["sample", "subject", "condition"])


def tables(seed: int = 0) -> dict[str, pd.DataFrame]:
    """All tables of the contract."""
    rng = np.random.default_rng(seed)
    ledger, producers = _sources(rng)
    made = {
        "qc": _qc(rng),
        "populations": _populations(),
        "coverage": _frame(
            [("il1_response", 10, 10, ""), ("dissociation_stress", 32, 30, "MT1X,HSPA1B")],
            keys.COVERAGE_TABLE,
        ),
        **_clusters(),
        "producers": producers,
        "production": _production(producers),
        "ledger": ledger,
        "ledger_by_condition": _by_condition(ledger),
        "receivers": _receivers(rng),
        "scores": scores(seed),
        "shifts": _shifts(rng),
        "decomposition": _decomposition(rng, ledger),
        "reversal": _reversal(rng),
        "composition": _composition(rng),
        "expression": _expression(rng),
        "enrichment": _enrichment(rng),
        "exclusions": _exclusions(),
        "arm_by_time": _arm_by_time(),
        "onset": _onset(),
    }
    for name, table in made.items():
        spec = keys.TABLES[name]
        assert list(table.columns) == spec.names, name
    return made


def _qc(rng: np.random.Generator) -> pd.DataFrame:
    table = design()
    n = len(table)
    out = rng.integers(600, 800, n)
    removed = {
        "n_low_counts": rng.integers(10, 60, n),
        "n_low_genes": rng.integers(0, 12, n),
        "n_high_mt": rng.integers(5, 40, n),
        "n_doublets": rng.integers(10, 50, n),
        "n_other_species": rng.integers(60, 140, n),
        "n_cross_species": rng.integers(4, 12, n),
    }
    table = table.assign(
        **removed, n_cells_in=out + sum(removed.values()), n_cells_out=out,
        median_umi=rng.integers(2600, 4200, n).astype(float),
        median_genes=rng.integers(1100, 1500, n).astype(float),
        median_mt_fraction=rng.uniform(0.03, 0.06, n),
        ambient_fraction=rng.uniform(0.06, 0.12, n),
        ambient_source="pooled cells; LYZ, S100A8, S100A9 in T, B and NK cells",
        min_umi=500.0, min_genes=250.0, max_mt_fraction=0.12, max_doublet_score=0.35, note="",
    )  # fmt: skip
    table["ambient_lower"] = table["ambient_fraction"] - 0.02
    table["ambient_upper"] = table["ambient_fraction"] + 0.02
    return table[keys.QC_TABLE.names]


def _frame(rows: list[tuple[object, ...]], spec: keys.TableSpec) -> pd.DataFrame:
    """Rows with the first columns of a table; the later ones are empty."""
    return pd.DataFrame(rows, columns=spec.names[: len(rows[0])]).reindex(columns=spec.names)


def _populations() -> pd.DataFrame:
    names = list(LINEAGES)
    return _frame(
        [
            (str(i), name, lineage, 0.95, names[i - 1], 0.8, 16 * CELLS[i], f"GENE{i}", 0.1, 0.2, 0)
            for i, (name, lineage) in enumerate(LINEAGES.items())
        ],
        keys.POPULATIONS_TABLE,
    )


def _clusters() -> dict[str, pd.DataFrame]:
    """Clusters of which one is not found again, two batches, and what is circular."""
    n = len(LINEAGES)
    stability = np.linspace(1.0, 0.5, n)
    made = {
        "clustering": [
            (0.5, 9, 0.99, False, 0.98, 800, np.nan), (1.0, n, 0.95, True, 0.9, 800, 0.95),
        ],
        "clusters": [
            (str(i), name, 0.9, 16 * CELLS[i], stability[i], stability[i] - 0.1,
             keys.STABLE if stability[i] >= 0.75 else keys.UNSTABLE,
             *(("0", next(iter(LINEAGES))) if stability[i] < 0.75 else ("", "")))
            for i, name in enumerate(LINEAGES)
        ],
        "subclusters": [
            ("s0", "Classical monocyte", 1.0, "resting", 0.8, 300, 4, "m1", 0.3, "CART", 0.6,
             0.95, 0.9, keys.STABLE, "", "", ""),
            ("s1", "Classical monocyte", 0.9, "inflammatory", 0.7, 90, 1, "m1", 1.0, "CART", 1.0,
             0.8, 0.7, keys.STABLE, "", "", ""),
            ("s2", "cDC2", 0.6, "", 0.0, 40, 3, "m2", 0.5, "CART", 0.5, 0.4, 0.1, keys.UNSTABLE,
             "s0", "Classical monocyte", "resting"),
        ],
        "integration": [
            ("a", "CART,vehicle", 500, 0.2, 0.9, 0.9, 0.88, keys.OK),
            ("b", "CART,vehicle", 300, 0.1, 0.8, 0.9, 0.89, keys.OK),
            ("All", "", 800, 0.16, 0.86, 0.9, 0.884, keys.OK),
        ],
        "circularity": [
            ("B", 100, 1.0, 1.0, np.nan, np.nan, 1.0),
            ("cDC2", 40, 0.4, 0.9, np.nan, np.nan, 0.8),
            ("All", 800, 0.95, 0.99, 0.94, 0.98, 0.97),
        ],
        "gene_overlap": [
            ("hla_dr", "HLA-DRA", False, True, "cDC2"),
            ("il1_response", "NFKBIZ", False, True, ""),
            ("target_cytokines", "IL1B", True, False, ""),
        ],
    }  # fmt: skip
    return {
        name: pd.DataFrame(rows, columns=keys.TABLES[name].names) for name, rows in made.items()
    }


def _sources(rng: np.random.Generator) -> tuple[pd.DataFrame, pd.DataFrame]:
    rows = []
    for gene in GENES:
        for sample, subject, arm in design().itertuples(index=False):
            cells = {name: int(rng.poisson(n)) for name, n in zip(LINEAGES, CELLS, strict=True)}
            total = sum(cells.values())
            ambient = 0.03 * sum(OUTPUT[gene].values()) * LEVEL[arm]
            for name, n in cells.items():
                made = OUTPUT[gene].get(name, 0.0) * LEVEL[arm] * rng.gamma(20, 1 / 20)
                expected = ambient * n
                umi = int(rng.poisson(made * n + expected))
                makers = int(rng.binomial(n, min(made / 1.5, 0.9))) if umi else 0
                rows.append((gene, name, sample, subject, arm, n, umi, expected, makers, total))
    columns = "gene population sample subject condition n_cells umi ambient_umi n_producers total"
    table = pd.DataFrame(rows, columns=columns.split())
    table["corrected_umi"] = np.clip(table["umi"] - table["ambient_umi"], 0, None)
    table.loc[table["corrected_umi"] < 1.5 * np.sqrt(table["ambient_umi"]), "corrected_umi"] = 0.0
    sums = table.groupby(["gene", "sample"])["corrected_umi"].transform("sum")
    table["share"] = table["corrected_umi"] / sums.where(sums > 0)
    table["cell_share"] = table["n_cells"] / table["total"]
    table["enrichment"] = table["share"] / table["cell_share"]
    table["expected_ambient_umi"] = table["ambient_umi"]
    table["n_ambient_compatible"] = np.minimum(
        np.ceil(table["ambient_umi"]).astype(int), table["n_cells"] - table["n_producers"]
    )
    table["n_undetermined"] = 0
    fraction = table["n_producers"] / table["n_cells"]
    table = table.assign(
        producer_fraction=fraction, ci_low=np.clip(fraction - 0.05, 0, 1),
        ci_high=np.clip(fraction + 0.05, 0, 1), power=0.9,
        n_producers_upper=table["n_producers"] + 3.0,
        largest_ambient_umi=1.1 * table["expected_ambient_umi"],
    )  # fmt: skip
    return table[keys.LEDGER_TABLE.names], table[keys.PRODUCERS_TABLE.names]


def _by_condition(ledger: pd.DataFrame) -> pd.DataFrame:
    rows = []
    for (gene, name, arm), part in ledger.groupby(["gene", "population", "condition"]):
        seen = part.dropna(subset=["share"])
        share, cells = seen["share"].mean(), seen["cell_share"].mean()
        spread = seen["share"].std() if len(seen) > 1 else np.nan
        low, high = max(share - spread, 0), min(share + spread, 1)
        rows.append((gene, name, arm, len(seen), share, low, high, cells, share / cells))
    return _frame(rows, keys.LEDGER_BY_CONDITION_TABLE)


def _production(producers: pd.DataFrame) -> pd.DataFrame:
    index = ["gene", "population", "condition"]
    sums = ["n_cells", "n_producers", "umi", "expected_ambient_umi"]
    table = producers.groupby(index, sort=False)[sums].sum().reset_index()
    largest = 1.3 * table["expected_ambient_umi"]
    made = table["umi"] > 2 * largest + 5
    p = np.where(made, 1e-6, 0.5)
    states = [keys.PRODUCER, keys.AMBIENT_COMPATIBLE]
    state = np.select([made, table["umi"] > 0], states, keys.NEGATIVE)
    table = table.assign(
        n_subjects=4, largest_ambient_umi=largest, pvalue=p, padj=p, power=0.9, state=state
    )
    return table[keys.PRODUCTION_TABLE.names]


def _receivers(rng: np.random.Generator) -> pd.DataFrame:
    rows = []
    for cytokine, genes in RECEPTORS.items():
        for gene, (role, holders) in genes.items():
            for name in LINEAGES:
                for arm in ARMS:
                    held = name in holders
                    cpm = rng.gamma(50, 6.0) if held else rng.gamma(2, 2.0)
                    low, high = (0.8 * cpm, 1.2 * cpm) if held else (0.0, 3 * cpm)
                    state = keys.ABOVE_AMBIENT if held else keys.AMBIENT_COMPATIBLE
                    rows.append((
                        cytokine, gene, role, name, arm, 4, 400, int(cpm), 0.9 * cpm,
                        0.4 if held else 0.0, cpm, low, high, 1e-6 if held else 0.5, state,
                    ))  # fmt: skip
    return _frame(rows, keys.RECEIVERS_TABLE)


def _shifts(rng: np.random.Generator) -> pd.DataFrame:
    rows = []
    for contrast in CONTRASTS:
        name = contrast["name"]
        for kind, features in (("signature", SIGNATURES), ("gene", GENES)):
            for feature in features:
                for population, lineage in LINEAGES.items():
                    strength = 1.0 if lineage in {"Monocyte", "DC"} else 0.1
                    move = MOVES.get((name, feature), 0.0)
                    if kind == "gene":
                        move = {"cart": 3.0, "anakinra": -1.5, "tocilizumab": -0.3}[name]
                    value = strength * move + rng.normal(0, 0.1)
                    p = 1e-4 if abs(value) > 0.5 else 0.4
                    status = keys.TOO_FEW_CELLS if population in {"pDC", "Unknown"} else keys.OK
                    permuted = 0.028571 if p < 0.05 else 0.4
                    numbers: list[object] = [np.nan] * 8 + [2, 3, np.nan, np.nan]
                    if status == keys.OK:
                        numbers = [value, value - 0.4, value + 0.4, value / 0.2, p, min(2 * p, 1)]
                        numbers += [permuted, 0.028571, 4, 4, value - 0.1, value + 0.1]
                    rows.append((name, kind, feature, population, *numbers, status))
    table = _frame(rows, keys.SHIFTS_TABLE)
    tested = table["status"] == keys.OK
    small = table["estimate"].abs() < 0.05
    verdicts = [keys.CHANGED, keys.EQUIVALENT, keys.INCONCLUSIVE]
    table["verdict"] = np.select([table["padj"] < 0.05, tested & small, tested], verdicts, "")
    table.loc[tested, ["margin", "n_genes"]] = 0.5, 8
    for name in ("estimate", "ci_low", "ci_high"):
        table[f"{name}_stress_adjusted"] = table[name] * 0.9
    return table


def _decomposition(rng: np.random.Generator, ledger: pd.DataFrame) -> pd.DataFrame:
    per_cell = ledger.assign(
        output=ledger["cell_share"] * ledger["corrected_umi"] / ledger["n_cells"].clip(lower=1)
    )
    mean = per_cell.groupby(["gene", "population", "condition"])["output"].mean()
    rows = []
    for contrast in CONTRASTS:
        for gene in GENES:
            for name in LINEAGES:
                before, after = (mean[gene, name, contrast[a]] for a in ("reference", "treated"))
                change = after - before
                parts = (change, 0.15 * change, 0.6 * change, change - 0.75 * change)
                ends = [part + way * abs(part) / 2 for part in parts for way in (-1, 1)]
                rows.append((contrast["name"], gene, name, *parts, *ends, keys.OK))
    table = _frame(rows, keys.DECOMPOSITION_TABLE)
    total = table.groupby(["contrast", "gene"], sort=False).sum(numeric_only=True).reset_index()
    total = total.assign(population=keys.ALL_POPULATIONS, status=keys.OK)
    table = pd.concat([table, total[list(table)]], ignore_index=True)
    absent = (table["contrast"] == "cart") & (table["population"] == "CAR T")
    table.loc[absent, "composition"] = table.loc[absent, "total"]
    gone = ["producer_fraction", "intensity", "status"]
    table.loc[absent, gone] = [0.0, np.nan, keys.INTENSITY_NOT_IDENTIFIED]
    return table


def _exclusions() -> pd.DataFrame:
    rows = [
        (contrast["name"], population, f"mouse_{i}", contrast[arm], n, reason)
        for contrast in CONTRASTS
        for population, n, reason in (
            ("pDC", 4, keys.TOO_FEW_CELLS),
            ("Unknown", 0, keys.NO_CELLS),
            ("CAR T", 30, keys.NOT_TESTED),
        )
        for arm in ("reference", "treated")
        for i in range(2)
    ]
    return _frame(rows, keys.EXCLUSIONS_TABLE)


def _arm_by_time() -> pd.DataFrame:
    numbers = (0.8, 0.2, 1.4, 0.01, 0.04, 0.03, 0.03, 4, 4, 0.6, 1.0, "followed", 8, keys.OK)
    return _frame(
        [("cart", "d3", "d1", "signature", name, "Classical monocyte", *numbers) for name in MOVED],
        keys.ARM_BY_TIME_TABLE,
    )


def _onset() -> pd.DataFrame:
    rows = [
        ("CART", "IL1A+IL1B", "IL6", f"mouse_{i}", "d1", "d3", keys.REACHED, keys.REACHED, "first")
        for i in range(4)
    ]
    return _frame(rows, keys.ONSET_TABLE).assign(
        n_first=4, n_second=0, n_tied=0, n_unknown=0, pvalue=0.125, pvalue_floor=0.125
    )


def _reversal(rng: np.random.Generator) -> pd.DataFrame:
    rows = []
    for name, strength in (("anakinra", 0.85), ("tocilizumab", 0.9)):
        for feature in (*SIGNATURES, "IL1B", "IL6"):
            for population, lineage in LINEAGES.items():
                if lineage not in {"Monocyte", "DC"}:
                    numbers = (np.nan, np.nan, np.nan, keys.NO_SHIFT_TO_REVERSE)
                else:
                    hit = ("anakinra", "il1_response"), ("tocilizumab", "il6_stat3_response")
                    value = (strength if (name, feature) in hit else 0.1) + rng.normal(0, 0.05)
                    numbers = (value, value - 0.2, value + 0.2, keys.OK)
                rows.append((name, feature, population, *numbers))
    return _frame(rows, keys.REVERSAL_TABLE)


def _composition(rng: np.random.Generator) -> pd.DataFrame:
    rows = []
    for contrast in CONTRASTS:
        for name, n in zip(LINEAGES, CELLS, strict=True):
            share, value = n / sum(CELLS), rng.normal(0, 0.2)
            p = (0.3, 0.6, 0.34, 0.028571, 4, 4, value - 0.1, value + 0.1)
            rows.append(
                (contrast["name"], name, share, share, value, value - 0.4, value + 0.4, *p, keys.OK)
            )
    return _frame(rows, keys.COMPOSITION_TABLE)


def _expression(rng: np.random.Generator) -> pd.DataFrame:
    rows = []
    named = [*GENES, "SOCS3", "CXCL10", "CXCL9", "STAT1", "ICAM1", "NFKBIZ", "PTGS2", "SOD2"]
    genes = [*named, *(f"GENE{i}" for i in range(300))]
    for contrast in CONTRASTS:
        for population in ("Classical monocyte", "CD4 T"):
            for gene in genes:
                move = rng.normal(2, 0.5) if gene in named and population != "CD4 T" else 0.0
                z = rng.normal(4 * move, 1)
                p = float(np.exp(-abs(z) * 1.6))
                numbers = (50.0, move + 0.2 * z, 0.3, z, p, min(3 * p, 1.0), 4, 4)
                rows.append((contrast["name"], population, gene, *numbers, keys.OK))
    return _frame(rows, keys.EXPRESSION_TABLE)


def _enrichment(rng: np.random.Generator) -> pd.DataFrame:
    rows = []
    for contrast in CONTRASTS:
        for population in ("Classical monocyte", "CD4 T"):
            for name in SIGNATURES:
                nes = 2 * MOVES.get((contrast["name"], name), 0.1) * (population != "CD4 T")
                p = 0.001 if abs(nes) > 1 else 0.5
                numbers = (12, nes / 3, nes + rng.normal(0, 0.1), p, min(2 * p, 1.0))
                rows.append((contrast["name"], population, name, *numbers, "SOCS3,STAT3", keys.OK))
    return _frame(rows, keys.ENRICHMENT_TABLE)


def scores(seed: int = 0) -> pd.DataFrame:
    """Score of each signature by subject and population."""
    rng = np.random.default_rng(seed)
    rows = []
    for feature in SIGNATURES:
        for population, lineage in LINEAGES.items():
            for _, subject, arm in design().itertuples(index=False):
                move = MOVES.get(("cart", feature), 0.0) * (arm != "vehicle")
                move += MOVES.get((arm.removeprefix("CART_"), feature), 0.0)
                value = 5 + (move if lineage in {"Monocyte", "DC"} else 0) + rng.normal(0, 0.2)
                rows.append((feature, population, subject, arm, "", value))
    return pd.DataFrame(rows, columns=keys.SCORES_TABLE.names)


def cells(seed: int = 0, per_sample: int = 60) -> ad.AnnData:
    """Cells with an embedding, populations, states and scores; `X` log-normalised."""
    rng = np.random.default_rng(seed)
    table = design()
    n = per_sample * len(table)
    share = np.array(CELLS) / sum(CELLS)
    population = rng.choice(list(LINEAGES), n, p=share)
    obs = table.loc[np.repeat(np.arange(len(table)), per_sample)].reset_index(drop=True)
    obs.index = [f"cell_{i}" for i in range(n)]
    obs[keys.POPULATION] = population
    obs[keys.LINEAGE] = [LINEAGES[name] for name in population]
    state = rng.choice(["classical", "inflammatory", "hla_dr_low", "interferon_stimulated"], n)
    obs[keys.MYELOID_STATE] = np.where(obs[keys.LINEAGE] == "Monocyte", state, None)
    obs[keys.SPECIES] = rng.choice(["human", "mouse", "mixed"], n, p=[0.85, 0.12, 0.03])
    fraction = {"human": 0.98, "mouse": 0.03, "mixed": 0.5}
    obs[keys.SPECIES_FRACTION] = [fraction[name] for name in obs[keys.SPECIES]]
    obs[keys.N_UMI] = (rng.lognormal(8, 0.4, n) * obs[keys.SPECIES_FRACTION]).astype(int)
    for column in ("sample", "subject", "condition", keys.POPULATION, keys.LINEAGE, keys.SPECIES):
        obs[column] = pd.Categorical(obs[column])
    mean = np.full((n, len(MARKER_OF) + len(RESPONSE_GENES)), 0.1)
    for i, makers in enumerate(MARKER_OF.values()):
        mean[np.isin(population, makers), i] = 3.0
    mean[obs[keys.CONDITION].isin(ARMS[1:]).to_numpy(), len(MARKER_OF) :] = 0.5
    counts = sparse.csr_matrix(rng.poisson(mean).astype(np.float32))
    adata = ad.AnnData(
        X=counts.log1p(), obs=obs, var=pd.DataFrame(index=[*MARKER_OF, *RESPONSE_GENES])
    )
    adata.layers[keys.COUNTS] = counts
    centres = {name: rng.normal(0, 6, 2) for name in LINEAGES}
    adata.obsm[keys.UMAP] = np.array([centres[name] for name in population]) + rng.normal(
        0, 0.8, (n, 2)
    )
    adata.obsm[keys.SIGNATURE_SCORES] = pd.DataFrame(
        {"dissociation_stress": rng.uniform(0.1, 0.4, n)}, index=obs.index
    )
    return adata
