"""The key figures of the contrasts and of time."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from crs_sc import keys, plotting
from crs_sc.comparison import trajectories
from crs_sc.core.checks import sample_table
from crs_sc.report._arms import RESPONSES, headline_genes, main_sources
from crs_sc.report._key_figure import KeyFigure, slug

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import pandas as pd
    from anndata import AnnData

__all__ = ["course_figure", "shift_figures"]


def shift_figures(tables: Mapping[str, pd.DataFrame]) -> list[KeyFigure]:
    """Figures of the tables that compare arms, those that have something to show."""
    found: list[KeyFigure] = []

    def add(name: str, draw: Callable[..., Any], table: pd.DataFrame, **settings: Any) -> None:
        found.append(KeyFigure(name, partial(draw, table, **settings)))

    shifts = tables.get("shifts")
    if shifts is not None:
        for kind in ("signature", "gene"):
            if shifts.loc[shifts["kind"] == kind, "estimate"].notna().any():
                add(f"shifts_{kind}s", plotting.shift_heatmap, shifts, kind=kind)
        found += _stress_figure(tables)
    found += _decomposition_figures(tables)
    reversal = tables.get("reversal")
    if reversal is not None and reversal["reversal"].notna().any():
        add("reversal", plotting.reversal_heatmap, reversal)
    if "expression" in tables:
        for contrast, population in _volcanoes(tables):
            which = {"contrast": contrast, "population": population}
            add(f"volcano--{slug(contrast)}", plotting.volcano, tables["expression"], **which)
    enrichment = tables.get("enrichment")
    if enrichment is not None and enrichment["nes"].notna().any():
        add("enrichment", plotting.enrichment_dotplot, enrichment)
    return found


def _stress_figure(tables: Mapping[str, pd.DataFrame]) -> list[KeyFigure]:
    """Responses of the main sources as they are and at equal handling stress."""
    shifts, shares = tables["shifts"], tables.get("ledger_by_condition")
    if shares is None:
        return []
    populations = main_sources(shares, headline_genes(shares), most=3)
    rows = shifts.loc[
        shifts["feature"].isin(RESPONSES)
        & shifts["population"].isin(populations)
        & shifts["estimate_stress_adjusted"].notna()
    ]
    if rows.empty:
        return []
    draw = partial(
        plotting.stress_adjustment,
        rows,
        features=[name for name in RESPONSES if name in set(rows["feature"])],
        populations=[name for name in populations if name in set(rows["population"])],
    )
    return [KeyFigure("stress_adjustment", draw)]


def _decomposition_figures(tables: Mapping[str, pd.DataFrame]) -> list[KeyFigure]:
    """Parts of the change by population, and step by step to the total."""
    table = tables.get("decomposition")
    if table is None or not table["total"].abs().sum() > 0:
        return []
    genes = headline_genes(table)
    return [
        KeyFigure("decomposition", partial(plotting.decomposition_bars, table, genes=genes)),
        KeyFigure("waterfall", partial(plotting.waterfalls, table, genes=genes)),
    ]


def _volcanoes(tables: Mapping[str, pd.DataFrame]) -> list[tuple[str, str]]:
    """Choose for each contrast the tested population that is the largest source."""
    table = tables["expression"]
    tested = table.loc[table["pvalue"].notna(), ["contrast", "population"]].drop_duplicates()
    shares = tables.get("ledger_by_condition")
    ranked: list[str] = []
    if shares is not None:
        ranked = main_sources(shares, headline_genes(shares), most=len(shares))
    chosen = []
    for contrast, rows in tested.groupby("contrast", sort=False, observed=True):
        names = sorted(rows["population"].astype(str))
        best = next((name for name in ranked if name in names), names[0])
        chosen.append((str(contrast), best))
    return chosen


def course_figure(
    adata: AnnData, tables: Mapping[str, pd.DataFrame], arms: list[str] | None
) -> list[KeyFigure]:
    """Output of the headline cytokines over time, where there are time points."""
    ledger = tables.get("ledger")
    has_times = keys.TIMEPOINT in adata.obs and adata.obs[keys.TIMEPOINT].nunique() > 1
    if ledger is None or not has_times:
        return []
    genes = headline_genes(ledger)
    courses = trajectories(ledger, samples=sample_table(adata), genes=genes)
    draw = partial(plotting.trajectories, courses, genes=genes, conditions=arms)
    return [KeyFigure("trajectories", draw)]
