"""Do the clusters follow what is measured on them later? Target genes in and out, overlaps."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from crs_sc import genesets, keys
from crs_sc.clustering.embedding import components_of, random_cells, selected_genes
from crs_sc.clustering.leiden import Graph, agreement
from crs_sc.core.blocks import rows_of
from crs_sc.core.checks import check_obs
from crs_sc.core.neighbours import fuzzy_graph, neighbours_of
from crs_sc.errors import InputError, MissingKeyError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from anndata import AnnData
    from numpy.typing import NDArray
    from scipy import sparse

__all__ = ["circularity", "gene_overlap"]


def circularity(
    adata: AnnData,
    *,
    genes: Sequence[str],
    population_key: str = keys.POPULATION,
    n_comps: int = 30,
    n_neighbors: int = 15,
    n_controls: int = 5,
    max_cells: int = 3000,
    random_state: int = 0,
) -> pd.DataFrame:
    """Cluster with and without the target genes, and say how much it matters.

    The target genes are not among the selected genes. Here the cells are clustered twice from
    scratch, once on the selected genes and once with the target genes added; and, for comparison,
    with as many other genes of like mean expression. If the target genes move the clusters no more
    than these controls, the populations do not restate what is measured in them.

    Parameters
    ----------
    adata
        Cells x genes with log-normalised `X`, `var["highly_variable"]`, clusters and populations.
    genes
        Target genes; those that are not in the data are passed over.
    population_key
        Column of `obs`.
    n_comps, n_neighbors
        Principal components and neighbours.
    n_controls
        Sets of control genes.
    max_cells
        Random cells that are looked at, at the most.
    random_state
        Seed.

    Returns
    -------
    Columns of `keys.CIRCULARITY_TABLE`: one row a population, by name, and one for all cells. No
    row if no target gene is in the data.

    Raises
    ------
    MissingKeyError
        If the genes were not selected, or `X` or a column is absent.
    InputError
        If there are fewer than three cells.

    Examples
    --------
    >>> import crs_sc as crs
    >>> adata = crs.datasets.toy_cohort()
    >>> crs.tl.embed(adata, n_comps=10, with_layout=False)
    >>> crs.tl.cluster(adata, resolutions=[0.5], n_subsamples=2)
    >>> table = crs.tl.circularity(adata, genes=["IL1B", "IL6"], n_comps=10, n_controls=1)
    >>> table["population"].iloc[-1]
    'All'
    """
    check_obs(adata, population_key=population_key)
    is_base = selected_genes(adata).copy()
    if adata.X is None:
        msg = "`X` is empty. Run crs_sc.pp.normalize first."
        raise MissingKeyError(msg)
    names = genesets.match_genes(list(genes), adata.var_names)
    targets = np.flatnonzero(adata.var_names.isin(list(names.values())))
    is_base[targets] = False
    base = np.flatnonzero(is_base)
    if not len(targets):
        return pd.DataFrame(columns=keys.CIRCULARITY_TABLE.names)
    if adata.n_obs < 3:
        msg = f"{adata.n_obs} cells are too few to cluster; at least 3 are needed."
        raise InputError(msg)
    cells = random_cells(adata.n_obs, max_cells, random_state=random_state)
    expression = rows_of(adata.X, cells)
    means = np.asarray(expression.mean(axis=0)).ravel()
    controls = like_columns(means, targets, (means > 0) & ~is_base, n_sets=n_controls)
    table = adata.uns.get(keys.UNS, {}).get(keys.CLUSTERING)
    if table is None:
        msg = f"`uns['{keys.UNS}']` has no '{keys.CLUSTERING}'. Run crs_sc.tl.cluster first."
        raise MissingKeyError(msg)
    without, *others = (
        _partition(
            expression[:, np.concatenate([base, more])],
            n_comps=min(n_comps, len(base) - 1),
            n_neighbors=min(n_neighbors, len(cells) - 1),
            resolution=float(table.loc[table["chosen"].astype(bool), "resolution"].iloc[0]),
            random_state=random_state,
        )
        for more in (targets[:0], targets, *controls)
    )
    return _compared(without, others, adata.obs[population_key].astype(str).to_numpy()[cells])


def _partition(
    expression: sparse.csr_matrix,
    *,
    n_comps: int,
    n_neighbors: int,
    resolution: float,
    random_state: int,
) -> NDArray[np.int64]:
    """Leiden clusters from scratch: components, neighbours, graph."""
    points = components_of(expression, n_comps=n_comps).obsm["X_pca"]
    graph = Graph.of(fuzzy_graph(*neighbours_of(points, n_neighbors)))
    return graph.leiden(resolution, random_state=random_state)


def _compared(
    without: NDArray[np.int64], others: Sequence[NDArray[np.int64]], population: NDArray[np.object_]
) -> pd.DataFrame:
    """Table from the clusters without the targets and those with them, then with the controls."""
    by_cell = [element_agreement(without, labels) for labels in others]
    rand = [agreement(without, labels) for labels in others]
    rows = []
    for name in (*sorted(set(population)), keys.ALL_POPULATIONS):
        is_all = name == keys.ALL_POPULATIONS
        cells = (population == name) | is_all
        with_targets, *controls = (float(values[cells].mean()) for values in by_cell)
        of_all = (rand[0], _mean(rand[1:])) if is_all else (np.nan, np.nan)
        low = min(controls, default=np.nan)
        rows.append((name, cells.sum(), with_targets, _mean(controls), *of_all, low))
    return pd.DataFrame(rows, columns=keys.CIRCULARITY_TABLE.names)


def _mean(values: Sequence[float]) -> float:
    """Mean, NaN of nothing."""
    return float(np.mean(values)) if values else float("nan")


def gene_overlap(
    adata: AnnData,
    *,
    signatures: Mapping[str, Sequence[str]],
    markers: Mapping[str, Sequence[str]],
    genes: Sequence[str],
) -> pd.DataFrame:
    """List the genes of signatures that were also used to find or to name the populations.

    Parameters
    ----------
    adata
        Cells x genes with `var["highly_variable"]`.
    signatures
        Genes by signature.
    markers
        Marker genes by cell type.
    genes
        Target genes, listed as a set of their own.

    Returns
    -------
    Columns of `keys.GENE_OVERLAP_TABLE`: one row a set and gene in the data that was selected, is
    a marker or a target; sets and genes in the order given.

    Raises
    ------
    MissingKeyError
        If the genes were not selected.

    Examples
    --------
    >>> import crs_sc as crs
    >>> adata = crs.datasets.toy_cohort()
    >>> markers = {"Monocyte": ["LYZ", "IL1B"]}
    >>> table = crs.tl.gene_overlap(adata, signatures={}, markers=markers, genes=["IL1B"])
    >>> table["marker_of"].to_list()
    ['Monocyte']
    """
    selected = set(adata.var_names[selected_genes(adata)])
    sets = {**signatures, keys.TARGET_GENES: list(genes)}
    wanted = dict.fromkeys(gene for group in (*sets.values(), *markers.values()) for gene in group)
    names = genesets.match_genes(list(wanted), adata.var_names)
    marker_of: dict[str, list[str]] = {}
    for cell_type, group in markers.items():
        for gene in group:
            if gene in names:
                marker_of.setdefault(names[gene], []).append(cell_type)
    targets = {names[gene] for gene in genes if gene in names}
    rows = []
    for name, group in sets.items():
        for gene in dict.fromkeys(names[gene] for gene in group if gene in names):
            row = (name, gene, gene in targets, gene in selected, ",".join(marker_of.get(gene, ())))
            if any(row[2:]):
                rows.append(row)
    return pd.DataFrame(rows, columns=keys.GENE_OVERLAP_TABLE.names)


def like_columns(
    means: NDArray[np.floating],
    wanted: NDArray[np.integer],
    free: NDArray[np.bool_],
    *,
    n_sets: int,
) -> list[NDArray[np.intp]]:
    """Choose sets of other columns whose means are as near as can be to those of some columns.

    Only columns that are `free` are chosen, none for two sets; there are fewer sets where the
    columns do not suffice. Each set is in the order of `wanted`.
    """
    left = free.copy()
    left[wanted] = False
    sets: list[NDArray[np.intp]] = []
    for _ in range(n_sets):
        if left.sum() < len(wanted):
            break
        chosen = []
        for column in wanted:
            distance = np.where(left, np.abs(means - means[column]), np.inf)
            chosen.append(int(distance.argmin()))
            left[chosen[-1]] = False
        sets.append(np.array(chosen, dtype=np.intp))
    return sets


def element_agreement(one: NDArray[np.integer], other: NDArray[np.integer]) -> NDArray[np.float64]:
    """How much the company of each cell is the same in two partitions, 0 to 1.

    Element-centric similarity (Gates et al. 2019, doi:10.1038/s41598-019-44892-y), which for
    partitions is the size of what both clusters of the cell share over that of the larger.
    """
    both = np.zeros((int(one.max()) + 1, int(other.max()) + 1))
    np.add.at(both, (one, other), 1)
    larger = np.maximum(both.sum(axis=1)[one], both.sum(axis=0)[other])
    return np.asarray(both[one, other] / larger)
