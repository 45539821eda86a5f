"""The map of the cells, whether its clusters stand, and the markers of their names."""

from __future__ import annotations

import colorsys
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from crs_sc import genesets, keys
from crs_sc.core.arrays import group_sums
from crs_sc.core.blocks import columns_of
from crs_sc.core.checks import check_obs
from crs_sc.errors import InputError, MissingKeyError, listing
from crs_sc.plotting._style import (
    SPECIES_COLOURS,
    arm_colours,
    arm_order,
    check_table,
    lattice,
    mark,
    new_axes,
    new_grid,
    outside_legend,
    population_colours,
    population_order,
    styled,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from anndata import AnnData
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray
    from scipy import sparse


@styled
def umap(
    adata: AnnData,
    *,
    color: str = keys.POPULATION,
    conditions: Sequence[str] | None = None,
    condition_key: str = keys.CONDITION,
    basis: str = keys.UMAP,
    point_size: float | None = None,
    most: int = 50_000,
    ax: Axes | None = None,
) -> Axes:
    """Cells on the embedding, coloured by one column of `obs`.

    Distances between groups and the size of a group mean little on such a map; the numbers
    behind the names are in the legend.

    Parameters
    ----------
    adata
        Cells x genes with `obsm[basis]`.
    color
        Column of `obs`, taken as categories: `population`, `condition`, `sample`, `species`, ...
    conditions
        Arms in order; the first is the reference and grey.
    condition_key
        Column of `obs` with the arm; samples get shades of the colour of their arm.
    basis
        Entry of `obsm` with at least two columns.
    point_size
        Area of a point in square points; chosen from the number of points if None.
    most
        Cells to draw at the most, drawn at random (the title says so); the legend counts all.
    ax
        Axes to draw into.

    Returns
    -------
    The axes.

    Raises
    ------
    MissingKeyError
        If `obsm` has no `basis` or `obs` no `color`.

    Examples
    --------
    >>> import crs_sc as crs
    >>> adata = crs.datasets.toy_cohort()
    >>> ax = crs.pl.umap(adata, color="condition", conditions=["vehicle", "CART"])
    """
    from matplotlib.colors import to_rgba_array

    if basis not in adata.obsm:
        msg = f"`obsm` has no '{basis}' (basis). Entries: {listing(adata.obsm)}. Run tl.embed."
        raise MissingKeyError(msg)
    check_obs(adata, color=color)
    values = adata.obs[color].astype(str)
    colours = _colours(adata.obs, color, conditions, condition_key)
    points = np.asarray(adata.obsm[basis])[:, :2]
    # A fixed shuffle, so that no group hides another by its place in the file.
    order = np.random.default_rng(0).permutation(adata.n_obs)[:most]
    size = point_size or float(np.clip(30_000 / max(len(order), 1), 0.5, 12))
    axes = new_axes(ax, (6.4, 4.4))
    tints = to_rgba_array(list(colours.values()))[pd.Index(colours).get_indexer(values)[order]]
    x, y = points[order].T
    axes.scatter(x, y, c=tints, s=size, linewidths=0, rasterized=True)
    title = f"Cells by {color}"
    if len(order) < adata.n_obs:
        title += f" ({len(order):,} of {adata.n_obs:,} drawn)"
    axes.set(xticks=[], yticks=[], xlabel="UMAP 1", ylabel="UMAP 2", title=title)
    axes.set_aspect("equal", adjustable="datalim")
    counts = values.value_counts()
    handles = [mark(f"{name} ({counts[name]:,})", size=6, color=colours[name]) for name in colours]
    outside_legend(axes, handles, title=f"{color} (cells)", columns=1 + (len(handles) - 1) // 24)
    return axes


def _colours(
    obs: pd.DataFrame, color: str, conditions: Sequence[str] | None, condition_key: str
) -> dict[str, str]:
    """Colour of each category, in the order of the legend."""
    values = obs[color].astype(str)
    if color == condition_key:
        return arm_colours(values, conditions)
    if color == keys.SPECIES:
        return {name: SPECIES_COLOURS.get(name, "#777777") for name in sorted(set(values))}
    if color == keys.SAMPLE and condition_key in obs.columns:
        arms = obs[condition_key].astype(str)
        base = arm_colours(arms, conditions)
        shades: dict[str, str] = {}
        for arm in arm_order(arms, conditions):
            names = sorted(set(values[arms == arm]))
            for i, name in enumerate(names):
                shades[name] = _shade(base[arm], (i + 0.5) / len(names))
        return shades
    return population_colours(values)


def _shade(colour: str, place: float) -> str:
    """Set the lightness of a colour between dark (place 0) and light (place 1)."""
    rgb = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    hue, _, saturation = colorsys.rgb_to_hls(*rgb)
    shaded = colorsys.hls_to_rgb(hue, 0.28 + 0.5 * place, saturation)
    return "#" + "".join(f"{round(255 * part):02X}" for part in shaded)


_STATES = {
    keys.DOUBTFUL: "doubtful",
    keys.UNSTABLE: "unstable",
    keys.UNDETERMINED: "too few cells",
}


@styled
def cluster_stability(clusters: pd.DataFrame, *, clustering: pd.DataFrame) -> Figure:
    """Agreement with subsamples by resolution, and by cluster at the chosen one.

    Parameters
    ----------
    clusters, clustering
        The tables of these names.

    Returns
    -------
    The figure. Left: mean adjusted Rand index with the subsamples, down to the smallest; the
    chosen resolution is filled. Right: mean Jaccard coefficient of each cluster with its best
    match, and the smallest as a tick; what it is found with where it is not found again.

    Raises
    ------
    InputError
        If a table has no rows or lacks a column.

    Examples
    --------
    >>> import pandas as pd
    >>> import crs_sc as crs
    >>> row = ["0", "B", 1.0, 90, 0.95, 0.9, "stable", "", ""]
    >>> clusters = pd.DataFrame([row], columns=crs.keys.CLUSTERS_TABLE.names)
    >>> row = [1.0, 1, 0.9, True, 0.8, 90, 0.9]
    >>> clustering = pd.DataFrame([row], columns=crs.keys.CLUSTERING_TABLE.names)
    >>> figure = crs.pl.cluster_stability(clusters, clustering=clustering)
    """
    check_table(clusters, keys.CLUSTERS_TABLE.names, name="clusters")
    check_table(clustering, keys.CLUSTERING_TABLE.names, name="clustering")
    height = 1.1 + 0.24 * len(clusters)
    size = (8.6, max(height, 2.6))
    figure, [[left, right]] = new_grid(1, 2, size, share={"width_ratios": [1, 1.6]})
    _resolutions(left, clustering.sort_values("resolution", kind="stable"))
    _clusters(right, clusters)
    return figure


def _resolutions(ax: Axes, table: pd.DataFrame) -> None:
    """Draw one point a resolution, with the smallest agreement and the number of clusters."""
    x = np.arange(len(table))
    mean = table["stability"].to_numpy(dtype=float)
    low = table["stability_low"].to_numpy(dtype=float)
    chosen = table["chosen"].to_numpy(dtype=bool)
    ax.plot(x, mean, color="#999999", linewidth=1, zorder=1)
    ax.vlines(x, low, mean, color="#999999", linewidth=1, zorder=1)
    fill = np.where(chosen, "#222222", "#FFFFFF").tolist()
    ax.scatter(x, mean, s=36, zorder=2, linewidths=1.2, edgecolors="#222222", c=fill)
    pairs = zip(table["resolution"], table["n_clusters"], strict=True)
    ax.set_xticks(x, [f"{resolution:g}\n({count})" for resolution, count in pairs])
    ax.set_xlim(-0.5, len(table) - 0.5)
    ax.set_ylim(min(0.0, float(low.min())), 1.03)
    ax.set_xlabel("Resolution (clusters)")
    ax.set_ylabel("Adjusted Rand index with subsamples")
    ax.set_title("Resolutions")


def _clusters(ax: Axes, table: pd.DataFrame) -> None:
    """Draw one bar a cluster in the colour of its population."""
    colours = population_colours(table["population"].astype(str))
    y = np.arange(len(table))
    value = table["stability"].to_numpy(dtype=float)
    ax.barh(y, value, height=0.7, color=[colours[name] for name in table["population"].astype(str)])
    low = table["stability_low"].to_numpy(dtype=float)
    # White beneath, so that the tick is seen on a dark bar.
    for colour, width in (("#FFFFFF", 3.0), ("#222222", 1.2)):
        ax.vlines(low, y - 0.3, y + 0.3, color=colour, linewidth=width)
    for bound in (0.6, 0.75):
        ax.axvline(bound, color="#444444", linewidth=0.8, linestyle=(0, (3, 2)), zorder=0)
    ax.set_yticks(y, [f"{row.cluster}: {row.population}" for row in table.itertuples()])
    ax.set_ylim(len(table) - 0.5, -0.5)
    ax.set_xlim(0, 1.03)
    pairs = zip(table["state"].map(_STATES), table["joins_population"], strict=True)
    for row, (state, other) in enumerate(pairs):
        if isinstance(state, str):
            text = f"{state}, with {other}" if other else state
            ax.text(1.05, row, text, va="center", fontsize="small", clip_on=False)
    ax.set_xlabel("Jaccard coefficient with the best match")
    ax.set_title("Clusters found again")
    ax.tick_params(axis="y", length=0)


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

    Examples
    --------
    >>> import crs_sc as crs
    >>> adata = crs.datasets.toy_cohort()
    >>> figure = crs.pl.marker_dotplot(adata, n_markers=2)
    """
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
    size = (2.9 + 0.21 * len(genes) + 1.4, 1.5 + 0.25 * len(populations))
    figure, [[ax]] = new_grid(1, 1, size)
    y, x = np.indices(share.shape)
    look: dict[str, Any] = {"cmap": "Reds", "vmin": 0, "vmax": 1, "edgecolors": "#999999"}
    dots = ax.scatter(x, y, s=95 * share, c=scaled, linewidths=0.3, **look)
    lattice(ax, genes, populations, style="italic")
    ax.set_xlim(-0.7, len(genes) - 0.3)
    for i in range(1, len(genes)):
        if groups[i] != groups[i - 1]:
            ax.axvline(i - 0.5, color="#DDDDDD", linewidth=0.7, zorder=0)
    grey: dict[str, Any] = {"mfc": "#BBBBBB", "mec": "#999999", "mew": 0.3}
    handles = [
        mark(f"{100 * part:.0f} %", size=float(np.sqrt(95 * part)), **grey)
        for part in (1.0, 0.5, 0.1)
    ]
    outside_legend(ax, handles, title="cells with UMI")
    place: dict[str, Any] = {"shrink": 0.45, "anchor": (0.0, 0.0), "aspect": 12}
    figure.colorbar(dots, ax=ax, location="right", label="mean, scaled", **place)
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
    for name in populations:
        known = [gene for gene in markers.get(name, ()) if gene in adata.var_names]
        new = [gene for gene in known if gene not in genes][:n_markers]
        genes += new
        groups += [name] * len(new)
    return genes, groups
