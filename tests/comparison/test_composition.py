"""Composition against the logit by hand, planted truth and absent populations."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from scipy import sparse

from crs_sc import keys
from crs_sc.comparison import Contrast, composition
from crs_sc.comparison.composition import logit_share

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
    p = pd.concat([composition(_planted(4, seed=i), contrasts=[CART]) for i in range(40)])
    # 120 tests, three of a cohort dependent on one another.
    assert 0.0 < (p["pvalue"] <= 0.05).mean() <= 0.12
    assert (p["pvalue_permutation"] <= 0.05).mean() <= 0.10


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
