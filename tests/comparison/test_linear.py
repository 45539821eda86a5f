"""Least squares against statsmodels, moderation against limma's formulas solved another way."""

from __future__ import annotations

import numpy as np
import pytest
import statsmodels.api as sm
from scipy import optimize, special, stats

from crs_sc.comparison.linear_model import (
    fit_arm,
    fit_prior,
    hedges_correction,
    is_estimable,
    moderate,
    squeeze,
)


def _design(kind: str) -> tuple[np.ndarray, np.ndarray]:
    if kind == "unbalanced":
        return np.ones((7, 1)), np.array([0, 0, 0, 1, 1, 1, 1], dtype=bool)
    if kind == "batch":
        arm = np.array([0, 0, 1, 0, 1, 1, 1], dtype=bool)
        batch = np.eye(2)[[0, 0, 0, 1, 1, 1, 1]]
        return np.hstack([np.ones((7, 1)), batch]), arm
    arm = np.tile([False, True], 5)
    return np.hstack([np.ones((10, 1)), np.eye(5)[np.repeat(range(5), 2)]]), arm


@pytest.mark.parametrize("kind", ["unbalanced", "batch", "paired"])
def test_fit_agrees_with_statsmodels(kind: str) -> None:
    nuisance, arm = _design(kind)
    Y = np.random.default_rng(1).normal(size=(len(arm), 4))
    fit = fit_arm(Y, arm, nuisance)
    # Drop one redundant column, so that statsmodels sees a design of full rank.
    full = nuisance if kind == "unbalanced" else nuisance[:, 1:]
    for j in range(4):
        model = sm.OLS(Y[:, j], np.column_stack([arm.astype(float), full])).fit()
        assert fit.estimate[j] == pytest.approx(model.params[0], abs=1e-12)
        assert fit.variance[j] == pytest.approx(model.mse_resid, rel=1e-10)
        assert fit.unscaled * np.sqrt(fit.variance[j]) == pytest.approx(model.bse[0], rel=1e-10)
        assert fit.df == model.df_resid


def test_unmoderated_test_agrees_with_statsmodels() -> None:
    nuisance, arm = _design("batch")
    y = np.random.default_rng(2).normal(size=(7, 1))
    fit = fit_arm(y, arm, nuisance)
    tests = moderate(fit.estimate, fit.variance, fit.unscaled, fit.df)  # one test: no prior
    model = sm.OLS(y[:, 0], np.column_stack([arm.astype(float), nuisance[:, 1:]])).fit()
    assert tests.prior_df == 0
    assert tests.pvalue[0] == pytest.approx(model.pvalues[0], rel=1e-10)
    low, high = model.conf_int()[0]
    assert (tests.ci_low[0], tests.ci_high[0]) == pytest.approx((low, high), rel=1e-10)


def test_aliased_arm_is_not_estimable() -> None:
    arm = np.array([0, 0, 1, 1], dtype=bool)
    batch = np.eye(2)[[0, 0, 1, 1]]
    assert not is_estimable(arm, np.hstack([np.ones((4, 1)), batch]))
    assert is_estimable(arm, np.ones((4, 1)))


def _limma_fit_f_dist(s2: np.ndarray, df: np.ndarray) -> tuple[float, float]:
    """limma::fitFDist, written from its R source, with trigamma inverted by root bracketing."""
    z = np.log(np.maximum(s2, 1e-5 * np.median(s2)))
    e = z - special.digamma(df / 2) + np.log(df / 2)
    evar = np.sum((e - e.mean()) ** 2) / (len(e) - 1) - np.mean(special.polygamma(1, df / 2))
    if evar <= 0:
        return np.inf, float(np.mean(s2))
    half = optimize.brentq(lambda x: special.polygamma(1, x) - evar, 1e-6, 1e8, xtol=1e-14)
    return 2 * half, float(np.exp(e.mean() + special.digamma(half) - np.log(half)))


def test_prior_agrees_with_limma_formula() -> None:
    rng = np.random.default_rng(3)
    df = rng.choice([4, 5, 6], size=200).astype(float)
    true = 0.5 * 8 / rng.chisquare(8, size=200)
    s2 = true * rng.chisquare(df) / df
    assert fit_prior(s2, df) == pytest.approx(_limma_fit_f_dist(s2, df), rel=1e-6)


def test_prior_is_infinite_where_variances_do_not_spread() -> None:
    rng = np.random.default_rng(4)
    s2 = rng.uniform(0.9, 1.1, size=50)  # far tighter than chi-square on 4 degrees of freedom
    prior_df, prior = fit_prior(s2, np.full(50, 4.0))
    assert np.isinf(prior_df)
    assert prior == pytest.approx(s2.mean())


def test_prior_recovers_planted_truth() -> None:
    rng = np.random.default_rng(5)
    s2 = 0.3 * 10 / rng.chisquare(10, size=20_000) * rng.chisquare(4, size=20_000) / 4
    prior_df, prior = fit_prior(s2, np.full(len(s2), 4.0))
    assert prior_df == pytest.approx(10, rel=0.1)
    assert prior == pytest.approx(0.3, rel=0.03)


