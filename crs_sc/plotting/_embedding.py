"""The map of the cells."""

from __future__ import annotations

import colorsys
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from crs_sc import keys
from crs_sc.core.checks import check_obs
from crs_sc.errors import MissingKeyError, listing
from crs_sc.plotting._style import (
    SPECIES_COLOURS,
    arm_colours,
    arm_order,
    new_axes,
    outside_legend,
    population_colours,
    styled,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData
    from matplotlib.axes import Axes

__all__ = ["umap"]


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
    """
    from matplotlib.colors import to_rgba_array
    from matplotlib.lines import Line2D

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
    axes.scatter(
        points[order, 0],
        points[order, 1],
        c=to_rgba_array(list(colours.values()))[pd.Index(colours).get_indexer(values)[order]],
        s=size,
        linewidths=0,
        rasterized=True,
    )
    title = f"Cells by {color}"
    if len(order) < adata.n_obs:
        title += f" ({len(order):,} of {adata.n_obs:,} drawn)"
    axes.set(xticks=[], yticks=[], xlabel="UMAP 1", ylabel="UMAP 2", title=title)
    axes.set_aspect("equal", adjustable="datalim")
    counts = values.value_counts()
    handles = [
        Line2D(
            [], [], marker="o", ls="", ms=6, color=colours[name], label=f"{name} ({counts[name]:,})"
        )
        for name in colours
    ]
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
