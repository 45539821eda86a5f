"""Moderated tests against limma's own printed results, within 1e-6.

Source: the Bioconductor package limma (Smyth 2004, Ritchie et al. 2015), `tests/limma-Tests.R` and
the output that is kept beside it, `tests/limma-Tests.Rout.save` (R 3.5.0, Bioconductor 3.8):
sections "lmFit, eBayes, topTable" (`set.seed(0)`) and "Similar to Mette Langaas 19 May 2004"
(`set.seed(123)`). The data are random numbers of R, which `RRandom` draws here in the same way
(Mersenne Twister, inversion); the first test holds it against values that every R prints. The
expected values are copied from the printout, which has seven significant digits or more.
"""

from __future__ import annotations

import numpy as np
import pytest
from scipy import special, stats

from crs_sc.comparison.linear_model import fit_arm, fit_prior, moderate

TOLERANCE = 1e-6


class RRandom:
    """The random numbers of R after `set.seed(seed)`: runif, rnorm and rexp."""

    def __init__(self, seed: int) -> None:
        state = seed
        for _ in range(50):
            state = (69069 * state + 1) % 2**32
        words = []
        for _ in range(625):
            state = (69069 * state + 1) % 2**32
            words.append(state)
        self._generator = np.random.MT19937()
        start = self._generator.state
        # The first word is the place of the position, which R then sets to the end.
        start["state"] = {"key": np.array(words[1:], dtype=np.uint32), "pos": 624}
        self._generator.state = start
        powers = np.arange(1, 17)
        self._q = np.cumsum(np.log(2) ** powers / special.factorial(powers))

    def uniform(self, n: int) -> np.ndarray:
        """runif(n)."""
        return self._generator.random_raw(n) * 2.3283064365386963e-10

    def normal(self, n: int) -> np.ndarray:
        """rnorm(n), by inversion."""
        u = self.uniform(2 * n).reshape(n, 2)
        return special.ndtri((np.floor(2**27 * u[:, 0]) + u[:, 1]) / 2**27)

    def exponential(self, n: int) -> np.ndarray:
        """rexp(n), Ahrens and Dieter 1972."""
        return np.array([self._one_exponential() for _ in range(n)])

    def _one_exponential(self) -> float:
        whole, u = 0.0, 2 * self.uniform(1)[0]
        while u <= 1:
            whole, u = whole + self._q[0], 2 * u
        u -= 1
        if u <= self._q[0]:
            return whole + u
        smallest, i = self.uniform(1)[0], 0
        while i == 0 or u > self._q[i]:
            smallest, i = min(smallest, self.uniform(1)[0]), i + 1
        return whole + smallest * self._q[0]


def _moderated_t(tests: object, total_df: float | np.ndarray) -> np.ndarray:
    """Return the t that the interval is made of."""
    half = (tests.ci_high - tests.ci_low) / 2
    return (tests.ci_high + tests.ci_low) / 2 / half * stats.t.ppf(0.975, total_df)


def test_random_numbers_are_those_of_r() -> None:
    np.testing.assert_allclose(RRandom(0).uniform(3), [0.8966972, 0.2655087, 0.3721239], atol=5e-8)
    expected = [-0.56047565, -0.23017749, 1.55870831, 0.07050839, 0.12928774, 1.71506499]
    np.testing.assert_allclose(RRandom(123).normal(6), expected, atol=5e-9)
    expected = [0.84345726, 0.57661027, 1.32905487]
    np.testing.assert_allclose(RRandom(123).exponential(3), expected, atol=5e-9)


# topTable(fit2, coef=3): the contrast Last3-First3 of 10 genes on 3 + 3 arrays.
TOP_TABLE = """
A -1.71576906 -6.8894222 2.674199e-08 2.674199e-07
B  0.25512120  1.0244023 3.118009e-01 5.196681e-01
C  0.27332729  1.0975061 2.789833e-01 5.196681e-01
D  0.44581938  1.7901232 8.100587e-02 3.494414e-01
E  0.08536999  0.3427908 7.335508e-01 7.335508e-01
F -0.16760121 -0.6729784 5.048308e-01 7.098782e-01
G -0.37725930 -1.5148301 1.376783e-01 3.494414e-01
H  0.37520387  1.5065768 1.397766e-01 3.494414e-01
I  0.08717360  0.3500330 7.281504e-01 7.335508e-01
J -0.14342683 -0.5759097 5.679026e-01 7.098782e-01
"""


def _three_against_three() -> np.ndarray:
    """M of limma-Tests.R, after all that the script draws before it; arrays x genes."""
    r = RRandom(0)
    r.uniform(100)
    r.normal(100)  # y of loessFit
    r.exponential(400)  # red and green
    r.normal(400)  # their backgrounds
    M = 0.3 * r.normal(60).reshape(6, 10)
    M[:3, 0] += 2
    return M


