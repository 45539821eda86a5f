"""Kernel: exact permutation of arms within blocks, for many responses at once.

One scheme serves every design. Without pairs a block is a batch (or everybody); with pairs a
block is a subject, and swapping the two arms of a pair is the sign flip of its difference.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import comb

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["MAX_ARRANGEMENTS", "arrangements", "n_arrangements", "permutation_test", "smallest_p"]

# Up to here every arrangement is listed; above, as many are drawn.
MAX_ARRANGEMENTS = 10_000


def _block_sizes(arm: NDArray[np.bool_], blocks: NDArray[np.integer]) -> list[tuple[int, int]]:
    """Units and treated units of each block."""
    return [(int((blocks == b).sum()), int(arm[blocks == b].sum())) for b in np.unique(blocks)]


def n_arrangements(arm: NDArray[np.bool_], blocks: NDArray[np.integer]) -> int:
    """Count the ways to hand out the arms within blocks.

    Parameters
    ----------
    arm
        True where treated, shape `(n_units,)`.
    blocks
        Block of each unit, shape `(n_units,)`.
    """
    return math.prod(comb(n, k, exact=True) for n, k in _block_sizes(arm, blocks))


def smallest_p(
    arm: NDArray[np.bool_], blocks: NDArray[np.integer], *, n_max: int = MAX_ARRANGEMENTS
) -> float:
    """Smallest two-sided p that the design can reach.

    With N arrangements it is 1/N, or 2/N where swapping the arms altogether is itself an
    arrangement (every block with both arms has as many of one as of the other) and always ties.
    Where arrangements are drawn, it cannot be below 1 / (n_max + 1).

    Parameters
    ----------
    arm, blocks
        As in `n_arrangements`.
    n_max
        Up to here every arrangement is listed.
    """
    total = n_arrangements(arm, blocks)
    swaps = all(k in (0, n) or 2 * k == n for n, k in _block_sizes(arm, blocks))
    floor = min(1.0, (2 if swaps else 1) / total)
    return floor if total <= n_max else max(floor, 1 / (n_max + 1))


def _subsets(n: int, k: int) -> NDArray[np.bool_]:
    """All ways to treat k of n, one a row, in lexicographic order."""
    if k == 0 or k == n:
        return np.full((1, n), k > 0)
    first = _subsets(n - 1, k - 1)
    rest = _subsets(n - 1, k)
    return np.vstack(
        [
            np.column_stack([np.ones(len(first), dtype=bool), first]),
            np.column_stack([np.zeros(len(rest), dtype=bool), rest]),
        ]
    )


def arrangements(
    arm: NDArray[np.bool_],
    blocks: NDArray[np.integer],
    *,
    rng: np.random.Generator,
    n_max: int = MAX_ARRANGEMENTS,
) -> tuple[NDArray[np.bool_], bool]:
    """Arrangements of the arms within blocks: all of them, or `n_max` drawn at random.

    Parameters
    ----------
    arm, blocks
        As in `n_arrangements`.
    rng
        Used only where arrangements are drawn.
    n_max
        Up to here every arrangement is listed.

    Returns
    -------
    Array of shape `(n_arrangements, n_units)`, True where treated, and whether it is all of them.
    """
    exact = n_arrangements(arm, blocks) <= n_max
    result = np.zeros((1 if exact else n_max, len(arm)), dtype=bool)
    for block in np.unique(blocks):
        columns = np.flatnonzero(blocks == block)
        n, k = len(columns), int(arm[columns].sum())
        if exact:
            ways = _subsets(n, k)
            result = np.repeat(result, len(ways), axis=0)
            result[:, columns] = np.tile(ways, (len(result) // len(ways), 1))
        else:
            order = rng.permuted(np.tile(np.arange(n), (n_max, 1)), axis=1)
            result[:, columns] = order < k
    return result, exact


def permutation_test(
    Y: NDArray[np.float64],
    arm: NDArray[np.bool_],
    blocks: NDArray[np.integer],
    *,
    rng: np.random.Generator,
    n_max: int = MAX_ARRANGEMENTS,
    chunk: int = 256,
) -> NDArray[np.float64]:
    """Two-sided permutation p of the arm effect for every response.

    The statistic is the sum of the block-centred responses of the treated. Within blocks the arms
    keep their numbers, so its absolute value orders the arrangements exactly as |t| of the model
    with the blocks as factor does. All arrangements: the share that is at least as extreme.
    Drawn: (count + 1) / (n_max + 1), Phipson and Smyth 2010.

    Parameters
    ----------
    Y
        Responses, shape `(n_units, n_tests)`.
    arm, blocks
        As in `n_arrangements`.
    rng, n_max
        As in `arrangements`.
    chunk
        Responses handled at a time, which bounds the memory.

    Returns
    -------
    Shape `(n_tests,)`.
    """
    centred = np.array(Y, dtype=np.float64)
    for block in np.unique(blocks):
        rows = blocks == block
        centred[rows] -= centred[rows].mean(axis=0)
    ways, exact = arrangements(arm, blocks, rng=rng, n_max=n_max)
    weights = ways.astype(np.float64)
    observed = np.abs(arm.astype(np.float64) @ centred)
    # Ties differ by rounding only; the tolerance follows the scale of the data, so that a
    # response without any spread ties with itself.
    tolerance = 100 * np.finfo(np.float64).eps * np.abs(Y).sum(axis=0)
    pvalues = np.empty(Y.shape[1])
    for start in range(0, Y.shape[1], chunk):
        part = slice(start, start + chunk)
        extreme = np.abs(weights @ centred[:, part]) >= observed[part] - tolerance[part]
        count = extreme.sum(axis=0)
        pvalues[part] = count / len(ways) if exact else (count + 1) / (len(ways) + 1)
    return pvalues
