from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse

from crs_sc.datasets.sampling import (
    ambient_counts,
    ambient_profile_of,
    ambient_umi_of,
    draw_native,
    gamma_poisson,
    producer_counts,
    shifted_probability,
)


@pytest.mark.parametrize(("mean", "dispersion"), [(0.5, 0.2), (6.0, 0.2), (6.0, 0.0), (30.0, 1.0)])
def test_negative_binomial_has_the_mean_and_the_variance_of_the_closed_form(mean, dispersion):
    n = 200_000
    counts = gamma_poisson(np.full(n, mean), dispersion=dispersion, rng=np.random.default_rng(1))
    variance = mean + dispersion * mean**2
    assert abs(counts.mean() - mean) < 5 * np.sqrt(variance / n)
    assert counts.var() == pytest.approx(variance, rel=0.03)


def test_producers_have_at_least_one_umi_and_the_planted_mean():
    counts = producer_counts(np.full(100_000, 4.0), dispersion=0.2, rng=np.random.default_rng(2))
    assert counts.min() == 1
    assert counts.mean() == pytest.approx(4.0, abs=0.03)
    assert counts.var() == pytest.approx(3 + 0.2 * 9, rel=0.03)


def test_native_counts_follow_depth_and_profile_over_several_chunks():
    rates = np.array([[10.0, 0.0, 2.0], [0.0, 5.0, 2.0]])
    depth = np.repeat([0.5, 2.0], 1500)
    profile = np.tile([0, 1], 1500)
    counts = draw_native(depth, profile, rates, dispersion=0.1, rng=np.random.default_rng(3))
    dense = counts.toarray()
    assert counts.shape == (3000, 3)
    for d in (0.5, 2.0):
        for k in (0, 1):
            mean = dense[(depth == d) & (profile == k)].mean(axis=0)
            np.testing.assert_allclose(mean, d * rates[k], atol=0.6)
    assert dense[profile == 0, 1].max() == 0


def test_soup_profile_is_the_weighted_mixture():
    native = sparse.csr_matrix([[8, 2, 0], [0, 10, 0]])
    extra = np.array([0.0, 0.0, 0.1])
    profile = ambient_profile_of(np.array([3.0, 1.0]) @ native, extra)
    np.testing.assert_allclose(profile, [0.9 * 24 / 40, 0.9 * 16 / 40, 0.1])


def test_soup_has_the_share_and_the_composition_that_were_asked_for():
    native = np.full(4000, 3000)
    profile = np.array([0.0, 0.2, 0.0, 0.7, 0.1, 0.0])
    rng = np.random.default_rng(4)
    n_umi = ambient_umi_of(native, contamination=0.08, rng=rng)
    ambient = ambient_counts(n_umi, profile, rng=rng)
    assert (np.asarray(ambient.sum(axis=1)).ravel() == n_umi).all()
    total = ambient.sum()
    expected = 0.08 / 0.92 * native.sum()
    assert abs(total - expected) < 5 * np.sqrt(expected)
    by_gene = np.asarray(ambient.sum(axis=0)).ravel()
    assert by_gene[[0, 2, 5]].sum() == 0
    np.testing.assert_allclose(by_gene / total, profile, atol=5 * np.sqrt(0.25 / total))


def test_no_contamination_adds_nothing():
    rng = np.random.default_rng(5)
    none = ambient_umi_of(np.full(10, 100), contamination=0.0, rng=rng)
    assert ambient_counts(none, np.array([0.5, 0.5]), rng=rng).nnz == 0


@given(st.floats(0, 1), st.floats(-3, 3))
def test_shifted_probability_moves_the_logit(probability, shift):
    moved = shifted_probability(probability, shift)
    assert 0 <= moved <= 1
    if 1e-3 < probability < 1 - 1e-3:
        logit = np.log(moved / (1 - moved)) - np.log(probability / (1 - probability))
        assert logit == pytest.approx(shift, abs=1e-6)
    if probability in (0, 1):
        assert moved == probability
