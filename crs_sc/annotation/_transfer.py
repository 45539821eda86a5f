"""A linear classifier of cell types from labelled cells, on plain arrays."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import sparse

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["LabelModel", "fit_labels", "log_normalised", "telling_genes"]

_CLIP = 10.0
_SMALLEST_SD = 0.05
_PENALTY = 0.01


@dataclass(frozen=True)
class LabelModel:
    """One logistic regression a label, each against the rest, on standardised genes.

    Attributes
    ----------
    mean, scale
        Of the reference, shape `(n_genes,)`.
    coefficients, intercepts
        Shapes `(n_labels, n_genes)` and `(n_labels,)`.
    """

    mean: NDArray[np.float64]
    scale: NDArray[np.float64]
    coefficients: NDArray[np.float64]
    intercepts: NDArray[np.float64]

    def standardised(self, expression: NDArray[np.float64]) -> NDArray[np.float64]:
        """Expression relative to the reference, cut off where it is far out."""
        return np.clip((expression - self.mean) / self.scale, -_CLIP, _CLIP)

    def probabilities(self, expression: NDArray[np.float64]) -> NDArray[np.float64]:
        """Probability of each label for itself, shape `(n_cells, n_labels)`.

        They do not add up to 1: a cell of no known type can be unlike all of them.
        """
        from scipy.special import expit

        score = self.standardised(expression) @ self.coefficients.T + self.intercepts
        return np.asarray(expit(score))


def log_normalised(counts: sparse.csr_matrix, totals: NDArray[np.float64]) -> sparse.csr_matrix:
    """`log(1 + 10,000 count / total)`, float64; a cell without counts stays empty."""
    factor = 1e4 / np.where(totals > 0, totals, 1.0)
    result = sparse.csr_matrix(sparse.diags(factor) @ counts.astype(np.float64))
    result.data = np.log1p(result.data)
    return result


def telling_genes(
    expression: sparse.csr_matrix, codes: NDArray[np.integer], *, n_genes: int
) -> NDArray[np.intp]:
    """Genes whose mean differs most between the labels, for their spread.

    Every label counts the same, so that a rare one has genes too.

    Parameters
    ----------
    expression
        Log-normalised, shape `(n_cells, n_all_genes)`.
    codes
        Label of each cell, shape `(n_cells,)`; each of them has cells.
    n_genes
        How many.

    Returns
    -------
    Columns, the most telling first.
    """
    n_labels = int(codes.max()) + 1
    size = np.bincount(codes, minlength=n_labels)
    indicator = sparse.csr_matrix(
        (1 / size[codes], (codes, np.arange(len(codes)))), shape=(n_labels, len(codes))
    )
    means = np.asarray((indicator @ expression).todense())
    mean = np.asarray(expression.mean(axis=0)).ravel()
    variance = np.asarray(expression.multiply(expression).mean(axis=0)).ravel() - mean**2
    score = means.var(axis=0) / np.sqrt(np.maximum(variance, 1e-3))
    return np.argsort(-score, kind="stable")[:n_genes]


def fit_labels(expression: NDArray[np.float64], codes: NDArray[np.integer]) -> LabelModel:
    """Fit one logistic regression a label, the classes weighted to be of one size.

    This is the model of CellTypist (Dominguez Conde 2022, doi 10.1126/science.abl5197).

    Parameters
    ----------
    expression
        Log-normalised, shape `(n_cells, n_genes)`.
    codes
        Label of each cell, shape `(n_cells,)`, from 0 without gaps; at least two of them.
    """
    from sklearn.linear_model import LogisticRegression
    from threadpoolctl import threadpool_limits

    mean = expression.mean(axis=0)
    scale = np.maximum(expression.std(axis=0), _SMALLEST_SD)
    n_labels = int(codes.max()) + 1
    empty = LabelModel(mean, scale, np.empty((n_labels, len(mean))), np.empty(n_labels))
    x = empty.standardised(expression)
    # With several threads the last digits depend on their number, and nothing is faster.
    with threadpool_limits(limits=1):
        for label in range(n_labels):
            one = LogisticRegression(C=_PENALTY, class_weight="balanced", max_iter=500)
            one.fit(x, codes == label)
            empty.coefficients[label] = one.coef_[0]
            empty.intercepts[label] = one.intercept_[0]
    return empty
