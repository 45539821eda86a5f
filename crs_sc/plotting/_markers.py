"""Do the names of the populations hold: their marker genes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from crs_sc import genesets, keys
from crs_sc.core.arrays import group_sums
from crs_sc.core.blocks import columns_of
from crs_sc.core.checks import check_obs
from crs_sc.errors import InputError
from crs_sc.plotting._style import new_grid, outside_legend, population_order, styled

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from anndata import AnnData
    from matplotlib.figure import Figure
    from numpy.typing import NDArray
    from scipy import sparse

__all__ = ["marker_dotplot"]


@styled
def marker_dotplot(
    adata: AnnData,
    *,
    markers: Mapping[str, Sequence[str]] | None = None,
    population_key: str = keys.POPULATION,
    n_markers: int = 3,
) -> Figure:
    """Expression of marker genes by population.

    Size is the share of cells with any UMI of the gene in `X`, colour the mean of `X` scaled so
    that the highest population is 1. UMI of ambient RNA are in both.

    Parameters
    ----------
    adata
        Cells x genes; `X` is log-normalised.
    markers
        Genes of each population in order of importance; the packaged human panels if None.
        Genes that are not in the data are passed over, and a gene is shown only once.
    population_key
        Column of `obs`.
    n_markers
        Genes of each population.

    Returns
    -------
    The figure.

    Raises
    ------
    InputError
        If none of the genes is in the data.
    """
    from matplotlib.lines import Line2D

    check_obs(adata, population_key=population_key)
    labels = adata.obs[population_key].astype(str).to_numpy()
    populations = population_order(labels)
    panels = genesets.cell_type_panels() if markers is None else markers
    genes, groups = _choose(adata, panels, populations, n_markers)
    if not genes:
        msg = "None of the marker genes of these populations is in `var_names`."
        raise InputError(msg)
    columns = adata.var_names.get_indexer(pd.Index(genes))
    scaled, share = _summary(columns_of(adata.X, columns), labels, populations)
    figure, grid = new_grid(1, 1, (2.9 + 0.21 * len(genes) + 1.4, 1.5 + 0.25 * len(populations)))
    ax = grid[0][0]
    y, x = np.mgrid[0 : len(populations), 0 : len(genes)]
    dots = ax.scatter(
        x.ravel(),
        y.ravel(),
        s=95 * share.ravel(),
        c=scaled.ravel(),
        cmap="Reds",
        vmin=0,
        vmax=1,
        edgecolors="#999999",
        linewidths=0.3,
    )
    ax.set_xticks(range(len(genes)), genes, rotation=90, style="italic")
    ax.set_yticks(range(len(populations)), populations)
    ax.set_xlim(-0.7, len(genes) - 0.3)
    ax.set_ylim(len(populations) - 0.4, -0.6)
    for i in range(1, len(genes)):
        if groups[i] != groups[i - 1]:
            ax.axvline(i - 0.5, color="#DDDDDD", linewidth=0.7, zorder=0)
    handles = [
        Line2D(
            [],
            [],
            marker="o",
            ls="",
            mfc="#BBBBBB",
            mec="#999999",
            mew=0.3,
            ms=float(np.sqrt(95 * part)),
            label=f"{100 * part:.0f} %",
        )
        for part in (1.0, 0.5, 0.1)
    ]
    outside_legend(ax, handles, title="cells with UMI")
    bar = figure.colorbar(dots, ax=ax, location="right", shrink=0.45, anchor=(0.0, 0.0), aspect=12)
    bar.set_label("mean, scaled")
    return figure


def _summary(
    values: sparse.csr_matrix, labels: NDArray[np.str_], populations: list[str]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean by population over that of the highest, and share of cells with any, by gene."""
    codes = pd.Index(populations).get_indexer(pd.Index(labels))
    sizes = np.bincount(codes, minlength=len(populations))[:, None]
    mean = group_sums(values, codes, len(populations)) / sizes
    share = group_sums((values > 0).astype(np.float64), codes, len(populations)) / sizes
    peak = mean.max(axis=0)
    return mean / np.where(peak > 0, peak, 1), share


def _choose(
    adata: AnnData, markers: Mapping[str, Sequence[str]], populations: list[str], n_markers: int
) -> tuple[list[str], list[str]]:
    """Genes to show and the population that each stands for."""
    genes: list[str] = []
    groups: list[str] = []
    for name in [*populations, *markers]:
        if name not in populations or name in groups:
            continue
        found = [
            gene for gene in markers.get(name, ()) if gene in adata.var_names and gene not in genes
        ]
        genes += found[:n_markers]
        groups += [name] * len(found[:n_markers])
    return genes, groups
