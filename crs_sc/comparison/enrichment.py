"""Gene sets along the ranking of an expression test, by gseapy; never over the network."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd

from crs_sc import keys
from crs_sc.comparison.units import as_table, check_columns, check_positive
from crs_sc.core.parallel import parallel_map
from crs_sc.core.stats import benjamini_hochberg
from crs_sc.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

__all__ = ["enrichment"]


def enrichment(
    expression_table: pd.DataFrame,
    *,
    gene_sets: Mapping[str, Sequence[str]],
    n_permutations: int = 1000,
    min_genes: int = 5,
    random_state: int = 0,
    n_jobs: int = 1,
) -> pd.DataFrame:
    """Rank genes by the Wald statistic and ask where each gene set lies (gseapy prerank).

    Score, leading edge and p, that among random gene sets of the same size, are gseapy's. Genes of
    one pathway move together, so the p says that the set stands out from other genes, not that
    subjects agree: for that see the shifts, whose replicates are subjects.

    Parameters
    ----------
    expression_table
        Table `expression`. Genes with status `ok` are ranked; ties stand in order of their names.
    gene_sets
        Name and genes of each set. Symbols are matched as they are written.
    n_permutations
        Random gene sets for p and the normalised score.
    min_genes
        A set with fewer genes in a ranking is not tested there.
    random_state
        Seed.
    n_jobs
        Processes over which the rankings are spread; with 1, `joblib.parallel_config` decides.

    Returns
    -------
    DataFrame with the columns of table `enrichment`: every contrast and population (in the order
    of the expression table) and every gene set has a row. `padj` is Benjamini-Hochberg over the
    whole table; a p is never below 1 / n_permutations. Status `ok`; that of the expression table
    where a population was not tested; `not_measured` where the set has fewer than `min_genes`
    genes in the ranking, or is all of it, or its scores are all zero, or all scores are equal.

    Raises
    ------
    MissingKeyError
        If the table lacks a column.
    InputError
        If there is no gene set, a set is a single string, a gene stands twice in a ranking, or a
        number is below 1.

    Examples
    --------
    >>> import pandas as pd
    >>> import crs_sc as crs
    >>> table = pd.DataFrame({"gene": [f"G{i}" for i in range(40)], "statistic": range(40)})
    >>> table = table.assign(contrast="cart", population="Monocyte", status="ok")
    >>> found = crs.tl.enrichment(table, gene_sets={"top": ["G35", "G36", "G37", "G38", "G39"]})
    >>> found["es"].tolist()
    [1.0]
    """
    _check(expression_table, gene_sets)
    check_positive(n_permutations=n_permutations, min_genes=min_genes)
    names, rankings = [], []
    grouped = expression_table.groupby(["contrast", "population"], sort=False)
    for (contrast, population), rows in grouped:
        names.append({"contrast": contrast, "population": population})
        rankings.append(rows[["gene", "statistic", "status"]])
    results = parallel_map(
        _of_ranking,
        [(rows, gene_sets, n_permutations, min_genes, random_state) for rows in rankings],
        n_jobs=n_jobs,
    )
    parts = [identity | columns for identity, columns in zip(names, results, strict=True)]
    table = as_table(parts, keys.ENRICHMENT_TABLE)
    table["padj"] = benjamini_hochberg(table["pvalue"])
    return table


def _of_ranking(
    rows: pd.DataFrame,
    gene_sets: Mapping[str, Sequence[str]],
    n_permutations: int,
    min_genes: int,
    random_state: int,
) -> dict[str, Any]:
    """Columns of the table for one contrast and population, one entry a gene set."""
    tested = rows[(rows["status"] == keys.OK) & np.isfinite(rows["statistic"])]
    # The largest first, ties by name.
    genes = tested["gene"].astype(str).to_numpy(dtype=object)
    scores = tested["statistic"].to_numpy(dtype=np.float64)
    order = np.lexsort((genes.astype(str), -scores))
    genes, scores = genes[order], scores[order]
    position = pd.Index(genes)
    members = {}
    for name, wanted in gene_sets.items():
        where = position.get_indexer(pd.Index(dict.fromkeys(map(str, wanted)), dtype=object))
        members[name] = np.sort(where[where >= 0]).astype(np.int64)
    askable = {
        name: where
        for name, where in members.items()
        if len(np.unique(scores)) > 1
        and min_genes <= len(where) < len(genes)
        and np.any(scores[where] != 0)
    }
    found: dict[str, SetResult] = {}
    if askable:
        found = prerank(scores, askable, n_permutations=n_permutations, random_state=random_state)
    otherwise = keys.NOT_MEASURED if len(tested) else str(rows["status"].iloc[0])
    none = SetResult(np.nan, np.nan, np.nan, [])
    results = [found.get(name, none) for name in members]
    return {
        "gene_set": list(members),
        "n_genes": [len(where) for where in members.values()],
        "es": [r.es for r in results],
        "nes": [r.nes for r in results],
        "pvalue": [r.pvalue for r in results],
        "leading_edge": [",".join(genes[r.leading_edge]) for r in results],
        "status": [keys.OK if name in found else otherwise for name in members],
    }


def _check(table: pd.DataFrame, gene_sets: Mapping[str, Sequence[str]]) -> None:
    """Raise for a table or gene sets that cannot be used."""
    check_columns("expression", table, ["contrast", "population", "gene", "statistic", "status"])
    repeated = table.duplicated(["contrast", "population", "gene"])
    if repeated.any():
        row = ", ".join(table.loc[repeated, ["contrast", "population", "gene"]].astype(str).iloc[0])
        msg = f"The table 'expression' has more than one row for {row}."
        raise InputError(msg)
    if not gene_sets:
        msg = "gene_sets is empty. Give at least one name and its genes."
        raise InputError(msg)
    strings = [name for name, genes in gene_sets.items() if isinstance(genes, str)]
    if strings:
        msg = f"Gene set '{strings[0]}' is a single string; give a list of gene symbols."
        raise InputError(msg)


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
    """Enrichment of gene sets in a ranking: gseapy's preranked analysis on plain arrays.

    Scores are finite and descending and not all equal, members are positions in the ranking: at
    least one with a score that is not zero, and fewer than all. p is that among the random sets
    whose score has the same sign, never below 1 / n_permutations; where there are none it is 1 and
    the normalised score is missing.
    """
    # Subramanian et al. 2005 (PNAS 102:15545): the weighted Kolmogorov-Smirnov running sum.
    # Genes go to gseapy under neutral upper-case names: it would otherwise change the case of
    # symbols that do not look human, and rename what looks repeated.
    import gseapy

    names = np.array([f"G{i}" for i in range(len(scores))], dtype=object)
    ranking = pd.DataFrame({"gene": pd.Series(names, dtype=object), "score": _untied(scores)})
    try:
        with warnings.catch_warnings():
            # Its pandas calls are deprecated.
            warnings.filterwarnings("ignore", category=DeprecationWarning, module=r"gseapy(\.|$)")
            answers = gseapy.prerank(
                rnk=ranking,
                gene_sets={
                    f"S{j}": names[where].tolist() for j, where in enumerate(members.values())
                },
                outdir=None,
                min_size=1,
                max_size=len(scores),
                permutation_num=n_permutations,
                ascending=None,
                threads=1,
                seed=random_state,
                no_plot=True,
            ).results
    except BaseException as error:
        # A panic of its Rust code is no Exception, and would end the process without a word.
        if type(error).__name__ != "PanicException":
            raise
        msg = f"gseapy failed on a ranking of {len(scores)} genes: {error}"
        raise InputError(msg) from error
    results = {}
    for j, name in enumerate(members):
        answer = answers[f"S{j}"]
        es, nes, pvalue = (float(answer[key]) for key in ("es", "nes", "pval"))
        edge = sorted(int(gene[1:]) for gene in answer["lead_genes"].split(";") if gene)
        results[name] = SetResult(
            es=es,
            nes=nes if np.isfinite(nes) else np.nan,
            pvalue=max(pvalue, 1 / n_permutations) if np.isfinite(pvalue) else 1.0,
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
