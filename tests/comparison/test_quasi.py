"""The quasi-likelihood test: statsmodels' own answer, and null data in which it has to hold."""

from __future__ import annotations

import numpy as np
import pytest
import statsmodels.api as sm
from scipy import stats

from crs_sc.comparison.expression import quasi_tests, residual_variance, unit_deviance, wald_tests

ARM = np.array([0.0, 1.0])


def design(n: int) -> np.ndarray:
    return np.column_stack([np.ones(2 * n), np.repeat([0.0, 1.0], n)])


def null_counts(rng, n, n_genes, *, tail=10, depth=4):
    """Simulated counts of 2 n subjects without an effect.

    Between subjects log-normal, genes with variances that spread like an inverse chi-square on
    `tail` degrees of freedom.
    """
    mean = rng.lognormal(depth, 1, n_genes)
    sd = 0.3 * np.sqrt(tail / rng.chisquare(tail, n_genes))
    size = rng.lognormal(0, 0.3, 2 * n)[:, None]
    return rng.poisson(size * mean * np.exp(sd * rng.normal(size=(2 * n, n_genes))))


def test_deviance_is_that_of_statsmodels() -> None:
    rng = np.random.default_rng(0)
    mu = rng.lognormal(2, 1, (6, 5))
    counts = rng.poisson(mu).astype(float)
    counts[0] = 0
    for alpha in (0.01, 0.3):
        family = sm.families.NegativeBinomial(alpha=alpha)
        expected = family.resid_dev(counts, mu) ** 2
        np.testing.assert_allclose(unit_deviance(counts, mu, np.full(5, alpha)), expected)


def test_p_of_one_gene_is_that_of_a_quasi_likelihood_glm() -> None:
    X, alpha = design(4), 0.05
    counts = np.array([[30, 80, 22, 51, 160, 95, 310, 120]], dtype=float).T
    size = np.array([1.0, 1.3, 0.8, 1, 1.1, 0.9, 1.2, 0.7])
    model = sm.GLM(
        counts[:, 0], X, family=sm.families.NegativeBinomial(alpha=alpha), offset=np.log(size)
    ).fit(scale="dev", tol=1e-12)
    assert model.scale > 1  # else counting noise would be the floor
    expected = 2 * stats.t.sf(abs(model.params[1] / model.bse[1]), 6)
    (found,) = quasi_tests(counts, size, X, np.array([alpha]), [ARM])
    assert found[0] == pytest.approx(expected, rel=1e-4)


def test_units_without_a_count_where_none_is_expected_say_nothing_about_the_spread() -> None:
    X, alpha = design(3), np.full(2, 0.1)
    counts = np.array([[0, 0, 0, 50, 70, 60], [40, 60, 50, 50, 70, 60]], dtype=float).T
    mu = np.where(counts == 0, 0.1, counts.mean(axis=0))
    variance, df = residual_variance(counts, mu, alpha, X)
    np.testing.assert_array_equal(df, [2, 4])
    own = unit_deviance(counts, mu, alpha)[3:, 0].sum() / 2
    assert variance[0] == pytest.approx(own)
    silent = np.zeros((6, 1))
    assert residual_variance(silent, silent + 0.1, alpha[:1], X)[1][0] == 0


def test_null_p_hold_in_the_tail_and_those_of_the_wald_test_are_smaller() -> None:
    """15 simulated cohorts of 300 genes; the bounds are five binomial standard errors."""
    rng = np.random.default_rng(3)
    ours, wald = [], []
    for _ in range(15):
        counts = null_counts(rng, 3, 300)
        counts = counts[:, (counts.sum(axis=0) > 50)]
        (test,) = wald_tests(counts, design(3), [ARM])
        known = ~np.isnan(test.pvalue)
        ours.append(test.pvalue[known])
        wald.append(test.pvalue_wald[known])
    ours, wald = np.concatenate(ours), np.concatenate(wald)
    assert 0.03 <= np.mean(ours <= 0.05) <= 0.05 + 5 * np.sqrt(0.05 * 0.95 / len(ours))
    assert np.mean(ours <= 1e-3) <= 1e-3 + 5 * np.sqrt(1e-3 / len(ours))
    assert np.mean(wald <= 1e-3) > 2 * np.mean(ours <= 1e-3)


def test_a_gene_that_varies_more_than_the_rest_is_judged_by_its_own_variance() -> None:
    rng = np.random.default_rng(2)
    counts = null_counts(rng, 4, 300, tail=1000, depth=5).astype(float)
    counts[:, 0] = [10, 2000, 30, 60, 500, 9000, 4000, 80]
    X, size, alpha = design(4), np.ones(8), np.full(300, 0.01)
    (p,) = quasi_tests(counts, size, X, alpha, [ARM])
    alone = sm.GLM(
        counts[:, 0], X, family=sm.families.NegativeBinomial(alpha=0.01)
    ).fit(scale="dev")  # fmt: skip
    normal = 2 * stats.norm.sf(abs(alone.params[1] / alone.bse[1]))
    assert p[0] >= normal * 0.999
