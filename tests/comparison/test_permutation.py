"""Permutation p against scipy's exact test, and against plain enumeration of the model's t."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from crs_sc.comparison.linear_model import (
    arrangements,
    fit_arm,
    n_arrangements,
    permutation_test,
    smallest_p,
)


def _rng() -> np.random.Generator:
    return np.random.default_rng(0)


def _difference(x: np.ndarray, y: np.ndarray, axis: int = -1) -> np.ndarray:
    return np.abs(np.mean(x, axis=axis) - np.mean(y, axis=axis))


@pytest.mark.parametrize("sizes", [(3, 3), (4, 4), (3, 5), (2, 4), (2, 6)])
def test_unpaired_equals_scipy(sizes: tuple[int, int]) -> None:
    rng = np.random.default_rng(sum(sizes))
    Y = np.column_stack([rng.normal(size=sum(sizes)), rng.integers(0, 3, size=sum(sizes))])
    arm = np.arange(sum(sizes)) >= sizes[0]
    found = permutation_test(Y, arm, np.zeros(len(arm), dtype=int), rng=_rng())
    for j in range(2):
        expected = stats.permutation_test(
            (Y[~arm, j], Y[arm, j]),
            _difference,
            n_resamples=np.inf,
            alternative="greater",
            vectorized=True,
        ).pvalue
        assert found[j] == pytest.approx(expected, abs=1e-14)


def test_balanced_equals_scipy_two_sided() -> None:
    rng = np.random.default_rng(8)
    x, y = rng.normal(size=4), rng.normal(1, size=4)
    expected = stats.permutation_test(
        (x, y), lambda a, b: a.mean() - b.mean(), n_resamples=np.inf
    ).pvalue
    found = permutation_test(
        np.r_[x, y][:, None], np.arange(8) > 3, np.zeros(8, dtype=int), rng=_rng()
    )
    assert found[0] == pytest.approx(expected, abs=1e-14)


def test_paired_equals_scipy() -> None:
    rng = np.random.default_rng(9)
    x = rng.normal(size=7)
    y = x + rng.normal(0.5, size=7)
    expected = stats.permutation_test(
        (y - x,), np.mean, permutation_type="samples", n_resamples=np.inf
    ).pvalue
    found = permutation_test(
        np.r_[x, y][:, None], np.arange(14) > 6, np.tile(np.arange(7), 2), rng=_rng()
    )
    assert found[0] == pytest.approx(expected, abs=1e-14)


def test_blocks_equal_enumeration_of_the_model_t() -> None:
    rng = np.random.default_rng(10)
    blocks = np.array([0, 0, 0, 0, 1, 1, 1, 1, 1])
    arm = np.array([1, 0, 0, 0, 1, 1, 1, 0, 0], dtype=bool)
    Y = rng.normal(size=(9, 3)) + 2 * blocks[:, None] + 0.8 * arm[:, None]
    nuisance = np.eye(2)[blocks]

    def t(labels: np.ndarray) -> np.ndarray:
        fit = fit_arm(Y, labels, nuisance)
        return np.abs(fit.estimate / (fit.unscaled * np.sqrt(fit.variance)))

    ways = []
    for first in itertools.combinations(range(4), 1):
        for second in itertools.combinations(range(4, 9), 3):
            labels = np.zeros(9, dtype=bool)
            labels[[*first, *second]] = True
            ways.append(labels)
    extreme = np.mean([t(labels) >= t(arm) - 1e-9 for labels in ways], axis=0)
    assert n_arrangements(arm, blocks) == len(ways) == 40
    np.testing.assert_allclose(permutation_test(Y, arm, blocks, rng=_rng()), extreme, atol=1e-14)


@pytest.mark.parametrize(
    ("sizes", "floor"),
    [((3, 3), 2 / 20), ((4, 4), 2 / 70), ((3, 4), 1 / 35), ((1, 3), 1 / 4), ((5, 5), 2 / 252)],
)
def test_smallest_p_is_reached(sizes: tuple[int, int], floor: float) -> None:
    arm = np.arange(sum(sizes)) >= sizes[0]
    blocks = np.zeros(len(arm), dtype=int)
    assert smallest_p(arm, blocks) == pytest.approx(floor)
    extreme = (100.0 * arm + np.arange(len(arm)) / 100)[:, None]
    assert permutation_test(extreme, arm, blocks, rng=_rng())[0] == pytest.approx(floor)


def test_smallest_p_of_pairs_and_of_blocks_without_a_choice() -> None:
    arm = np.tile([False, True], 8)
    assert smallest_p(arm, np.repeat(range(8), 2)) == pytest.approx(2 / 256)
    # A block of treated only adds nothing; the other block is balanced and can be swapped.
    arm = np.array([0, 0, 1, 1, 1, 1, 1], dtype=bool)
    blocks = np.array([0, 0, 0, 0, 1, 1, 1])
    assert smallest_p(arm, blocks) == pytest.approx(2 / 6)
    y = np.array([0.0, 0.1, 5.0, 5.2, 9.0, 1.0, 4.0])[:, None]
    assert permutation_test(y, arm, blocks, rng=_rng())[0] == pytest.approx(2 / 6)


def test_drawn_permutations_follow_the_plus_one_rule() -> None:
    arm = np.arange(24) >= 12
    blocks = np.zeros(24, dtype=int)
    y = np.random.default_rng(11).normal(size=(24, 1)) + 5 * arm[:, None]
    assert n_arrangements(arm, blocks) > 10_000
    assert permutation_test(y, arm, blocks, rng=_rng())[0] == pytest.approx(1 / 10_001)
    assert smallest_p(arm, blocks) == pytest.approx(1 / 10_001)
    weak = np.random.default_rng(12).normal(size=(24, 1)) + 0.6 * arm[:, None]
    drawn = permutation_test(weak, arm, blocks, rng=_rng())
    exact = stats.ttest_ind(weak[arm, 0], weak[~arm, 0]).pvalue
    assert drawn[0] == pytest.approx(exact, abs=0.03)
    np.testing.assert_array_equal(drawn, permutation_test(weak, arm, blocks, rng=_rng()))


def test_drawn_arrangements_keep_the_blocks() -> None:
    arm = np.arange(40) % 2 == 0
    blocks = np.repeat([0, 1], 20)
    ways, exact = arrangements(arm, blocks, rng=_rng(), n_max=500)
    assert not exact
    assert ways.shape == (500, 40)
    for block in (0, 1):
        assert (ways[:, blocks == block].sum(axis=1) == 10).all()


def test_response_without_spread_has_p_one() -> None:
    Y = np.full((6, 1), 0.1)
    assert permutation_test(Y, np.arange(6) > 2, np.zeros(6, dtype=int), rng=_rng())[0] == 1


@settings(max_examples=25, deadline=None)
@given(
    values=st.lists(st.floats(-100, 100), min_size=7, max_size=7),
    shift=st.floats(-50, 50),
    order=st.permutations(range(7)),
)
def test_invariant_to_shift_and_order(values: list[float], shift: float, order: list[int]) -> None:
    y = np.round(np.array(values), 3)[:, None]
    arm = np.arange(7) > 2
    blocks = np.zeros(7, dtype=int)
    p = permutation_test(y, arm, blocks, rng=_rng())
    moved = permutation_test(y[order] + round(shift, 3), arm[order], blocks, rng=_rng())
    assert p[0] == pytest.approx(moved[0])
    assert smallest_p(arm, blocks) <= p[0] + 1e-15 <= 1 + 1e-12
