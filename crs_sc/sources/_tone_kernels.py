"""Ratio of two ambient-corrected outputs with its interval, on plain arrays."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy import stats

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

__all__ = ["Output", "corrected_output", "log2_ratio"]


class Output(NamedTuple):
    """UMI that ambient RNA does not explain, with their interval; all of one shape."""

    value: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]


def corrected_output(
    umi: ArrayLike, expected: ArrayLike, largest: ArrayLike, *, level: float
) -> Output:
    """UMI less ambient RNA, from 0, with an interval for both.

    The counts have the exact Poisson interval (Garwood 1936); ambient RNA is taken to lie between
    `largest` and as far below `expected`. The two are put together as in `log2_ratio`.

    Parameters
    ----------
    umi
        UMI seen.
    expected, largest
        UMI that ambient RNA is expected to add, and may add at most.
    level
        Confidence level.
    """
    seen, ambient, most = (
        np.asarray(values, dtype=np.float64) for values in (umi, expected, largest)
    )
    tail = (1 - level) / 2
    low = np.where(seen > 0, stats.gamma.ppf(tail, np.maximum(seen, 1)), 0.0)
    high = stats.gamma.ppf(1 - tail, seen + 1)
    error = np.minimum(most - ambient, ambient)
    value = seen - ambient
    return Output(
        np.maximum(0.0, value),
        np.maximum(0.0, value - np.hypot(seen - low, most - ambient)),
        np.maximum(0.0, value + np.hypot(high - seen, error)),
    )


def log2_ratio(above: Output, below: Output) -> Output:
    """log2 of one output over another, with the interval of the method of variance estimates.

    Each end puts together, as roots of squares, how far the one output could be lower and the
    other higher (MOVER; Donner and Zou 2012, doi 10.1177/0962280210383082), on the log scale.

    Returns
    -------
    NaN for the ratio where either output is 0, and for an end where that side has no bound.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        a, a_low, a_high = (np.log2(values) for values in above)
        b, b_low, b_high = (np.log2(values) for values in below)
        ratio = a - b
        low = ratio - np.hypot(a - a_low, b_high - b)
        high = ratio + np.hypot(a_high - a, b - b_low)
        # Nothing of the one was seen: the other at its least over the most that this may be.
        low = np.where((below.value == 0) & (above.value > 0), a_low - b_high, low)
        high = np.where((above.value == 0) & (below.value > 0), a_high - b_low, high)
    return Output(*(np.where(np.isfinite(values), values, np.nan) for values in (ratio, low, high)))
