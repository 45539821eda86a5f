"""Levels of receptors over subjects, on plain arrays."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy import stats

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["mean_over_subjects", "native_cpm"]


def native_cpm(
    umi: NDArray[np.float64], ambient: NDArray[np.float64], native: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Give the counts per million of what the cells themselves hold.

    Not cut off at zero: over subjects, noise around no expression has to average out.

    Parameters
    ----------
    umi, ambient
        UMI of the gene and those that ambient RNA is expected to add, same shape.
    native
        UMI over all genes less those of ambient RNA, same shape.

    Returns
    -------
    Same shape; NaN where there is no native UMI.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(native > 0, 1e6 * (umi - ambient) / native, np.nan)


def mean_over_subjects(
    values: NDArray[np.float64], *, level: float
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Mean over the last axis and Student's interval; missing subjects are left out.

    Parameters
    ----------
    values
        Shape `(..., n_subjects)`.
    level
        Confidence level.

    Returns
    -------
    Mean (NaN without a subject), lower and upper end (NaN with fewer than two subjects).
    """
    known = np.isfinite(values)
    n = known.sum(axis=-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.where(known, values, 0.0).sum(axis=-1) / n
        squares = np.where(known, values - mean[..., None], 0.0) ** 2
        error = np.sqrt(squares.sum(axis=-1) / (n - 1) / n)
        half = stats.t.ppf(0.5 + level / 2, np.where(n > 1, n - 1, np.nan)) * error
    return mean, mean - half, mean + half
