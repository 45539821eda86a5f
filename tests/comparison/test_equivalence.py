"""Equivalence and the adjustment for handling stress: against statsmodels and planted truth."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse, stats
from statsmodels.stats.weightstats import ttost_ind, ttost_paired

from crs_sc import keys
from crs_sc.comparison import Contrast, shifts, signature_scores
from crs_sc.comparison.linear_model import finish, fit_prior
from crs_sc.comparison.shifts import equivalence_p, fit_adjusted, verdicts
from crs_sc.errors import InputError

GENES = [f"G{i}" for i in range(800)]
STRESS = "dissociation_stress"
SIGNATURES = {STRESS: GENES[:10], "told": GENES[20:30]}
CART = Contrast("cart", treated="CART", reference="vehicle")
PAIRED = Contrast("cart", treated="CART", reference="vehicle", paired=True)


def make_bulk(
    units: list[tuple[str, str]],
    *,
    stress: np.ndarray | float = 0.0,
    effect: np.ndarray | float = 0.0,
    spread: float = 0.15,
    seed: int = 0,
) -> ad.AnnData:
    """Simulated pseudobulk of one population; log2 levels of both signatures, a value a unit."""
    rng = np.random.default_rng(seed)
    n = len(units)
    log_rate = np.tile(rng.normal(0, 1, size=len(GENES)), (n, 1))
    log_rate[:, :10] += np.broadcast_to(stress, n)[:, None]
    log_rate[:, 20:30] += (np.broadcast_to(effect, n) + rng.normal(0, spread, n))[:, None]
    rate = 2**log_rate
    counts = rng.poisson(rate / rate.sum(axis=1, keepdims=True) * 2e6).astype(float)
    obs = pd.DataFrame(units, columns=["subject", "condition"])
    obs["population"] = "Mono"
    obs.index = pd.Index([f"{subject}|{arm}" for subject, arm in units])
    obs["n_cells"], obs["n_cells_total"] = 100, 200
    obs["weight"], obs["weight_total"] = 100.0, 200.0
    X = sparse.csr_matrix(counts)
    layers = {"counts": X.copy(), "ambient": sparse.csr_matrix(X.shape)}
    return ad.AnnData(X=X, obs=obs, var=pd.DataFrame(index=GENES), layers=layers)


def arms(n: int, m: int) -> list[tuple[str, str]]:
    return [(f"v{i}", "vehicle") for i in range(n)] + [(f"c{i}", "CART") for i in range(m)]


def pairs(n: int) -> list[tuple[str, str]]:
    return [(f"d{i}", arm) for arm in ("vehicle", "CART") for i in range(n)]


def told(bulk: ad.AnnData, contrast: Contrast = CART, **settings: float) -> pd.Series:
    table = shifts(bulk, contrasts=[contrast], signatures=SIGNATURES, **settings)
    return table.set_index("feature").loc["told"]


def one_sided_pair(estimate, variance, unscaled, df, *, margin: float) -> np.ndarray:
    """Equivalence p of one family of tests, moderated as limma does it."""
    table = pd.DataFrame(
        {"estimate": estimate, "variance": variance, "unscaled": unscaled, "df": df}
    )
    finished = finish(table, np.zeros(len(table), dtype=object), caution=0.0)
    return equivalence_p(finished, margin=margin).to_numpy()


@pytest.mark.parametrize("margin", [0.2, 0.5, 1.0])
def test_unmoderated_p_is_that_of_statsmodels(margin: float) -> None:
    # One signature and one population: nothing to borrow a variance from.
    only = {"told": SIGNATURES["told"]}
    bulk = make_bulk(arms(5, 4), effect=0.1, spread=0.3)
    row = shifts(bulk, contrasts=[CART], signatures=only, margin=margin).iloc[0]
    score = signature_scores(bulk, signatures=only)["told"].to_numpy()
    expected = ttost_ind(score[5:], score[:5], -margin, margin, usevar="pooled")[0]
    assert row.pvalue_equivalence == pytest.approx(expected, rel=1e-9)

    bulk = make_bulk(pairs(6), effect=0.1, spread=0.3)
    row = shifts(bulk, contrasts=[PAIRED], signatures=only, margin=margin).iloc[0]
    score = signature_scores(bulk, signatures=only)["told"].to_numpy()
    expected = ttost_paired(score[6:], score[:6], -margin, margin)[0]
    assert row.pvalue_equivalence == pytest.approx(expected, rel=1e-9)
    assert row.margin == margin


def test_agrees_with_the_90_percent_interval_of_the_moderated_test() -> None:
    # The interval inclusion that defines the test: p <= 0.05 where the 90 % interval is inside.
    rng = np.random.default_rng(3)
    estimate, variance = rng.normal(0, 0.5, 400), rng.chisquare(4, 400) / 4 * 0.1
    p = one_sided_pair(estimate, variance, 0.7, 4.0, margin=0.5)
    d0, s0 = fit_prior(variance, np.full(400, 4.0))
    posterior = s0 if np.isinf(d0) else (d0 * s0 + 4 * variance) / (d0 + 4)
    half = stats.t.ppf(0.95, min(d0 + 4, 1600)) * 0.7 * np.sqrt(posterior)
    inside = (estimate - half > -0.5) & (estimate + half < 0.5)
    assert 20 < inside.sum() < 380
    np.testing.assert_array_equal(p <= 0.05, inside)


@settings(deadline=None)
@given(st.floats(-3, 3), st.floats(0.01, 2), st.integers(2, 20), st.floats(0.05, 2))
def test_sign_does_not_matter_and_a_wider_margin_is_easier(
    estimate: float, variance: float, df: int, margin: float
) -> None:
    one, mirrored = (
        one_sided_pair([sign * estimate], [variance], 0.5, df, margin=margin)[0] for sign in (1, -1)
    )
    wider = one_sided_pair([estimate], [variance], 0.5, df, margin=2 * margin)[0]
    assert one == pytest.approx(mirrored, rel=1e-9, abs=1e-300)
    assert wider <= one
    assert (one >= 0.5) or abs(estimate) < margin


def test_false_equivalence_at_the_margin_is_five_percent() -> None:
    # The worst case: the effect is exactly the margin. 4,000 tests, standard error 0.0035.
    rng = np.random.default_rng(7)
    Y = rng.normal(size=(12, 4000)) * 0.2
    estimate = Y[6:].mean(axis=0) - Y[:6].mean(axis=0) + 0.5
    variance = (Y[:6].var(axis=0, ddof=1) + Y[6:].var(axis=0, ddof=1)) / 2
    p = one_sided_pair(estimate, variance, np.sqrt(1 / 3), 10, margin=0.5)
    assert 0.035 <= (p <= 0.05).mean() <= 0.065


def test_verdicts_by_rule() -> None:
    padj = [0.01, 0.01, 0.2, 0.2, np.nan, 0.05, 0.01, 0.2]
    within = [0.9, 0.01, 0.01, 0.2, np.nan, 0.9, np.nan, np.nan]
    assert list(verdicts(padj, within)) == [
        "changed", "changed_within_margin", "equivalent", "inconclusive", "", "changed", "changed",
        "inconclusive",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("effect", "spread", "n", "verdict"),
    [
        (1.5, 0.15, 5, "changed"),
        (0.0, 0.10, 5, "equivalent"),
        (0.2, 0.02, 8, "changed_within_margin"),
        (0.3, 1.20, 3, "inconclusive"),
    ],
)
def test_planted_effects_get_their_verdict(
    effect: float, spread: float, n: int, verdict: str
) -> None:
    planted = np.repeat([0.0, effect], n)
    row = told(make_bulk(arms(n, n), effect=planted, spread=spread))
    assert row.verdict == verdict
    assert row.verdict in keys.VERDICTS


def test_no_test_no_verdict_and_no_nonsense_margin() -> None:
    row = told(make_bulk(arms(3, 1)))
    assert row.verdict == ""
    assert np.isnan([row.pvalue_equivalence, row.margin, row.detectable_effect]).all()
    with pytest.raises(InputError, match="margin must be above 0"):
        told(make_bulk(arms(3, 3)), margin=0)
    with pytest.raises(InputError, match="min_coverage must be between 0 and 1"):
        told(make_bulk(arms(3, 3)), min_coverage=2)


def test_few_genes_of_a_signature_can_show_a_change_but_no_equivalence() -> None:
    # Three of ten genes are expressed. They alone make the score, so a shift of 1 is one of 1.
    kept = np.ones(len(GENES))
    kept[23:30] = 0
    for effect, verdict in ((1.0, "changed"), (0.0, "inconclusive")):
        bulk = make_bulk(arms(5, 5), effect=np.repeat([0.0, effect], 5), spread=0.05)
        bulk.X = sparse.csr_matrix(bulk.X.toarray() * kept)
        bulk.layers["counts"] = bulk.X.copy()
        row = told(bulk)
        assert row.n_genes == 3
        assert row.estimate == pytest.approx(effect, abs=0.15)
        assert row.verdict == verdict
        assert np.isnan(row.pvalue_equivalence)
        assert np.isfinite(told(bulk, min_coverage=0.3).pvalue_equivalence)
    assert told(bulk, min_coverage=0.3).verdict == "equivalent"


# --- handling stress -----------------------------------------------------------------------------

# Stress of six and six subjects, higher in the second arm, with overlap.
CONFOUNDED_STRESS = np.array([0.0, 0.5, 1.0, 0.2, 0.7, 1.4, 1.2, 1.8, 2.2, 0.9, 1.6, 2.5])
# The same in both arms.
BALANCED_STRESS = np.array([0.0, 0.5, 1.0, 1.5, 2.0, 2.5] * 2)


def test_pure_stress_confounder_vanishes_with_the_adjustment() -> None:
    row = told(make_bulk(arms(6, 6), stress=CONFOUNDED_STRESS, effect=CONFOUNDED_STRESS))
    assert row.estimate > 0.7  # the trap
    assert row.padj < 0.05
    assert row.ci_low_stress_adjusted < 0 < row.ci_high_stress_adjusted
    assert abs(row.estimate_stress_adjusted) < 0.3
    assert row.padj_stress_adjusted > 0.05


def test_effect_apart_from_stress_stays() -> None:
    planted = np.repeat([0.0, 1.0], 6)
    row = told(make_bulk(arms(6, 6), stress=BALANCED_STRESS, effect=planted))
    assert row.estimate_stress_adjusted == pytest.approx(row.estimate, abs=0.05)
    assert row.ci_low_stress_adjusted < 1 < row.ci_high_stress_adjusted
    assert row.padj_stress_adjusted < 1e-3
    # An effect beside a confounder: only the adjusted interval holds the truth.
    both = make_bulk(arms(6, 6), stress=CONFOUNDED_STRESS, effect=planted + CONFOUNDED_STRESS)
    row = told(both)
    assert row.ci_low > 1
    assert row.ci_low_stress_adjusted < 1 < row.ci_high_stress_adjusted


def test_adjusted_fit_is_that_of_statsmodels() -> None:
    bulk = make_bulk(arms(6, 6), stress=CONFOUNDED_STRESS, effect=0.4, spread=0.4)
    bulk.obs["batch"] = ["a", "b"] * 6
    row = told(bulk)
    scores = signature_scores(bulk, signatures=SIGNATURES)
    arm, batch = np.repeat([0.0, 1.0], 6), np.array([0.0, 1.0] * 6)
    X = np.column_stack([arm, np.ones(12), batch, scores[STRESS]])
    model = sm.OLS(scores["told"].to_numpy(), X).fit()
    # The stress score is not adjusted for itself, so this test is alone and not moderated.
    assert row.estimate_stress_adjusted == pytest.approx(model.params[0], rel=1e-9)
    assert row.pvalue_stress_adjusted == pytest.approx(model.pvalues[0], rel=1e-9)
    low, high = model.conf_int()[0]
    assert row.ci_low_stress_adjusted == pytest.approx(low, rel=1e-9)
    assert row.ci_high_stress_adjusted == pytest.approx(high, rel=1e-9)


def test_pairs_are_adjusted_for_the_stress_of_either_half() -> None:
    stress = np.concatenate([np.linspace(0, 1, 6), np.linspace(2, 1, 6)])
    row = told(make_bulk(pairs(6), stress=stress, effect=stress, spread=0.1), PAIRED)
    assert row.estimate > 0.7
    assert row.ci_low_stress_adjusted < 0 < row.ci_high_stress_adjusted


def adjusted(table: pd.DataFrame) -> pd.DataFrame:
    return table[[name for name in table if name.endswith("_stress_adjusted")]]


def test_adjustment_is_empty_where_it_cannot_be_made() -> None:
    stressed = make_bulk(arms(4, 4), stress=CONFOUNDED_STRESS[:8])
    table = shifts(stressed, contrasts=[CART], signatures=SIGNATURES).set_index("feature")
    assert adjusted(table).loc["told"].notna().all()
    assert adjusted(table).loc[STRESS].isna().all()
    without = shifts(stressed, contrasts=[CART], signatures={"told": SIGNATURES["told"]})
    assert adjusted(without).isna().all(axis=None)
    other = shifts(stressed, contrasts=[CART], signatures=SIGNATURES, stress="another")
    assert adjusted(other).isna().all(axis=None)
    # Two pairs: the pairs and the arm take all but one degree of freedom, stress would take it.
    two = shifts(make_bulk(pairs(2), stress=CONFOUNDED_STRESS[:4]), contrasts=[PAIRED],
                 signatures=SIGNATURES)  # fmt: skip
    assert (two["status"] == "ok").all()
    assert adjusted(two).isna().all(axis=None)
    # No stress gene is detected: a score without spread.
    flat = make_bulk(arms(4, 4))
    flat.X = sparse.csr_matrix(flat.X.toarray() * (np.arange(len(GENES)) >= 10))
    flat.layers["counts"] = flat.X.copy()
    table = shifts(flat, contrasts=[CART], signatures=SIGNATURES).set_index("feature")
    assert table.loc["told", "status"] == "ok"
    assert adjusted(table).isna().all(axis=None)


def test_adjusted_p_of_null_scores_is_calibrated() -> None:
    # A confounder and no effect. 3,000 tests: standard error 0.004.
    rng = np.random.default_rng(11)
    stress = CONFOUNDED_STRESS[1:11]
    spread = rng.gamma(4, 0.1, size=3000)
    Y = stress[:, None] * rng.normal(1, 0.5, 3000) + rng.normal(size=(10, 3000)) * spread
    subjects = [f"s{i}" for i in range(10)]
    arm = ["reference"] * 5 + ["treated"] * 5
    units = pd.DataFrame({"subject": subjects, "arm": arm, "batch": ""})
    fitted = fit_adjusted(Y, units, stress, paired=False)
    pvalue = finish(fitted, np.zeros(3000, dtype=object))["pvalue"]
    assert 0.035 <= (pvalue <= 0.05).mean() <= 0.065
