"""Composition against the logit by hand, planted truth and absent populations."""

from __future__ import annotations

import itertools

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from scipy import sparse

from crs_sc import keys
from crs_sc.comparison import Contrast, composition
from crs_sc.comparison.composition import between_variance, counting_variance, logit_share
from crs_sc.comparison.linear_model import test_arm as arm_test
from crs_sc.errors import InputError

CART = Contrast("cart", treated="CART", reference="vehicle")
POPULATIONS = ("Mono", "NK", "T")


def _bulk(counts: dict[tuple[str, str], tuple[int, ...]]) -> ad.AnnData:
    """Pseudobulk without genes: cells of each population by (subject, condition)."""
    rows = [
        (subject, condition, population, n, sum(cells))
        for (subject, condition), cells in counts.items()
        for population, n in zip(POPULATIONS, cells, strict=True)
    ]
    obs = pd.DataFrame(
        rows, columns=["subject", "condition", "population", "n_cells", "n_cells_total"]
    )
    obs.index = pd.Index([f"r{i}" for i in range(len(obs))])
    obs["weight"], obs["weight_total"] = obs["n_cells"] * 1.0, obs["n_cells_total"] * 1.0
    X = sparse.csr_matrix((len(obs), 1))
    return ad.AnnData(X=X, obs=obs, layers={"counts": X.copy(), "ambient": X.copy()})


def _planted(n: int, *, seed: int = 0, odds: float = 1.0) -> ad.AnnData:
    rng = np.random.default_rng(seed)
    cells = {}
    for i in range(2 * n):
        arm = "CART" if i >= n else "vehicle"
        weights = np.array([1.0 * (odds if arm == "CART" else 1.0), 1.0, 2.0])
        weights *= np.exp(rng.normal(0, 0.15, size=3))
        drawn = rng.multinomial(500, weights / weights.sum())
        cells[(f"m{i}", arm)] = tuple(int(c) for c in drawn)
    return _bulk(cells)


def test_logit_is_finite_at_the_ends() -> None:
    assert logit_share(0.0, 100) == pytest.approx(np.log(0.5 / 100.5))
    assert logit_share(1.0, 100) == pytest.approx(-np.log(0.5 / 100.5))
    assert logit_share(0.3, 1e9) == pytest.approx(np.log(0.3 / 0.7))


def test_estimate_agrees_with_statsmodels() -> None:
    bulk = _planted(4)
    table = composition(bulk, contrasts=[CART]).set_index("population")
    assert list(table.reset_index()[keys.COMPOSITION_TABLE.names].columns) == (
        keys.COMPOSITION_TABLE.names
    )
    mono = bulk.obs[bulk.obs["population"] == "Mono"]
    n, total = mono["n_cells"].to_numpy(), mono["n_cells_total"].to_numpy()
    y = np.log((n + 0.5) / (total - n + 0.5))
    arm = (mono["condition"] == "CART").to_numpy(dtype=float)
    model = sm.OLS(y, sm.add_constant(arm)).fit()
    assert table.loc["Mono", "estimate"] == pytest.approx(model.params[1], rel=1e-9)
    assert table.loc["Mono", "share_treated"] == pytest.approx((n / total)[arm == 1].mean())


def test_planted_growth_is_found() -> None:
    table = composition(_planted(5, odds=4.0), contrasts=[CART]).set_index("population")
    assert table.loc["Mono", "ci_low"] > 0
    assert table.loc["Mono", "padj"] < 0.01
    assert table.loc["Mono", "pvalue_permutation"] == pytest.approx(2 / 252)
    assert table.loc["T", "estimate"] < 0  # shares add up to one


def test_null_composition_is_quiet() -> None:
    """120 null cohorts of unequal samples; the bounds are three binomial standard errors.

    The three populations of a cohort depend on one another: what is counted is cohorts.
    """
    n, rng = 4, np.random.default_rng(4)
    model, permutation, called = [], [], []
    for _ in range(120):
        size = rng.integers(60, 1500, 2 * n)
        weights = np.array([1.0, 0.3, 2.0]) * np.exp(rng.normal(0, 0.4, (2 * n, 3)))
        cells = {
            (f"m{i}", "CART" if i >= n else "vehicle"): tuple(
                int(c) for c in rng.multinomial(size[i], weights[i] / weights[i].sum())
            )
            for i in range(2 * n)
        }
        table = composition(_bulk(cells), contrasts=[CART])
        row = table.iloc[int(rng.integers(3))]
        model.append(row.pvalue <= 0.05)
        permutation.append(row.pvalue_permutation <= 0.05)
        called.append((table["padj"] <= 0.05).any())
    bound = 0.05 + 3 * np.sqrt(0.05 * 0.95 / 120)
    assert 0 < np.mean(model) <= bound
    assert np.mean(permutation) <= bound
    assert np.mean(called) <= bound


