"""Figures: axes in, axes out; a figure that needs several panels makes its own.

Nothing is shown and no global setting is changed. A population has the same colour everywhere;
the first of `conditions` is the reference and grey. Save inside `style()`.
"""

from crs_sc.plotting._composition import composition, myeloid_states
from crs_sc.plotting._decomposition import decomposition_bars, waterfall, waterfalls
from crs_sc.plotting._embedding import cluster_stability, marker_dotplot, umap
from crs_sc.plotting._expression import enrichment_dotplot, volcano
from crs_sc.plotting._qc import barnyard, qc_overview, stress_vs_cytokine
from crs_sc.plotting._shifts import (
    reversal_heatmap,
    shift_heatmap,
    signature_points,
    stress_adjustment,
)
from crs_sc.plotting._sources import (
    ambient_expected,
    producer_dotplot,
    producers_to_receivers,
    source_shares,
)
from crs_sc.plotting._style import (
    arm_colours,
    feature_label,
    population_colours,
    population_order,
    style,
)
from crs_sc.plotting._time import trajectories

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
