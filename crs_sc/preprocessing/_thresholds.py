"""Kernels: per-sample limits from the median and the median absolute deviation."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Scaled MAD of a normal distribution is its standard deviation.
_MAD_TO_SD = 1.4826
# Counts of cells of a single kind still spread by about this much (natural log). Without it a
# sample of one cell type gets a narrow limit that cuts every cell type with less RNA.
_MIN_LOG_SPREAD = 0.35
# Fewer cells do not give a spread worth using.
_MIN_CELLS = 20


def lower_limit(values: NDArray[np.float64], *, floor: float, n_mads: float) -> float:
    """Lower limit on a log scale, never below the floor.

    Parameters
    ----------
    values
        UMI or genes of the cells of one sample, shape `(n_cells,)`. Only those that reach the
        floor count for the median, so that empty droplets in the file do not move it.
    floor
        Lowest limit.
    n_mads
        Scaled median absolute deviations below the median.
    """
    kept = values[values >= max(floor, 1)]
    if len(kept) < _MIN_CELLS:
        return float(floor)
    logs = np.log(kept)
    centre = np.median(logs)
    spread = max(_MAD_TO_SD * float(np.median(np.abs(logs - centre))), _MIN_LOG_SPREAD)
    return float(max(floor, np.exp(centre - n_mads * spread)))


def upper_limit(
    values: NDArray[np.float64], *, lowest: float, highest: float, n_mads: float
) -> float:
    """Upper limit on a plain scale, kept within `[lowest, highest]`.

    Parameters
    ----------
    values
        Mitochondrial share of the cells of one sample that reach the floors.
    lowest, highest
        Range of the limit; `highest` wins.
    n_mads
        Scaled median absolute deviations above the median.
    """
    if len(values) < _MIN_CELLS:
        return float(highest)
    centre = np.median(values)
    spread = _MAD_TO_SD * np.median(np.abs(values - centre))
    return float(min(highest, max(lowest, centre + n_mads * spread)))
