"""Shifts against statsmodels, planted truth, null data and real data."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from scipy import sparse, stats

from crs_sc import keys
from crs_sc.comparison import Contrast, pseudobulk, shifts, signature_scores
from crs_sc.core.stats import above_ambient
from crs_sc.errors import DesignError, InputError, MissingKeyError

if TYPE_CHECKING:
    from pathlib import Path

N_GENES = 200
GENES = [f"G{i}" for i in range(N_GENES)]
SIGNATURES = {"up": GENES[:10], "flat": GENES[50:60], "absent": ["X1", "X2"]}
CART = Contrast("cart", treated="CART", reference="vehicle")


def make_bulk(
    units: list[tuple[str, str]],
    *,
    shift: float = 0.0,
    spread: float = 0.3,
    seed: int = 0,
    populations: tuple[str, ...] = ("Mono", "T"),
    depth: float = 1e6,
) -> ad.AnnData:
    """Simulated pseudobulk; genes 0 to 9 rise by `shift` (log2) in Mono of CART."""
    rng = np.random.default_rng(seed)
    base = rng.lognormal(0, 1, size=(len(populations), N_GENES))
    rows, counts = [], []
    for subject, condition in units:
        for k, population in enumerate(populations):
            rate = base[k] * 2 ** rng.normal(0, spread, size=N_GENES)
            if population == "Mono" and condition == "CART":
                rate[:10] *= 2**shift
            counts.append(rng.poisson(rate / base[k].sum() * depth))
            rows.append((subject, condition, population))
    obs = pd.DataFrame(rows, columns=["subject", "condition", "population"])
    obs.index = pd.Index(["|".join(row) for row in rows])
    obs["n_cells"] = 100
    obs["n_cells_total"] = 100 * len(populations)
    obs["weight"], obs["weight_total"] = obs["n_cells"] * 1.0, obs["n_cells_total"] * 1.0
    X = sparse.csr_matrix(np.array(counts, dtype=np.float64))
    empty = sparse.csr_matrix(X.shape)
    return ad.AnnData(
        X=X,
        obs=obs,
        var=pd.DataFrame(index=GENES),
        layers={"counts": X.copy(), "ambient": empty},
    )


def arms(n: int, m: int) -> list[tuple[str, str]]:
    return [(f"v{i}", "vehicle") for i in range(n)] + [(f"c{i}", "CART") for i in range(m)]


def pick(table: pd.DataFrame, feature: str, population: str) -> pd.Series:
    (i,) = np.flatnonzero((table["feature"] == feature) & (table["population"] == population))
    return table.iloc[i]


def test_score_is_the_mean_log_cpm() -> None:
    bulk = make_bulk(arms(2, 2))
    scores = signature_scores(bulk, signatures=SIGNATURES, genes=["G3"])
    counts = bulk.X.toarray()
    log = np.log2(counts / counts.sum(axis=1, keepdims=True) * 1e6 + 1)
    np.testing.assert_allclose(scores["up"], log[:, :10].mean(axis=1), rtol=1e-12)
    np.testing.assert_allclose(scores["G3"], log[:, 3], rtol=1e-12)
    assert scores["absent"].isna().all()
    # A score does not move when other rows join.
    alone = signature_scores(bulk[:1].copy(), signatures=SIGNATURES)
    assert alone["up"].iloc[0] == pytest.approx(scores["up"].iloc[0], rel=1e-12)


def test_table_has_every_row_in_order() -> None:
    table = shifts(
        make_bulk(arms(3, 3)), contrasts=[CART], signatures=SIGNATURES, genes=["G7", "NOPE"]
    )
    assert list(table.columns) == keys.SHIFTS_TABLE.names
    assert list(table["feature"]) == [
        f for f in ("up", "flat", "absent", "G7", "NOPE") for _ in range(2)
    ]
    assert list(table["population"]) == ["Mono", "T"] * 5
    assert set(table.loc[table["feature"].isin(["absent", "NOPE"]), "status"]) == {"not_measured"}
    assert set(table["status"]) <= set(keys.SHIFT_STATUSES)


def test_planted_shift_is_found_and_only_there() -> None:
    bulk = make_bulk(arms(5, 5), shift=1.5)
    table = shifts(bulk, contrasts=[CART], signatures=SIGNATURES)
    up = pick(table, "up", "Mono")
    assert up.ci_low < 1.5 < up.ci_high
    assert up.padj < 1e-3
    assert up.pvalue_permutation == pytest.approx(up.pvalue_floor) == pytest.approx(2 / 252)
    assert 0 < up.loo_low <= up.estimate <= up.loo_high
    assert up.hedges_g > 2
    assert pick(table, "up", "T").padj > 0.05
    assert pick(table, "flat", "T").padj > 0.05


def test_estimate_agrees_with_statsmodels_with_batch_and_with_pairs() -> None:
    bulk = make_bulk(arms(4, 4), shift=0.5)
    bulk.obs["batch"] = bulk.obs["subject"].str[1:].astype(int).mod(2).map({0: "a", 1: "b"})
    row = pick(shifts(bulk, contrasts=[CART], signatures=SIGNATURES), "up", "Mono")
    mono = (bulk.obs["population"] == "Mono").to_numpy()
    y = signature_scores(bulk, signatures=SIGNATURES).loc[mono, "up"].to_numpy()
    arm = (bulk.obs.loc[mono, "condition"] == "CART").to_numpy(dtype=float)
    batch = (bulk.obs.loc[mono, "batch"] == "b").to_numpy(dtype=float)
    model = sm.OLS(y, np.column_stack([arm, np.ones(8), batch])).fit()
    assert row.estimate == pytest.approx(model.params[0], rel=1e-9)
    assert row.pvalue_floor == pytest.approx(2 / 36)

    paired = make_bulk([(f"d{i}", arm) for arm in ("vehicle", "CART") for i in range(6)], shift=1)
    contrast = Contrast("cart", "CART", "vehicle", paired=True)
    row = pick(shifts(paired, contrasts=[contrast], signatures=SIGNATURES), "up", "Mono")
    scores = signature_scores(paired, signatures=SIGNATURES)["up"]
    d = [scores[f"d{i}|CART|Mono"] - scores[f"d{i}|vehicle|Mono"] for i in range(6)]
    assert row.estimate == pytest.approx(np.mean(d), rel=1e-9)
    expected = stats.permutation_test(
        (np.array(d),), np.mean, permutation_type="samples", n_resamples=np.inf
    ).pvalue
    assert row.pvalue_permutation == pytest.approx(expected, abs=1e-12)
    assert (row.n_reference, row.n_treated) == (6, 6)


def test_covariates_are_in_the_model_of_statsmodels_and_in_the_blocks() -> None:
    bulk = make_bulk(arms(6, 6), shift=0.5)
    age = {f"{arm}{i}": 8 + (i * 7 % 5) + (arm == "c") for arm in "vc" for i in range(6)}
    bulk.obs["age"] = bulk.obs["subject"].astype(str).map(age)
    bulk.obs["sex"] = bulk.obs["subject"].str[1:].astype(int).mod(2).map({0: "f", 1: "m"})
    mono = (bulk.obs["population"] == "Mono").to_numpy()
    y = signature_scores(bulk, signatures=SIGNATURES).loc[mono, "up"].to_numpy()
    units = bulk.obs[mono]
    arm = (units["condition"] == "CART").to_numpy(dtype=float)
    columns = {"age": units["age"].to_numpy(dtype=float), "sex": (units["sex"] == "f").to_numpy()}
    for names, floor in ((("age",), np.nan), (("sex",), 2 / 400), (("age", "sex"), np.nan)):
        contrast = Contrast("cart", "CART", "vehicle", covariates=names)
        row = pick(shifts(bulk, contrasts=[contrast], signatures=SIGNATURES), "up", "Mono")
        X = np.column_stack([arm, np.ones(12), *(columns[name] for name in names)])
        assert row.estimate == pytest.approx(sm.OLS(y, X).fit().params[0], rel=1e-9)
        assert row.pvalue_floor == pytest.approx(floor, nan_ok=True)
        assert row.status == "ok"


def test_one_subject_an_arm_gives_an_estimate_and_no_p() -> None:
    table = shifts(make_bulk(arms(3, 1)), contrasts=[CART], signatures=SIGNATURES)
    row = pick(table, "up", "Mono")
    assert row.status == "too_few_subjects"
    assert np.isfinite(row.estimate)
    assert np.isnan([row.pvalue, row.padj, row.pvalue_permutation, row.ci_low]).all()
    both = pick(
        shifts(make_bulk(arms(1, 1)), contrasts=[CART], signatures=SIGNATURES), "up", "Mono"
    )
    assert np.isfinite(both.estimate)
    assert np.isnan(both.loo_low)


def _set_cells(bulk: ad.AnnData, n: int, query: str) -> ad.AnnData:
    rows = bulk.obs.eval(query).to_numpy()
    bulk.obs.loc[rows, "n_cells"] = n
    if n == 0:
        keep = sparse.diags_array((~rows).astype(float)).tocsr()
        bulk.X = sparse.csr_matrix(keep @ bulk.X)
        bulk.layers["counts"] = bulk.X.copy()
    return bulk


@pytest.mark.parametrize(
    ("n", "query", "status", "estimated"),
    [
        (0, "condition == 'vehicle'", "absent_in_reference", False),
        (0, "condition == 'CART'", "absent_in_treated", False),
        (0, "n_cells > 0", "too_few_cells", False),
        (9, "condition == 'CART'", "too_few_cells", False),
        (9, "subject in ['c0', 'c1']", "too_few_cells", True),
        (9, "subject == 'c0'", "ok", True),
        (10, "condition == 'CART'", "ok", True),
    ],
)
def test_populations_without_enough_cells_keep_their_row(
    n: int, query: str, status: str, *, estimated: bool
) -> None:
    bulk = _set_cells(make_bulk(arms(3, 3)), n, f"population == 'Mono' and ({query})")
    table = shifts(bulk, contrasts=[CART], signatures=SIGNATURES)
    row = pick(table, "up", "Mono")
    assert row.status == status
    assert np.isfinite(row.estimate) == estimated
    assert np.isfinite(row.pvalue) == (status == "ok")
    assert pick(table, "up", "T").status == "ok"


def test_pair_goes_when_one_half_has_too_few_cells() -> None:
    bulk = make_bulk([(f"d{i}", arm) for arm in ("vehicle", "CART") for i in range(4)])
    bulk = _set_cells(bulk, 3, "population == 'Mono' and subject == 'd0' and condition == 'CART'")
    contrast = Contrast("cart", "CART", "vehicle", paired=True)
    row = pick(shifts(bulk, contrasts=[contrast], signatures=SIGNATURES), "up", "Mono")
    assert (row.n_reference, row.n_treated) == (3, 3)
    assert row.pvalue_floor == pytest.approx(2 / 8)


def test_confounded_rows_have_no_p() -> None:
    bulk = make_bulk(arms(3, 3))
    bulk.obs["batch"] = bulk.obs["condition"]
    table = shifts(bulk, contrasts=[CART], signatures=SIGNATURES)
    measured = table[table["feature"] != "absent"]
    assert set(measured["status"]) == {"confounded"}
    assert table[["estimate", "pvalue", "padj"]].isna().all(axis=None)


def test_gene_without_umi_is_not_detected() -> None:
    bulk = make_bulk(arms(3, 3))
    bulk.X = sparse.csr_matrix(bulk.X.toarray() * (np.arange(N_GENES) != 4))
    bulk.layers["counts"] = bulk.X.copy()
    row = pick(shifts(bulk, contrasts=[CART], signatures={}, genes=["G4"]), "G4", "Mono")
    assert row.status == "not_detected"
    assert np.isnan(row.estimate)


def test_time_points_pooled_or_apart() -> None:
    bulk = make_bulk(arms(3, 3), shift=2)
    late = make_bulk(arms(3, 3), seed=1)
    late.obs_names = [f"{name}|late" for name in late.obs_names]
    both = ad.concat([bulk, late])
    both.obs["timepoint"] = ["d1"] * bulk.n_obs + ["d7"] * late.n_obs
    within = Contrast("cart", "CART", "vehicle", within="timepoint")
    pooled = Contrast("all", "CART", "vehicle")
    table = shifts(both, contrasts=[within, pooled], signatures={"up": GENES[:10]})
    assert list(dict.fromkeys(table["contrast"])) == ["cart@d1", "cart@d7", "all"]
    estimates = table[table["population"] == "Mono"].set_index("contrast")["estimate"]
    assert estimates["cart@d1"] == pytest.approx(2, abs=0.5)
    assert estimates["cart@d7"] == pytest.approx(0, abs=0.5)
    assert estimates["cart@d7"] < estimates["all"] < estimates["cart@d1"]
    assert set(table["n_treated"]) == {3}


def test_ambient_rna_of_an_induced_signature_is_no_shift_of_others() -> None:
    # T cells make none of the ten genes; CART ambient RNA has fifty times more of them.
    rng = np.random.default_rng(5)
    bulk = make_bulk(arms(4, 4), shift=6)
    T = (bulk.obs["population"] == "T").to_numpy()
    treated = (bulk.obs["condition"] == "CART").to_numpy()
    counts = bulk.X.toarray()
    expected = np.zeros_like(counts)
    expected[np.ix_(T, range(10))] = np.where(treated[T], 50.0, 1.0)[:, None]
    # The contamination is underestimated by a fifth.
    counts[np.ix_(T, range(10))] = rng.poisson(expected[np.ix_(T, range(10))] * 1.2)
    bulk.layers["counts"] = sparse.csr_matrix(counts)
    bulk.layers["ambient"] = sparse.csr_matrix(expected)
    bulk.X = sparse.csr_matrix(np.maximum(counts - expected, 0))
    raw = signature_scores(bulk, signatures={"up": GENES[:10]})["up"].to_numpy()
    assert stats.ttest_ind(raw[T & treated], raw[T & ~treated]).pvalue < 1e-3  # the trap
    table = shifts(bulk, contrasts=[CART], signatures={"up": GENES[:10]}, genes=["G1"])
    for feature in ("up", "G1"):
        assert pick(table, feature, "T").status == "not_detected"
        assert pick(table, feature, "Mono").estimate > 4


def test_above_ambient_against_the_poisson_tail() -> None:
    counts, ambient = np.array([0.0, 1.0, 1.0, 200.0, 130.0]), np.array([0.0, 0.0, 0.2, 100, 100])
    expected = [False, True, False, True, False]
    assert list(above_ambient(counts, ambient)) == expected


@pytest.mark.parametrize("design", ["3v3", "5v5", "paired6"])
def test_null_p_values_are_calibrated(design: str) -> None:
    # Simulated scores without an effect, subjects with a common level where paired; the seed is
    # fixed. With 2,000 tests the share below 0.05 has a standard error of 0.005; moderation over
    # tests of one spread is where it gains most.
    rng = np.random.default_rng(42)
    from crs_sc.comparison.linear_model import finish, test_arm

    paired = design.startswith("paired")
    n = int(design[-1])
    subjects = [f"s{i}" for i in range(n)] * 2 if paired else [f"s{i}" for i in range(2 * n)]
    units = pd.DataFrame(
        {"subject": subjects, "arm": ["reference"] * n + ["treated"] * n, "batch": ""}
    )
    Y = rng.normal(size=(2 * n, 2000)) * rng.gamma(4, 0.25, size=2000)
    if paired:
        Y += np.tile(rng.normal(size=(n, 2000)) * 2, (2, 1))
    table = test_arm(Y, units, paired=paired, status="ok", random_state=0)
    table = finish(table, np.zeros(2000, dtype=object))
    assert 0.035 <= (table["pvalue"] <= 0.05).mean() <= 0.065
    assert (table["pvalue_permutation"] <= 0.05).mean() <= 0.055
    assert (table["pvalue_permutation"] >= table["pvalue_floor"] - 1e-12).all()
    assert (table["padj"] <= 0.05).sum() == 0


def test_counts_without_effect_show_no_shift() -> None:
    # Twenty simulated null cohorts, five signatures each.
    sets = {f"s{i}": GENES[10 * i : 10 * i + 10] for i in range(5)}
    found = pd.concat(
        [
            shifts(make_bulk(arms(4, 4), seed=100 + i), contrasts=[CART], signatures=sets)
            for i in range(20)
        ]
    )
    assert (found["pvalue"] <= 0.05).mean() <= 0.10  # 200 tests: four standard errors
    assert (found["pvalue"] <= 0.05).mean() >= 0.01


def test_same_seed_same_bytes_and_row_order_does_not_matter() -> None:
    bulk = make_bulk(arms(9, 9), shift=0.2)  # 48,620 arrangements: drawn
    one = shifts(bulk, contrasts=[CART], signatures=SIGNATURES)
    shuffled = bulk[np.random.default_rng(1).permutation(bulk.n_obs)].copy()
    two = shifts(shuffled, contrasts=[CART], signatures=SIGNATURES)
    assert one.to_csv() == two.to_csv()
    other = shifts(bulk, contrasts=[CART], signatures=SIGNATURES, random_state=1)
    assert not one["pvalue_permutation"].equals(other["pvalue_permutation"])


def test_what_is_not_a_pseudobulk_or_a_condition() -> None:
    bulk = make_bulk(arms(2, 2))
    with pytest.raises(DesignError, match="Conditions: CART, vehicle"):
        shifts(bulk, contrasts=[Contrast("x", "CAR", "vehicle")], signatures=SIGNATURES)
    with pytest.raises(InputError, match="min_cells"):
        shifts(bulk, contrasts=[CART], signatures=SIGNATURES, min_cells=0)
    del bulk.obs["n_cells"]
    with pytest.raises(MissingKeyError, match="not a pseudobulk"):
        shifts(bulk, contrasts=[CART], signatures=SIGNATURES)
    assert list(shifts(make_bulk(arms(2, 2)), contrasts=[], signatures=SIGNATURES).columns) == (
        keys.SHIFTS_TABLE.names
    )


def test_kang_interferon_rises_in_monocytes_of_every_donor(shared_data: Path) -> None:
    adata = ad.read_h5ad(shared_data / "kang_ifnb_3800.h5ad")
    known = (adata.obs["demuxlet_call"] == "SNG") & (adata.obs["cell_type"] != "unlabelled")
    adata = adata[known].copy()
    adata.layers["counts"] = adata.X
    adata.obs["subject"], adata.obs["population"] = adata.obs["donor"], adata.obs["cell_type"]
    bulk = pseudobulk(adata)
    interferon = {"isg": ["ISG15", "IFIT1", "IFIT2", "IFIT3", "MX1", "RSAD2", "ISG20"]}
    contrast = Contrast("ifnb", treated="stim", reference="ctrl", paired=True)
    table = shifts(bulk, contrasts=[contrast], signatures=interferon, genes=["CXCL10", "IL1B"])
    row = pick(table, "isg", "CD14+ Monocytes")
    assert (row.n_reference, row.n_treated) == (8, 8)
    assert row.pvalue_permutation == row.pvalue_floor == 2 / 256
    assert row.estimate > 5
    scores = signature_scores(bulk, signatures=interferon)["isg"]
    for donor in adata.obs["donor"].unique():
        risen = scores[f"stim|{donor}|CD14+ Monocytes"] - scores[f"ctrl|{donor}|CD14+ Monocytes"]
        assert risen > 3
    assert pick(table, "CXCL10", "CD14+ Monocytes").ci_low > 5
    assert pick(table, "IL1B", "CD14+ Monocytes").ci_high < 0
