"""Does the treatment shift it: points by subject, heat maps, shifts at equal handling stress."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from crs_sc import keys
from crs_sc.plotting._style import (
    PAGE_WIDTH,
    arm_colours,
    check_table,
    choose,
    feature_label,
    line,
    mark,
    new_grid,
    new_panels,
    ordered,
    outside_legend,
    population_order,
    slanted_names,
    styled,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray


@styled
def signature_points(
    scores: pd.DataFrame,
    *,
    features: Sequence[str] | None = None,
    populations: Sequence[str] | None = None,
    conditions: Sequence[str] | None = None,
    shifts: pd.DataFrame | None = None,
) -> Figure:
    """Score of every subject by arm, one panel a feature and population.

    Lines join the points of a subject that was measured in more than one arm. Under a panel stand
    the estimates of `shifts` with their 95 % interval and permutation p.

    Parameters
    ----------
    scores
        Columns `feature`, `population`, `subject`, `condition`, `score` (log2 units).
    features, populations
        Rows and columns of panels, in order; all of the table if None.
    conditions
        Arms in order; the first is the reference and grey.
    shifts
        The table `shifts`, for the lines of text.

    Returns
    -------
    The figure.

    Raises
    ------
    InputError
        If there are no scores.

    Examples
    --------
    >>> import crs_sc as crs
    >>> adata = crs.datasets.toy_cohort()
    >>> contrast = crs.Contrast("cart", treated="CART", reference="vehicle")
    >>> sets = crs.genesets.signatures(names=["nfkb_response"])
    >>> bulk = crs.tl.pseudobulk(adata)
    >>> scores = crs.tl.subject_scores(bulk, signatures=sets)
    >>> figure = crs.pl.signature_points(scores, conditions=["vehicle", "CART"])
    """
    needed = ["feature", "population", "subject", "condition", "score"]
    wanted = {"feature": features, "population": populations}
    chosen, [rows, columns] = choose(scores, needed, name="scores", **wanted)
    columns = population_order(columns) if populations is None else columns
    colours = arm_colours(scores["condition"], conditions)
    n_text = 0 if shifts is None else shifts["contrast"].nunique()
    height = 1.9 + 0.13 * n_text
    width = 0.9 + 0.36 * len(colours)
    figure, grid = new_grid(
        len(rows), len(columns), (0.6 + max(width, 2.3) * len(columns), height * len(rows) + 0.7)
    )
    for axes, feature in zip(grid, rows, strict=True):
        for ax, population in zip(axes, columns, strict=True):
            is_here = (chosen["feature"] == feature) & (chosen["population"] == population)
            _points(ax, chosen.loc[is_here], colours)
            if shifts is not None:
                ax.set_xlabel(_shift_lines(shifts, feature, population), fontsize=6.5, loc="left")
            if axes is grid[0]:
                ax.set_title(population)
        axes[0].set_ylabel(f"{feature_label(feature)}\n(log2 units)")
    return figure


def _points(ax: Axes, panel: pd.DataFrame, colours: dict[str, str]) -> None:
    arms = list(colours)
    wide = panel.pivot_table(index="subject", columns="condition", values="score", observed=True)
    wide = wide.reindex(columns=arms)
    for _, values in wide.iterrows():
        seen = values.dropna()
        if len(seen) > 1:
            at = [arms.index(str(arm)) for arm in seen.index]
            ax.plot(at, seen.to_numpy(), color="#BBBBBB", linewidth=0.8, zorder=1)
    for i, arm in enumerate(arms):
        drawn = np.sort(wide[arm].dropna().to_numpy(dtype=float))
        if not len(drawn):
            continue
        x = i + (np.arange(len(drawn)) - (len(drawn) - 1) / 2) * 0.36 / len(drawn)
        ax.scatter(x, drawn, s=20, color=colours[arm], linewidths=0, zorder=3)
        mean = float(drawn.mean())
        ax.plot([i - 0.28, i + 0.28], [mean, mean], color=colours[arm], linewidth=1.6, zorder=2)
    slanted_names(ax, range(len(arms)), arms, angle=30)
    ax.set_xlim(-0.6, len(arms) - 0.4)
    ax.margins(y=0.12)


def _shift_lines(shifts: pd.DataFrame, feature: str, population: str) -> str:
    rows = shifts.loc[(shifts["feature"] == feature) & (shifts["population"] == population)]
    lines = []
    for row in rows.to_dict("records"):
        if pd.isna(row["estimate"]):
            lines.append(f"{row['contrast']}: {str(row['status']).replace('_', ' ')}")
            continue
        line = f"{row['contrast']}: {row['estimate']:+.2f}"
        if pd.notna(row["ci_low"]):
            line += f" [{row['ci_low']:.2f}, {row['ci_high']:.2f}]"
        if pd.notna(row["pvalue_permutation"]):
            line += f", p {row['pvalue_permutation']:.2g}"
        lines.append(line)
    return "\n".join(lines).replace(" -", " \u2212").replace("[-", "[\u2212")


@styled
def shift_heatmap(
    shifts: pd.DataFrame,
    *,
    kind: str = "signature",
    contrasts: Sequence[str] | None = None,
    populations: Sequence[str] | None = None,
    alpha: float = 0.05,
) -> Figure:
    """Estimate of every shift: features across, populations down, one panel a contrast.

    A dot marks an adjusted p below `alpha`, a ring the verdict that there is no relevant change, a
    cross what could not be tested. What could be tested nowhere has no row or column.

    Parameters
    ----------
    shifts
        The table `shifts`.
    kind
        `signature` or `gene`.
    contrasts, populations
        Which, in order. None: all contrasts, and the populations with a test anywhere.
    alpha
        For the dots.

    Returns
    -------
    The figure; all panels share one colour scale centred at zero.

    Raises
    ------
    InputError
        If there is no row of this kind.

    Examples
    --------
    >>> import crs_sc as crs
    >>> adata = crs.datasets.toy_cohort()
    >>> contrast = crs.Contrast("cart", treated="CART", reference="vehicle")
    >>> sets = crs.genesets.signatures(names=["nfkb_response"])
    >>> bulk = crs.tl.pseudobulk(adata)
    >>> shifts = crs.tl.shifts(bulk, contrasts=[contrast], signatures=sets)
    >>> figure = crs.pl.shift_heatmap(shifts)
    """
    check_table(shifts, keys.SHIFTS_TABLE.names, name="shifts")
    table = shifts.loc[shifts["kind"] == kind]
    check_table(table, (), name=f"shifts of kind {kind}")
    marks = np.select(
        [table["status"] != keys.OK, table["padj"] < alpha, table["verdict"] == keys.EQUIVALENT],
        ["x", "dot", "ring"],
        "",
    )
    table = table.assign(mark=marks, value=table["estimate"])
    legend = {"dot": f"adjusted p < {alpha:g}"}
    if (marks == "ring").any():
        legend["ring"] = f"no relevant change (\u00b1{table['margin'].max():g})"
    legend["x"] = "not testable"
    label = "treated less reference\n(log2 units)"
    return _heatmaps(table, contrasts, populations, label=label, legend=legend)


@styled
def reversal_heatmap(
    reversal: pd.DataFrame,
    *,
    contrasts: Sequence[str] | None = None,
    populations: Sequence[str] | None = None,
) -> Figure:
    """How far a drug brings each response back: 0 is no effect, 1 is back to baseline.

    A dot marks a 95 % interval that leaves out zero, a cross what has no answer (mostly because
    there was no shift to reverse).

    Parameters
    ----------
    reversal
        The table `reversal`.
    contrasts, populations
        Which, in order. None: all contrasts, and the populations with an answer anywhere.

    Returns
    -------
    The figure, one panel a contrast.

    Raises
    ------
    InputError
        If the table is empty.

    Examples
    --------
    >>> import pandas as pd
    >>> import crs_sc as crs
    >>> reversal = pd.DataFrame(
    ...     [["drug", "il1_response", "Classical monocyte", 0.8, 0.5, 1.1, "ok"]],
    ...     columns=crs.keys.REVERSAL_TABLE.names,
    ... )
    >>> figure = crs.pl.reversal_heatmap(reversal)
    """
    check_table(reversal, keys.REVERSAL_TABLE.names, name="reversal")
    value = reversal["reversal"].where(reversal["status"] == keys.OK)
    clear = (reversal["ci_low"] > 0) | (reversal["ci_high"] < 0)
    table = reversal.assign(value=value, mark=np.select([value.isna(), clear], ["x", "dot"], ""))
    label = "reversal\n(0: no effect, 1: back to baseline)"
    legend = {"dot": "95 % interval leaves out 0", "x": "no shift to reverse, or not testable"}
    return _heatmaps(
        table, contrasts, populations, label=label, legend=legend, cmap="PuOr_r", limit=1.0
    )


# Marker, fill, edge and size of each mark in the legend.
_MARKS = {
    "dot": ("o", "black", "black", 3.0),
    "ring": ("o", "none", "#777777", 4.0),
    "x": ("x", "#999999", "#999999", 4.0),
}


def _heatmaps(
    table: pd.DataFrame,
    contrasts: Sequence[str] | None,
    populations: Sequence[str] | None,
    *,
    label: str,
    legend: dict[str, str],
    cmap: str = "RdBu_r",
    limit: float | None = None,
) -> Figure:
    """Panels of features x populations by `value`; `mark` is `dot`, `ring`, `x` or empty."""
    names = ordered(table["contrast"], contrasts)
    known = table.loc[table["value"].notna()] if table["value"].notna().any() else table
    rows = (
        population_order(known["population"])
        if populations is None
        else ordered(table["population"], populations)
    )
    features = [name for name in ordered(table["feature"], None) if name in set(known["feature"])]
    table = table.loc[table["feature"].isin(features) & table["population"].isin(rows)]
    labels = [feature_label(name) for name in features]
    if limit is None:
        shown = table["value"].abs()
        limit = max(float(shown.quantile(0.99)) if shown.notna().any() else 1.0, 0.5)
    left = 0.085 * max(len(name) for name in rows)
    below = 0.085 * max(len(name) for name in labels)
    # Wide panels stand below each other, so that the names stay readable on a page.
    stacked = len(names) * len(features) > 24
    across, down = (1, len(names)) if stacked else (len(names), 1)
    width = left + across * (0.25 + 0.27 * len(features)) + 2.6
    height = 1.3 + below + down * (0.35 + 0.22 * len(rows))
    shared = {"sharey": True, "sharex": True}
    figure, grid = new_grid(down, across, (width, height), share=shared)
    panels = [ax for axes in grid for ax in axes]
    image: Any = None
    for ax, contrast in zip(panels, names, strict=True):
        part = table.loc[table["contrast"] == contrast].pivot(index="population", columns="feature")
        value, sign = (
            pd.DataFrame(part[name]).reindex(index=rows, columns=features)
            for name in ("value", "mark")
        )
        # A pair without a row gets a cross.
        marks = sign.fillna("x").to_numpy(dtype=str)
        image = _heatmap(ax, value.to_numpy(dtype=float), marks, limit, cmap)
        ax.set_xticks(range(len(features)), labels, rotation=90)
        ax.set_yticks(range(len(rows)), rows)
        ax.set_title(contrast)
    place: dict[str, Any] = {"location": "right", "shrink": 0.8 / down, "aspect": 22}
    figure.colorbar(image, ax=panels, label=label, extend="both", **place)
    handles = [
        mark(text, shape, size=size, color=fill, mec=edge)
        for text, (shape, fill, edge, size) in ((legend[one], _MARKS[one]) for one in legend)
    ]
    figure.legend(handles=handles, loc="outside lower right", ncols=len(handles))
    return figure


def _heatmap(
    ax: Axes, values: NDArray[np.float64], marks: NDArray[np.str_], limit: float, cmap: str
) -> Any:
    """Draw one panel with its dots, rings and crosses."""
    # An estimate that could not be tested is pale, so that it does not catch the eye.
    pale = np.where(marks == "x", 0.3, 1.0)
    scale: dict[str, Any] = {"cmap": cmap, "vmin": -limit, "vmax": limit}
    image = ax.imshow(values, alpha=pale, aspect="auto", interpolation="nearest", **scale)
    y, x = np.nonzero(marks == "dot")
    # White where the cell is nearly black.
    is_dark = np.abs(values[y, x]) > 0.7 * limit
    ax.scatter(x, y, s=9, color=np.where(is_dark, "white", "black"), linewidths=0)
    y, x = np.nonzero(marks == "ring")
    if len(y):
        ax.scatter(x, y, s=14, facecolors="none", edgecolors="#777777", linewidths=0.7)
    y, x = np.nonzero(marks == "x")
    ax.scatter(x, y, s=9, marker="x", color="#AAAAAA", linewidths=0.7)
    ax.tick_params(length=0)
    for side in ax.spines.values():
        side.set_visible(False)
    return image


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

    Examples
    --------
    >>> import crs_sc as crs
    >>> adata = crs.datasets.toy_cohort()
    >>> contrast = crs.Contrast("cart", treated="CART", reference="vehicle")
    >>> sets = crs.genesets.signatures(names=["nfkb_response"])
    >>> bulk = crs.tl.pseudobulk(adata)
    >>> sets = crs.genesets.signatures(names=["nfkb_response", "dissociation_stress"])
    >>> shifts = crs.tl.shifts(bulk, contrasts=[contrast], signatures=sets)
    >>> figure = crs.pl.stress_adjustment(shifts, features=["nfkb_response"])
    """
    check_table(shifts, keys.SHIFTS_TABLE.names, name="shifts")
    names = ordered(shifts["contrast"], contrasts)
    table = shifts.loc[shifts["contrast"].isin(names) & shifts["ci_low"].notna()]
    if features is None and populations is None:
        is_changed = table["verdict"] == keys.CHANGED
        pair = [table["feature"], table["population"]]
        table = table.loc[is_changed.groupby(pair).transform("any")]
    wanted = {"feature": features, "population": populations}
    table, [sets, order] = choose(table, (), name="shifts that were tested", **wanted)
    order = population_order(order) if populations is None else order
    known = set(zip(table["population"], table["feature"], strict=True))
    rows = [(one, name) for one in order for name in sets if (one, name) in known]
    labels = [f"{population}: {feature_label(feature)}" for population, feature in rows]
    left = 0.075 * max(len(label) for label in labels)
    # More contrasts than a page is wide go on in the next line.
    columns = min(len(names), max(3, int((PAGE_WIDTH - left) // 2.1)))
    size = (2.1, 0.9 + 0.27 * len(rows))
    figure, [panels] = new_panels(
        len(names), columns, panel=size, margin=(left + 1.9, 0.0), share={"sharey": True}
    )
    for ax, contrast in zip(panels, names, strict=True):
        _pairs(ax, table.loc[table["contrast"] == contrast], rows, margin=table["margin"].max())
        ax.set_yticks(range(len(rows)), labels)
        ax.set_ylim(len(rows) - 0.5, -0.5)
        ax.set_title(contrast)
        ax.set_xlabel("log2 units")
    looks = ((_BEFORE, "o", "as it is"), (_AFTER, "D", "at equal handling stress"))
    outside_legend(figure, [line(text, c, marker=m, ms=4, lw=1) for c, m, text in looks])
    return figure


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
