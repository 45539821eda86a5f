"""Neighbours in a small set of cells, and what they say of batches and labels; plain arrays."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from crs_sc.clustering._graph import without_self
from crs_sc.core.neighbours import nearest_neighbours

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["foreign_share", "neighbours_of", "same_label_share"]


def neighbours_of(
    points: NDArray[np.floating], n_neighbors: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Nearest other points of each point and their distances, nearest first.

    Parameters
    ----------
    points
        Shape `(n_points, n_dimensions)`.
    n_neighbors
        Fewer than the points.

    Returns
    -------
    Shape `(n_points, n_neighbors)` each.
    """
    return without_self(*nearest_neighbours(points, k=n_neighbors + 1))


def foreign_share(
    neighbours: NDArray[np.intp], batch: NDArray[np.integer], n_batches: int
) -> NDArray[np.float64]:
    """Neighbours from other batches relative to a random mixture, mean by batch.

    Parameters
    ----------
    neighbours
        Neighbours of each cell, shape `(n_cells, n_neighbors)`.
    batch
        Batch of each cell, from 0.
    n_batches
        Number of batches.

    Returns
    -------
    0 where a batch has only neighbours of its own, 1 where it has those of a random mixture,
    shape `(n_batches,)`; NaN for a batch without cells.
    """
    size = np.bincount(batch, minlength=n_batches)
    # A cell is not its own neighbour.
    expected = (len(batch) - size) / max(len(batch) - 1, 1)
    foreign = (batch[neighbours] != batch[:, None]).mean(axis=1)
    total = np.bincount(batch, weights=foreign, minlength=n_batches)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(total / size / expected)


def same_label_share(neighbours: NDArray[np.intp], labels: NDArray[np.integer]) -> float:
    """Mean share of the neighbours of a cell that have its label."""
    return float((labels[neighbours] == labels[:, None]).mean())
