"""Two genomes in each droplet."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from crs_sc import keys
from crs_sc.core.checks import check_obs
from crs_sc.plotting._style import (
    SPECIES_COLOURS,
    check_table,
    log_with_zero,
    new_axes,
    outside_legend,
    styled,
)

if TYPE_CHECKING:
    from anndata import AnnData
    from matplotlib.axes import Axes

__all__ = ["barnyard"]

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
    """
    from matplotlib.colors import to_rgba_array
    from matplotlib.lines import Line2D

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
    axes.scatter(
        np.clip(own[order], _ZERO, None),
        np.clip(other[order], _ZERO, None),
        s=5,
        linewidths=0,
        alpha=0.7,
        rasterized=True,
        c=to_rgba_array([colours[name] for name in names])[
            pd.Index(names).get_indexer(pd.Index(calls[order]))
        ],
    )
    top = float(max(own.max(), other.max(), 10.0))
    line = np.geomspace(_ZERO, top * 1.5, 50)
    odds = (1 - min_fraction) / min_fraction
    for x, y in ((line, odds * line), (odds * line, line)):
        axes.plot(x, y, color="#777777", ls="--", linewidth=0.8, zorder=1)
    log_with_zero(axes, "x", floor=_ZERO, top=top)
    log_with_zero(axes, "y", floor=_ZERO, top=top)
    axes.set_xlabel("UMI of the analysed genome")
    axes.set_ylabel("UMI of the other genome")
    handles = [
        Line2D(
            [], [], marker="o", ls="", ms=5, color=colours[name],
            label=f"{name} ({(calls == name).sum():,})",
        )
        for name in names
    ]  # fmt: skip
    share = f"{100 * min_fraction:.4g} % of one genome"
    handles.append(Line2D([], [], color="#777777", ls="--", linewidth=0.8, label=share))
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