def test_moderated_test_against_the_formula() -> None:
    rng = np.random.default_rng(6)
    df = np.array([4.0] * 30 + [2.0] * 10)
    s2 = 0.5 * 6 / rng.chisquare(6, size=40) * rng.chisquare(df) / df
    b = rng.normal(size=40)
    d0, s0 = _limma_fit_f_dist(s2, df)
    post = (d0 * s0 + df * s2) / (d0 + df)
    t, total = b / (0.7 * np.sqrt(post)), np.minimum(d0 + df, df.sum())
    tests = moderate(b, s2, 0.7, df)
    np.testing.assert_allclose(tests.pvalue, 2 * stats.t.sf(np.abs(t), total), rtol=1e-6)
    half = stats.t.ppf(0.975, total) * 0.7 * np.sqrt(post)
    np.testing.assert_allclose(tests.ci_high - tests.ci_low, 2 * half, rtol=1e-6)
    # The interval leaves out 0 exactly where p is below 0.05.
    outside = (tests.ci_low > 0) | (tests.ci_high < 0)
    np.testing.assert_array_equal(outside, tests.pvalue < 0.05)


def test_zero_variance_is_judged_by_the_prior() -> None:
    s2 = np.array([0.0, 0.5, 1.0, 2.0, 8.0])
    tests = moderate(np.ones(5), s2, 1.0, 4)
    assert np.isfinite(tests.pvalue).all()
    assert np.isnan(tests.hedges_g[0])
    assert np.isfinite(tests.hedges_g[1:]).all()
    alone = moderate(np.ones(1), np.zeros(1), 1.0, 4)
    assert np.isnan(alone.pvalue[0])


def test_hedges_g_of_two_groups() -> None:
    rng = np.random.default_rng(7)
    x, y = rng.normal(size=4), rng.normal(1, size=5)
    pooled = np.sqrt((x.var(ddof=1) * 3 + y.var(ddof=1) * 4) / 7)
    d = (y.mean() - x.mean()) / pooled
    fit = fit_arm(np.r_[x, y][:, None], np.arange(9) > 3, np.ones((9, 1)))
    tests = moderate(fit.estimate, fit.variance, fit.unscaled, fit.df)
    assert tests.hedges_g[0] == pytest.approx(d * (1 - 3 / (4 * 7 - 1)), rel=2e-3)
    # J for 4 degrees of freedom, Hedges 1981.
    assert hedges_correction(4.0) == pytest.approx(0.7979, abs=1e-4)


def test_caution_adds_standard_errors_to_the_spread_and_fades_with_the_tests() -> None:
    rng = np.random.default_rng(8)
    for n, expected in ((40, None), (100_000, 10)):
        s2 = 10 / rng.chisquare(10, size=n) * rng.chisquare(4, size=n) / 4
        plain, careful = (fit_prior(s2, 4.0, caution=c)[0] for c in (0, 2))
        assert careful < plain
        if expected:
            assert careful == pytest.approx(expected, rel=0.1)
    e = np.log(s2) - special.digamma(2) + np.log(2)
    spread = e.var(ddof=1) * (1 + 2 * np.sqrt(2 / (n - 1))) - special.polygamma(1, 2)
    assert special.polygamma(1, careful / 2) == pytest.approx(spread, rel=1e-6)


def test_trust_bounds_the_weight_of_the_prior_and_variances_can_be_kept() -> None:
    s2 = np.array([0.7, 0.9, 1.0, 1.1, 1.9])
    plain = squeeze(s2, 4.0)
    assert np.isinf(plain.prior_df)
    np.testing.assert_allclose(plain.variance, s2.mean())
    for trust in (1.0, 2.0):
        bounded = squeeze(s2, 4.0, trust=trust)
        np.testing.assert_allclose(bounded.variance, (trust * s2.mean() + s2) / (trust + 1))
        np.testing.assert_allclose(bounded.df, 4 * (trust + 1))
        kept = squeeze(s2, 4.0, trust=trust, never_lower=True)
        np.testing.assert_allclose(kept.variance, np.maximum(bounded.variance, s2))
    one = squeeze(np.array([2.0]), 4.0, trust=1.0, never_lower=True)
    assert (one.variance[0], one.df[0]) == (2, 4)


@pytest.mark.parametrize(
    "options", [{"caution": 2.0}, {"trust": 1.0, "never_lower": True}], ids=str
)
def test_null_p_of_families_are_honest(options: dict[str, float]) -> None:
    """300 families of 40 tests at three an arm; the bounds are three binomial standard errors."""
    rng = np.random.default_rng(12)
    arm, nuisance = np.repeat([False, True], 3), np.ones((6, 1))
    small, called = [], []
    for _ in range(300):
        Y = np.sqrt(8 / rng.chisquare(8, 40)) * rng.normal(size=(6, 40))
        fit = fit_arm(Y, arm, nuisance)
        p = moderate(fit.estimate, fit.variance, fit.unscaled, fit.df, **options).pvalue
        small.append(p <= 0.05)
        called.append((stats.false_discovery_control(p) <= 0.05).any())
    assert 0.03 <= np.mean(small) <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 12_000)
    assert np.mean(called) <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 300)
