"""Kernel of the decomposition: the change of a product of three factors, split exactly.

An arm is described by three means over its subjects: the cell share `p`, the producers per sampled
cell `q = p f`, and the corrected UMI per sampled cell `o = p f m`. Its factors `P = p`, `F = q / p`
and `M = o / q` multiply to `o` exactly, whatever the spread between subjects.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy import stats

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

__all__ = [
    "Parts",
    "arm_means",
    "expansion",
    "jackknife_variance",
    "leave_one_out_weights",
    "resampling_weights",
    "shapley_parts",
    "with_total",
]


class Parts(NamedTuple):
    """The change of `o` and its parts, each of the shape of the means that they came from."""

    total: NDArray[np.float64]
    composition: NDArray[np.float64]
    producer_fraction: NDArray[np.float64]
    intensity: NDArray[np.float64]


def shapley_parts(p0: Floats, q0: Floats, o0: Floats, p1: Floats, q1: Floats, o1: Floats) -> Parts:
    """Shapley-averaged parts of `o1 - o0`.

    A factor that one arm does not define (producer share without cells, output per producer
    without producers) takes the value of the other arm, so that its part is exactly zero.

    Parameters
    ----------
    p0, q0, o0
        Means of the reference arm, broadcastable: cells, producers and UMI per sampled cell.
    p1, q1, o1
        The same of the treated arm.

    Returns
    -------
    Parts that add up to the total but for rounding. The closed form of the average over the six
    orders in which three factors can change.
    """
    f0, m0, f1, m1 = _ratio(q0, p0), _ratio(o0, q0), _ratio(q1, p1), _ratio(o1, q1)
    f0, f1 = _fill(f0, f1), _fill(f1, f0)
    m0, m1 = _fill(m0, m1), _fill(m1, m0)
    return Parts(
        total=o1 - o0,
        composition=_part(p0, p1, f0, f1, m0, m1),
        producer_fraction=_part(f0, f1, p0, p1, m0, m1),
        intensity=_part(m0, m1, p0, p1, f0, f1),
    )


def _ratio(over: Floats, under: Floats) -> Floats:
    """`over / under`, missing where `under` is zero."""
    over, under = np.broadcast_arrays(over, under)
    ratio = np.full(over.shape, np.nan)
    np.divide(over, under, out=ratio, where=under > 0)
    return ratio


def _fill(own: Floats, other: Floats) -> Floats:
    """`own`, where it is missing `other`, where both are missing 0."""
    return np.asarray(np.nan_to_num(np.where(np.isnan(own), other, own)))


def _part(x0: Floats, x1: Floats, y0: Floats, y1: Floats, z0: Floats, z1: Floats) -> Floats:
    """Shapley value of `x` in the change of `x y z`."""
    return (x1 - x0) * ((y0 * z0 + y1 * z1) / 3 + (y0 * z1 + y1 * z0) / 6)


def arm_means(weights: Floats, values: Floats) -> Floats:
    """Weighted means over subjects, one a row of `weights`.

    Parameters
    ----------
    weights
        Shape `(n_replicates, n_subjects)`, rows add up to 1.
    values
        Shape `(n_subjects, n_columns)`.

    Returns
    -------
    Shape `(n_replicates, n_columns)`. Computed without BLAS, whose sums depend on the machine's
    threads; a column that is zero in every drawn subject has a mean of exactly zero.
    """
    return np.asarray(np.einsum("rs,sc->rc", weights, values))


def resampling_weights(rng: np.random.Generator, n_subjects: int, n_replicates: int) -> Floats:
    """Bootstrap weights of subjects: how often each was drawn, over the number of draws.

    Parameters
    ----------
    rng
        Source of the draws.
    n_subjects, n_replicates
        Size of the arm and number of bootstrap samples.

    Returns
    -------
    Shape `(n_replicates, n_subjects)`, rows add up to 1.
    """
    draws = rng.multinomial(n_subjects, np.full(n_subjects, 1 / n_subjects), size=n_replicates)
    return draws / n_subjects


def leave_one_out_weights(n_subjects: int) -> Floats:
    """Weights that leave out one subject after another, shape `(n_subjects, n_subjects)`."""
    return np.asarray((1 - np.eye(n_subjects)) / (n_subjects - 1))


def with_total(parts: Parts) -> Parts:
    """Append the sum over the populations, the last axis, to each part."""
    return Parts(*(np.append(v, v.sum(axis=-1, keepdims=True), axis=-1) for v in parts))


def jackknife_variance(left_out: Floats) -> Floats:
    """Variance of an estimate from those without each subject in turn (Efron and Stein 1981).

    Parameters
    ----------
    left_out
        Shape `(n_subjects, n_columns)`.
    """
    n = len(left_out)
    spread = ((left_out - left_out.mean(axis=0)) ** 2).sum(axis=0)
    return np.asarray((n - 1) / n * spread)


def expansion(variances: list[Floats], sizes: list[int], *, level: float = 0.95) -> Floats:
    """Factor by which the bootstrap of few subjects is too narrow.

    As `crs_sc.core.stats.bootstrap_expansion` (Hesterberg 2015), for arms whose spread differs:
    resampling n subjects gives (n - 1) / n of the variance that their arm adds, and the tails are
    those of t with the degrees of freedom of Welch and Satterthwaite.

    Parameters
    ----------
    variances
        What each arm (or the pairs) adds to the variance of an estimate, each `(n_columns,)`.
    sizes
        Subjects of each arm, at least 2.
    level
        Confidence level.

    Returns
    -------
    Shape `(n_columns,)`; 1 where nothing varies.
    """
    v = np.array(variances)
    n = np.array(sizes, dtype=np.float64)[:, None]
    total = v.sum(axis=0)
    varies = total > 0
    safe = np.where(varies, v, 1.0)
    df = safe.sum(axis=0) ** 2 / (safe**2 / (n - 1)).sum(axis=0)
    scale = np.sqrt(safe.sum(axis=0) / (safe * (n - 1) / n).sum(axis=0))
    tail = 0.5 + level / 2
    return np.where(varies, scale * stats.t.ppf(tail, df) / stats.norm.ppf(tail), 1.0)
