"""From one arm to the other, step by step: the waterfall of a decomposition."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from crs_sc import keys
from crs_sc.errors import InputError, listing
from crs_sc.plotting._decomposition import PART_COLOURS, PART_NAMES, PARTS
from crs_sc.plotting._style import (
    check_table,
    figure_legend,
    new_axes,
    ordered,
    outside_legend,
    population_order,
    styled,
)
from crs_sc.plotting._wrap import wrapped_grid

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

__all__ = ["waterfall", "waterfalls"]

OTHERS = "all others"


@styled
def waterfall(
    decomposition: pd.DataFrame,
    *,
    contrast: str,
    gene: str,
    populations: Sequence[str] | None = None,
    smallest: float = 0.02,
    ax: Axes | None = None,
) -> Axes:
    """Walk the change of a cytokine's output per sampled cell, part by part, to its total.

    Each bar starts where the one before ended: by population, first its cells, then the producers
    among them, then the UMI per producer. The last bar is the total. Lines are the 95 % intervals
    of the parts and of the total.

    Parameters
    ----------
    decomposition
        The table `decomposition`.
    contrast, gene
        Which change.
    populations
        Which to show by themselves, in order; the rest is one bar. None: those with a part of at
        least `smallest` of the largest.
    smallest
        See `populations`.
    ax
        Where to draw; None: a new figure.

    Returns
    -------
    The axes.

    Raises
    ------
    InputError
        If the table has no such contrast and gene, or nothing changed that could be drawn.
    """
    check_table(decomposition, keys.DECOMPOSITION_TABLE.names, name="decomposition")
    chosen = (decomposition["contrast"] == contrast) & (decomposition["gene"] == gene)
    rows = decomposition.loc[chosen & decomposition["total"].notna()].set_index("population")
    if not _changes(rows):
        known = decomposition[["contrast", "gene"]].drop_duplicates()
        told = listing(f"{c}, {g}" for c, g in known.itertuples(index=False))
        msg = f"The decomposition has no change of '{gene}' in '{contrast}'. It has: {told}."
        raise InputError(msg)
    names = _worth_showing(rows.reset_index(), smallest) if populations is None else populations
    steps = _steps(rows, names)
    ax = new_axes(ax, (0.36 * len(steps) + 3.4, 3.4))
    _walk(ax, steps, rows)
    ax.set_ylabel("change of UMI per sampled cell")
    ax.set_title(f"{gene}: {contrast}")
    outside_legend(ax, _handles({part for _, part, _ in steps}))
    return ax


@styled
def waterfalls(
    decomposition: pd.DataFrame,
    *,
    genes: Sequence[str] | None = None,
    contrasts: Sequence[str] | None = None,
    smallest: float = 0.05,
) -> Figure:
    """Draw the `waterfall` of every gene and contrast.

    Parameters
    ----------
    decomposition
        The table `decomposition`.
    genes, contrasts
        Rows and columns of panels, in order; all of the table if None.
    smallest
        A population is shown by itself that has a part of at least `smallest` of the largest one
        of the gene in any of the contrasts; the rest is one bar.

    Returns
    -------
    The figure; the panels of a gene share their y axis.

    Raises
    ------
    InputError
        If the table is empty.
    """
    check_table(decomposition, keys.DECOMPOSITION_TABLE.names, name="decomposition")
    down = ordered(decomposition["gene"], genes)
    across = ordered(decomposition["contrast"], contrasts)
    table = decomposition.loc[
        decomposition["gene"].isin(down)
        & decomposition["contrast"].isin(across)
        & decomposition["total"].notna()
    ]
    check_table(table, ["gene"], name="decomposition")
    names = {gene: _worth_showing(table.loc[table["gene"] == gene], smallest) for gene in down}
    n_steps = max(3 * len(shown) for shown in names.values()) + 2
    width = max(2.2, 0.26 * n_steps + 0.5)
    grid = wrapped_grid(len(down), len(across), panel=(width, 2.7), margin=(2.8, 0.2))
    for panels, gene in zip(grid.groups, down, strict=True):
        for ax, contrast in zip(panels, across, strict=True):
            if ax is not panels[0]:
                ax.sharey(panels[0])
            one = table.loc[(table["gene"] == gene) & (table["contrast"] == contrast)]
            rows = one.set_index("population")
            if _changes(rows):
                _walk(ax, _steps(rows, names[gene]), rows)
            else:
                ax.text(0.5, 0.5, "no change to split", transform=ax.transAxes, ha="center")
                ax.set_xticks([])
            ax.set_title(f"{gene}: {contrast}")
    for ax in grid.first_of_lines:
        ax.set_ylabel("change of UMI\nper sampled cell")
    figure_legend(grid.figure, _handles(set(PARTS)))
    return grid.figure


def _changes(rows: pd.DataFrame) -> bool:
    return bool((rows[list(PARTS)].abs().to_numpy() > 0).any())


def _worth_showing(table: pd.DataFrame, smallest: float) -> list[str]:
    """Choose populations with a part of some size."""
    table = table.loc[table["population"] != keys.ALL_POPULATIONS]
    largest = table[list(PARTS)].abs().max(axis=1)
    kept = (largest > 0) & (largest >= smallest * largest.max())
    return population_order(table.loc[kept, "population"])


def _steps(rows: pd.DataFrame, names: Sequence[str]) -> list[tuple[str, str, float]]:
    """Bars in order: population, part (empty for the rest together) and height."""
    known = [name for name in names if name in rows.index]
    heights = rows.loc[known, list(PARTS)].fillna(0.0).to_numpy(dtype=float)
    steps = [
        (known[i], PARTS[j], float(heights[i, j])) for i, j in zip(*heights.nonzero(), strict=True)
    ]
    rest = rows.drop(index=[*known, keys.ALL_POPULATIONS], errors="ignore")
    if rest["total"].abs().sum() > 0:
        steps.append((OTHERS, "", float(rest["total"].sum())))
    return steps


def _handles(parts: set[str]) -> list[Patch]:
    """Entries of the legend."""
    from matplotlib.patches import Patch

    return [Patch(color=PART_COLOURS[p], label=PART_NAMES[p]) for p in PARTS if p in parts]


def _walk(ax: Axes, steps: list[tuple[str, str, float]], rows: pd.DataFrame) -> None:
    """Draw the bars, the lines between them and the total."""
    height = np.array([value for _, _, value in steps])
    ends = np.cumsum(height)
    starts = ends - height
    x = np.arange(len(steps), dtype=float)
    colours = [PART_COLOURS.get(part, "#999999") for _, part, _ in steps]
    ax.bar(x, height, 0.8, bottom=starts, color=colours, linewidth=0)
    for i, (name, part, _) in enumerate(steps):
        low, high = (
            (rows.loc[name, f"{part}_ci_low"], rows.loc[name, f"{part}_ci_high"])
            if part
            else (np.nan, np.nan)
        )
        ax.plot([i, i], [starts[i] + low, starts[i] + high], color="black", linewidth=0.9, zorder=3)
        ax.plot([i + 0.4, i + 0.6], [ends[i], ends[i]], color="#888888", linewidth=0.7)
    ax.bar([len(steps)], [ends[-1]], 0.8, color="#888888", linewidth=0)
    if keys.ALL_POPULATIONS in rows.index:
        whole = rows.loc[[keys.ALL_POPULATIONS], ["total_ci_low", "total_ci_high"]]
        ends = whole.to_numpy(dtype=float)[0]
        ax.plot([len(steps)] * 2, ends, color="black", linewidth=0.9, zorder=3)
    ax.axhline(0, color="#444444", linewidth=0.8)
    # One label under the bars of a population, lines between populations.
    names = [name for name, _, _ in steps]
    groups = {name: x[np.array(names) == name] for name in dict.fromkeys(names)}
    for at in list(groups.values())[1:]:
        ax.axvline(at[0] - 0.5, color="#E4E4E4", linewidth=0.7, zorder=0)
    ax.axvline(len(steps) - 0.5, color="#E4E4E4", linewidth=0.7, zorder=0)
    places = [float(at.mean()) for at in groups.values()]
    ax.set_xticks(
        [*places, len(steps)], [*groups, "total"], rotation=35, ha="right", rotation_mode="anchor"
    )
    ax.tick_params(axis="x", length=0)
    ax.set_xlim(-0.6, len(steps) + 0.6)
