"""More cells, more producers, or more per producer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from crs_sc import keys
from crs_sc.plotting._style import (
    check_table,
    figure_legend,
    ordered,
    population_order,
    styled,
)
from crs_sc.plotting._wrap import wrapped_grid

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["decomposition_bars"]

PARTS = ("composition", "producer_fraction", "intensity")
PART_COLOURS = {"composition": "#0072B2", "producer_fraction": "#D55E00", "intensity": "#E8CD2A"}
PART_NAMES = {
    "composition": "more or fewer cells",
    "producer_fraction": "more or fewer producers among them",
    "intensity": "more or less per producer",
}
# What the row of the sum is called in the picture.
ALL = "All populations"


@styled
def decomposition_bars(
    decomposition: pd.DataFrame,
    *,
    genes: Sequence[str] | None = None,
    contrasts: Sequence[str] | None = None,
    populations: Sequence[str] | None = None,
    smallest: float = 0.01,
) -> Figure:
    """Parts of the change in a cytokine's output per sampled cell, by population.

    The parts of a bar add up to the diamond, whose line is the 95 % interval. The first row is
    the sum over all populations, with an interval of its own.

    Parameters
    ----------
    decomposition
        The table `decomposition`.
    genes, contrasts
        Rows and columns of panels, in order; all of the table if None.
    populations
        Which, in order. None: those where some part is at least `smallest` of the largest one.
    smallest
        See `populations`.

    Returns
    -------
    The figure, one panel a gene and contrast; the panels of a gene share their x axis.

    Raises
    ------
    InputError
        If the table is empty.
    """
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    check_table(decomposition, keys.DECOMPOSITION_TABLE.names, name="decomposition")
    rows = ordered(decomposition["gene"], genes)
    columns = ordered(decomposition["contrast"], contrasts)
    table = decomposition.loc[
        decomposition["gene"].isin(rows) & decomposition["contrast"].isin(columns)
    ]
    check_table(table, ["gene"], name="decomposition")
    names = list(populations) if populations is not None else _worth_showing(table, smallest)
    height = 0.95 + 0.25 * (len(names) + 1)
    left = 0.08 * max(len(name) for name in [*names, ALL])
    grid = wrapped_grid(
        len(rows),
        len(columns),
        panel=(2.5, height),
        margin=(left + 2.6, 0.5),
        share={"sharey": True},
    )
    for panels, gene in zip(grid.groups, rows, strict=True):
        for ax, contrast in zip(panels, columns, strict=True):
            if ax is not panels[0]:
                ax.sharex(panels[0])
            part = table.loc[(table["gene"] == gene) & (table["contrast"] == contrast)]
            _bars(ax, part.set_index("population"), names)
            ax.set_title(f"{gene}: {contrast}")
    for ax in grid.lowest:
        ax.set_xlabel("change of UMI per sampled cell")
    handles = [Patch(color=PART_COLOURS[part], label=PART_NAMES[part]) for part in PARTS]
    diamond = Line2D(
        [], [], marker="D", ms=4, color="black", linewidth=0.9, label="total, 95 % interval"
    )
    open_end = Line2D(
        [],
        [],
        marker="$*$",
        ls="",
        ms=5,
        color="#555555",
        label="absent or no producers in one arm:\nper-producer part not identified",
    )
    figure_legend(grid.figure, [*handles, diamond, open_end])
    return grid.figure


def _worth_showing(table: pd.DataFrame, smallest: float) -> list[str]:
    """Choose populations with a part of some size in any gene, judged within that gene."""
    table = table.loc[table["population"] != keys.ALL_POPULATIONS]
    largest = table[list(PARTS)].abs().max(axis=1)
    relative = largest / largest.groupby(table["gene"]).transform("max")
    kept = table.loc[relative.fillna(0) >= smallest, "population"]
    return population_order(kept if len(kept) else table["population"])


def _bars(ax: Axes, rows: pd.DataFrame, names: list[str]) -> None:
    """Draw one panel: the sum over the populations first, then the named ones."""
    labels = [ALL, *names]
    rows = rows.reindex([keys.ALL_POPULATIONS, *names])
    values = rows[list(PARTS)].fillna(0.0)
    y = np.arange(len(rows), dtype=float)
    above, below = np.zeros(len(rows)), np.zeros(len(rows))
    for part in PARTS:
        width = values[part].to_numpy(dtype=float)
        left = np.where(width >= 0, above, below)
        ax.barh(y, width, 0.72, left=left, color=PART_COLOURS[part], label=part, linewidth=0)
        above += np.clip(width, 0, None)
        below += np.clip(width, None, 0)
    total = rows[["total", "total_ci_low", "total_ci_high"]].to_numpy(dtype=float)
    ax.hlines(y, total[:, 1], total[:, 2], color="black", linewidth=0.9, zorder=3)
    ax.scatter(total[:, 0], y, marker="D", s=14, color="black", zorder=4)
    for i in np.flatnonzero((rows["status"] == keys.INTENSITY_NOT_IDENTIFIED).to_numpy()):
        across = ("axes fraction", "data")
        ax.annotate("*", (1.0, i), xycoords=across, ha="right", va="center", color="#555555")
    ax.axvline(0, color="#444444", linewidth=0.8)
    ax.axhline(0.5, color="#DDDDDD", linewidth=0.8)
    ax.set_yticks(y, labels)
    ax.set_ylim(len(values) - 0.5, -0.5)
    ax.tick_params(axis="y", length=0)
    ax.locator_params(axis="x", nbins=4)
