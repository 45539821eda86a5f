"""More cells, more producers, or more per producer: bars by population, and step by step."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from crs_sc import keys
from crs_sc.errors import InputError, listing
from crs_sc.plotting._style import (
    check_table,
    choose,
    line,
    mark,
    new_axes,
    new_panels,
    outside_legend,
    page_columns,
    patches,
    population_order,
    slanted_names,
    styled,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

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

    Examples
    --------
    >>> import crs_sc as crs
    >>> adata = crs.datasets.toy_cohort()
    >>> contrast = crs.Contrast("cart", treated="CART", reference="vehicle")
    >>> crs.tl.call_producers(adata, genes=["IL1B"])
    >>> ledger, made = crs.tl.ledger(adata, genes=["IL1B"]), crs.tl.producers(adata)
    >>> samples = adata.obs.groupby("sample", observed=True)[["subject", "condition"]].first()
    >>> parts = crs.tl.decompose(ledger, made, contrasts=[contrast], samples=samples)
    >>> figure = crs.pl.decomposition_bars(parts)
    """
    table, [rows, columns] = _chosen(decomposition, gene=genes, contrast=contrasts)
    names = list(populations or _worth_showing(table, smallest))
    if not names:
        names = population_order(set(table["population"]) - {keys.ALL_POPULATIONS})
    height = 0.95 + 0.25 * (len(names) + 1)
    left = 0.08 * max(len(name) for name in [*names, ALL])
    across = page_columns(len(columns), 2.5)
    share = {"sharey": True}
    size, margin = (2.5, height), (left + 2.6, 0.5)
    figure, groups = new_panels(
        len(columns), across, panel=size, margin=margin, share=share, n_groups=len(rows)
    )
    for panels, gene in zip(groups, rows, strict=True):
        for ax, contrast in zip(panels, columns, strict=True):
            if ax is not panels[0]:
                ax.sharex(panels[0])
            part = table.loc[(table["gene"] == gene) & (table["contrast"] == contrast)]
            _bars(ax, part.set_index("population"), names)
            ax.set_title(f"{gene}: {contrast}")
    for ax in groups[-1][-across:]:
        ax.set_xlabel("change of UMI per sampled cell")
    diamond = line("total, 95 % interval", "black", marker="D", ms=4, linewidth=0.9)
    why = "absent or no producers in one arm:\nper-producer part not identified"
    open_end = mark(why, "$*$", color="#555555")
    outside_legend(figure, [*_handles(set(PARTS)), diamond, open_end])
    return figure


def _chosen(decomposition: pd.DataFrame, **wanted: Any) -> tuple[pd.DataFrame, list[list[str]]]:
    return choose(decomposition, keys.DECOMPOSITION_TABLE, name="decomposition", **wanted)


def _worth_showing(table: pd.DataFrame, smallest: float) -> list[str]:
    """Choose populations with a part of some size in any gene, judged within that gene."""
    table = table.loc[table["population"] != keys.ALL_POPULATIONS]
    size = table[list(PARTS)].abs().max(axis=1)
    largest = size.groupby(table["gene"]).transform("max")
    return population_order(table.loc[(size > 0) & (size >= smallest * largest), "population"])


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

    Examples
    --------
    >>> import crs_sc as crs
    >>> adata = crs.datasets.toy_cohort()
    >>> contrast = crs.Contrast("cart", treated="CART", reference="vehicle")
    >>> crs.tl.call_producers(adata, genes=["IL1B"])
    >>> ledger, made = crs.tl.ledger(adata, genes=["IL1B"]), crs.tl.producers(adata)
    >>> samples = adata.obs.groupby("sample", observed=True)[["subject", "condition"]].first()
    >>> parts = crs.tl.decompose(ledger, made, contrasts=[contrast], samples=samples)
    >>> ax = crs.pl.waterfall(parts, contrast="cart", gene="IL1B")
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

    Examples
    --------
    >>> import crs_sc as crs
    >>> adata = crs.datasets.toy_cohort()
    >>> contrast = crs.Contrast("cart", treated="CART", reference="vehicle")
    >>> crs.tl.call_producers(adata, genes=["IL1B"])
    >>> ledger, made = crs.tl.ledger(adata, genes=["IL1B"]), crs.tl.producers(adata)
    >>> samples = adata.obs.groupby("sample", observed=True)[["subject", "condition"]].first()
    >>> parts = crs.tl.decompose(ledger, made, contrasts=[contrast], samples=samples)
    >>> figure = crs.pl.waterfalls(parts)
    """
    table, [rows, columns] = _chosen(decomposition, gene=genes, contrast=contrasts)
    table = table.loc[table["total"].notna()]
    check_table(table, (), name="decomposition")
    names = {gene: _worth_showing(table.loc[table["gene"] == gene], smallest) for gene in rows}
    n_steps = max(3 * len(shown) for shown in names.values()) + 2
    width = max(2.2, 0.26 * n_steps + 0.5)
    across = page_columns(len(columns), width)
    figure, groups = new_panels(
        len(columns), across, panel=(width, 2.7), margin=(2.8, 0.2), n_groups=len(rows)
    )
    for panels, gene in zip(groups, rows, strict=True):
        for ax, contrast in zip(panels, columns, strict=True):
            if ax is not panels[0]:
                ax.sharey(panels[0])
            part = table.loc[(table["gene"] == gene) & (table["contrast"] == contrast)]
            part = part.set_index("population")
            if _changes(part):
                _walk(ax, _steps(part, names[gene]), part)
            else:
                ax.text(0.5, 0.5, "no change to split", transform=ax.transAxes, ha="center")
                ax.set_xticks([])
            ax.set_title(f"{gene}: {contrast}")
        for ax in panels[::across]:
            ax.set_ylabel("change of UMI\nper sampled cell")
    outside_legend(figure, _handles(set(PARTS)))
    return figure


def _changes(rows: pd.DataFrame) -> bool:
    return bool((rows[list(PARTS)].abs().to_numpy() > 0).any())


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
    return patches({PART_NAMES[part]: PART_COLOURS[part] for part in PARTS if part in parts})


def _walk(ax: Axes, steps: list[tuple[str, str, float]], rows: pd.DataFrame) -> None:
    """Draw the bars, the lines between them and the total."""
    height = np.array([value for _, _, value in steps])
    ends = np.cumsum(height)
    starts = ends - height
    x = np.arange(len(steps), dtype=float)
    colours = [PART_COLOURS.get(part, "#999999") for _, part, _ in steps]
    ax.bar(x, height, 0.8, bottom=starts, color=colours, linewidth=0)
    for i, (name, part, _) in enumerate(steps):
        bounds = [f"{part}_ci_low", f"{part}_ci_high"]
        inner = rows.loc[name, bounds].to_numpy(dtype=float) if part else [np.nan, np.nan]
        ax.plot([i, i], starts[i] + inner, color="black", linewidth=0.9, zorder=3)
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
    slanted_names(ax, [*places, len(steps)], [*groups, "total"], angle=35)
    ax.tick_params(axis="x", length=0)
    ax.set_xlim(-0.6, len(steps) + 0.6)
