"""Arm by time against statsmodels, planted truth and null scores."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from scipy import sparse, stats

from crs_sc import keys
from crs_sc.comparison import Contrast, arm_by_time, signature_scores
from crs_sc.comparison.shifts import _changes, _product

GENES = [f"G{i}" for i in range(1000)]
SIGNATURES = {"up": GENES[:10]}
CART = Contrast("cart", treated="CART", reference="vehicle", within="timepoint")
PAIRED = Contrast("cart", treated="CART", reference="vehicle", within="timepoint", paired=True)
Unit = tuple[str, str, str]


def make_bulk(units: list[Unit], log_level: np.ndarray, *, seed: int = 0) -> ad.AnnData:
    """Simulated pseudobulk of one population; log2 level of ten genes, one a unit."""
    rng = np.random.default_rng(seed)
    log_rate = np.tile(rng.normal(0, 1, len(GENES)), (len(units), 1))
    log_rate[:, :10] += np.asarray(log_level)[:, None]
    counts = rng.poisson(2**log_rate / 2 ** log_rate.max() * 1e4).astype(float)
    obs = pd.DataFrame(units, columns=["subject", "condition", "timepoint"])
    obs["population"] = "Mono"
    obs.index = pd.Index(["|".join(unit) for unit in units])
    obs["n_cells"], obs["n_cells_total"] = 100, 200
    obs["weight"], obs["weight_total"] = 100.0, 200.0
    X = sparse.csr_matrix(counts)
    layers = {"counts": X.copy(), "ambient": sparse.csr_matrix(X.shape)}
    return ad.AnnData(X=X, obs=obs, var=pd.DataFrame(index=GENES), layers=layers)


def followed(n: int = 5, times: tuple[str, ...] = ("d0", "d2", "d10")) -> list[Unit]:
    return [
        (f"{arm[0]}{i}", arm, time) for arm in ("vehicle", "CART") for i in range(n)
        for time in times
    ]  # fmt: skip


def taken(n: int = 4, times: tuple[str, ...] = ("d0", "d2")) -> list[Unit]:
    return [
        (f"{arm[0]}{time}{i}", arm, time) for arm in ("vehicle", "CART") for time in times
        for i in range(n)
    ]  # fmt: skip


def levels(units: list[Unit], effect: dict[str, float], *, spread: float, between: float,
           seed: int = 1) -> np.ndarray:  # fmt: skip
    """Level of each unit: its subject's own, the effect on the treated at the time, and noise."""
    rng = np.random.default_rng(seed)
    own = {subject: rng.normal(0, between) for subject in dict.fromkeys(u[0] for u in units)}
    return np.array(
        [own[s] + effect.get(t, 0.0) * (arm == "CART") + rng.normal(0, spread)
         for s, arm, t in units]
    )  # fmt: skip


def score(bulk: ad.AnnData) -> pd.Series:
    return signature_scores(bulk, signatures=SIGNATURES)["up"]


def test_followed_subjects_give_the_t_test_of_their_changes() -> None:
    units = followed()
    bulk = make_bulk(units, levels(units, {"d2": 2.0, "d10": 1.0}, spread=0.2, between=1.5))
    table = arm_by_time(bulk, contrasts=[CART], signatures=SIGNATURES)
    assert list(table.columns) == keys.ARM_BY_TIME_TABLE.names
    assert list(table["timepoint"]) == ["d2", "d10"]
    assert set(table["reference_timepoint"]) == {"d0"}
    assert set(table["subjects"]) == {"followed"}
    y = score(bulk)
    for row, planted in zip(table.itertuples(), (2.0, 1.0), strict=True):
        change = {
            arm: [y[f"{arm[0]}{i}|{arm}|{row.timepoint}"] - y[f"{arm[0]}{i}|{arm}|d0"]
                  for i in range(5)]
            for arm in ("CART", "vehicle")
        }  # fmt: skip
        assert row.estimate == pytest.approx(
            np.mean(change["CART"]) - np.mean(change["vehicle"]), rel=1e-9
        )
        exact = stats.permutation_test(
            (change["CART"], change["vehicle"]), lambda a, b: np.mean(a) - np.mean(b),
            n_resamples=np.inf,
        ).pvalue  # fmt: skip
        assert row.pvalue_permutation == pytest.approx(exact, abs=1e-12)
        assert row.pvalue_floor == pytest.approx(2 / 252)
        # Four standard errors of the difference of the mean changes.
        assert row.estimate == pytest.approx(planted, abs=4 * 0.2 * np.sqrt(2 * 2 / 5))
        assert row.loo_low <= row.estimate <= row.loo_high
    # Two time points and one signature: nothing to borrow from, so p is that of scipy.
    two = bulk[bulk.obs["timepoint"] != "d10"].copy()
    row = arm_by_time(two, contrasts=[CART], signatures=SIGNATURES).iloc[0]
    change = {a: [y[f"{a[0]}{i}|{a}|d2"] - y[f"{a[0]}{i}|{a}|d0"] for i in range(5)]
              for a in ("CART", "vehicle")}  # fmt: skip
    assert row.pvalue == pytest.approx(stats.ttest_ind(*change.values()).pvalue, rel=1e-9)


