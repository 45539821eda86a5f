"""Kernels: least squares for many responses on one design, and moderation of their variances."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import optimize, special, stats

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

__all__ = [
    "LinearFit",
    "Moderated",
    "Squeezed",
    "expected_variance",
    "fit_arm",
    "fit_prior",
    "hedges_correction",
    "is_estimable",
    "moderate",
    "residual_maker",
    "squeeze",
]


@dataclass(frozen=True)
class LinearFit:
    """Arm effect of each response.

    Attributes
    ----------
    estimate
        Treated less reference, shape `(n_tests,)`.
    variance
        Residual variance, shape `(n_tests,)`; missing without residual degrees of freedom.
    unscaled
        Standard error of the estimate over the residual sd; the same for all responses.
    df
        Residual degrees of freedom.
    """

    estimate: NDArray[np.float64]
    variance: NDArray[np.float64]
    unscaled: float
    df: int


@dataclass(frozen=True)
class Moderated:
    """Moderated tests, all arrays of shape `(n_tests,)`.

    Attributes
    ----------
    pvalue
        Two-sided.
    ci_low, ci_high
        95 % interval.
    hedges_g
        Estimate over the (unmoderated) residual sd, times the small-sample correction.
    prior_df, prior_variance
        Prior that was fitted over the tests.
    """

    pvalue: NDArray[np.float64]
    ci_low: NDArray[np.float64]
    ci_high: NDArray[np.float64]
    hedges_g: NDArray[np.float64]
    prior_df: float
    prior_variance: float


def _basis(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """Orthonormal basis of the column space."""
    U, s, _ = np.linalg.svd(matrix, full_matrices=False)
    rank = int((s > s[0] * max(matrix.shape) * np.finfo(np.float64).eps).sum())
    return np.asarray(U[:, :rank])


def residual_maker(design: NDArray[np.float64]) -> NDArray[np.float64]:
    """Projection that leaves what a design cannot explain, shape `(n_units, n_units)`.

    Parameters
    ----------
    design
        Shape `(n_units, n_columns)`, which may be short of full rank.
    """
    Q = _basis(design)
    return np.asarray(np.eye(len(design)) - Q @ Q.T)


def is_estimable(arm: NDArray[np.bool_], nuisance: NDArray[np.float64]) -> bool:
    """Whether the arm is not a combination of the nuisance columns.

    Parameters
    ----------
    arm
        True where treated, shape `(n_units,)`.
    nuisance
        Shape `(n_units, n_columns)`, intercept included.
    """
    z = arm.astype(np.float64)
    Q = _basis(nuisance)
    rest = z - Q @ (Q.T @ z)
    return bool(float(rest @ rest) > 1e-10 * max(float(z @ z), 1.0))


def fit_arm(
    Y: NDArray[np.float64],
    arm: NDArray[np.bool_],
    nuisance: NDArray[np.float64],
    *,
    weights: NDArray[np.float64] | None = None,
) -> LinearFit:
    """Least squares of each response on the arm and the nuisance columns.

    By Frisch, Waugh and Lovell: both sides are freed of the nuisance columns first.

    Parameters
    ----------
    Y
        Responses, shape `(n_units, n_tests)`.
    arm, nuisance
        As in `is_estimable`, which must hold.
    weights
        Precision of each unit, shape `(n_units,)`; the residual variance is then that of a unit
        of weight 1. None: all alike.
    """
    root = np.ones(len(arm)) if weights is None else np.sqrt(weights)
    Y = Y * root[:, None]
    Q = _basis(nuisance * root[:, None])
    z = arm * root
    z = z - Q @ (Q.T @ z)
    R = Y - Q @ (Q.T @ Y)
    norm = float(z @ z)
    estimate = (z @ R) / norm
    residual = R - np.outer(z, estimate)
    df = len(arm) - Q.shape[1] - 1
    variance = (residual**2).sum(axis=0) / df if df > 0 else np.full(Y.shape[1], np.nan)
    # What is left of a response without spread is rounding, not variance.
    scale = (Y**2).mean(axis=0)
    variance = np.where(variance <= 1e-24 * scale, 0.0, variance)
    return LinearFit(estimate, variance, 1 / np.sqrt(norm), df)


def _trigamma_inverse(y: float) -> float:
    """Solve trigamma(x) = y by Newton's method on 1 / trigamma (Smyth 2004, appendix)."""
    if y > 1e7:
        return float(1 / np.sqrt(y))
    if y < 1e-6:
        return 1 / y
    x = 0.5 + 1 / y
    for _ in range(50):
        trigamma = float(special.polygamma(1, x))
        step = trigamma * (1 - trigamma / y) / float(special.polygamma(2, x))
        x += step
        if -step / x < 1e-8:
            break
    return x


