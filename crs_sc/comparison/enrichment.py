"""Gene sets along the ranking of an expression test; never over the network."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from crs_sc import keys
from crs_sc.comparison._prerank import prerank
from crs_sc.comparison._tables import as_table
from crs_sc.core.parallel import parallel_map
from crs_sc.core.stats import benjamini_hochberg
from crs_sc.errors import InputError, MissingKeyError, listing

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from crs_sc.comparison._prerank import SetResult

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

    Score and leading edge are gseapy's. The p is that of random gene sets of the same size, as
    gseapy's, but drawn by their members alone. Genes of one pathway move together, so it says that
    the set stands out from other genes, not that subjects agree: for that see the shifts, whose
    replicates are subjects.

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
    """
    _check(expression_table, gene_sets)
    for name, value in (
        ("n_permutations", n_permutations),
        ("min_genes", min_genes),
    ):
        if value < 1:
            msg = f"{name} must be at least 1, got {value!r}."
            raise InputError(msg)
    names, rankings = [], []
    grouped = expression_table.groupby(["contrast", "population"], sort=False)
    for (contrast, population), rows in grouped:
        names.append({"contrast": contrast, "population": population})
        rankings.append(rows[["gene", "statistic", "status"]])
    found = parallel_map(
        _of_ranking,
        [(rows, gene_sets, n_permutations, min_genes, random_state) for rows in rankings],
        n_jobs=n_jobs,
    )
    parts = [identity | columns for identity, columns in zip(names, found, strict=True)]
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
    genes, scores = _ranking(tested)
    members = _members(genes, gene_sets)
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
    return _columns(members, found, genes, otherwise)


def _check(table: pd.DataFrame, gene_sets: Mapping[str, Sequence[str]]) -> None:
    """Raise for a table or gene sets that cannot be used."""
    needed = ["contrast", "population", "gene", "statistic", "status"]
    missing = [column for column in needed if column not in table.columns]
    if missing:
        msg = (
            f"The table 'expression' has no column {listing(missing)}. "
            f"Columns: {listing(table.columns)}."
        )
        raise MissingKeyError(msg)
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


def _ranking(rows: pd.DataFrame) -> tuple[NDArray[np.object_], NDArray[np.float64]]:
    """Genes and statistics, the largest first, ties by name."""
    genes = rows["gene"].astype(str).to_numpy(dtype=object)
    scores = rows["statistic"].to_numpy(dtype=np.float64)
    order = np.lexsort((genes.astype(str), -scores))
    return genes[order], scores[order]


def _members(
    genes: NDArray[np.object_], gene_sets: Mapping[str, Sequence[str]]
) -> dict[str, NDArray[np.int64]]:
    """Positions in the ranking of the genes of each set, ascending, each once."""
    position = pd.Index(genes)
    members = {}
    for name, wanted in gene_sets.items():
        where = position.get_indexer(pd.Index(dict.fromkeys(map(str, wanted)), dtype=object))
        members[name] = np.sort(where[where >= 0]).astype(np.int64)
    return members


def _columns(
    members: dict[str, NDArray[np.int64]],
    found: dict[str, SetResult],
    genes: NDArray[np.object_],
    otherwise: str,
) -> dict[str, Any]:
    """Columns of the table for one ranking, one entry a gene set."""
    results = [found.get(name) for name in members]
    return {
        "gene_set": list(members),
        "n_genes": [len(where) for where in members.values()],
        "es": [np.nan if r is None else r.es for r in results],
        "nes": [np.nan if r is None else r.nes for r in results],
        "pvalue": [np.nan if r is None else r.pvalue for r in results],
        "leading_edge": ["" if r is None else ",".join(genes[r.leading_edge]) for r in results],
        "status": [otherwise if r is None else keys.OK for r in results],
    }