def test_constant_shift_is_no_interaction() -> None:
    units = followed(5, ("d0", "d2"))
    found = []
    for seed in range(40):
        level = levels(units, {"d0": 2.0, "d2": 2.0}, spread=0.2, between=1.0, seed=seed)
        table = arm_by_time(make_bulk(units, level), contrasts=[CART], signatures=SIGNATURES)
        found += table["pvalue"].tolist()
    assert np.sum(np.array(found) <= 0.05) <= 6  # of 40; more has a probability of 0.003


def test_other_subjects_each_time_give_the_product_of_least_squares() -> None:
    units = taken()
    bulk = make_bulk(units, levels(units, {"d2": 1.0}, spread=0.3, between=0.0))
    bulk.obs["batch"] = ["a", "b"] * 8
    row = arm_by_time(bulk, contrasts=[CART], signatures=SIGNATURES).iloc[0]
    assert row.subjects == "independent"
    treated = (bulk.obs["condition"] == "CART").to_numpy(dtype=float)
    late = (bulk.obs["timepoint"] == "d2").to_numpy(dtype=float)
    batch = (bulk.obs["batch"] == "b").to_numpy(dtype=float)
    X = np.column_stack([treated * late, np.ones(16), treated, late, batch])
    model = sm.OLS(score(bulk).to_numpy(), X).fit()
    assert row.estimate == pytest.approx(model.params[0], rel=1e-9)
    assert row.pvalue == pytest.approx(model.pvalues[0], rel=1e-9)
    assert row.ci_low == pytest.approx(model.conf_int()[0][0], rel=1e-9)
    assert np.isnan([row.pvalue_permutation, row.pvalue_floor]).all()
    assert (row.n_reference, row.n_treated, row.status) == (8, 8, "ok")
    assert row.loo_low < row.estimate < row.loo_high


def test_pairs_that_are_followed_give_double_differences() -> None:
    units = [(f"p{i}", arm, t) for i in range(6) for arm in ("vehicle", "CART")
             for t in ("d0", "d2")]  # fmt: skip
    bulk = make_bulk(units, levels(units, {"d2": 1.0}, spread=0.2, between=2.0))
    row = arm_by_time(bulk, contrasts=[PAIRED], signatures=SIGNATURES).iloc[0]
    y = score(bulk)
    double = [
        y[f"p{i}|CART|d2"] - y[f"p{i}|CART|d0"] - y[f"p{i}|vehicle|d2"] + y[f"p{i}|vehicle|d0"]
        for i in range(6)
    ]
    assert row.estimate == pytest.approx(np.mean(double), rel=1e-9)
    assert row.pvalue == pytest.approx(stats.ttest_1samp(double, 0).pvalue, rel=1e-9)
    assert row.pvalue_floor == pytest.approx(2 / 64)


def test_only_those_seen_at_both_times_with_enough_cells_are_used() -> None:
    units = [u for u in followed(4, ("d0", "d2")) if u != ("v0", "vehicle", "d2")]
    bulk = make_bulk(units, levels(units, {"d2": 1.0}, spread=0.2, between=1.0))
    bulk.obs.loc["C1|CART|d0", "n_cells"] = 3
    row = arm_by_time(bulk, contrasts=[CART], signatures=SIGNATURES).iloc[0]
    assert (row.n_reference, row.n_treated, row.subjects) == (3, 3, "followed")
    bulk.obs.loc[bulk.obs["condition"] == "CART", "n_cells"] = [100, 0] * 4
    row = arm_by_time(bulk, contrasts=[CART], signatures=SIGNATURES).iloc[0]
    assert row.status == "absent_in_treated"
    assert np.isnan(row.estimate)


