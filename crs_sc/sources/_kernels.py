"""Producer calls and the source ledger on plain arrays."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["call_states", "production_rate", "source_shares"]

# Codes of the states, positions in keys.PRODUCER_STATES.
PRODUCER, AMBIENT_COMPATIBLE, UNDETERMINED, NEGATIVE = range(4)


def production_rate(
    counts: NDArray[np.integer],
    depth: NDArray[np.float64],
    producers: NDArray[np.bool_],
    *,
    fallback: float,
    min_producers: int = 10,
) -> float:
    """UMI of the gene per UMI of the cell in a typical producer.

    The median over the called producers; `fallback` where there are fewer than `min_producers`.

    Parameters
    ----------
    counts, depth
        UMI of the gene and of the cell, shape `(n_cells,)`.
    producers
        Which cells were called, shape `(n_cells,)`.
    fallback
        Rate to assume without producers to learn from.
    min_producers
        How many producers are enough to learn from.
    """
    if int(producers.sum()) < min_producers:
        return fallback
    return float(np.median(counts[producers] / depth[producers]))


def call_states(
    counts: NDArray[np.integer],
    depth: NDArray[np.float64],
    rejected: NDArray[np.bool_],
    *,
    rate: float,
    max_missed: float,
) -> NDArray[np.int8]:
    """State of each cell for one gene.

    A cell without the gene is negative only if a typical producer of its depth would have shown
    the gene: `exp(-rate * depth) <= max_missed`; otherwise it is undetermined.

    Parameters
    ----------
    counts, depth
        UMI of the gene and of the cell, shape `(n_cells,)`.
    rejected
        Cells whose count the soup cannot explain.
    rate
        UMI of the gene per UMI of the cell in a typical producer.
    max_missed
        Largest acceptable probability that a producer shows no UMI.

    Returns
    -------
    Positions in `keys.PRODUCER_STATES`, int8, shape `(n_cells,)`.
    """
    states = np.where(np.exp(-rate * depth) <= max_missed, NEGATIVE, UNDETERMINED)
    states[counts > 0] = AMBIENT_COMPATIBLE
    states[rejected] = PRODUCER
    return states.astype(np.int8)


def source_shares(corrected: NDArray[np.float64]) -> NDArray[np.float64]:
    """Share of each population in a sample's corrected UMI.

    Parameters
    ----------
    corrected
        Corrected UMI, weighted if the sampling was uneven, shape `(..., n_populations)`.

    Returns
    -------
    Same shape; NaN where a sample has no corrected UMI.
    """
    total = corrected.sum(axis=-1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(total > 0, corrected / total, np.nan)
