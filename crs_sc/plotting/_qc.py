"""What was left out and why, ambient RNA, the two genomes, and handling stress."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from crs_sc import keys
from crs_sc.core.checks import check_obs
from crs_sc.errors import InputError, MissingKeyError, listing
from crs_sc.plotting._style import (
    SPECIES_COLOURS,
    arm_colours,
    check_table,
    dots,
    feature_label,
    line,
    log_with_zero,
    new_axes,
    new_grid,
    outside_legend,
    patches,
    sample_layout,
    styled,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# None of them the colour of an arm, which the panels beside them use.
_REASONS = {
    "n_cells_out": ("kept", "#4D4D4D"),
    "n_other_species": ("other species", "#332288"),
    "n_cross_species": ("both species", "#AA94D6"),
    "n_low_counts": ("too few UMI", "#999933"),
    "n_low_genes": ("too few genes", "#DDD29A"),
    "n_high_mt": ("mitochondrial share", "#882255"),
    "n_doublets": ("doublets", "#E8A0A8"),
}


@styled
def qc_overview(qc: pd.DataFrame, *, conditions: Sequence[str] | None = None) -> Figure:
    """Cells kept and left out, depth, and ambient RNA, one row a sample.

    Parameters
    ----------
    qc
        The table `qc`.
    conditions
        Arms in order.

    Returns
    -------
    The figure with three panels: cells by reason, median UMI, share of UMI from ambient RNA with
    its upper bound.

    Raises
    ------
    InputError
        If the table is empty.

    Examples
    --------
    >>> import crs_sc as crs
    >>> adata = crs.datasets.toy_cohort()
    >>> figure = crs.pl.qc_overview(crs.pp.qc_table(adata))
    """
    needed = ["sample", "condition", "n_cells_in", "ambient_lower", "ambient_upper", *_REASONS]
    check_table(qc, needed, name="qc")
    positions, _ = sample_layout(qc, conditions=conditions)
    rows = qc.set_index(qc["sample"].astype(str)).reindex(list(positions))
    y = np.array(list(positions.values()))
    colours = arm_colours(qc["condition"], conditions)
    tint = rows["condition"].astype(str).map(colours).tolist()
    share = {"sharey": True, "width_ratios": [2.4, 1, 1]}
    figure, [panels] = new_grid(1, 3, (10.2, 1.2 + 0.21 * (y.max() + 1)), share=share)
    cells, depth, ambient = panels
    left = np.zeros(len(rows))
    reasons = {}
    for column, (label, colour) in _REASONS.items():
        width = rows[column].fillna(0).to_numpy(dtype=float)
        if width.sum() == 0:
            continue
        cells.barh(y, width, 0.8, left=left, color=colour, linewidth=0)
        left += width
        reasons[label] = colour
    cells.set_xlabel("barcodes")
    place: dict[str, Any] = {"loc": "lower left", "bbox_to_anchor": (0, 1), "borderaxespad": 0.3}
    cells.legend(handles=patches(reasons), ncols=4, columnspacing=1, handlelength=1, **place)
    depth.barh(y, rows["median_umi"].fillna(0), 0.8, color=tint, linewidth=0)
    depth.set_xlabel("median UMI of kept cells")
    depth.locator_params(axis="x", nbins=4)
    columns = ["ambient_fraction", "ambient_lower", "ambient_upper"]
    value, lower, upper = 100 * rows[columns].to_numpy(dtype=float).T
    ambient.hlines(y, lower, upper, color="#999999", linewidth=1.0)
    ambient.scatter(value, y, s=20, c=tint, linewidths=0, zorder=3)
    for end in (lower, upper):
        ambient.scatter(end, y, s=16, marker="|", color="#999999")
    ambient.set_xlim(left=0)
    ambient.set_xlabel("UMI from ambient RNA (%)\nand 95 % interval")
    cells.set_yticks(y, list(positions))
    for ax in panels:
        ax.set_ylim(y.max() + 0.7, y.min() - 0.7)
        ax.tick_params(axis="y", length=0)
    outside_legend(figure, patches(colours), title="arm")
    return figure


@styled
def stress_vs_cytokine(
    adata: AnnData,
    *,
    ledger: pd.DataFrame,
    gene: str,
    signature: str = "dissociation_stress",
    lineages: Sequence[str] = keys.MYELOID_LINEAGES,
    conditions: Sequence[str] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw the stress of myeloid cells against the cytokine's output, one point a sample.

    A rise along the diagonal within an arm says that the output may come from the handling.

    Parameters
    ----------
    adata
        Cells x genes with `obsm["signature_scores"]`.
    ledger
        The table `ledger`, for the corrected UMI per cell of the sample.
    gene
        Cytokine.
    signature
        Column of `obsm["signature_scores"]`.
    lineages
        Lineages whose cells are averaged; all cells where a sample has none of them.
    conditions
        Arms in order; the first is the reference and grey.
    ax
        Axes to draw into.

    Returns
    -------
    The axes.

    Raises
    ------
    MissingKeyError
        If the scores are absent.
    InputError
        If the ledger has no row of the gene.

    Examples
    --------
    >>> import crs_sc as crs
    >>> adata = crs.datasets.toy_cohort()
    >>> ledger = crs.tl.ledger(adata, genes=["IL1B", "IL6"])
    >>> crs.tl.score_signatures(
    ...     adata, signatures=crs.genesets.signatures(names=["dissociation_stress"])
    ... )
    >>> ax = crs.pl.stress_vs_cytokine(adata, ledger=ledger, gene="IL1B")
    """
    scores = adata.obsm.get(keys.SIGNATURE_SCORES)
    if scores is None or signature not in scores:
        msg = (
            f"`obsm['{keys.SIGNATURE_SCORES}']` has no '{signature}'. Entries of obsm: "
            f"{listing(adata.obsm)}. Run tl.score_signatures first."
        )
        raise MissingKeyError(msg)
    check_obs(adata, sample_key=keys.SAMPLE, lineage_key=keys.LINEAGE)
    rows = ledger.loc[ledger["gene"] == gene]
    if rows.empty:
        msg = (
            f"The table 'ledger' has no row of {gene!r}. Genes: {listing(ledger['gene'].unique())}."
        )
        raise InputError(msg)
    myeloid = adata.obs[keys.LINEAGE].astype(str).isin(list(lineages)).to_numpy()
    stress = pd.Series(np.asarray(scores[signature], dtype=float))
    samples = adata.obs[keys.SAMPLE].astype(str).to_numpy()
    mean = stress[myeloid].groupby(samples[myeloid]).mean()
    sums = rows.groupby(["sample", "condition"], observed=True, as_index=False)[
        ["corrected_umi", "n_cells"]
    ].sum()
    sums = sums.loc[(sums["n_cells"] > 0) & sums["sample"].isin(mean.index)]
    output = 1000 * sums["corrected_umi"] / sums["n_cells"]
    colours = arm_colours(sums["condition"], conditions)
    axes = new_axes(ax, (4.8, 3.6))
    tint = sums["condition"].astype(str).map(colours).tolist()
    axes.scatter(sums["sample"].map(mean), output, s=30, linewidths=0, c=tint)
    axes.set_ylim(bottom=min(0.0, float(output.min())) - 0.03 * max(float(output.max()), 1e-9))
    axes.set_xlabel(f"{feature_label(signature)} score of myeloid cells (mean of the sample)")
    axes.locator_params(axis="x", nbins=5)
    axes.set_ylabel(f"{gene}: corrected UMI per 1,000 cells")
    outside_legend(axes, dots(colours), title="arm")
    return axes


