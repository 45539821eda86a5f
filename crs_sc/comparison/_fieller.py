"""Kernel of the reversal: two arm effects of one design, and the interval of their ratio."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy import stats

from crs_sc.comparison._linear import residual_maker, squeeze

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    Floats = NDArray[np.float64]

__all__ = [
    "N_COMPONENTS",
    "ArmEffects",
    "arm_effects",
    "effect_covariance",
    "fieller_interval",
]


class ArmEffects(NamedTuple):
    """Treated less reference and baseline less reference, and what their covariance needs.

    Attributes
    ----------
    effects
        Shape `(2, n_tests)`.
    variances
        Components of the variance of a unit, shape `(N_COMPONENTS, n_tests)`: of each arm; or, of
        subjects that are seen in several arms, that within subjects, and in all where it counts.
        Missing where there is none.
    unscaled
        What a component of 1 adds to the variances and the covariance of the effects, as (var
        treated, cov, var baseline), shape `(N_COMPONENTS, 3)`.
    df
        Degrees of freedom of the components, shape `(N_COMPONENTS,)`.
    """

    effects: Floats
    variances: Floats
    unscaled: Floats
    df: Floats


N_COMPONENTS = 3


def arm_effects(
    Y: Floats, arms: NDArray[np.int64], batch: NDArray[np.int64], subject: NDArray[np.int64]
) -> ArmEffects | None:
    """Both effects by least squares; None where batches cannot be told from arms.

    Each arm has a variance of its own: a response that is low in one arm is counted from fewer
    UMI there. Subjects that are seen in several arms are factors of the model where that leaves
    both effects to be estimated. Where it does not (pairs of reference and treated, a baseline of
    others), the units of a subject share a variance component.

    Parameters
    ----------
    Y
        Responses, shape `(n_units, n_tests)`.
    arms
        0 baseline, 1 reference, 2 treated, shape `(n_units,)`.
    batch, subject
        Codes, shape `(n_units,)`.
    """
    plain = np.hstack([_indicators(arms, 3), _indicators(batch)[:, 1:]])
    factors = _indicators(subject)
    blocked = np.hstack([plain, factors])
    repeated = factors.shape[1] < len(Y)
    rows = _effect_rows(blocked) if repeated else None
    mixed = repeated and rows is None
    rows = _effect_rows(plain) if rows is None else rows
    if rows is None:
        return None
    whole = _triangle(rows @ rows.T)
    if not repeated:
        members = [arms == arm for arm in range(3)]
        parts = [(*_arm_variance(Y, plain, m), _triangle(rows[:, m] @ rows[:, m].T))
                 for m in members]  # fmt: skip
    else:
        within, df = _residual_variance(Y, blocked)
        parts = [(within, df, whole)]
    if mixed:
        same = factors @ factors.T
        M = residual_maker(plain)
        rest = ((M @ Y) * Y).sum(axis=0) - within * np.trace(M)
        total = within + np.maximum(rest / np.trace(M @ same), 0.0)
        shared = _triangle(rows @ same @ rows.T)
        parts = [(within, df, whole - shared), (total, min(df, factors.shape[1] - 3), shared)]
    variances = np.full((N_COMPONENTS, Y.shape[1]), np.nan)
    unscaled, degrees = np.zeros((N_COMPONENTS, 3)), np.full(N_COMPONENTS, np.nan)
    for k, (variance, freedom, scale) in enumerate(parts):
        variances[k], degrees[k], unscaled[k] = variance, freedom, scale
    return ArmEffects(rows @ Y, variances, unscaled, degrees)


def _arm_variance(Y: Floats, design: Floats, member: NDArray[np.bool_]) -> tuple[Floats, float]:
    """Variance of the units of one arm, and its degrees of freedom: what the design leaves them."""
    M = residual_maker(design)
    df = float(np.diag(M)[member].sum())
    if df < 1 - 1e-9:
        return np.full(Y.shape[1], np.nan), 0.0
    variance = ((M @ Y)[member] ** 2).sum(axis=0) / df
    return np.where(variance <= 1e-24 * (Y**2).mean(axis=0), 0.0, variance), df


def _indicators(codes: NDArray[np.int64], n: int | None = None) -> Floats:
    """One column a code."""
    n = int(codes.max()) + 1 if n is None else n
    return np.asarray((codes[:, None] == np.arange(n)).astype(np.float64))


def _effect_rows(design: Floats) -> Floats | None:
    """Weights of the units in both effects, shape `(2, n_units)`; None if not estimable."""
    wanted = np.zeros((2, design.shape[1]))
    wanted[0, [2, 1]] = 1, -1
    wanted[1, [0, 1]] = 1, -1
    inverse = np.linalg.pinv(design)
    if not np.allclose(wanted @ inverse @ design, wanted, atol=1e-8):
        return None
    return np.asarray(wanted @ inverse)


def _residual_variance(Y: Floats, design: Floats) -> tuple[Floats, int]:
    """Residual variance and its degrees of freedom; missing where there are none."""
    M = residual_maker(design)
    df = round(float(np.trace(M)))
    if df < 1:
        return np.full(Y.shape[1], np.nan), df
    variance = ((M @ Y) ** 2).sum(axis=0) / df
    # What is left of a response without spread is rounding, not variance.
    return np.where(variance <= 1e-24 * (Y**2).mean(axis=0), 0.0, variance), df


def _triangle(matrix: Floats) -> Floats:
    return np.array([matrix[0, 0], matrix[0, 1], matrix[1, 1]])


def effect_covariance(
    effects: Floats, variances: Floats, unscaled: Floats, df: Floats, *, caution: float
) -> tuple[Floats, Floats]:
    """Covariances of the effects of a family of tests, their variances moderated.

    Each component is moderated over the tests by itself. The degrees of freedom are those of
    Satterthwaite for treated - R baseline at the ratio R that was found.

    Parameters
    ----------
    effects
        Shape `(2, n_tests)`.
    variances, df
        As in `ArmEffects`, shape `(n_tests, N_COMPONENTS)`.
    unscaled
        The same, shape `(n_tests, N_COMPONENTS, 3)`.
    caution
        As in `squeeze`.

    Returns
    -------
    (var treated, cov, var baseline) of shape `(n_tests, 3)`, and the degrees of freedom.
    """
    ratio = effects[0] / np.where(effects[1] == 0, np.nan, effects[1])
    combination = np.column_stack([np.ones_like(ratio), -2 * ratio, ratio**2])
    covariance = np.zeros((len(ratio), 3))
    total, spread = np.zeros(len(ratio)), np.zeros(len(ratio))
    for k in range(variances.shape[1]):
        rows = np.flatnonzero(np.isfinite(df[:, k]))
        if not len(rows):
            continue
        squeezed = squeeze(variances[rows, k], df[rows, k], caution=caution)
        added = squeezed.variance[:, None] * unscaled[rows, k]
        covariance[rows] += added
        share = (added * combination[rows]).sum(axis=1)
        total[rows] += share
        spread[rows] += share**2 / squeezed.df
    with np.errstate(invalid="ignore", divide="ignore"):
        return covariance, total**2 / spread


def fieller_interval(
    effects: Floats, covariance: Floats, df: ArrayLike, *, level: float = 0.95
) -> tuple[Floats, Floats]:
    """Interval of treated over baseline (Fieller 1954); missing where it is not one.

    All ratios R for which treated - R baseline is compatible with zero. That is an interval where
    the baseline effect itself differs from zero at the same level, and else no bounded set.

    Parameters
    ----------
    effects
        Shape `(2, n_tests)`.
    covariance
        Shape `(n_tests, 3)`.
    df
        Degrees of freedom, shape `(n_tests,)`.
    level
        Confidence level.
    """
    treated, baseline = effects
    t2 = stats.t.ppf(0.5 + level / 2, np.asarray(df, dtype=np.float64)) ** 2
    a = baseline**2 - t2 * covariance[:, 2]
    b = treated * baseline - t2 * covariance[:, 1]
    c = treated**2 - t2 * covariance[:, 0]
    with np.errstate(invalid="ignore", divide="ignore"):
        bounded = a > 0
        root = np.sqrt(np.maximum(b**2 - a * c, 0.0))
        low = np.where(bounded, (b - root) / a, np.nan)
        high = np.where(bounded, (b + root) / a, np.nan)
    return low, high
