"""Differential expression of pseudobulks and enrichment of gene sets."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from crs_sc import keys
from crs_sc.errors import InputError
from crs_sc.plotting._style import (
    check_table,
    choose,
    feature_label,
    lattice,
    mark,
    new_axes,
    new_grid,
    ordered,
    population_order,
    styled,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_UP, _DOWN, _FLAT = "#D55E00", "#0072B2", "#C8C8C8"


@styled
def volcano(
    expression: pd.DataFrame,
    *,
    contrast: str,
    population: str,
    alpha: float = 0.05,
    n_labels: int = 8,
    ax: Axes | None = None,
) -> Axes:
    """log2 fold change against p of one population's pseudobulk test.

    Parameters
    ----------
    expression
        The table `expression`.
    contrast, population
        Which test.
    alpha
        Genes with a smaller adjusted p are coloured.
    n_labels
        Genes named on each side, by p.
    ax
        Axes to draw into.

    Returns
    -------
    The axes.

    Raises
    ------
    InputError
        If no gene was tested in this contrast and population.

    Examples
    --------
    >>> import pandas as pd
    >>> import crs_sc as crs
    >>> row = ["cart", "B", "IL1B", 50.0, 2.0, 0.3, 6.0, 1e-6, 1e-4, 4, 4, "ok", 1e-7]
    >>> expression = pd.DataFrame([row], columns=crs.keys.EXPRESSION_TABLE.names)
    >>> ax = crs.pl.volcano(expression, contrast="cart", population="B")
    """
    check_table(expression, keys.EXPRESSION_TABLE.names, name="expression")
    rows = expression.loc[
        (expression["contrast"] == contrast) & (expression["population"] == population)
    ].dropna(subset=["log2fc", "pvalue"])
    if rows.empty:
        msg = f"The table 'expression' has no tested gene for {contrast!r} in {population!r}."
        raise InputError(msg)
    axes = new_axes(ax, (5.2, 4.0))
    positive = rows.loc[rows["pvalue"] > 0, "pvalue"]
    smallest = float(positive.min()) if len(positive) else 1e-300
    # A p of zero is an underflow; it is drawn with the smallest p that is not.
    rows = rows.assign(height=-np.log10(np.clip(rows["pvalue"], smallest, 1)))
    clear = rows["padj"] < alpha
    up, down = clear & (rows["log2fc"] > 0), clear & (rows["log2fc"] < 0)
    look: dict[str, Any] = {"linewidths": 0, "rasterized": True}
    for chosen, colour, size in ((~clear, _FLAT, 5), (down, _DOWN, 9), (up, _UP, 9)):
        x, y = rows.loc[chosen, "log2fc"], rows.loc[chosen, "height"]
        axes.scatter(x, y, s=size, color=colour, **look)
    top = max(float(rows["height"].max()), 1.0)
    reach = max(float(rows["log2fc"].abs().max()), 1.0)
    room = [1.75 if chosen.any() else 1.1 for chosen in (down, up)]
    axes.set_xlim(-room[0] * reach, room[1] * reach)
    axes.set_ylim(-0.03 * top, 1.08 * top)
    for chosen, side in ((down, -1), (up, 1)):
        named = rows.loc[chosen].sort_values(["pvalue", "gene"]).head(n_labels)
        _label(axes, named, side * 1.16 * reach, top)
    axes.axvline(0, color="#DDDDDD", linewidth=0.8, zorder=0)
    axes.set_xlabel("log2 fold change")
    axes.set_ylabel("\u2212log10 p")
    axes.set_title(f"{contrast}, {population}")
    text = f"coloured: adjusted p < {alpha:g} ({int(up.sum())} up, {int(down.sum())} down)"
    look = {"transform": axes.transAxes, "fontsize": 7.5, "color": "#555555"}
    axes.text(0.0, -0.19, text, va="top", **look)
    return axes


def _label(axes: Axes, named: pd.DataFrame, x: float, top: float) -> None:
    """Names in a column at `x`, in the order of their points and at least a line apart."""
    step = 0.062 * top
    wanted = named.sort_values("height")
    at = -np.inf
    places = []
    for height in wanted["height"]:
        at = max(float(height), at + step)
        places.append(at)
    over = max(places[-1] - 1.05 * top, 0.0) if places else 0.0
    places = [place - over for place in places]
    for i in range(len(places) - 2, -1, -1):
        places[i] = min(places[i], places[i + 1] - step)
    look: dict[str, Any] = {"va": "center", "fontsize": 7.5, "style": "italic"}
    look["ha"] = "left" if x > 0 else "right"
    look["arrowprops"] = {"arrowstyle": "-", "color": "#999999", "linewidth": 0.5, "shrinkB": 2}
    points = wanted[["log2fc", "height"]].itertuples(index=False)
    for gene, point, place in zip(wanted["gene"], points, places, strict=True):
        axes.annotate(str(gene), tuple(point), xytext=(x, place), **look)


@styled
def enrichment_dotplot(
    enrichment: pd.DataFrame,
    *,
    contrasts: Sequence[str] | None = None,
    gene_sets: Sequence[str] | None = None,
    alpha: float = 0.05,
) -> Figure:
    """Normalised enrichment score by gene set and population, one panel a contrast.

    Colour is the score, size the adjusted p; a black rim marks an adjusted p below `alpha`.

    Parameters
    ----------
    enrichment
        The table `enrichment`.
    contrasts, gene_sets
        Which, in order; all of the table if None.
    alpha
        For the rims.

    Returns
    -------
    The figure.

    Raises
    ------
    InputError
        If nothing was tested.

    Examples
    --------
    >>> import pandas as pd
    >>> import crs_sc as crs
    >>> row = ["cart", "B", "hla_dr", 9, 0.5, 1.8, 0.001, 0.004, "HLA-DRA", "ok"]
    >>> enrichment = pd.DataFrame([row], columns=crs.keys.ENRICHMENT_TABLE.names)
    >>> figure = crs.pl.enrichment_dotplot(enrichment)
    """
    spec = keys.ENRICHMENT_TABLE
    table, [sets] = choose(enrichment, spec, name="enrichment", gene_set=gene_sets)
    table = table.dropna(subset=["nes"])
    check_table(table, (), name="enrichment")
    names = ordered(table["contrast"], contrasts)
    populations = population_order(table["population"])
    limit = max(float(table["nes"].abs().max()), 1.0)
    below = 0.08 * max(len(name) for name in populations)
    labels = [feature_label(name) for name in sets]
    left = 0.08 * max(len(name) for name in labels)
    width = left + len(names) * (0.3 + 0.3 * len(populations)) + 2.6
    size = (width, 0.9 + below + 0.28 * len(sets))
    figure, [panels] = new_grid(1, len(names), size, share={"sharey": True})
    look: dict[str, Any] = {"cmap": "RdBu_r", "vmin": -limit, "vmax": limit, "linewidths": 0.7}
    mapped: Any = None
    for ax, contrast in zip(panels, names, strict=True):
        rows = table.loc[table["contrast"] == contrast]
        x = pd.Index(populations).get_indexer(pd.Index(rows["population"]))
        y = pd.Index(sets).get_indexer(pd.Index(rows["gene_set"]))
        rims = np.where(rows["padj"] < alpha, "black", "#BBBBBB").tolist()
        mapped = ax.scatter(x, y, s=_area(rows["padj"]), c=rows["nes"], edgecolors=rims, **look)
        lattice(ax, populations, labels)
        ax.grid(color="#EEEEEE", linewidth=0.6)
        ax.set_title(contrast)
    label = "normalised enrichment score"
    figure.colorbar(mapped, ax=panels, location="right", shrink=0.8, aspect=22, label=label)
    ps = pd.Series([0.5, 0.05, 0.001])
    handles = [
        mark(f"{p:g}", size=size, mfc="white", mew=0.7, mec="black" if p < alpha else "#BBBBBB")
        for p, size in zip(ps, np.sqrt(_area(ps)), strict=True)
    ]
    figure.legend(handles=handles, loc="outside lower right", ncols=3, title="adjusted p")
    return figure


def _area(padj: pd.Series) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Area of a dot; the largest is reached at an adjusted p of 0.001."""
    p = np.clip(padj.fillna(1).to_numpy(dtype=float), 1e-3, 1)
    area: np.ndarray[Any, np.dtype[np.float64]] = 14 + 32 * -np.log10(p)
    return area
