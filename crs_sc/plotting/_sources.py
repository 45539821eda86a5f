"""Who makes it: producers, source shares, observed against soup."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from crs_sc import keys
from crs_sc.plotting._style import (
    arm_colours,
    arm_heads,
    arm_order,
    check_table,
    figure_legend,
    log_with_zero,
    new_grid,
    ordered,
    population_colours,
    population_order,
    sample_layout,
    styled,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["ambient_expected", "producer_dotplot", "source_shares"]

_EDGE = "#555555"


@styled
def producer_dotplot(
    producers: pd.DataFrame,
    *,
    genes: Sequence[str] | None = None,
    conditions: Sequence[str] | None = None,
) -> Figure:
    """Draw the producers of each cytokine by population, one panel an arm.

    Size is the share of cells called producers, colour the soup-corrected UMI per cell; both are
    means over subjects. A hollow dot has UMI but no producer: the soup explains them. A dash
    means that the arm has no cell of the population.

    Parameters
    ----------
    producers
        The table `producers`.
    genes
        Genes in order; all of the table if None.
    conditions
        Arms in order.

    Returns
    -------
    The figure, one panel an arm.

    Raises
    ------
    InputError
        If the table is empty.
    """
    check_table(producers, keys.PRODUCERS_TABLE.names, name="producers")
    names = ordered(producers["gene"], genes)
    table = _producers_by_arm(producers.loc[producers["gene"].isin(names)])
    check_table(table, ["gene"], name="producers")
    populations = population_order(table["population"])
    arms = arm_order(table["condition"], conditions)
    title = 0.1 * max(len(arm) for arm in arms)
    width = 1.9 + len(arms) * max(0.4 + 0.36 * len(names), 0.2 + title) + 1.6
    figure, grid = new_grid(
        1, len(arms), (width, 1.5 + 0.27 * len(populations)), share={"sharey": True}
    )
    largest = float(table["fraction"].max()) or 1.0
    positive = table.loc[table["per_cell"] > 0, "per_cell"]
    from matplotlib.colors import LogNorm

    low = max(float(positive.min()), float(positive.max()) / 1e3) if len(positive) else 0.01
    high = float(positive.max()) if len(positive) else 1.0
    norm = LogNorm(vmin=low, vmax=max(high, low * 10))
    mapped = None
    for ax, arm in zip(grid[0], arms, strict=True):
        rows = table.loc[table["condition"] == arm]
        x = rows["gene"].map({gene: i for i, gene in enumerate(names)}).to_numpy()
        y = rows["population"].map({name: i for i, name in enumerate(populations)}).to_numpy()
        size = 12 + 170 * np.sqrt(rows["fraction"].to_numpy() / largest)
        made = (rows["n_producers"] > 0).to_numpy()
        soup = ~made & (rows["umi"] > 0).to_numpy()
        empty = (rows["n_cells"] == 0).to_numpy()
        mapped = ax.scatter(
            x[made],
            y[made],
            s=size[made],
            c=np.clip(rows["per_cell"].to_numpy()[made], low, None),
            cmap="viridis_r",
            norm=norm,
            edgecolors=_EDGE,
            linewidths=0.4,
        )
        ax.scatter(x[soup], y[soup], s=22, facecolors="none", edgecolors="#777777", linewidths=0.9)
        ax.scatter(x[empty], y[empty], s=16, marker="_", color="#BBBBBB", linewidths=0.9)
        ax.set_xticks(range(len(names)), names, rotation=90, style="italic")
        ax.set_yticks(range(len(populations)), populations)
        ax.set_xlim(-0.6, len(names) - 0.4)
        ax.set_ylim(len(populations) - 0.4, -0.6)
        ax.set_title(arm)
        ax.grid(color="#EEEEEE", linewidth=0.6)
    _dot_legend(figure, largest)
    if mapped is not None:
        bar = figure.colorbar(
            mapped, ax=grid[0], location="bottom", shrink=0.45, aspect=40, pad=0.03
        )
        bar.set_label("corrected UMI per cell (mean over subjects)")
    return figure


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


def _dot_legend(figure: Figure, largest: float) -> None:
    from matplotlib.lines import Line2D

    def dot(share: float) -> Line2D:
        area = 12 + 170 * np.sqrt(share / largest)
        return Line2D(
            [],
            [],
            marker="o",
            ls="",
            ms=float(np.sqrt(area)),
            mfc="#BBBBBB",
            mec=_EDGE,
            mew=0.4,
            label=f"{100 * share:.2g} %",
        )

    handles = [dot(largest * part) for part in (1.0, 0.4, 0.1)]
    hollow = Line2D(
        [], [], marker="o", ls="", ms=4.7, mfc="none", mec="#777777", label="soup explains the UMI"
    )
    dash = Line2D([], [], marker="_", ls="", ms=5, color="#BBBBBB", label="no cells")
    figure_legend(figure, [*handles, hollow, dash], title="producers among cells")


@styled
def source_shares(
    ledger: pd.DataFrame,
    *,
    genes: Sequence[str] | None = None,
    conditions: Sequence[str] | None = None,
) -> Figure:
    """Share of each population in the corrected UMI of a cytokine, one bar a sample.

    The number above a bar is the sample's corrected UMI: a share of few UMI says little. A sample
    without any is left empty and marked.

    Parameters
    ----------
    ledger
        The table `ledger`.
    genes
        One panel each, in order; all of the table if None.
    conditions
        Arms in order.

    Returns
    -------
    The figure, one panel a gene.

    Raises
    ------
    InputError
        If the table is empty.
    """
    from matplotlib.patches import Patch

    check_table(ledger, keys.LEDGER_TABLE.names, name="ledger")
    names = ordered(ledger["gene"], genes)
    table = ledger.loc[ledger["gene"].isin(names)]
    check_table(table, ["gene"], name="ledger")
    positions, spans = sample_layout(ledger, conditions=conditions)
    width = 3.2 + 0.26 * (max(positions.values()) + 1)
    figure, grid = new_grid(
        len(names), 1, (max(width, 5.2), 1.0 + 1.75 * len(names)), share={"sharex": True}
    )
    shown = population_order(table.loc[table["share"].fillna(0) > 0, "population"])
    colours = population_colours(table["population"])
    for row, gene in zip(grid, names, strict=True):
        rows = table.loc[table["gene"] == gene]
        shares = rows.pivot_table(
            index="population", columns="sample", values="share", aggfunc="sum", observed=True
        )
        totals = rows.groupby("sample", observed=True)["corrected_umi"].sum()
        _stack(row[0], shares.reindex(index=shown, columns=list(positions)), positions, colours)
        _bar_notes(row[0], positions, totals)
        row[0].set_ylabel("share of UMI")
        row[0].set_title(gene, style="italic", loc="left", pad=22)
        arm_heads(row[0], spans, arm_colours(spans, conditions))
    grid[-1][0].set_xticks(list(positions.values()), list(positions), rotation=90)
    handles = [Patch(color=colours[name], label=name) for name in shown]
    figure_legend(figure, handles, title="population")
    return figure


def _stack(
    ax: Axes, shares: pd.DataFrame, positions: dict[str, float], colours: dict[str, str]
) -> None:
    """Stacked bars; rows of `shares` from the bottom up, columns are samples."""
    bottom = np.zeros(len(positions))
    for name, values in shares.fillna(0).iterrows():
        height = values.to_numpy(dtype=float)
        ax.bar(
            list(positions.values()),
            height,
            0.86,
            bottom=bottom,
            color=colours[str(name)],
            edgecolor="white",
            linewidth=0.3,
            label=str(name),
        )
        bottom += height
    ax.set_ylim(0, 1)
    ax.set_yticks([0, 0.5, 1], ["0", "50 %", "100 %"])
    ax.set_xlim(min(positions.values()) - 0.7, max(positions.values()) + 0.7)
    ax.tick_params(axis="x", length=0)


def _bar_notes(ax: Axes, positions: dict[str, float], totals: pd.Series) -> None:
    for sample, x in positions.items():
        total = float(totals.get(sample, 0.0))
        if total > 0:
            text = f"{total:.0f}" if total >= 1 else "<1"
            ax.text(x, 1.02, text, ha="center", va="bottom", fontsize=6, color="#666666")
        else:
            ax.text(
                x,
                0.5,
                "no UMI",
                ha="center",
                va="center",
                rotation=90,
                fontsize=6.5,
                color="#888888",
            )


@styled
def ambient_expected(
    producers: pd.DataFrame, *, genes: Sequence[str] | None = None, columns: int = 4
) -> Figure:
    """Observed UMI against those that the soup is expected to add, one point a sample.

    On the line a population holds nothing but soup; the dotted line is the upper 97.5 % point of
    the Poisson distribution around it. Zeros are drawn at the edge of the axes.

    Parameters
    ----------
    producers
        The table `producers`.
    genes
        One panel each; all of the table if None.
    columns
        Panels in a row.

    Returns
    -------
    The figure, one panel a gene.

    Raises
    ------
    InputError
        If the table is empty.
    """
    from matplotlib.lines import Line2D
    from scipy import stats

    check_table(producers, keys.PRODUCERS_TABLE.names, name="producers")
    names = ordered(producers["gene"], genes)
    table = producers.loc[producers["gene"].isin(names) & (producers["n_cells"] > 0)]
    check_table(table, ["gene"], name="producers")
    across = min(columns, len(names))
    down = -(-len(names) // across)
    figure, grid = new_grid(down, across, (1.4 + 2.5 * across + 1.2, 0.4 + 2.5 * down))
    colours = population_colours(table["population"])
    floor = 0.05
    top = float(max(table["umi"].max(), table["expected_ambient_umi"].max(), 1.0))
    line = np.geomspace(floor, top * 1.5, 100)
    flat = [ax for row in grid for ax in row]
    for ax, gene in zip(flat, names, strict=False):
        rows = table.loc[table["gene"] == gene]
        ax.plot(line, line, color="#444444", linewidth=0.9, zorder=1)
        ax.plot(
            line,
            np.clip(stats.poisson.ppf(0.975, line), floor, None),
            color="#999999",
            ls=":",
            linewidth=0.9,
            zorder=1,
        )
        ax.scatter(
            np.clip(rows["expected_ambient_umi"], floor, None),
            np.clip(rows["umi"], floor, None),
            c=rows["population"].astype(str).map(colours).tolist(),
            s=18,
            edgecolors="white",
            linewidths=0.3,
            zorder=2,
        )
        log_with_zero(ax, "x", floor=floor, top=top)
        log_with_zero(ax, "y", floor=floor, top=top)
        ax.set_title(gene, style="italic")
    for ax in flat[len(names) :]:
        ax.set_axis_off()
    figure.supxlabel("UMI expected from the soup (population in a sample)", fontsize=9)
    figure.supylabel("UMI observed", fontsize=9)
    handles = [
        Line2D([], [], marker="o", ls="", ms=5, color=colour, label=name)
        for name, colour in colours.items()
    ]
    handles.append(Line2D([], [], color="#444444", linewidth=0.9, label="soup only"))
    figure_legend(figure, handles)
    return figure
