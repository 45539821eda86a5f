"""Small statistics that several packages need."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy import stats

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

__all__ = ["above_ambient", "benjamini_hochberg", "bootstrap_expansion", "wilson_interval"]


def above_ambient(
    counts: NDArray[np.float64],
    ambient: NDArray[np.float64],
    *,
    margin: float = 0.5,
    alpha: float = 0.01,
) -> NDArray[np.bool_]:
    """Whether a population makes a gene itself, judged on all units of a test together.

    max(0, counts - ambient) keeps the upward half of the noise of ambient RNA. In a population that
    does not make the gene that is a shift wherever an arm has more of it in ambient RNA, and a
    signature adds it up over its genes. Arms are not told apart here, so that permuting them stays
    exact.

    Parameters
    ----------
    counts, ambient
        UMI and expected ambient UMI, summed over the units, shape `(n_genes,)`.
    margin
        By how much ambient RNA may be underestimated.
    alpha
        Largest probability that ambient RNA of (1 + margin) x `ambient` reaches the counts.
    """
    return np.asarray(stats.poisson.sf(counts - 1, (1 + margin) * ambient) < alpha)


def bootstrap_expansion(n: float, df: float, *, level: float = 0.95) -> float:
    """Factor by which a bootstrap of few units is too narrow (Hesterberg 2015, section 4).

    Resampling n units gives (n - 1) / n of the variance, and normal instead of t tails.

    Parameters
    ----------
    n
        Units that are resampled (in each arm), at least 2.
    df
        Degrees of freedom of their spread, at least 1.
    level
        Confidence level.
    """
    tail = 0.5 + level / 2
    return float(np.sqrt(n / (n - 1)) * stats.t.ppf(tail, df) / stats.norm.ppf(tail))


def benjamini_hochberg(pvalues: ArrayLike) -> NDArray[np.float64]:
    """Benjamini-Hochberg adjusted p values over the finite entries; missing stays missing.

    Parameters
    ----------
    pvalues
        Shape `(n,)`, NaN where there is no test.
    """
    p = np.asarray(pvalues, dtype=np.float64)
    adjusted = np.full(p.shape, np.nan)
    finite = np.isfinite(p)
    if finite.any():
        adjusted[finite] = stats.false_discovery_control(p[finite])
    return adjusted


def wilson_interval(
    successes: ArrayLike, trials: ArrayLike, *, level: float = 0.95
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Wilson score interval of a proportion; missing where there were no trials.

    Parameters
    ----------
    successes, trials
        Counts, broadcastable.
    level
        Confidence level.
    """
    k, n = np.broadcast_arrays(
        np.asarray(successes, dtype=np.float64), np.asarray(trials, dtype=np.float64)
    )
    z = stats.norm.ppf(0.5 + level / 2)
    with np.errstate(invalid="ignore", divide="ignore"):
        p = k / n
        centre = (p + z**2 / (2 * n)) / (1 + z**2 / n)
        half = z / (1 + z**2 / n) * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    return np.clip(centre - half, 0, 1), np.clip(centre + half, 0, 1)
