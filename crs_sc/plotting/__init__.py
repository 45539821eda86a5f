"""Figures: axes in, axes out; a figure that needs several panels makes its own.

Nothing is shown and no global setting is changed. A population has the same colour everywhere;
the first of `conditions` is the reference and grey. Save inside `style()`.
"""

from crs_sc.plotting._composition import composition, myeloid_states
from crs_sc.plotting._decomposition import decomposition_bars
from crs_sc.plotting._embedding import umap
from crs_sc.plotting._expression import enrichment_dotplot, volcano
from crs_sc.plotting._markers import marker_dotplot
from crs_sc.plotting._producers import producer_dotplot
from crs_sc.plotting._qc import qc_overview, stress_vs_cytokine
from crs_sc.plotting._receivers import producers_to_receivers
from crs_sc.plotting._shifts import reversal_heatmap, shift_heatmap, signature_points
from crs_sc.plotting._sources import ambient_expected, source_shares
from crs_sc.plotting._species import barnyard
from crs_sc.plotting._stability import cluster_stability
from crs_sc.plotting._stress import stress_adjustment
from crs_sc.plotting._style import (
    arm_colours,
    feature_label,
    population_colours,
    population_order,
    style,
)
from crs_sc.plotting._time import trajectories
from crs_sc.plotting._waterfall import waterfall, waterfalls

__all__ = [
    "ambient_expected",
    "arm_colours",
    "barnyard",
    "cluster_stability",
    "composition",
    "decomposition_bars",
    "enrichment_dotplot",
    "feature_label",
    "marker_dotplot",
    "myeloid_states",
    "population_colours",
    "population_order",
    "producer_dotplot",
    "producers_to_receivers",
    "qc_overview",
    "reversal_heatmap",
    "shift_heatmap",
    "signature_points",
    "source_shares",
    "stress_adjustment",
    "stress_vs_cytokine",
    "style",
    "trajectories",
    "umap",
    "volcano",
    "waterfall",
    "waterfalls",
]
