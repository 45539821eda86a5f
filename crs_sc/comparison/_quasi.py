"""Kernel of the expression test: the quasi-likelihood t of a negative binomial model.

The Wald test of DESeq2 takes the dispersion of a gene as known: its tails are normal, and with
three or four subjects an arm the smallest p are far too small. Here, as in edgeR's quasi-likelihood
test (Lund et al. 2012, Stat Appl Genet Mol Biol 11:5), the negative binomial dispersion is that of
the trend, what a gene varies beyond it is a residual variance with its degrees of freedom, and that
variance is moderated over the genes as in limma.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy import stats

from crs_sc.comparison._linear import squeeze
from crs_sc.comparison._negative_binomial import GeneBatches, wald_fit

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

__all__ = ["quasi_tests", "residual_variance", "unit_deviance"]

# As in DESeq2: a mean below this is taken for this in the weights.
_MIN_MU = 0.5


def quasi_tests(
    counts: Floats,
    size_factors: Floats,
    design: Floats,
    alpha: Floats,
    contrasts: Sequence[Floats],
) -> list[Floats]:
    """Two-sided p of each contrast, each of shape `(n_genes,)`.

    Shrinking a variance is a bet that genes are alike. It is taken where it raises the variance of
    a gene and not where it lowers it: subjects differ by ancestry, sex or infection in some genes
    far more than in most, and those are the genes that lead a table of false discoveries. Nor is a
    variance below that of counting alone.

    Parameters
    ----------
    counts
        Shape `(n_units, n_genes)`.
    size_factors
        Shape `(n_units,)`.
    design
        Full column rank, shape `(n_units, n_coefficients)`.
    alpha
        Dispersion trend at each gene, shape `(n_genes,)`; missing where there is none.
    contrasts
        Each of shape `(n_coefficients,)`.
    """
    inference = GeneBatches()
    # Without a trend (too few genes, or none overdispersed) the model is quasi-Poisson.
    alpha = np.fmax(alpha, 1e-8)
    beta, mu, _, _ = inference.irls(
        counts=counts,
        size_factors=size_factors,
        design_matrix=design,
        disp=alpha,
        min_mu=_MIN_MU,
        beta_tol=1e-8,
    )
    own, df = residual_variance(counts, mu, alpha, design)
    squeezed = squeeze(own, df, never_lower=True)
    counting = (1 / (1 + alpha * mu)).mean(axis=0)
    variance = np.fmax(squeezed.variance, counting)
    ridge = 1e-6 * np.eye(design.shape[1])
    answers = []
    for contrast in contrasts:
        _, statistic, _ = wald_fit(design, alpha, beta, mu, ridge, contrast)
        answers.append(2 * stats.t.sf(np.abs(statistic) / np.sqrt(variance), squeezed.df))
    return answers


def unit_deviance(counts: Floats, mu: Floats, alpha: Floats) -> Floats:
    """Deviance of the negative binomial, unit by unit, shape `(n_units, n_genes)`."""
    mu = np.maximum(mu, 1e-8)
    fit = counts * np.log(np.maximum(counts, 1e-300) / mu)
    rest = (counts + 1 / alpha) * np.log1p(alpha * (counts - mu) / (1 + alpha * mu))
    return np.asarray(np.maximum(2 * (np.where(counts > 0, fit, 0.0) - rest), 0.0))


def residual_variance(
    counts: Floats, mu: Floats, alpha: Floats, design: Floats
) -> tuple[Floats, Floats]:
    """Deviance over its degrees of freedom, and these, each of shape `(n_genes,)`.

    Units without a count where none is expected say nothing about the spread: they neither add to
    the deviance nor to the degrees of freedom (as in edgeR's `glmQLFit`).
    """
    silent = (counts == 0) & (mu < _MIN_MU)
    deviance = np.where(silent, 0.0, unit_deviance(counts, mu, alpha)).sum(axis=0)
    df = np.full(counts.shape[1], float(len(design) - design.shape[1]))
    patterns, member = np.unique(silent, axis=1, return_inverse=True)
    for i, pattern in enumerate(patterns.T):
        if pattern.any():
            heard = design[~pattern]
            rank = np.linalg.matrix_rank(heard) if len(heard) else 0
            df[member.ravel() == i] = len(heard) - rank
    return np.divide(deviance, df, out=np.zeros_like(df), where=df > 0), df
