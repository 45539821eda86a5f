"""Who makes it and who has its receptors: shares, producers, receivers, ambient RNA."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from crs_sc import keys
from crs_sc.plotting._style import (
    PAGE_WIDTH,
    PALE,
    above_bar,
    arm_colours,
    arm_heads,
    arm_order,
    check_table,
    choose,
    dots,
    lattice,
    line,
    log_with_zero,
    mark,
    new_grid,
    new_panels,
    outside_legend,
    patches,
    population_colours,
    population_order,
    sample_layout,
    stacked_bars,
    styled,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from matplotlib.collections import PathCollection
    from matplotlib.colors import LogNorm
    from matplotlib.figure import Figure
    from numpy.typing import NDArray


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

    Examples
    --------
    >>> import crs_sc as crs
    >>> adata = crs.datasets.toy_cohort()
    >>> ledger = crs.tl.ledger(adata, genes=["IL1B", "IL6"])
    >>> figure = crs.pl.source_shares(ledger, conditions=["vehicle", "CART"])
    """
    table, [names] = choose(ledger, keys.LEDGER_TABLE, name="ledger", gene=genes)
    positions, spans = sample_layout(ledger, conditions=conditions)
    across = 2 if len(names) > 3 and 0.48 * max(positions.values()) <= PAGE_WIDTH else 1
    width = max((0.26 if across == 1 else 0.23) * (max(positions.values()) + 1), 2.2)
    figure, [panels] = new_panels(
        len(names), across, panel=(width, 1.85), margin=(3.0, 1.0), share={"sharex": True}
    )
    shown = population_order(table.loc[table["share"].fillna(0) > 0, "population"])
    colours = population_colours(table["population"])
    for i, (ax, gene) in enumerate(zip(panels, names, strict=True)):
        rows = table.loc[table["gene"] == gene]
        shares = rows.pivot_table(
            index="population", columns="sample", values="share", aggfunc="sum", observed=True
        )
        totals = rows.groupby("sample", observed=True)["corrected_umi"].sum()
        totals = totals.reindex(list(positions)).fillna(0.0)
        shares = shares.reindex(index=shown, columns=list(positions))
        stacked_bars(ax, shares, positions, colours, pale=(totals < few_umi).tolist())
        _bar_notes(ax, positions, totals, seen=rows.groupby("sample", observed=True)["umi"].sum())
        if i % across == 0:
            ax.set_ylabel("share of UMI")
        ax.set_title(gene, style="italic", loc="left", pad=32)
        arm_heads(ax, spans, arm_colours(spans, conditions))
        if i + across >= len(names):
            ax.set_xticks(list(positions.values()), list(positions), rotation=90)
            ax.tick_params(labelbottom=True)
    handles = patches({name: colours[name] for name in shown})
    if shown:
        handles += patches({f"pale: below {few_umi:g} UMI": colours[shown[0]]})
        handles[-1].set_alpha(PALE)
    outside_legend(figure, handles, title="population")
    return figure