def fit_prior(variance: ArrayLike, df: ArrayLike, *, caution: float = 0.0) -> tuple[float, float]:
    """Prior of the residual variances: a scaled inverse chi-square, by moments of log variance.

    Smyth 2004 (Stat Appl Genet Mol Biol 3:3), as limma's fitFDist does it.

    Parameters
    ----------
    variance, df
        Residual variances and their degrees of freedom, shape `(n_tests,)`; only tests with
        `df > 0` and a positive variance are used.
    caution
        Standard errors that are added to the spread of the log variances before it is read as
        prior degrees of freedom. limma adds none and takes the prior as known, which it is with
        thousands of genes; with a few dozen tests false calls come of it.

    Returns
    -------
    Prior degrees of freedom (0: fewer than two tests, no moderation; infinite: the variances
    spread no more than chance makes them) and prior variance.
    """
    s2, d = np.broadcast_arrays(
        np.asarray(variance, dtype=np.float64), np.asarray(df, dtype=np.float64)
    )
    used = np.isfinite(s2) & (s2 > 0) & (d > 0)
    s2, d = s2[used], d[used]
    if len(s2) < 2:
        return 0.0, np.nan
    s2 = np.maximum(s2, 1e-5 * np.median(s2))
    e = np.log(s2) - special.digamma(d / 2) + np.log(d / 2)
    error = np.sqrt(2 / (len(e) - 1)) * e.var(ddof=1)
    spread = float(e.var(ddof=1) - special.polygamma(1, d / 2).mean() + caution * error)
    if spread <= 0:
        return np.inf, float(s2.mean())
    prior_df = 2 * _trigamma_inverse(spread)
    prior = np.exp(e.mean() + special.digamma(prior_df / 2) - np.log(prior_df / 2))
    return prior_df, float(prior)


# Two numbers are read from the variances; from fewer tests they would be noise.
_MIN_TREND = 10


def expected_variance(
    variance: ArrayLike, df: ArrayLike, counting: ArrayLike
) -> NDArray[np.float64]:
    """Residual variance that each test should have: a + b * counting, with a and b at least 0.

    A score of few UMI varies more than one of many, so that one prior for both is too small for
    the first and too large for the second. Maximum likelihood, the variances being scaled
    chi-squares about their expectation.

    Parameters
    ----------
    variance, df
        As in `fit_prior`.
    counting
        Variance that counting alone gives a unit, up to a factor, shape `(n_tests,)`; missing
        where it is not asked for.

    Returns
    -------
    Shape `(n_tests,)`; all 1 with fewer than ten tests that can be used.
    """
    s2, d, c = np.broadcast_arrays(
        *(np.asarray(a, dtype=np.float64) for a in (variance, df, counting))
    )
    used = np.isfinite(s2) & np.isfinite(c) & (d > 0)
    if used.sum() < _MIN_TREND or not s2[used].any():
        return np.ones(s2.shape)
    terms = np.column_stack([np.ones(s2.shape), np.where(used, c, 0.0)])
    mean = float(s2[used].mean())
    fitted = np.full(s2.shape, mean)
    for _ in range(100):
        weight = np.sqrt(d[used]) / fitted[used]
        line, _ = optimize.nnls(terms[used] * weight[:, None], s2[used] * weight)
        before, fitted = fitted, np.maximum(terms @ line, 1e-3 * mean)
        if np.allclose(before, fitted, rtol=1e-8, atol=0):
            break
    return fitted


