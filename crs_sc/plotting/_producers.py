"""Which populations hold producers of each cytokine, and where ambient RNA explains the UMI."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from crs_sc import keys
from crs_sc.plotting._style import (
    PAGE_WIDTH,
    arm_order,
    check_table,
    figure_legend,
    new_grid,
    ordered,
    population_order,
    styled,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.collections import PathCollection
    from matplotlib.colors import LogNorm
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

__all__ = ["producer_dotplot"]

_EDGE = "#555555"


@styled
def producer_dotplot(
    producers: pd.DataFrame,
    *,
    production: pd.DataFrame | None = None,
    genes: Sequence[str] | None = None,
    conditions: Sequence[str] | None = None,
) -> Figure:
    """Draw the producers of each cytokine by population, one panel an arm.

    Size is the share of cells called producers, colour the ambient-corrected UMI per cell; both are
    means over subjects. A hollow dot has UMI that ambient RNA explains, a small grey one no UMI but
    cells too shallow to exclude producers. A dash means that the arm has no cell of the
    population.

    Parameters
    ----------
    producers
        The table `producers`.
    production
        The table `production`, whose `state` decides what is filled, hollow or too shallow. None:
        filled where any cell was called, and nothing is said about depth.
    genes
        Genes in order; all of the table if None.
    conditions
        Arms in order.

    Returns
    -------
    The figure, one panel an arm, in several rows where they would be too wide for a page.

    Raises
    ------
    InputError
        If the table is empty.
    """
    from matplotlib.colors import LogNorm

    check_table(producers, keys.PRODUCERS_TABLE.names, name="producers")
    names = ordered(producers["gene"], genes)
    table = _with_marks(_producers_by_arm(producers.loc[producers["gene"].isin(names)]), production)
    check_table(table, ["gene"], name="producers")
    populations = population_order(table["population"])
    arms = arm_order(table["condition"], conditions)
    panel = max(0.4 + 0.3 * len(names), 0.2 + 0.1 * max(len(arm) for arm in arms))
    across = max(1, min(len(arms), int(PAGE_WIDTH / panel)))
    down = -(-len(arms) // across)
    left = 0.08 * max(len(name) for name in populations)
    figure, grid = new_grid(
        down,
        across,
        (left + across * panel + 2.2, 1.0 + down * (0.5 + 0.25 * len(populations))),
        share={"sharey": True, "sharex": True},
    )
    panels = [ax for row in grid for ax in row]
    largest = float(table["fraction"].max()) or 1.0
    positive = table.loc[table["per_cell"] > 0, "per_cell"]
    low = max(float(positive.min()), float(positive.max()) / 1e3) if len(positive) else 0.01
    high = float(positive.max()) if len(positive) else 1.0
    norm = LogNorm(vmin=low, vmax=max(high, low * 10))
    mapped = None
    for ax, arm in zip(panels, arms, strict=False):
        rows = table.loc[table["condition"] == arm]
        mapped = _dots(ax, rows, names, populations, largest=largest, norm=norm)
        ax.set_title(arm)
    for ax in panels[len(arms) :]:
        ax.set_axis_off()
    _dot_legend(figure, largest, shallow=bool((table["mark"] == "shallow").any()))
    if mapped is not None:
        bar = figure.colorbar(
            mapped, ax=panels, location="bottom", shrink=0.45, aspect=40, pad=0.03
        )
        bar.set_label("corrected UMI per cell (mean over subjects)")
    return figure


def _dots(
    ax: Axes,
    rows: pd.DataFrame,
    names: list[str],
    populations: list[str],
    *,
    largest: float,
    norm: LogNorm,
) -> PathCollection:
    """Draw one arm; returns the filled dots."""
    x = rows["gene"].map({gene: i for i, gene in enumerate(names)}).to_numpy()
    y = rows["population"].map({name: i for i, name in enumerate(populations)}).to_numpy()
    mark = rows["mark"].to_numpy(dtype=str)
    made, ambient = mark == "made", mark == "soup"
    filled = ax.scatter(
        x[made],
        y[made],
        s=_area(rows["fraction"].to_numpy()[made], largest),
        c=np.clip(rows["per_cell"].to_numpy()[made], norm.vmin, None),
        cmap="viridis_r",
        norm=norm,
        edgecolors=_EDGE,
        linewidths=0.4,
        zorder=2,
    )
    ax.scatter(
        x[ambient], y[ambient], s=22, facecolors="none", edgecolors="#777777", linewidths=0.9
    )
    for kind, marker, size in (("empty", "_", 16), ("shallow", ".", 8)):
        chosen = mark == kind
        ax.scatter(x[chosen], y[chosen], s=size, marker=marker, color="#AAAAAA", linewidths=0.9)
    ax.set_xticks(range(len(names)), names, rotation=90, style="italic")
    ax.set_yticks(range(len(populations)), populations)
    ax.set_xlim(-0.6, len(names) - 0.4)
    ax.set_ylim(len(populations) - 0.4, -0.6)
    ax.grid(color="#EEEEEE", linewidth=0.6)
    return filled


def _area(fraction: NDArray[np.float64], largest: float) -> NDArray[np.float64]:
    """Area of a dot in points squared."""
    return 12 + 150 * np.sqrt(fraction / largest)


def _with_marks(table: pd.DataFrame, production: pd.DataFrame | None) -> pd.DataFrame:
    """Say of each dot whether it is made, ambient RNA, shallow, empty or not drawn."""
    if production is None:
        mark = np.where(table["n_producers"] > 0, "made", np.where(table["umi"] > 0, "soup", ""))
    else:
        index = ["gene", "population", "condition"]
        table = table.merge(production[[*index, "state"]], on=index, how="left")
        named = {
            keys.PRODUCER: "made",
            keys.AMBIENT_COMPATIBLE: "soup",
            keys.UNDETERMINED: "shallow",
        }
        mark = table["state"].map(named).fillna("").to_numpy(dtype=str)
    return table.assign(mark=np.where(table["n_cells"] == 0, "empty", mark))


def _producers_by_arm(producers: pd.DataFrame) -> pd.DataFrame:
    """Pool the samples of a subject, then average over the subjects of an arm."""
    table = producers.assign(
        corrected=np.clip(producers["umi"] - producers["expected_ambient_umi"], 0, None)
    )
    sums = ["n_cells", "n_producers", "umi", "corrected"]
    index = ["gene", "population", "condition"]
    by_subject = table.groupby([*index, "subject"], as_index=False, observed=True)[sums].sum()
    cells = by_subject["n_cells"].where(by_subject["n_cells"] > 0)
    by_subject["fraction"] = by_subject["n_producers"] / cells
    by_subject["per_cell"] = by_subject["corrected"] / cells
    grouped = by_subject.groupby(index, as_index=False, observed=True, sort=False)
    result = grouped.agg(
        n_cells=("n_cells", "sum"),
        n_producers=("n_producers", "sum"),
        umi=("umi", "sum"),
        fraction=("fraction", "mean"),
        per_cell=("per_cell", "mean"),
    )
    return result.fillna({"fraction": 0.0, "per_cell": 0.0})


def _dot_legend(figure: Figure, largest: float, *, shallow: bool) -> None:
    from matplotlib.lines import Line2D

    def mark(shape: str, size: float, label: str, **look: Any) -> Line2D:
        return Line2D([], [], marker=shape, ls="", ms=size, label=label, **look)

    grey = {"mfc": "#BBBBBB", "mec": _EDGE, "mew": 0.4}
    shares = _round_shares(largest)
    handles = [
        mark("o", float(np.sqrt(area)), f"{100 * share:g} %", **grey)
        for share, area in zip(shares, _area(np.array(shares), largest), strict=True)
    ]
    handles.append(mark("o", 4.7, "soup explains the UMI", mfc="none", mec="#777777"))
    if shallow:
        handles.append(mark(".", 3.0, "no UMI, too shallow to tell", color="#AAAAAA"))
    handles.append(mark("_", 5.0, "no cells", color="#AAAAAA"))
    # The largest dot is 13 points high, and the text 8.
    figure_legend(figure, handles, title="producers among cells", spacing=0.9)


def _round_shares(largest: float) -> list[float]:
    """At the most three round shares up to the largest, about a factor of five apart."""
    steps = [digit * 10.0**power for power in range(-1, -6, -1) for digit in (5, 2, 1)]
    steps = [1.0, *steps]
    first = next((i for i, step in enumerate(steps) if step <= largest * 1.001), len(steps) - 1)
    return steps[first : first + 5 : 2]
