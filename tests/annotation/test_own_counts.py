"""What a cell's own counts say between like types: closed forms and planted mixtures."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse, stats

from crs_sc.annotation._marker_scores import Panel
from crs_sc.annotation._own_counts import (
    count_likelihood,
    defining_markers,
    most_likely,
    rates_of,
)


def panel(positive: list[int], negative: list[int], weight: float = 1.0) -> Panel:
    return Panel(
        np.array(positive),
        np.array(negative, dtype=int),
        np.full(len(positive), weight),
        np.ones(len(negative)),
    )


def test_defining_markers_are_of_one_type_and_barred_in_another() -> None:
    cd4, cd8, both = panel([0, 5], [1, 2]), panel([1, 2, 5], [0]), panel([5], [])
    np.testing.assert_array_equal(defining_markers([cd4, cd8, both]), [0, 1, 2])
    # A marker of little weight does not define its type.
    np.testing.assert_array_equal(defining_markers([panel([0], [1], 0.5), cd8]), [1])
    assert len(defining_markers([both])) == len(defining_markers([])) == 0


def test_likelihood_differs_between_groups_as_the_negative_binomial_of_scipy() -> None:
    rng = np.random.default_rng(0)
    counts = rng.poisson(1.5, size=(20, 4))
    depth = rng.integers(500, 5000, size=20).astype(float)
    rates = rng.uniform(1e-5, 2e-3, size=(3, 4))
    found = count_likelihood(sparse.csr_matrix(counts), depth, rates, size=2.0)
    mean = depth[:, None, None] * rates
    expected = stats.nbinom.logpmf(counts[:, None, :], 2.0, 2.0 / (2.0 + mean)).sum(axis=2)
    np.testing.assert_allclose(
        found - found[:, :1], expected - expected[:, :1], rtol=1e-9, atol=1e-9
    )


def test_rates_are_those_of_the_group_and_of_all_where_cells_are_few() -> None:
    counts = sparse.csr_matrix(np.repeat([[4.0, 0.0], [0.0, 2.0]], [1000, 1000], axis=0))
    depth = np.full(2000, 1000.0)
    found = rates_of(counts, depth, np.repeat([0, 1], 1000), 3)
    np.testing.assert_allclose(found[:2], [[4e-3, 0], [0, 2e-3]], rtol=0.01, atol=2e-5)
    np.testing.assert_allclose(found[2], [2e-3, 1e-3], rtol=1e-6)
    assert (found > 0).all()


@pytest.mark.parametrize(("rate", "least"), [(3.0, 0.9), (0.4, 0.2)])
def test_cells_among_others_are_found_as_far_as_their_counts_go(rate: float, least: float) -> None:
    """A fifth of the cells that are called 0 are of type 1; all are neighbours of all."""
    rng = np.random.default_rng(1)
    truth = np.repeat([0, 1, 1], [400, 400, 100])
    called = np.repeat([0, 1, 0], [400, 400, 100])
    mean = np.where(np.eye(2)[truth] > 0, rate, 0.02)
    counts = sparse.csr_matrix(rng.poisson(mean).astype(np.float32))
    around = sparse.csr_matrix(np.ones((900, 900)) / 900)
    types = [panel([0], [1]), panel([1], [0])]
    found = most_likely(counts, np.full(900, 2000.0), around, called, types, stray=0.3)
    seen = counts.toarray() > 0
    assert (found[800:] == 1).mean() >= least
    # No more are found than show their marker, and cells that show their own alone stay.
    assert (found[800:] == 1).sum() <= seen[800:, 1].sum()
    clear = seen[np.arange(900), truth] & ~seen[np.arange(900), 1 - truth]
    np.testing.assert_array_equal(found[clear], truth[clear])


def test_types_of_few_cells_keep_theirs() -> None:
    counts = sparse.csr_matrix(np.ones((12, 2), dtype=np.float32))
    types = np.array([0] * 5 + [1] * 7)
    around = sparse.identity(12, format="csr")
    panels = [panel([0], [1]), panel([1], [0])]
    found = most_likely(counts, np.full(12, 100.0), around, types, panels, stray=0.3)
    np.testing.assert_array_equal(found, types)