def test_a_sample_with_a_handful_of_cells_is_no_replicate() -> None:
    cells = {
        (f"{arm}{i}", arm): (30 + i, 20, 50 + i) for arm in ("vehicle", "CART") for i in range(3)
    }
    few = cells | {("vehicle0", "vehicle"): (4, 0, 0)}
    table = composition(_bulk(few), contrasts=[CART]).set_index("population")
    assert (table["n_reference"] == 2).all()
    assert (table["n_treated"] == 3).all()
    fewer = few | {("vehicle1", "vehicle"): (0, 1, 3)}
    table = composition(_bulk(fewer), contrasts=[CART])
    assert set(table["status"]) == {"too_few_cells"}
    assert table["estimate"].notna().all()
    assert table["pvalue"].isna().all()
    # A rare population: of NK three cells are to be expected in a sample, of the others many.
    rare = {unit: (c[0], 3, c[2]) for unit, c in cells.items()}
    status = composition(_bulk(rare), contrasts=[CART]).set_index("population")["status"]
    assert status.to_dict() == {"Mono": "ok", "NK": "too_few_cells", "T": "ok"}
    with pytest.raises(InputError, match="min_cells"):
        composition(_bulk(cells), contrasts=[CART], min_cells=0)


def test_a_population_without_others_is_not_a_share() -> None:
    cells = {(f"{arm}{i}", arm): (90, 0, 0) for arm in ("vehicle", "CART") for i in range(3)}
    row = composition(_bulk(cells), contrasts=[CART]).iloc[0]
    assert row.status == "only_population"
    assert row.share_reference == row.share_treated == 1
    assert np.isnan([row.estimate, row.pvalue]).all()


def test_a_small_sample_has_less_weight() -> None:
    """What the estimate is follows from the weights, by statsmodels."""
    cells = {
        ("v0", "vehicle"): (300, 300, 400),
        ("v1", "vehicle"): (310, 290, 400),
        ("v2", "vehicle"): (16, 4, 10),
        ("c0", "CART"): (300, 320, 380),
        ("c1", "CART"): (330, 300, 370),
        ("c2", "CART"): (290, 300, 410),
    }
    bulk = _bulk(cells)
    row = composition(bulk, contrasts=[CART]).iloc[0]
    n, total = np.array(list(cells.values()))[:, 0], np.array([1000, 1000, 30, 1000, 1000, 1000])
    y, arm = logit_share(n / total, total), np.repeat([0.0, 1.0], 3)
    plain = sm.OLS(y, sm.add_constant(arm)).fit().params[1]
    expected = total * n.sum() / total.sum()
    noise = counting_variance(expected, total)
    np.testing.assert_allclose(noise, 1 / expected + 1 / (total - expected))
    counted = sm.WLS(y, sm.add_constant(arm), weights=1 / noise).fit().params[1]
    # Between those of a spread between subjects far above that of counting, and of none.
    low, high = sorted([plain, counted])
    assert low <= row.estimate <= high
    assert row.estimate not in (low, high)


def test_spread_between_subjects_is_freed_of_counting_noise() -> None:
    rng = np.random.default_rng(9)
    noise, arm = rng.uniform(0.05, 1, 8), np.repeat([False, True], 4)
    nuisance = np.column_stack([np.ones(8), np.tile([0.0, 1.0], 4)])
    y = rng.normal(0, np.sqrt(0.3 + noise), (4000, 8)) + 2 * arm
    found = [between_variance(row, noise, arm, nuisance) for row in y]
    assert np.mean(found) == pytest.approx(0.3, abs=4 * np.std(found) / np.sqrt(4000))