def test_gene_of_one_group_only_is_counted_at_both_times() -> None:
    # Ten genes are on only in the treated at d2; all others hardly show them.
    units = followed(4, ("d0", "d2"))
    on = np.array([0.0 if (arm, t) == ("CART", "d2") else -12.0 for _, arm, t in units])
    bulk = make_bulk(units, on)
    elsewhere = bulk.X[on < 0][:, :10].toarray()
    assert elsewhere.max() < 10
    row = arm_by_time(bulk, contrasts=[CART], signatures=SIGNATURES).iloc[0]
    assert row.status == "ok"
    assert row.n_genes > 5
    y = score(bulk)
    assert row.estimate > 0.5 * (y[on == 0].mean() - y[on < 0].mean()) > 2


def test_batch_that_stays_falls_out_and_one_that_moves_with_the_arm_is_confounded() -> None:
    units = followed(4, ("d0", "d2"))
    bulk = make_bulk(units, levels(units, {"d2": 1.0}, spread=0.2, between=1.0))
    plain = arm_by_time(bulk, contrasts=[CART], signatures=SIGNATURES)
    bulk.obs["batch"] = bulk.obs["condition"].map({"CART": "x", "vehicle": "y"})
    pd.testing.assert_frame_equal(arm_by_time(bulk, contrasts=[CART], signatures=SIGNATURES), plain)
    bulk.obs.loc[bulk.obs["timepoint"] == "d2", "batch"] = "z"
    moved = arm_by_time(bulk, contrasts=[CART], signatures=SIGNATURES).iloc[0]
    assert moved.status == "confounded"
    assert np.isnan(moved.pvalue)


def test_changes_of_covariates() -> None:
    early = pd.DataFrame({"subject": ["a", "b"], "arm": ["reference", "treated"],
                          "batch": ["1", "2"], "covariate:age": [5.0, 6.0],
                          "covariate:site": ["x", "y"]})  # fmt: skip
    late = early.assign(batch=["1", "3"], **{"covariate:age": [6.0, 8.0]})
    changed = _changes(early, late)
    assert changed["batch"].tolist() == ["", "2 to 3"]
    assert changed["covariate:age"].tolist() == [1, 2]
    assert changed["covariate:site"].tolist() == ["", ""]


def test_nothing_to_ask() -> None:
    units = followed(3, ("d0",))
    bulk = make_bulk(units, np.zeros(6))
    for contrast in (CART, Contrast("all", "CART", "vehicle")):
        table = arm_by_time(bulk, contrasts=[contrast], signatures=SIGNATURES)
        assert table.empty
        assert list(table.columns) == keys.ARM_BY_TIME_TABLE.names
    # A time at which one arm was not sampled is no reference.
    units = [u for u in followed(3) if u[1:] != ("vehicle", "d0")]
    bulk = make_bulk(units, np.zeros(len(units)))
    table = arm_by_time(bulk, contrasts=[CART], signatures={"x": ["nope"]})
    assert table[["timepoint", "reference_timepoint"]].to_numpy().tolist() == [["d10", "d2"]]
    assert table.loc[0, "status"] == "not_measured"


def test_one_subject_a_group_gives_an_estimate_and_no_p() -> None:
    for units in (followed(1, ("d0", "d2")), taken(1)):
        bulk = make_bulk(units, np.zeros(len(units)))
        row = arm_by_time(bulk, contrasts=[CART], signatures=SIGNATURES).iloc[0]
        assert row.status == "too_few_subjects"
        assert np.isfinite(row.estimate)
        assert np.isnan(row.pvalue)


def test_p_of_other_subjects_each_time_is_calibrated() -> None:
    # 2,000 null tests: standard error 0.005.
    rng = np.random.default_rng(2)
    parts = [
        pd.DataFrame({"subject": [f"{t}{i}" for i in range(8)], "batch": "",
                      "arm": ["reference"] * 4 + ["treated"] * 4})
        for t in ("e", "l")
    ]  # fmt: skip
    shift = np.repeat([0.0, 1.0, 2.0, 3.0], 4)[:, None]  # arm and time differ, their product not
    Y = shift + rng.normal(size=(16, 2000))
    table = _product(Y, *parts, paired=False, status="ok")
    assert (table["status"] == "ok").all()
    t = table["estimate"] / np.sqrt(table["variance"]) / table["unscaled"]
    pvalue = 2 * stats.t.sf(np.abs(t), table["df"])
    assert 0.035 <= (pvalue <= 0.05).mean() <= 0.065
