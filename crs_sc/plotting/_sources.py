"""Who makes it: source shares, observed against ambient RNA."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from crs_sc import keys
from crs_sc.plotting._style import (
    PAGE_WIDTH,
    arm_colours,
    arm_heads,
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
    from numpy.typing import NDArray

__all__ = ["ambient_expected", "source_shares"]

_PALE = 0.35


@styled
def source_shares(
    ledger: pd.DataFrame,
    *,
    genes: Sequence[str] | None = None,
    conditions: Sequence[str] | None = None,
    few_umi: float = 10,
) -> Figure:
    """Share of each population in the corrected UMI of a cytokine, one bar a sample.

    The number above a bar is the sample's corrected UMI. A bar of few of them is pale, because
    its shares say little; a sample without any is left empty and marked.

    Parameters
    ----------
    ledger
        The table `ledger`.
    genes
        One panel each, in order; all of the table if None.
    conditions
        Arms in order.
    few_umi
        Below this many corrected UMI a bar is pale.

    Returns
    -------
    The figure, one panel a gene, in two columns where there are many.

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
    across = 2 if len(names) > 3 and 0.48 * max(positions.values()) <= PAGE_WIDTH else 1
    panel = max((0.26 if across == 1 else 0.23) * (max(positions.values()) + 1), 2.2)
    down = -(-len(names) // across)
    figure, grid = new_grid(
        down, across, (3.0 + across * panel, 1.0 + 1.85 * down), share={"sharex": True}
    )
    panels = [ax for row in grid for ax in row]
    shown = population_order(table.loc[table["share"].fillna(0) > 0, "population"])
    colours = population_colours(table["population"])
    for i, (ax, gene) in enumerate(zip(panels, names, strict=False)):
        rows = table.loc[table["gene"] == gene]
        shares = rows.pivot_table(
            index="population", columns="sample", values="share", aggfunc="sum", observed=True
        )
        totals = rows.groupby("sample", observed=True)["corrected_umi"].sum()
        totals = totals.reindex(list(positions)).fillna(0.0)
        shares = shares.reindex(index=shown, columns=list(positions))
        _stack(ax, shares, positions, colours, pale=(totals < few_umi).to_numpy())
        _bar_notes(ax, positions, totals, seen=rows.groupby("sample", observed=True)["umi"].sum())
        if i % across == 0:
            ax.set_ylabel("share of UMI")
        ax.set_title(gene, style="italic", loc="left", pad=32)
        arm_heads(ax, spans, arm_colours(spans, conditions))
        if i + across >= len(names):
            ax.set_xticks(list(positions.values()), list(positions), rotation=90)
            ax.tick_params(labelbottom=True)
    for ax in panels[len(names) :]:
        ax.set_axis_off()
    handles = [Patch(color=colours[name], label=name) for name in shown]
    if shown:
        faint = f"pale: below {few_umi:g} UMI"
        handles.append(Patch(color=colours[shown[0]], alpha=_PALE, label=faint))
    figure_legend(figure, handles, title="population")
    return figure


def _stack(
    ax: Axes,
    shares: pd.DataFrame,
    positions: dict[str, float],
    colours: dict[str, str],
    *,
    pale: NDArray[np.bool_],
) -> None:
    """Stacked bars; rows of `shares` from the bottom up, columns are samples."""
    bottom = np.zeros(len(positions))
    for name, values in shares.fillna(0).iterrows():
        height = values.to_numpy(dtype=float)
        bars = ax.bar(
            list(positions.values()),
            height,
            0.86,
            bottom=bottom,
            color=colours[str(name)],
            edgecolor="white",
            linewidth=0.3,
            label=str(name),
        )
        for bar, faint in zip(bars, pale, strict=True):
            bar.set_alpha(_PALE if faint else None)
        bottom += height
    ax.set_ylim(0, 1)
    ax.set_yticks([0, 0.5, 1], ["0", "50 %", "100 %"])
    ax.set_xlim(min(positions.values()) - 0.7, max(positions.values()) + 0.7)
    ax.tick_params(axis="x", length=0)


def _bar_notes(
    ax: Axes, positions: dict[str, float], totals: pd.Series, *, seen: pd.Series
) -> None:
    """Write the corrected UMI above each bar, or in its place why there is none."""
    for sample, x in positions.items():
        total = float(totals[sample])
        if total > 0:
            text = f"{total:,.0f}" if total >= 1 else "<1"
            ax.text(x, 1.02, text, ha="center", va="bottom", fontsize=6, color="#666666")
        else:
            ax.text(
                x,
                0.5,
                "soup only" if float(seen.get(sample, 0)) > 0 else "no UMI",
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
    """Observed UMI against those that ambient RNA is expected to add, one point a sample.

    On the line a population holds nothing but ambient RNA; the dotted line is the upper 97.5 %
    point of the Poisson distribution around it. Zeros are drawn at the edge of the axes.

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
    figure.supxlabel("UMI expected from ambient RNA (population in a sample)", fontsize=9)
    figure.supylabel("UMI observed", fontsize=9)
    handles = [
        Line2D([], [], marker="o", ls="", ms=5, color=colour, label=name)
        for name, colour in colours.items()
    ]
    handles.append(Line2D([], [], color="#444444", linewidth=0.9, label="soup only"))
    bound = "97.5 % point of ambient RNA only"
    handles.append(Line2D([], [], color="#999999", ls=":", linewidth=0.9, label=bound))
    figure_legend(figure, handles)
    return figure