def test_weighted_permutation_is_that_of_the_units_with_their_weights() -> None:
    rng = np.random.default_rng(10)
    y, w = rng.normal(size=7), rng.uniform(0.2, 3, 7)
    units = pd.DataFrame(
        {
            "subject": [f"m{i}" for i in range(7)],
            "arm": ["reference"] * 3 + ["treated"] * 4,
            "batch": "",
        }
    )
    result = arm_test(y[:, None], units, paired=False, status="ok", random_state=0, weights=w).iloc[
        0
    ]
    score = w * (y - np.average(y, weights=w))
    observed = abs(score[3:].sum())
    every = [abs(score[list(way)].sum()) for way in itertools.combinations(range(7), 4)]
    assert result.pvalue_permutation == pytest.approx(np.mean(np.array(every) >= observed - 1e-12))
    model = sm.WLS(y, sm.add_constant(np.repeat([0.0, 1.0], [3, 4])), weights=w).fit()
    assert result.estimate == pytest.approx(model.params[1], rel=1e-10)
    assert result.variance == pytest.approx(model.mse_resid, rel=1e-10)
    assert result.unscaled * np.sqrt(result.variance) == pytest.approx(model.bse[1], rel=1e-10)
    without = np.delete(np.arange(7), 0)
    left = np.average(y[3:], weights=w[3:]) - np.average(y[without[:2]], weights=w[without[:2]])
    assert result.loo_low <= left <= result.loo_high


@pytest.mark.parametrize(
    ("empty", "status"), [("vehicle", "absent_in_reference"), ("CART", "absent_in_treated")]
)
def test_population_absent_in_one_arm_is_still_tested(empty: str, status: str) -> None:
    cells = {
        (f"{arm}{i}", arm): (0 if arm == empty else 30 + i, 20, 50 + i)
        for arm in ("vehicle", "CART")
        for i in range(3)
    }
    row = composition(_bulk(cells), contrasts=[CART]).iloc[0]
    assert (row.population, row.status) == ("Mono", status)
    assert np.isfinite([row.estimate, row.pvalue, row.padj]).all()
    assert row.pvalue_permutation == row.pvalue_floor == pytest.approx(0.1)
    assert min(row.share_reference, row.share_treated) == 0


def test_population_absent_everywhere_in_the_contrast() -> None:
    cells = {
        (f"{arm}{i}", arm): (5 if arm == "other" else 0, 20, 50 + i)
        for arm in ("vehicle", "CART", "other")
        for i in range(3)
    }
    row = composition(_bulk(cells), contrasts=[CART]).iloc[0]
    assert row.status == "too_few_cells"
    assert np.isnan([row.estimate, row.pvalue]).all()


def test_paired_one_subject_and_confounded() -> None:
    pairs = {
        (f"d{i}", arm): (10 + 20 * (arm == "CART") + i, 20, 50)
        for arm in ("vehicle", "CART")
        for i in range(5)
    }
    paired = Contrast("cart", "CART", "vehicle", paired=True)
    row = composition(_bulk(pairs), contrasts=[paired]).iloc[0]
    assert row.pvalue_permutation == row.pvalue_floor == pytest.approx(2 / 32)
    single = {("v0", "vehicle"): (10, 10, 10), ("v1", "vehicle"): (9, 1, 1)}
    row = composition(_bulk({**single, ("c0", "CART"): (20, 5, 5)}), contrasts=[CART]).iloc[0]
    assert row.status == "too_few_subjects"
    assert np.isfinite(row.estimate)
    assert np.isnan(row.pvalue)
    bulk = _planted(3)
    bulk.obs["batch"] = bulk.obs["condition"]
    table = composition(bulk, contrasts=[CART])
    assert set(table["status"]) == {"confounded"}
    assert table["estimate"].isna().all()


def test_no_pair_has_no_estimate() -> None:
    cells = {("d0", "vehicle"): (1, 2, 3), ("d1", "CART"): (1, 2, 3)}
    paired = Contrast("cart", "CART", "vehicle", paired=True)
    table = composition(_bulk(cells), contrasts=[paired])
    assert set(table["status"]) == {"too_few_subjects"}
    assert table["estimate"].isna().all()


def test_sampling_weights_enter_by_the_share() -> None:
    bulk = _planted(3)
    weighted = bulk.copy()
    mono = weighted.obs["population"] == "Mono"
    weighted.obs.loc[mono, "weight"] *= 2
    totals = weighted.obs.groupby("subject")["weight"].transform("sum")
    weighted.obs["weight_total"] = totals
    plain, heavy = (composition(b, contrasts=[CART]).iloc[0] for b in (bulk, weighted))
    assert heavy.share_treated > plain.share_treated
    assert heavy.estimate == pytest.approx(plain.estimate, abs=0.05)


def test_no_contrast() -> None:
    empty = composition(_planted(2), contrasts=[])
    assert list(empty.columns) == keys.COMPOSITION_TABLE.names
