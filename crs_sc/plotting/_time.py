"""Who makes how much, when: the course of each subject."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from crs_sc.plotting._style import (
    arm_colours,
    choose,
    line,
    log_with_zero,
    mark,
    new_panels,
    outside_legend,
    page_columns,
    slanted_names,
    styled,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLUMNS = ["gene", "condition", "subject", "timepoint", "time", "output", "above_soup"]
# Time points nearer to each other than this share of the axis could not be labelled.
_NEAREST = 0.07


@styled
def trajectories(
    courses: pd.DataFrame,
    *,
    genes: Sequence[str] | None = None,
    conditions: Sequence[str] | None = None,
) -> Figure:
    """Output of each cytokine over time: a thin line a subject, a thick one the median of its arm.

    A filled point is more than ambient RNA explains, a hollow one is not. Zero is drawn at the foot
    of the logarithmic axis.

    Parameters
    ----------
    courses
        From `trajectories` of the comparison.
    genes
        Panels, in order; all of the table if None.
    conditions
        Arms in order; the first is the reference and grey.

    Returns
    -------
    The figure, one panel a gene. Time is to scale unless its points would lie on each other.

    Raises
    ------
    InputError
        If the table is empty.

    Examples
    --------
    >>> import crs_sc as crs
    >>> adata = crs.datasets.toy_cohort()
    >>> ledger = crs.tl.ledger(adata, genes=["IL1B", "IL6"])
    >>> samples = adata.obs.groupby("sample", observed=True)[["subject", "condition"]].first()
    >>> samples["timepoint"] = "d" + samples["subject"].astype(str).str[-1]
    >>> courses = crs.tl.trajectories(ledger, samples=samples)
    >>> figure = crs.pl.trajectories(courses)
    """
    table, [names] = choose(courses, _COLUMNS, name="courses", gene=genes)
    colours = arm_colours(table["condition"], conditions)
    positions, is_to_scale = _positions(table)
    width = max(1.9, 0.42 * len(positions) + 0.8)
    across = page_columns(len(names), width)
    figure, [panels] = new_panels(len(names), across, panel=(width, 2.0), margin=(1.9, 0.5))
    for ax, gene in zip(panels, names, strict=True):
        _course(ax, table.loc[table["gene"] == gene], colours, positions)
        ax.set_title(gene, fontstyle="italic")
        if not is_to_scale:
            ax.set_xlabel("not to scale")
    for ax in panels[::across]:
        ax.set_ylabel("UMI per 1,000 cells")
    handles = [
        *(line(arm, colour) for arm, colour in colours.items()),
        mark("above ambient RNA", size=4, mfc="#555555", mec="#555555"),
        mark("ambient RNA explains it", size=4, mfc="white", mec="#555555"),
    ]
    outside_legend(figure, handles)
    return figure


def _positions(table: pd.DataFrame) -> tuple[dict[str, float], bool]:
    """Place of each time point: its time, or its rank where times are too near; and which."""
    times = table.drop_duplicates("timepoint").sort_values("time", kind="stable")
    at = times["time"].to_numpy(dtype=float)
    gaps = np.diff(at)
    is_to_scale = len(at) < 2 or bool((gaps >= _NEAREST * (at[-1] - at[0])).all())
    places = at if is_to_scale else np.arange(len(at), dtype=float)
    return dict(zip(times["timepoint"].astype(str), places.tolist(), strict=True)), is_to_scale


def _course(
    ax: Axes, panel: pd.DataFrame, colours: dict[str, str], positions: dict[str, float]
) -> None:
    """Draw one gene: lines of subjects, medians of arms."""
    positive = panel.loc[panel["output"] > 0, "output"]
    # Half a decade below the smallest output that is not zero.
    lowest = float(positive.min()) / 3 if len(positive) else 0.1
    top = float(positive.max()) if len(positive) else 1.0
    for arm, colour in colours.items():
        own = panel.loc[panel["condition"] == arm]
        own = own.assign(
            x=own["timepoint"].astype(str).map(positions), y=own["output"].clip(lower=lowest)
        )
        for _, subject in own.groupby("subject", sort=True, observed=True):
            course = subject.dropna(subset=["y"]).sort_values("x")
            x, y = course["x"], course["y"]
            ax.plot(x, y, color=colour, linewidth=0.7, alpha=0.55, zorder=2)
            fill = np.where(course["above_soup"].to_numpy(dtype=bool), colour, "white")
            ax.scatter(x, y, s=13, c=fill, edgecolors=colour, lw=0.7, zorder=3)
        middle = own.groupby("x", sort=True)["y"].median().dropna()
        ax.plot(middle.index, middle, color=colour, linewidth=2.2, zorder=4, label=arm)
    slanted_names(ax, positions.values(), positions, angle=45)
    ax.margins(x=0.08)
    log_with_zero(ax, "y", floor=lowest, top=top)
