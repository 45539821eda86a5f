"""Kernel of the enrichment: gseapy's scores of a ranking, and those of random gene sets."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

    from numpy.typing import NDArray

__all__ = ["SetResult", "prerank", "random_scores"]


class SetResult(NamedTuple):
    """Enrichment of one gene set; `leading_edge` are positions in the ranking, best first."""

    es: float
    nes: float
    pvalue: float
    leading_edge: list[int]


def prerank(
    scores: NDArray[np.float64],
    members: Mapping[str, NDArray[np.int64]],
    *,
    n_permutations: int,
    random_state: int,
) -> dict[str, SetResult]:
    """Weighted Kolmogorov-Smirnov enrichment of gene sets in a ranking (Subramanian 2005).

    Score and leading edge are gseapy's. Its permutations walk the whole ranking for every random
    set, which takes half the time of a comparison; `random_scores` looks at the members only.

    Parameters
    ----------
    scores
        Finite and descending, not all equal, shape `(n_genes,)`.
    members
        Name of each set and the positions of its genes: at least one with a score that is not
        zero, and fewer than `n_genes`.
    n_permutations
        Random gene sets of the same size for p and the normalised score.
    random_state
        Seed.

    Returns
    -------
    One result a set. p is that among the random sets whose score has the same sign, and never
    below 1 / n_permutations; where there are none it is 1 and the normalised score is missing.
    """
    scores = _untied(scores)
    sizes = {len(where) for where in members.values()}
    null = random_scores(scores, sizes, n_sets=n_permutations, random_state=random_state)
    results = {}
    for name, (es, leading_edge) in _scored(scores, members).items():
        random = null[len(members[name])]
        alike = random[random >= 0] if es >= 0 else random[random < 0]
        results[name] = SetResult(
            es=es,
            nes=es / abs(alike.mean()) if len(alike) and alike.any() else np.nan,
            pvalue=max((np.abs(alike) >= abs(es)).mean(), 1 / n_permutations) if len(alike) else 1,
            leading_edge=leading_edge,
        )
    return results


def random_scores(
    scores: NDArray[np.float64], sizes: Collection[int], *, n_sets: int, random_state: int
) -> dict[int, NDArray[np.float64]]:
    """Enrichment scores of random gene sets, for each size of a set.

    Parameters
    ----------
    scores
        Descending, shape `(n_genes,)`.
    sizes
        Below `n_genes`. A larger set has the genes of a smaller one and more.
    n_sets
        How many of each size.
    random_state
        Seed.

    Returns
    -------
    Arrays of at most `n_sets`: a set whose scores are all zero has no score.
    """
    weights = np.abs(scores)
    found: dict[int, list[NDArray[np.float64]]] = {size: [] for size in sizes}
    for drawn in _drawn(len(scores), max(sizes), n_sets=n_sets, random_state=random_state):
        for size in sizes:
            positions = np.sort(drawn[:, :size], axis=1)
            found[size].append(_peaks(weights[positions], positions, len(scores)))
    return {size: np.concatenate(parts) for size, parts in found.items()}


def _drawn(
    n_genes: int, size: int, *, n_sets: int, random_state: int, block: int = 1000
) -> Iterator[NDArray[np.int32]]:
    """Random genes without replacement, a row a set, some sets at a time (Fisher-Yates).

    The first genes of a row do not depend on how many are drawn.
    """
    for start in range(0, n_sets, block):
        rng = np.random.default_rng([random_state, start])
        rows = np.arange(min(block, n_sets - start))
        genes = np.tile(np.arange(n_genes, dtype=np.int32), (len(rows), 1))
        for j in range(size):
            other = rng.integers(j, n_genes, size=len(rows))
            genes[rows, other], genes[:, j] = genes[:, j], genes[rows, other]
        yield genes[:, :size]


def _peaks(
    weights: NDArray[np.float64], positions: NDArray[np.int32], n_genes: int
) -> NDArray[np.float64]:
    """Largest deviation of the running sum of each set, shape `(n_sets,)` or shorter.

    The sum rises at the members and falls between them, so that its peaks are behind a member and
    its troughs in front of one.

    Parameters
    ----------
    weights, positions
        Of the members, by position, shape `(n_sets, size)`.
    """
    size = positions.shape[1]
    risen = np.cumsum(weights, axis=1)
    scored = risen[:, -1] > 0
    risen = risen[scored] / risen[scored, -1:]
    fallen = (positions[scored] - np.arange(size)) / (n_genes - size)
    before = np.hstack([np.zeros((len(risen), 1)), risen[:, :-1]])
    high, low = (risen - fallen).max(axis=1), (before - fallen).min(axis=1)
    peaks: NDArray[np.float64] = np.where(high >= -low, high, low)
    return peaks


def _scored(
    scores: NDArray[np.float64], members: Mapping[str, NDArray[np.int64]]
) -> dict[str, tuple[float, list[int]]]:
    """Score and leading edge of each set, from gseapy.

    Genes go there under neutral upper-case names: it would otherwise change the case of symbols
    that do not look human, and rename what looks repeated.
    """
    import gseapy

    names = np.array([f"G{i}" for i in range(len(scores))], dtype=object)
    with warnings.catch_warnings():
        # Its pandas calls are deprecated.
        warnings.filterwarnings("ignore", category=DeprecationWarning, module=r"gseapy(\.|$)")
        found = gseapy.prerank(
            rnk=pd.DataFrame({"gene": pd.Series(names, dtype=object), "score": scores}),
            gene_sets={f"S{j}": names[where].tolist() for j, where in enumerate(members.values())},
            outdir=None,
            min_size=1,
            max_size=len(scores),
            permutation_num=0,
            ascending=None,
            threads=1,
            no_plot=True,
        ).results
    answers = {}
    for j, name in enumerate(members):
        es = float(found[f"S{j}"]["es"])
        edge = sorted(int(gene[1:]) for gene in found[f"S{j}"]["lead_genes"].split(";") if gene)
        answers[name] = es, edge if es >= 0 else edge[::-1]
    return answers


def _untied(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Descending scores with ties set apart by single units in the last place.

    gseapy calls the order of ties arbitrary and writes so to stderr; here it is the caller's.
    """
    apart = scores.astype(np.float64)
    for i in range(1, len(apart)):
        if apart[i] >= apart[i - 1]:
            apart[i] = np.nextafter(apart[i - 1], -np.inf)
    return apart