@dataclass(frozen=True)
class Squeezed:
    """Variances that have been shrunk towards their prior.

    Attributes
    ----------
    variance
        Posterior variance, shape `(n_tests,)`; missing where it is not positive.
    df
        Total degrees of freedom, shape `(n_tests,)`.
    prior_df, prior_variance
        The prior.
    """

    variance: NDArray[np.float64]
    df: NDArray[np.float64]
    prior_df: float
    prior_variance: float


def squeeze(
    variance: ArrayLike,
    df: ArrayLike,
    *,
    caution: float = 0.0,
    trust: float = np.inf,
    never_lower: bool = False,
) -> Squeezed:
    """Shrink the residual variances of a family of tests towards a common prior.

    Parameters
    ----------
    variance, df
        As in `fit_prior`.
    caution
        As in `fit_prior`.
    trust
        The prior weighs at most so many times as much as the test itself.
    never_lower
        Whether a variance stays that is above its posterior.

    Notes
    -----
    Total degrees of freedom are those of the test and of the prior, at most those of all tests
    together, as in limma. A variance of zero is replaced by the prior's share alone; without a
    prior there is none.
    """
    s2, d = np.broadcast_arrays(
        np.asarray(variance, dtype=np.float64), np.asarray(df, dtype=np.float64)
    )
    prior_df, prior = fit_prior(s2, d, caution=caution)
    pooled = float(np.where(np.isfinite(s2), d, 0.0).sum())
    weight = np.minimum(prior_df, trust * d)
    if prior_df == 0:
        posterior, total = s2, d
    elif np.isinf(weight).all():
        posterior, total = np.full(s2.shape, prior), np.full(s2.shape, pooled)
    else:
        posterior = (weight * prior + d * s2) / (weight + d)
        total = np.minimum(weight + d, pooled)
    if never_lower:
        posterior = np.maximum(posterior, s2)
    posterior = np.where(posterior > 0, posterior, np.nan)
    return Squeezed(posterior, total, prior_df, prior)


def hedges_correction(df: ArrayLike) -> NDArray[np.float64]:
    """Exact small-sample factor J of Hedges 1981; missing below two degrees of freedom."""
    d = np.asarray(df, dtype=np.float64)
    safe = np.where(d > 1, d, np.nan)
    log_j = special.gammaln(safe / 2) - special.gammaln((safe - 1) / 2) - 0.5 * np.log(safe / 2)
    return np.asarray(np.exp(log_j), dtype=np.float64)


def moderate(
    estimate: ArrayLike,
    variance: ArrayLike,
    unscaled: ArrayLike,
    df: ArrayLike,
    *,
    caution: float = 0.0,
    trust: float = np.inf,
    never_lower: bool = False,
) -> Moderated:
    """Moderated t, p, interval and Hedges' g of all tests of a family.

    Parameters
    ----------
    estimate, variance, unscaled, df
        As in `LinearFit`, one entry a test, shape `(n_tests,)`.
    caution, trust, never_lower
        As in `squeeze`; the defaults are limma's.

    Notes
    -----
    A test whose variance is zero is judged by the prior alone; without a prior it has no p.
    """
    b, s2, u, d = np.broadcast_arrays(
        *(np.asarray(a, dtype=np.float64) for a in (estimate, variance, unscaled, df))
    )
    squeezed = squeeze(s2, d, caution=caution, trust=trust, never_lower=never_lower)
    total = squeezed.df
    se = u * np.sqrt(squeezed.variance)
    half = stats.t.ppf(0.975, total) * se
    spread = np.sqrt(np.where(s2 > 0, s2, np.nan))
    return Moderated(
        pvalue=2 * stats.t.sf(np.abs(b) / se, total),
        ci_low=b - half,
        ci_high=b + half,
        hedges_g=b / spread * hedges_correction(d),
        prior_df=squeezed.prior_df,
        prior_variance=squeezed.prior_variance,
    )
