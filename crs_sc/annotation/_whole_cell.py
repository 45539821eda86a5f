"""What the whole expression of a cell says about its type, on plain arrays."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from crs_sc.core.arrays import row_chunks

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["cloud_likelihood"]

# Share of the covariance that is taken as the same in all directions, so that few cells in many
# dimensions have one that can be inverted.
_SHRINKAGE = 0.1


def cloud_likelihood(
    components: NDArray[np.floating], types: NDArray[np.integer], n_types: int
) -> NDArray[np.float64]:
    """Log-likelihood of the place of each cell in the embedding, by type.

    Each type is a cloud around its mean, and all clouds have one shape, that of the cells around
    the means of their types (linear discriminant). So the direction in which cells of all types
    differ, as by a treatment, tells little, and every gene of the embedding has a say, not only
    the markers by which the types were named first.

    Parameters
    ----------
    components
        Embedding, shape `(n_cells, n_components)`.
    types
        Type of each cell, each below `n_types` with a cell at least; -1 for cells that shall not
        count in the clouds.
    n_types
        Number of types.

    Returns
    -------
    Shape `(n_cells, n_types)`, 0 for the likeliest type of each cell.
    """
    width = components.shape[1]
    sums, scatter = np.zeros((n_types, width)), np.zeros((width, width))
    counted = np.flatnonzero(types >= 0)
    for rows in row_chunks(len(counted)):
        own = counted[rows]
        sums += np.eye(n_types)[types[own]].T @ components[own]
    means = sums / np.bincount(types[counted], minlength=n_types)[:, None]
    for rows in row_chunks(len(counted)):
        own = counted[rows]
        around_mean = components[own] - means[types[own]]
        scatter += around_mean.T @ around_mean
    shape = scatter / len(counted)
    size = np.trace(shape) / width
    # Cells that do not vary have no shape; then every place is as likely.
    shape = (1 - _SHRINKAGE) * shape + (_SHRINKAGE * size or 1.0) * np.eye(width)
    slope = np.linalg.solve(shape, means.T)
    found = np.empty((len(types), n_types))
    for rows in row_chunks(len(types)):
        found[rows] = components[rows] @ slope - (means.T * slope).sum(axis=0) / 2
    found -= found.max(axis=1, keepdims=True)
    return found
