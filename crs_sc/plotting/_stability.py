"""Are the clusters there: resolutions against subsamples, and each cluster found again or not."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from crs_sc import keys
from crs_sc.plotting._style import check_table, new_grid, population_colours, styled

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["cluster_stability"]

_STATES = {
    keys.STABLE: "",
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
    """
    check_table(clusters, keys.CLUSTERS_TABLE.names, name="clusters")
    check_table(clustering, keys.CLUSTERING_TABLE.names, name="clustering")
    height = 1.1 + 0.24 * len(clusters)
    figure, [[left, right]] = new_grid(
        1, 2, (8.6, max(height, 2.6)), share={"width_ratios": [1, 1.6]}
    )
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
    ax.scatter(
        x, mean, s=36, zorder=2, linewidths=1.2, edgecolors="#222222",
        c=np.where(chosen, "#222222", "#FFFFFF").tolist(),
    )  # fmt: skip
    names = [
        f"{resolution:g}\n({count})"
        for resolution, count in zip(table["resolution"], table["n_clusters"], strict=True)
    ]
    ax.set_xticks(x, names)
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
    labels = [
        f"{cluster}: {name}"
        for cluster, name in zip(table["cluster"], table["population"], strict=True)
    ]
    ax.set_yticks(y, labels)
    ax.set_ylim(len(table) - 0.5, -0.5)
    ax.set_xlim(0, 1.03)
    for row, (state, other) in enumerate(
        zip(table["state"], table["joins_population"], strict=True)
    ):
        said = _STATES.get(str(state), "")
        if said:
            text = f"{said}, with {other}" if other else said
            ax.text(1.05, row, text, va="center", fontsize="small", clip_on=False)
    ax.set_xlabel("Jaccard coefficient with the best match")
    ax.set_title("Clusters found again")
    ax.tick_params(axis="y", length=0)
