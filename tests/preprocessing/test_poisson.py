"""Poisson counts of many cells against scipy's distribution."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from crs_sc.preprocessing._contamination import largest_count, mid_ranks, truncated_sum

# From no ambient RNA to a plasma cell's immunoglobulins.
MEANS = np.concatenate([[0.0, 1e-12], np.geomspace(1e-6, 3e4, 3001)])


@pytest.mark.parametrize("alpha", [0.05, 1e-3])
def test_largest_counts_are_those_of_scipy(alpha: float) -> None:
    expected = np.maximum(stats.poisson.isf(alpha, MEANS), 0)
    np.testing.assert_array_equal(largest_count(MEANS, alpha), expected)
    assert largest_count(np.empty(0), alpha).shape == (0,)


def test_ranks_lie_in_the_middle_of_the_probability_of_the_count() -> None:
    rng = np.random.default_rng(0)
    counts = rng.poisson(MEANS).astype(float)
    expected = stats.poisson.cdf(counts, MEANS) - 0.5 * stats.poisson.pmf(counts, MEANS)
    np.testing.assert_allclose(mid_ranks(counts, MEANS), expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("factor", [0.0, 0.3, 1.0, 3.0])
def test_truncated_sum_is_that_of_the_probabilities(factor: float) -> None:
    cut = np.floor(factor * MEANS)
    below, upto = (stats.poisson.logcdf(cut - by, MEANS) for by in (1, 0))
    for i in range(0, len(MEANS), 50):
        # scipy's logarithm is that of a number that may be too small to be held.
        if np.isfinite(upto[i]):
            expected = MEANS[i] * np.exp(below[i] - upto[i])
            found = truncated_sum(MEANS[i : i + 1], cut[i : i + 1])
            assert found == pytest.approx(expected, rel=1e-8, abs=1e-12)
    one, other = (truncated_sum(MEANS[rows], cut[rows]) for rows in (slice(900), slice(900, None)))
    assert one + other == pytest.approx(truncated_sum(MEANS, cut))
