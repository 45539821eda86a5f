"""How many cells of each kind, by subject and arm."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from crs_sc import keys
from crs_sc.core.checks import check_obs
from crs_sc.errors import InputError
from crs_sc.plotting._style import (
    above_bar,
    arm_colours,
    arm_heads,
    check_table,
    feature_label,
    line,
    log_with_zero,
    new_axes,
    outside_legend,
    patches,
    population_order,
    sample_layout,
    slanted_names,
    stacked_bars,
    styled,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from anndata import AnnData
    from matplotlib.axes import Axes

# None of them the colour of an arm, because the arms stand above the bars.
_STATE_COLOURS = {
    "resting": "#D9D4C7",
    "inflammatory": "#882255",
    "interferon_stimulated": "#44AA99",
    "hla_dr_low": "#DDB64A",
}
_OTHER_STATES = ("#332288", "#999933", "#AA4499", "#117733", "#88CCEE", "#661100", "#6699CC")


@styled
def composition(
    ledger: pd.DataFrame,
    *,
    conditions: Sequence[str] | None = None,
    populations: Sequence[str] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Share of each population among the cells: one point a subject, a line at the arm's mean.

    Parameters
    ----------
    ledger
        The table `ledger` (or any with `sample`, `subject`, `condition`, `population` and
        `cell_share`). The samples of a subject are averaged.
    conditions
        Arms in order; the first is the reference and grey.
    populations
        Which, in order; all of the table by lineage if None.
    ax
        Axes to draw into.

    Returns
    -------
    The axes. The share is on a log axis; zero is drawn at its lower edge.

    Raises
    ------
    InputError
        If the table is empty.

    Examples
    --------
    >>> import crs_sc as crs
    >>> adata = crs.datasets.toy_cohort()
    >>> ledger = crs.tl.ledger(adata, genes=["IL1B", "IL6"])
    >>> ax = crs.pl.composition(ledger, conditions=["vehicle", "CART"])
    """
    columns = ["sample", "subject", "condition", "population", "cell_share"]
    check_table(ledger, columns, name="ledger")
    shares = cell_shares(ledger)
    order = list(populations) if populations is not None else population_order(shares["population"])
    colours = arm_colours(shares["condition"], conditions)
    axes = new_axes(ax, (2.6 + 0.62 * len(order), 3.6))
    smallest = shares.loc[shares["share"] > 0, "share"].min()
    floor = 100 * float(min(smallest / 2, 0.001)) if pd.notna(smallest) else 0.05
    width = 0.8 / max(len(colours), 1)
    for i, (arm, colour) in enumerate(colours.items()):
        for j, name in enumerate(order):
            chosen = (shares["condition"] == arm) & (shares["population"] == name)
            values = 100 * np.sort(shares.loc[chosen, "share"].to_numpy(dtype=float))
            if not len(values):
                continue
            centre = j + (i - (len(colours) - 1) / 2) * width
            x = centre + (np.arange(len(values)) - (len(values) - 1) / 2) * width * 0.7 / len(
                values
            )
            axes.scatter(
                x, np.clip(values, floor, None), s=14, color=colour, linewidths=0, zorder=3
            )
            mean = max(float(values.mean()), floor)
            axes.plot([centre - width * 0.4, centre + width * 0.4], [mean, mean], color=colour)
    for j in range(1, len(order)):
        axes.axvline(j - 0.5, color="#EEEEEE", linewidth=0.8, zorder=0)
    log_with_zero(axes, "y", floor=floor, top=100, percent=" %")
    slanted_names(axes, range(len(order)), order, angle=40)
    axes.set_xlim(-0.6, len(order) - 0.4)
    axes.set_ylabel("share of cells")
    handles = [line(arm, colour, marker="o", ls="-", ms=4) for arm, colour in colours.items()]
    outside_legend(axes, handles, title="arm (point: subject, line: mean)")
    return axes


def cell_shares(ledger: pd.DataFrame) -> pd.DataFrame:
    """Share of cells by population, subject and condition; zero where a population is absent."""
    unique = ledger.drop_duplicates(["sample", "population"])
    wide = unique.pivot_table(
        index=["condition", "subject", "sample"],
        columns="population",
        values="cell_share",
        observed=True,
    ).fillna(0.0)
    by_subject = wide.groupby(level=["condition", "subject"], observed=True).mean()
    return by_subject.reset_index().melt(
        id_vars=["condition", "subject"], var_name="population", value_name="share"
    )


@styled
def myeloid_states(
    adata: AnnData,
    *,
    state_key: str = keys.MYELOID_STATE,
    sample_key: str = keys.SAMPLE,
    condition_key: str = keys.CONDITION,
    conditions: Sequence[str] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """States of the monocytes and macrophages of each sample, as shares of them.

    Parameters
    ----------
    adata
        Cells x genes; cells without a state are left out.
    state_key, sample_key, condition_key
        Columns of `obs`.
    conditions
        Arms in order.
    ax
        Axes to draw into.

    Returns
    -------
    The axes; the number above a bar is the sample's cells with a state.

    Raises
    ------
    InputError
        If no cell has a state.

    Examples
    --------
    >>> import crs_sc as crs
    >>> adata = crs.datasets.toy_cohort()
    >>> adata.obs["myeloid_state"] = "resting"
    >>> ax = crs.pl.myeloid_states(adata)
    """
    check_obs(adata, sample_key=sample_key, condition_key=condition_key)
    obs = adata.obs
    frame = pd.DataFrame(
        {
            keys.SAMPLE: obs[sample_key].astype(str),
            keys.CONDITION: obs[condition_key].astype(str),
            "state": obs[state_key].astype("string") if state_key in obs.columns else pd.NA,
        }
    )
    with_state = frame.loc[frame["state"].notna() & (frame["state"] != "")]
    if with_state.empty:
        msg = f"No cell has a myeloid state in `obs['{state_key}']`. Run tl.annotate first."
        raise InputError(msg)
    positions, spans = sample_layout(frame, conditions=conditions)
    counts = pd.crosstab(with_state["state"], with_state[keys.SAMPLE]).reindex(
        columns=list(positions), fill_value=0
    )
    states = _state_order(counts.index)
    axes = new_axes(ax, (max(3.6 + 0.28 * len(positions), 5.2), 3.0))
    totals = counts.sum(axis=0)
    colours = {
        state: _STATE_COLOURS.get(state, _OTHER_STATES[i % len(_OTHER_STATES)])
        for i, state in enumerate(states)
    }
    stacked_bars(axes, counts.loc[states] / totals.where(totals > 0), positions, colours)
    for name, at in positions.items():
        above_bar(axes, at, f"{totals[name]}")
    arm_heads(axes, spans, arm_colours(spans, conditions))
    axes.set_ylabel("share of myeloid cells")
    axes.set_xticks(list(positions.values()), list(positions), rotation=90)
    handles = patches({feature_label(state): colour for state, colour in colours.items()})
    outside_legend(axes, handles, title="state")
    return axes


def _state_order(states: Iterable[str]) -> list[str]:
    """Resting cells at the bottom, then the states of the package, then others by name."""
    rank = {name: i for i, name in enumerate(_STATE_COLOURS)}
    names = {str(name) for name in states}
    return sorted(names, key=lambda name: (rank.get(name, len(rank)), name))