NOT_CALLED = "too few UMI to call"
_ZERO = 0.5


@styled
def barnyard(
    droplets: AnnData | pd.DataFrame,
    *,
    min_fraction: float = 0.9,
    most: int = 50_000,
    ax: Axes | None = None,
) -> Axes:
    """UMI of the analysed genome against UMI of the other, one point a droplet.

    Parameters
    ----------
    droplets
        DataFrame, one row a droplet: `umi_analysed`, `umi_other` and `species` (the call; missing
        where there was none), best of all droplets before any filter. Or cells with
        `obs["n_umi"]`, `obs["species_fraction"]` and `obs["species"]`; a cell without UMI of the
        analysed genome cannot be placed then and is not drawn.
    min_fraction
        The share of UMI from which a droplet belongs to one species: the dashed lines.
    most
        Droplets to draw at the most, drawn at random; the legend counts all.
    ax
        Axes to draw into.

    Returns
    -------
    The axes, both logarithmic; zero is drawn at their edge.

    Raises
    ------
    MissingKeyError
        If a column is absent.
    InputError
        If there is no droplet.

    Examples
    --------
    >>> import pandas as pd
    >>> import crs_sc as crs
    >>> droplets = pd.DataFrame(
    ...     {"umi_analysed": [900, 4], "umi_other": [9, 700], "species": ["human", "mouse"]}
    ... )
    >>> ax = crs.pl.barnyard(droplets)
    """
    from matplotlib.colors import to_rgba_array

    table = droplets if isinstance(droplets, pd.DataFrame) else _from_cells(droplets)
    check_table(table, ["umi_analysed", "umi_other", "species"], name="droplets")
    own = table["umi_analysed"].to_numpy(dtype=float)
    other = table["umi_other"].to_numpy(dtype=float)
    called = table["species"].astype("string").fillna("")
    calls = called.where(called != "", NOT_CALLED).to_numpy(dtype=str)
    rank = {name: i for i, name in enumerate(SPECIES_COLOURS)}
    names = sorted(set(calls), key=lambda name: (rank.get(name, len(rank)), name))
    colours = {name: SPECIES_COLOURS.get(name, "#B5B5B5") for name in names}
    axes = new_axes(ax, (4.8, 3.9))
    order = np.random.default_rng(0).permutation(len(own))[:most]
    tints = to_rgba_array(list(colours.values()))[pd.Index(names).get_indexer(calls[order])]
    look: dict[str, Any] = {"linewidths": 0, "alpha": 0.7, "rasterized": True}
    x, y = (np.clip(umi[order], _ZERO, None) for umi in (own, other))
    axes.scatter(x, y, s=5, c=tints, **look)
    top = float(max(own.max(), other.max(), 10.0))
    ends = np.geomspace(_ZERO, top * 1.5, 50)
    odds = (1 - min_fraction) / min_fraction
    for x, y in ((ends, odds * ends), (odds * ends, ends)):
        axes.plot(x, y, color="#777777", ls="--", linewidth=0.8, zorder=1)
    log_with_zero(axes, "x", floor=_ZERO, top=top)
    log_with_zero(axes, "y", floor=_ZERO, top=top)
    axes.set_xlabel("UMI of the analysed genome")
    axes.set_ylabel("UMI of the other genome")
    handles = dots({f"{name} ({(calls == name).sum():,})": colours[name] for name in names})
    share = f"{100 * min_fraction:.4g} % of one genome"
    handles.append(line(share, "#777777", ls="--", linewidth=0.8))
    outside_legend(axes, handles, title="call (droplets)")
    return axes


def _from_cells(adata: AnnData) -> pd.DataFrame:
    """UMI of both genomes of each cell from its UMI and its share of the analysed genome."""
    check_obs(adata, fraction_key=keys.SPECIES_FRACTION, umi_key=keys.N_UMI)
    check_obs(adata, species_key=keys.SPECIES)
    fraction = adata.obs[keys.SPECIES_FRACTION].to_numpy(dtype=float)
    own = adata.obs[keys.N_UMI].to_numpy(dtype=float)
    placed = (fraction > 0) & (own > 0)
    return pd.DataFrame(
        {
            "umi_analysed": own[placed],
            "umi_other": own[placed] * (1 - fraction[placed]) / fraction[placed],
            "species": adata.obs[keys.SPECIES].astype(str).to_numpy()[placed],
        }
    )
