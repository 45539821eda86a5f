"""Is it the handling: every shift beside the same shift at equal handling stress."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from crs_sc import keys
from crs_sc.plotting._style import (
    PAGE_WIDTH,
    check_table,
    feature_label,
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
    from matplotlib.figure import Figure

__all__ = ["stress_adjustment"]

_BEFORE, _AFTER = "#444444", "#D55E00"


@styled
def stress_adjustment(
    shifts: pd.DataFrame,
    *,
    features: Sequence[str] | None = None,
    populations: Sequence[str] | None = None,
    contrasts: Sequence[str] | None = None,
) -> Figure:
    """Estimates with 95 % interval, above without and below with adjustment for handling stress.

    The grey band is the margin within which a shift is not relevant.

    Parameters
    ----------
    shifts
        The table `shifts`.
    features, populations, contrasts
        Which, in order. None: all contrasts, and of the features and populations those that
        changed by the verdict in any of them.

    Returns
    -------
    The figure, one panel a contrast; a row a population and feature.

    Raises
    ------
    InputError
        If nothing of this was tested.
    """
    from matplotlib.lines import Line2D

    check_table(shifts, keys.SHIFTS_TABLE.names, name="shifts")
    names = ordered(shifts["contrast"], contrasts)
    table = shifts.loc[shifts["contrast"].isin(names) & shifts["ci_low"].notna()]
    if features is not None:
        table = table.loc[table["feature"].isin(list(features))]
    if populations is not None:
        table = table.loc[table["population"].isin(list(populations))]
    if features is None and populations is None:
        changed = table.loc[table["verdict"] == keys.CHANGED, ["feature", "population"]]
        pairs = set(zip(changed["feature"], changed["population"], strict=True))
        is_shown = [p in pairs for p in zip(table["feature"], table["population"], strict=True)]
        table = table.loc[is_shown]
    check_table(table, ["feature"], name="shifts that were tested")
    rows = _rows(table, features, populations)
    labels = [f"{population}: {feature_label(feature)}" for population, feature in rows]
    left = 0.075 * max(len(label) for label in labels)
    # More contrasts than a page is wide go on in the next line.
    columns = min(len(names), max(3, int((PAGE_WIDTH - left) // 2.1)))
    lines = -(-len(names) // columns)
    figure, grid = new_grid(
        lines,
        columns,
        (left + 2.1 * columns + 1.9, lines * (0.9 + 0.27 * len(rows))),
        share={"sharey": True},
    )
    panels = [ax for line in grid for ax in line]
    for ax in panels[len(names) :]:
        ax.set_axis_off()
    for ax, contrast in zip(panels, names, strict=False):
        _pairs(ax, table.loc[table["contrast"] == contrast], rows, margin=table["margin"].max())
        ax.set_yticks(range(len(rows)), labels)
        ax.set_ylim(len(rows) - 0.5, -0.5)
        ax.set_title(contrast)
        ax.set_xlabel("log2 units")
    looks = ((_BEFORE, "o", "as it is"), (_AFTER, "D", "at equal handling stress"))
    figure_legend(
        figure,
        [Line2D([], [], color=c, marker=m, ms=4, lw=1, label=text) for c, m, text in looks],
    )
    return figure


def _rows(
    table: pd.DataFrame, features: Sequence[str] | None, populations: Sequence[str] | None
) -> list[tuple[str, str]]:
    """Order the rows, each a population and a feature."""
    known = set(zip(table["population"], table["feature"], strict=True))
    order = (
        population_order(table["population"])
        if populations is None
        else ordered(table["population"], populations)
    )
    names = ordered(table["feature"], features)
    return [(p, f) for p in order for f in names if (p, f) in known]


def _pairs(ax: Axes, part: pd.DataFrame, rows: list[tuple[str, str]], *, margin: float) -> None:
    """Draw both estimates of each row that this contrast has."""
    ax.axvline(0, color="#444444", linewidth=0.8, zorder=1)
    if np.isfinite(margin):
        ax.axvspan(-margin, margin, color="#EEEEEE", linewidth=0, zorder=0)
    at = part.set_index(["population", "feature"])
    for suffix, colour, marker, step in (
        ("", _BEFORE, "o", -0.16),
        ("_stress_adjusted", _AFTER, "D", 0.16),
    ):
        columns = [f"{name}{suffix}" for name in ("estimate", "ci_low", "ci_high")]
        values = at[columns].reindex(rows).to_numpy(dtype=float)
        y = np.arange(len(rows)) + step
        ax.hlines(y, values[:, 1], values[:, 2], color=colour, linewidth=1.1, zorder=2)
        ax.scatter(values[:, 0], y, s=15, color=colour, marker=marker, linewidths=0, zorder=3)
    ax.tick_params(axis="y", length=0)
