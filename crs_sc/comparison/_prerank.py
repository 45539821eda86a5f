"""Kernel of the enrichment: a sorted ranking into gseapy, its answer out, without surprises."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

__all__ = ["SetResult", "prerank"]


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
    n_jobs: int,
) -> dict[str, SetResult]:
    """Weighted Kolmogorov-Smirnov enrichment of gene sets in a ranking (Subramanian 2005).

    Genes go to gseapy under neutral upper-case names: it would otherwise change the case of
    symbols that do not look human, and rename what looks repeated.

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
    n_jobs
        Threads; the answer does not depend on it.

    Returns
    -------
    One result a set. p is never below 1 / n_permutations; the normalised score is missing where
    no random set had the sign of the real one.
    """
    import gseapy

    names = [f"G{i}" for i in range(len(scores))]
    sets = {f"S{j}": [names[i] for i in where] for j, where in enumerate(members.values())}
    with warnings.catch_warnings():
        # Its pandas calls are deprecated.
        warnings.filterwarnings("ignore", category=DeprecationWarning, module=r"gseapy(\.|$)")
        job = gseapy.prerank(
            rnk=pd.DataFrame({"gene": names, "score": _untied(scores)}),
            gene_sets=sets,
            outdir=None,
            min_size=1,
            max_size=len(scores),
            permutation_num=n_permutations,
            ascending=None,
            threads=n_jobs,
            seed=random_state,
            no_plot=True,
        )
    answer = job.res2d.set_index("Term")
    results = {}
    for j, name in enumerate(members):
        row = answer.loc[f"S{j}"]
        nes = float(row["NES"])
        edge = sorted(int(gene[1:]) for gene in str(row["Lead_genes"]).split(";") if gene)
        es = float(row["ES"])
        results[name] = SetResult(
            es=es,
            nes=nes if np.isfinite(nes) else np.nan,
            pvalue=max(float(row["NOM p-val"]), 1 / n_permutations),
            leading_edge=edge if es >= 0 else edge[::-1],
        )
    return results


def _untied(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Descending scores with ties set apart by single units in the last place.

    gseapy calls the order of ties arbitrary and writes so to stderr; here it is the caller's.
    """
    apart = scores.astype(np.float64)
    for i in range(1, len(apart)):
        if apart[i] >= apart[i - 1]:
            apart[i] = np.nextafter(apart[i - 1], -np.inf)
    return apart