def _bar_notes(
    ax: Axes, positions: dict[str, float], totals: pd.Series, *, seen: pd.Series
) -> None:
    """Write the corrected UMI above each bar, or in its place why there is none."""
    for sample, x in positions.items():
        total = float(totals[sample])
        if total > 0:
            above_bar(ax, x, f"{total:,.0f}" if total >= 1 else "<1")
        else:
            text = "ambient RNA only" if float(seen.get(sample, 0)) > 0 else "no UMI"
            look = {"rotation": 90, "fontsize": 6.5, "color": "#888888"}
            ax.text(x, 0.5, text, ha="center", va="center", **look)  # type: ignore[arg-type]


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

    Examples
    --------
    >>> import crs_sc as crs
    >>> adata = crs.datasets.toy_cohort()
    >>> crs.tl.call_producers(adata, genes=["IL1B", "IL6"])
    >>> figure = crs.pl.ambient_expected(crs.tl.producers(adata))
    """
    from scipy import stats

    table, [names] = choose(producers, keys.PRODUCERS_TABLE, name="producers", gene=genes)
    table = table.loc[table["n_cells"] > 0]
    check_table(table, (), name="producers")
    across = min(columns, len(names))
    figure, [panels] = new_panels(len(names), across, panel=(2.5, 2.5), margin=(2.6, 0.4))
    colours = population_colours(table["population"])
    floor = 0.05
    top = float(max(table["umi"].max(), table["expected_ambient_umi"].max(), 1.0))
    x = np.geomspace(floor, top * 1.5, 100)
    bound = np.clip(stats.poisson.ppf(0.975, x), floor, None)
    for ax, gene in zip(panels, names, strict=True):
        rows = table.loc[table["gene"] == gene]
        ax.plot(x, x, color="#444444", linewidth=0.9, zorder=1)
        ax.plot(x, bound, color="#999999", ls=":", linewidth=0.9, zorder=1)
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
    figure.supxlabel("UMI expected from ambient RNA (population in a sample)", fontsize=9)
    figure.supylabel("UMI observed", fontsize=9)
    handles = [
        *dots(colours),
        line("ambient RNA only", "#444444", linewidth=0.9),
        line("97.5 % point of ambient RNA only", "#999999", ls=":", linewidth=0.9),
    ]
    outside_legend(figure, handles)
    return figure


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

    Examples
    --------
    >>> import crs_sc as crs
    >>> adata = crs.datasets.toy_cohort()
    >>> crs.tl.call_producers(adata, genes=["IL1B", "IL6"])
    >>> figure = crs.pl.producer_dotplot(crs.tl.producers(adata))
    """
    from matplotlib.colors import LogNorm

    table, [names] = choose(producers, keys.PRODUCERS_TABLE, name="producers", gene=genes)
    table = _with_marks(_producers_by_arm(table), production)
    populations = population_order(table["population"])
    arms = arm_order(table["condition"], conditions)
    panel = max(0.4 + 0.3 * len(names), 0.2 + 0.1 * max(len(arm) for arm in arms))
    across = max(1, min(len(arms), int(PAGE_WIDTH / panel)))
    left = 0.08 * max(len(name) for name in populations)
    size = (panel, 0.5 + 0.25 * len(populations))
    shared = {"sharey": True, "sharex": True}
    figure, [panels] = new_panels(
        len(arms), across, panel=size, margin=(left + 2.2, 1.0), share=shared
    )
    everywhere = figure.axes
    largest = float(table["fraction"].max()) or 1.0
    positive = table.loc[table["per_cell"] > 0, "per_cell"]
    low = max(float(positive.min()), float(positive.max()) / 1e3) if len(positive) else 0.01
    high = float(positive.max()) if len(positive) else 1.0
    norm = LogNorm(vmin=low, vmax=max(high, low * 10))
    mapped = None
    for ax, arm in zip(panels, arms, strict=True):
        rows = table.loc[table["condition"] == arm]
        mapped = _dots(ax, rows, names, populations, largest=largest, norm=norm)
        ax.set_title(arm)
    _dot_legend(figure, largest, shallow=bool((table["mark"] == "shallow").any()))
    if mapped is not None:
        label = "corrected UMI per cell (mean over subjects)"
        place: dict[str, Any] = {"location": "bottom", "shrink": 0.45, "aspect": 40, "pad": 0.03}
        figure.colorbar(mapped, ax=everywhere, label=label, **place)
    return figure


def _dots(
    ax: Axes, rows: pd.DataFrame, names: list[str], populations: list[str], *,
    largest: float, norm: LogNorm,
) -> PathCollection:  # fmt: skip
    """Draw one arm; returns the filled dots."""
    x = pd.Index(names).get_indexer(pd.Index(rows["gene"]))
    y = pd.Index(populations).get_indexer(pd.Index(rows["population"]))
    kinds = rows["mark"].to_numpy(dtype=str)
    made, ambient = kinds == "made", kinds == "ambient"
    area = _area(rows["fraction"].to_numpy()[made], largest)
    level = np.clip(rows["per_cell"].to_numpy()[made], norm.vmin, None)
    look: dict[str, Any] = {"cmap": "viridis_r", "norm": norm, "edgecolors": _EDGE}
    filled = ax.scatter(x[made], y[made], s=area, c=level, linewidths=0.4, zorder=2, **look)
    look = {"facecolors": "none", "edgecolors": "#777777", "linewidths": 0.9}
    ax.scatter(x[ambient], y[ambient], s=22, **look)
    for kind, marker, size in (("empty", "_", 16), ("shallow", ".", 8)):
        chosen = kinds == kind
        ax.scatter(x[chosen], y[chosen], s=size, marker=marker, color="#AAAAAA", linewidths=0.9)
    lattice(ax, names, populations, style="italic")
    ax.grid(color="#EEEEEE", linewidth=0.6)
    return filled


def _area(fraction: NDArray[np.float64], largest: float) -> NDArray[np.float64]:
    """Area of a dot in points squared."""
    return 12 + 150 * np.sqrt(fraction / largest)


