"""Who makes a cytokine beside who can hear it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from crs_sc import keys
from crs_sc.plotting._style import (
    arm_colours,
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
    from matplotlib.figure import Figure

__all__ = ["producers_to_receivers"]


@styled
def producers_to_receivers(
    receivers: pd.DataFrame,
    *,
    cytokine: str,
    ledger_by_condition: pd.DataFrame,
    production: pd.DataFrame | None = None,
    conditions: Sequence[str] | None = None,
) -> Figure:
    """Left who makes a cytokine, right who has its receptors, decoys and antagonists.

    A point is the mean of an arm over its subjects, the line its 95 % interval. Filled: above the
    ambient RNA; hollow: ambient RNA can explain the UMI. Without any UMI, or with too few cells,
    there is no point.

    Parameters
    ----------
    receivers
        The table `receivers`.
    cytokine
        Which of them.
    ledger_by_condition
        The table `ledger_by_condition`, for the shares of the producers. Without a row of the
        cytokine the left panel is left out.
    production
        The table `production`, for what is above ambient RNA on the left; every share above zero is
        filled if None.
    conditions
        Arms in order; the first is the reference and grey.

    Returns
    -------
    The figure, one panel for the producers and one for each gene.

    Raises
    ------
    InputError
        If the table has no row of the cytokine.
    """
    check_table(receivers, keys.RECEIVERS_TABLE.names, name="receivers")
    heard = receivers.loc[receivers["cytokine"] == cytokine]
    check_table(heard, ["gene"], name=f"receivers of {cytokine}")
    made = ledger_by_condition.loc[ledger_by_condition["gene"] == cytokine]
    makers = _makers(made, production)
    hearers = heard.assign(filled=heard["state"] == keys.ABOVE_AMBIENT)
    hearers = hearers.loc[hearers["state"].isin([keys.ABOVE_AMBIENT, keys.AMBIENT_COMPATIBLE])]
    genes = ordered(heard["gene"], None)
    populations = population_order([*makers["population"], *hearers["population"]])
    colours = arm_colours(heard["condition"], conditions)
    n_panels = len(genes) + int(not made.empty)
    left = 0.075 * max((len(name) for name in populations), default=0)
    row = 0.12 + 0.075 * len(colours)
    figure, grid = new_grid(
        1,
        n_panels,
        (left + 1.55 * n_panels + 2.0, 1.2 + row * max(len(populations), 1)),
        share={"sharey": True},
    )
    panels = grid[0]
    for ax in panels:
        _rows(ax, populations)
    if not made.empty:
        _arms(panels[0], makers, "share", populations, colours)
        panels[0].set_xlim(-4, 104)
        panels[0].set_xticks([0, 50, 100])
        panels[0].set_xlabel("share of UMI (%)")
        _title(panels[0], "made by", cytokine)
    for ax, gene in zip(panels[-len(genes) :], genes, strict=True):
        shown = hearers.loc[hearers["gene"] == gene]
        _arms(ax, shown, "cpm", populations, colours)
        ends = float(shown[["cpm", "ci_high"]].max().max()) if len(shown) else 0.0
        ends = ends or 1.0
        ax.set_xlim(-0.04 * ends, 1.04 * ends)
        ax.locator_params(axis="x", nbins=3)
        ax.set_xlabel("UMI per million")
        _title(ax, str(heard.loc[heard["gene"] == gene, "role"].iloc[0]), gene)
    _legend(figure, colours)
    return figure


def _makers(made: pd.DataFrame, production: pd.DataFrame | None) -> pd.DataFrame:
    """Shares in per cent, with whether the population makes any beyond ambient RNA."""
    drawn = made.assign(**{end: 100 * made[end] for end in ("share", "ci_low", "ci_high")})
    if production is None:
        return drawn.loc[drawn["share"] > 0].assign(filled=True)
    index = ["gene", "population", "condition"]
    drawn = drawn.merge(production[[*index, "state"]], on=index, how="left")
    drawn = drawn.loc[drawn["state"].isin([keys.PRODUCER, keys.AMBIENT_COMPATIBLE])]
    return drawn.assign(filled=drawn["state"] == keys.PRODUCER)


def _rows(ax: Axes, populations: list[str]) -> None:
    """One band a population, every second one shaded."""
    for i in range(0, len(populations), 2):
        ax.axhspan(i - 0.5, i + 0.5, color="#F5F5F5", linewidth=0, zorder=0)
    ax.set_yticks(range(len(populations)), populations)
    ax.set_ylim(len(populations) - 0.5, -0.5)
    ax.tick_params(axis="y", length=0)


def _title(ax: Axes, role: str, gene: str) -> None:
    ax.set_title(gene, style="italic", pad=16)
    ax.annotate(
        role,
        (0.5, 1.0),
        (0, 4),
        xycoords="axes fraction",
        textcoords="offset points",
        ha="center",
        va="bottom",
        fontsize=8,
        color="#666666",
    )


def _arms(
    ax: Axes, rows: pd.DataFrame, value: str, populations: list[str], colours: dict[str, str]
) -> None:
    """Point and interval of each arm within the band of its population."""
    places = {name: i for i, name in enumerate(populations)}
    step = 0.8 / len(colours)
    for i, (arm, colour) in enumerate(colours.items()):
        mine = rows.loc[(rows["condition"] == arm) & rows["population"].isin(populations)]
        band = mine["population"].map(places).to_numpy(dtype=float)
        y = band + (i - (len(colours) - 1) / 2) * step
        x = mine[value].to_numpy(dtype=float)
        ax.hlines(y, mine["ci_low"], mine["ci_high"], color=colour, linewidth=1.0, alpha=0.7)
        filled = mine["filled"].to_numpy(dtype=bool)
        ax.scatter(x, y, s=17, c=np.where(filled, colour, "white"), edgecolors=colour,
                   linewidths=0.9, zorder=3)  # fmt: skip


def _legend(figure: Figure, colours: dict[str, str]) -> None:
    from matplotlib.lines import Line2D

    def dot(colour: str, face: str, label: str) -> Line2D:
        return Line2D([], [], marker="o", ls="", ms=4.5, mfc=face, mec=colour, label=label)

    handles = [dot(colour, colour, arm) for arm, colour in colours.items()]
    handles.append(dot("black", "black", "above ambient RNA"))
    handles.append(dot("black", "white", "soup explains the UMI"))
    figure_legend(figure, handles, title="arm (mean, 95 % interval)")