def test_top_table_of_three_against_three() -> None:
    Y = _three_against_three()
    estimate, t, pvalue, padj = np.array(
        [line.split()[1:] for line in TOP_TABLE.strip().splitlines()], dtype=float
    ).T
    fit = fit_arm(Y, np.arange(6) > 2, np.ones((6, 1)))
    tests = moderate(fit.estimate, fit.variance, fit.unscaled, fit.df)
    np.testing.assert_allclose(fit.estimate, estimate, rtol=TOLERANCE)
    # The variances spread no more than chance makes them: the prior is all, with all 10 x 4 df.
    assert np.isinf(tests.prior_df)
    np.testing.assert_allclose(_moderated_t(tests, 40), t, rtol=TOLERANCE)
    np.testing.assert_allclose(tests.pvalue, pvalue, rtol=TOLERANCE)
    np.testing.assert_allclose(stats.false_discovery_control(tests.pvalue), padj, rtol=TOLERANCE)


# eBayes(contrasts.fit(fit, test.contr)): 5 genes, 3 groups of 3, two values of gene 5 missing.
ESTIMATE = np.array(
    [
        [3.537333, 1.677465, -1.859868],
        [4.355578, 2.372554, -1.983024],
        [3.197645, 1.053584, -2.144061],
        [2.697734, 1.611443, -1.086291],
        [3.502304, 2.051995, -1.450309],
    ]
)
UNSCALED = np.array([[0.8164966, 0.5773503, 0.5773503]] * 4 + [[1.1547005, 0.8368633, 0.8368633]])
SIGMA = np.array([1.3425032, 0.4647155, 1.1993444, 0.9428569, 0.9421509])
DF = np.array([6, 6, 6, 6, 4])
DF_PRIOR, S2_PRIOR = 9.306153, 0.923179
S2_POST = np.array([1.2677996, 0.6459499, 1.1251558, 0.9097727, 0.9124980])
T = np.array(
    [
        [3.847656, 2.580411, -2.860996],
        [6.637308, 5.113018, -4.273553],
        [3.692066, 1.720376, -3.500994],
        [3.464003, 2.926234, -1.972606],
        [3.175181, 2.566881, -1.814221],
    ]
)
PVALUE = np.array(
    [
        [1.529450e-03, 0.0206493481, 0.0117123495],
        [7.144893e-06, 0.0001195844, 0.0006385076],
        [2.109270e-03, 0.1055117477, 0.0031325769],
        [3.381970e-03, 0.0102514264, 0.0668844448],
        [7.124839e-03, 0.0230888584, 0.0922478630],
    ]
)
GROUP = np.repeat([0, 1, 2], 3)


def _three_groups() -> np.ndarray:
    """Return ymat of limma-Tests.R, arrays x genes; missing values are nan."""
    Y = RRandom(123).normal(45).reshape(9, 5) + np.array([0.0, 2.0, -2.0])[GROUP, None]
    Y[:2, 4] = np.nan
    return Y


@pytest.mark.parametrize("contrast", [0, 1, 2])
def test_moderation_with_missing_values(contrast: int) -> None:
    """alpha-beta, mu+alpha and mu+beta: group 1 against 2, and the means of groups 1 and 2."""
    member = np.eye(3)[GROUP]
    arm = member[:, 2 if contrast == 2 else 1] > 0
    # alpha-beta: what sets group 1 apart from group 2 once group 0 has a mean of its own.
    nuisance = [
        np.column_stack([np.ones(9), member[:, 0]]),
        member[:, [0, 2]],
        member[:, [0, 1]],
    ][contrast]
    Y = _three_groups()
    fits = []
    for gene in range(5):
        rows = np.isfinite(Y[:, gene])
        fits.append(fit_arm(Y[rows, gene][:, None], arm[rows], nuisance[rows]))
    estimate = np.array([fit.estimate[0] for fit in fits])
    variance = np.array([fit.variance[0] for fit in fits])
    np.testing.assert_allclose(estimate, ESTIMATE[:, contrast], rtol=TOLERANCE)
    np.testing.assert_allclose(np.sqrt(variance), SIGMA, rtol=TOLERANCE)
    assert [fit.df for fit in fits] == list(DF)
    unscaled = np.array([fit.unscaled for fit in fits])
    np.testing.assert_allclose(unscaled[:4], UNSCALED[:4, contrast], rtol=TOLERANCE)

    # limma's contrasts.fit only approximates the unscaled error where values are missing and the
    # design is not orthogonal, as its manual says; gene 5 takes the printed one.
    unscaled[4] = UNSCALED[4, contrast]
    tests = moderate(estimate, variance, unscaled, DF)
    assert tests.prior_df == pytest.approx(DF_PRIOR, rel=TOLERANCE)
    assert tests.prior_variance == pytest.approx(S2_PRIOR, rel=TOLERANCE)
    assert fit_prior(variance, DF) == pytest.approx((DF_PRIOR, S2_PRIOR), rel=TOLERANCE)
    total = tests.prior_df + DF
    t = _moderated_t(tests, total)
    np.testing.assert_allclose((estimate / t / unscaled) ** 2, S2_POST, rtol=TOLERANCE)
    np.testing.assert_allclose(t, T[:, contrast], rtol=TOLERANCE)
    np.testing.assert_allclose(tests.pvalue, PVALUE[:, contrast], rtol=TOLERANCE)