def _with_marks(table: pd.DataFrame, production: pd.DataFrame | None) -> pd.DataFrame:
    """Say of each dot whether it is made, ambient RNA, shallow, empty or not drawn."""
    if production is None:
        mark = np.where(table["n_producers"] > 0, "made", np.where(table["umi"] > 0, "ambient", ""))
    else:
        index = ["gene", "population", "condition"]
        table = table.merge(production[[*index, "state"]], on=index, how="left")
        named = {
            keys.PRODUCER: "made",
            keys.AMBIENT_COMPATIBLE: "ambient",
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
    grey: dict[str, Any] = {"mfc": "#BBBBBB", "mec": _EDGE, "mew": 0.4}
    shares = _round_shares(largest)
    sizes = np.sqrt(_area(np.array(shares), largest)).tolist()
    handles = [
        *(
            mark(f"{100 * share:g} %", size=size, **grey)
            for share, size in zip(shares, sizes, strict=True)
        ),
        mark("ambient RNA explains the UMI", size=4.7, mfc="none", mec="#777777"),
        *([mark("no UMI, too shallow to tell", ".", size=3, color="#AAAAAA")] if shallow else []),
        mark("no cells", "_", size=5, color="#AAAAAA"),
    ]
    # The largest dot is 13 points high, and the text 8.
    outside_legend(figure, handles, title="producers among cells", spacing=0.9)


def _round_shares(largest: float) -> list[float]:
    """At the most three round shares up to the largest, about a factor of five apart."""
    steps = [digit * 10.0**power for power in range(-1, -6, -1) for digit in (5, 2, 1)]
    steps = [1.0, *steps]
    first = next((i for i, step in enumerate(steps) if step <= largest * 1.001), len(steps) - 1)
    return steps[first : first + 5 : 2]


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

    Examples
    --------
    >>> import crs_sc as crs
    >>> adata = crs.datasets.toy_cohort()
    >>> ledger = crs.tl.ledger(adata, genes=["IL1B", "IL6"])
    >>> figure = crs.pl.producers_to_receivers(
    ...     crs.tl.receivers(adata),
    ...     cytokine="IL1B",
    ...     ledger_by_condition=crs.tl.ledger_by_condition(ledger),
    ... )
    """
    check_table(receivers, keys.RECEIVERS_TABLE.names, name="receivers")
    table = receivers.loc[receivers["cytokine"] == cytokine]
    check_table(table, (), name=f"receivers of {cytokine}")
    made = ledger_by_condition.loc[ledger_by_condition["gene"] == cytokine]
    makers = _makers(made, production)
    levels = table.assign(filled=table["state"] == keys.ABOVE_AMBIENT)
    levels = levels.loc[levels["state"].isin([keys.ABOVE_AMBIENT, keys.AMBIENT_COMPATIBLE])]
    roles = table.drop_duplicates("gene").set_index("gene")["role"]
    populations = population_order([*makers["population"], *levels["population"]])
    colours = arm_colours(table["condition"], conditions)
    n_panels = len(roles) + int(not made.empty)
    left = 0.075 * max((len(name) for name in populations), default=0)
    row = 0.12 + 0.075 * len(colours)
    size = (left + 1.55 * n_panels + 2.0, 1.2 + row * max(len(populations), 1))
    figure, [panels] = new_grid(1, n_panels, size, share={"sharey": True})
    for ax in panels:
        _rows(ax, populations)
    if not made.empty:
        _arms(panels[0], makers, "share", populations, colours)
        panels[0].set_xlim(-4, 104)
        panels[0].set_xticks([0, 50, 100])
        panels[0].set_xlabel("share of UMI (%)")
        _title(panels[0], "made by", cytokine)
    for ax, (gene, role) in zip(panels[-len(roles) :], roles.items(), strict=True):
        shown = levels.loc[levels["gene"] == gene]
        _arms(ax, shown, "cpm", populations, colours)
        end = (float(shown[["cpm", "ci_high"]].max().max()) if len(shown) else 0.0) or 1.0
        ax.set_xlim(-0.04 * end, 1.04 * end)
        ax.locator_params(axis="x", nbins=3)
        ax.set_xlabel("UMI per million")
        _title(ax, str(role), str(gene))
    handles = [
        *(mark(arm, size=4.5, color=colour) for arm, colour in colours.items()),
        mark("above ambient RNA", size=4.5, color="black"),
        mark("ambient RNA explains the UMI", size=4.5, mfc="white", mec="black"),
    ]
    outside_legend(figure, handles, title="arm (mean, 95 % interval)")
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
    place = {"xycoords": "axes fraction", "textcoords": "offset points", "color": "#666666"}
    ax.annotate(role, (0.5, 1), (0, 4), ha="center", va="bottom", fontsize=8, **place)  # type: ignore[arg-type]


def _arms(
    ax: Axes, rows: pd.DataFrame, value: str, populations: list[str], colours: dict[str, str]
) -> None:
    """Point and interval of each arm within the band of its population."""
    step = 0.8 / len(colours)
    for i, (arm, colour) in enumerate(colours.items()):
        mine = rows.loc[(rows["condition"] == arm) & rows["population"].isin(populations)]
        y = (
            pd.Index(populations).get_indexer(pd.Index(mine["population"]))
            + (i - (len(colours) - 1) / 2) * step
        )
        ax.hlines(y, mine["ci_low"], mine["ci_high"], color=colour, linewidth=1.0, alpha=0.7)
        fill = np.where(mine["filled"].to_numpy(dtype=bool), colour, "white")
        ax.scatter(mine[value], y, s=17, c=fill, edgecolors=colour, linewidths=0.9, zorder=3)
