"""Kernel of the UMAP layout: one small compiled loop, in parallel and yet always the same.

umap-learn moves both ends of an edge at once, one edge after the other: to be reproducible it must
run on one thread, and its compilation takes longer than the layout of a small cohort. Here each
round moves every cell against where all others were at its start, so that the cells can be shared
out among threads and the result does not depend on their number.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np

from crs_sc.core.arrays import jitted

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from scipy import sparse

__all__ = ["curve", "forces", "layout", "start_from"]

# Bits of a squared distance that do not matter to the force.
_BITS = 15


def layout(
    graph: sparse.csr_matrix,
    start: NDArray[np.floating],
    *,
    n_threads: int,
    random_state: int,
    n_epochs: int = 200,
    min_dist: float = 0.5,
    spread: float = 1.0,
    n_negative: int = 5,
) -> NDArray[np.float32]:
    """Lay out a graph by attraction along its edges and repulsion between random pairs.

    Parameters
    ----------
    graph
        Symmetric weights, `(n_cells, n_cells)`.
    start
        Initial positions, `(n_cells, 2)`.
    n_threads
        Threads; the result does not depend on it.
    random_state
        Seed of the random pairs.
    n_epochs
        Rounds. An edge is pulled in a share of them, its weight over the largest.
    min_dist, spread
        Of the curve from distance to similarity, as in umap-learn; the defaults are scanpy's.
    n_negative
        Random pairs to one pull.

    Returns
    -------
    Positions, `(n_cells, 2)`, from 0 to 10 on each axis.

    References
    ----------
    McInnes et al. 2018, arXiv:1802.03426.
    """
    pull, push = forces(*curve(min_dist=min_dist, spread=spread))
    rate = (graph.data / graph.data.max()).astype(np.float32)
    points = np.array(start, dtype=np.float32, order="C")
    moved = np.empty_like(points)
    # Blocks with about as many edges.
    edges = np.linspace(0, graph.nnz, 4 * n_threads + 1)
    cuts = np.unique(np.searchsorted(graph.indptr, edges, side="left"))
    cuts[0], cuts[-1] = 0, len(points)
    blocks = list(zip(cuts[:-1].tolist(), cuts[1:].tolist(), strict=True))
    with ThreadPoolExecutor(n_threads) as pool:
        for epoch in range(n_epochs):
            step = np.float32(1 - epoch / n_epochs)
            seed = np.uint64((random_state << 20) + epoch + 1)
            done = [
                pool.submit(
                    _move, first, last, graph.indptr, graph.indices, rate, points, moved,
                    epoch, step, pull, push, n_negative, seed,
                )
                for first, last in blocks
            ]  # fmt: skip
            for one in done:
                one.result()
            points, moved = moved, points
    low, high = points.min(axis=0), points.max(axis=0)
    scaled: NDArray[np.float32] = 10 * (points - low) / np.maximum(high - low, 1e-12)
    return scaled


def start_from(components: NDArray[np.floating]) -> NDArray[np.float32]:
    """First two components from -10 to 10, a line if there is only one."""
    start = np.zeros((len(components), 2), dtype=np.float32)
    first = components[:, :2]
    start[:, : first.shape[1]] = 10 * first / max(float(np.abs(first).max()), 1e-12)
    return start


def curve(*, min_dist: float, spread: float) -> tuple[float, float]:
    """Coefficients of `1 / (1 + a x**(2 b))` that fits the similarity by distance, as umap-learn.

    Parameters
    ----------
    min_dist
        Up to this distance the similarity is 1.
    spread
        Scale of the exponential fall beyond it.
    """
    from scipy.optimize import curve_fit

    x = np.linspace(0, 3 * spread, 300)
    y = np.where(x < min_dist, 1.0, np.exp(-(x - min_dist) / spread))
    (a, b), _ = curve_fit(lambda x, a, b: 1 / (1 + a * x ** (2 * b)), x, y)
    return float(a), float(b)


def forces(a: float, b: float) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Attraction and repulsion over the distance, by the leading bits of the squared distance.

    Powers are most of the time of a layout; a table of them is a third of it, and within 0.5 % of
    the values.

    Parameters
    ----------
    a, b
        From `curve`.

    Returns
    -------
    Two arrays with an entry for each value of sign, exponent and first eight bits of the fraction
    of a number of single precision, at the middle of the numbers that share them.
    """
    first = np.arange(1 << (32 - _BITS), dtype=np.uint32) << _BITS
    middle = (first + (1 << (_BITS - 1))).astype(np.uint32).view(np.float32)
    with np.errstate(invalid="ignore"):
        squared = middle.astype(np.float64)
    # What no distance can have: negative, infinite and no number.
    squared[~((squared > 0) & (squared < np.inf))] = np.inf
    power = np.minimum(squared**b, 1e300)
    # Twice: in umap-learn an edge is pulled from both of its ends.
    pull = -4 * a * b * (power / squared) / (a * power + 1)
    push = 2 * b / ((0.001 + squared) * (a * power + 1))
    return pull.astype(np.float32), push.astype(np.float32)


def _move_cells(
    first: int,
    last: int,
    indptr: Any,
    neighbours: Any,
    rate: Any,
    points: Any,
    moved: Any,
    epoch: int,
    step: Any,
    pull: Any,
    push: Any,
    n_negative: int,
    seed: Any,
) -> None:
    """Move the cells from `first` to `last` against the positions of all at the start."""
    n_cells = np.uint64(len(points))
    # Single precision throughout.
    four = np.float32(4)
    for i in range(first, last):
        x, y = points[i, 0], points[i, 1]
        # splitmix64, a stream for each cell and round.
        state = (seed * np.uint64(0xD1B54A32D192ED03)) ^ (
            np.uint64(i + 1) * np.uint64(0x9E3779B97F4A7C15)
        )
        for e in range(indptr[i], indptr[i + 1]):
            if int(rate[e] * (epoch + 1)) == int(rate[e] * epoch):
                continue
            j = neighbours[e]
            dx, dy = x - points[j, 0], y - points[j, 1]
            squared = dx * dx + dy * dy
            if squared > 0:
                force = pull[np.float32(squared).view(np.uint32) >> _BITS]
                x += step * min(max(force * dx, -four), four)
                y += step * min(max(force * dy, -four), four)
            for _ in range(n_negative):
                state += np.uint64(0x9E3779B97F4A7C15)
                z = state
                z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
                z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
                k = np.int64(((z >> np.uint64(32)) * n_cells) >> np.uint64(32))
                if k == i:
                    continue
                dx, dy = x - points[k, 0], y - points[k, 1]
                squared = dx * dx + dy * dy
                if squared > 0:
                    force = push[np.float32(squared).view(np.uint32) >> _BITS]
                    x += step * min(max(force * dx, -four), four)
                    y += step * min(max(force * dy, -four), four)
        moved[i, 0], moved[i, 1] = x, y


_move = jitted(_move_cells, fastmath=True)
