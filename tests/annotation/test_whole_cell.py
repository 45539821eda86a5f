"""What the place of a cell in the embedding says about its type: reference and planted faults."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
from scipy import sparse

from crs_sc import genesets
from crs_sc.annotation._cell_calls import _with_whole_expression
from crs_sc.annotation._neighbourhood import mean_around, with_neighbours
from crs_sc.annotation._panels import Panels, make_panels
from crs_sc.annotation._whole_cell import cloud_likelihood


def clouds(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Three clouds of one long shape; what they share says nothing about the type."""
    rng = np.random.default_rng(seed)
    truth = np.repeat([0, 1, 2], [200, 120, 80])
    centre = np.array([[0, 0, 0, 0], [0, 6, 0, 0], [0, 0, 5, 5]])
    spread = np.array([10.0, 1.0, 1.0, 1.0])
    return centre[truth] + rng.normal(size=(400, 4)) * spread, truth


def panels() -> Panels:
    table = genesets.load_cell_types()
    table = table[table["set"].isin(["CD4 T", "B", "NK"])]
    genes = pd.Index(table["symbol"].unique())
    adata = ad.AnnData(np.zeros((1, len(genes))), var=pd.DataFrame(index=genes))
    return make_panels(adata, table, organism="human", min_markers=3)


def test_likelihood_is_that_of_a_shrunken_linear_discriminant() -> None:
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

    components, truth = clouds()
    found = cloud_likelihood(components, truth, 3)
    reference = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=0.1).fit(components, truth)
    expected = reference.decision_function(components) - np.log(reference.priors_)
    np.testing.assert_allclose(
        found, expected - expected.max(axis=1, keepdims=True), rtol=1e-6, atol=1e-6
    )
    # Cells that shall not count do not move the clouds, and are placed among them.
    types = np.append(truth, -1)
    with_stray = cloud_likelihood(np.vstack([components, [[0, 400, 0, 0]]]), types, 3)
    np.testing.assert_allclose(with_stray[:-1], found, atol=1e-9)
    assert with_stray[-1].argmax() == 1


def test_cells_without_extent_have_equal_places() -> None:
    found = cloud_likelihood(np.ones((6, 2)), np.array([0, 0, 0, 1, 1, 1]), 2)
    np.testing.assert_allclose(found, 0)


def test_wrong_calls_are_mended_by_the_whole_expression_and_open_ones_are_said() -> None:
    components, truth = clouds()
    own = panels()
    called = truth.copy()
    rng = np.random.default_rng(1)
    wrong = rng.choice(400, 30, replace=False)
    called[wrong] = (truth[wrong] + 1) % 3
    # Halfway between the clouds of the first two types.
    components = np.vstack([components, [[0, 3, 0, 0]]])
    called = np.append(called, 0)
    silent = sparse.csr_matrix((401, len(own.columns)), dtype=np.float32)
    # Every cell has the same neighbours, so that they cannot tell.
    around = sparse.csr_matrix(np.full((401, 401), 1 / 401))
    found, share = _with_whole_expression(
        components, silent, np.full(401, 1000.0), around, called, own
    )
    assert (found[wrong] == truth[wrong]).mean() > 0.9
    assert (found[:-1] == truth).mean() > 0.95
    assert 0.4 < share[-1] < 0.95
    right = found[:-1] == truth
    assert share[:-1][~right].mean() < share[:-1][right].mean()


def test_types_of_few_cells_have_no_cloud_and_their_cells_stay() -> None:
    components, truth = clouds()
    few = np.where(truth == 2, 0, truth)
    few[:5] = 2
    own = panels()
    silent = sparse.csr_matrix((400, len(own.columns)), dtype=np.float32)
    around = sparse.identity(400, format="csr")
    found, share = _with_whole_expression(components, silent, np.full(400, 1e3), around, few, own)
    assert (found[:5] == 2).all()
    assert (share[:5] == 1).all()
    alone = np.zeros(400, dtype=np.intp)
    found, share = _with_whole_expression(components, silent, np.full(400, 1e3), around, alone, own)
    assert (found == 0).all()
    assert (share == 1).all()


def test_mean_around_is_the_sparse_product() -> None:
    rng = np.random.default_rng(3)
    graph = sparse.csr_matrix(rng.random((50, 50)) < 0.1)
    values = sparse.csr_matrix(rng.poisson(0.5, size=(50, 7)).astype(np.float32))
    around = with_neighbours(graph)
    found = mean_around(around, values, slice(10, 40))
    np.testing.assert_allclose(found, (around @ values).toarray()[10:40], rtol=1e-12)
