"""Labels of the user, held against the markers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from crs_sc import keys
from crs_sc.annotation.cell_types import annotate
from crs_sc.annotation.opinions import add_opinion, compare_opinions
from crs_sc.core.checks import check_obs
from crs_sc.errors import MissingKeyError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import pandas as pd
    from anndata import AnnData

__all__ = ["add_marker_opinion", "check_labels"]


def add_marker_opinion(
    adata: AnnData,
    *,
    organism: Literal["human", "mouse"] = "human",
    opinion: str = keys.MARKERS,
    settings: Mapping[str, Any] | None = None,
    random_state: int = 0,
) -> None:
    """Store what the markers say of each cell, whatever its population is called.

    Parameters
    ----------
    adata
        Cells x genes with log-normalised `X` and clusters.
    organism
        Whose markers.
    opinion
        Name of the opinion.
    settings
        More keyword arguments of `annotate`.
    random_state
        Seed.

    Returns
    -------
    None. Writes the column `opinion` of `obsm["opinions"]`: the population that `annotate` gives
    without labels.

    Raises
    ------
    MissingKeyError
        If `X` or the clusters are absent.
    InputError
        If no cell type has enough markers in the data.
    """
    import anndata as ad

    if adata.X is None:
        msg = "`X` is empty. Run crs_sc.pp.normalize first."
        raise MissingKeyError(msg)
    # Shares the matrices and graphs; only what `annotate` writes is its own.
    light = ad.AnnData(
        adata.X,
        obs=adata.obs.copy(),
        var=adata.var,
        layers=dict(adata.layers),
        obsm=dict(adata.obsm),
        varm=dict(adata.varm),
        obsp=dict(adata.obsp),
        uns={keys.UNS: dict(adata.uns.get(keys.UNS, {}))},
    )
    annotate(light, organism=organism, random_state=random_state, **(settings or {}))
    add_opinion(adata, opinion=opinion, labels=light.obs[keys.POPULATION].to_numpy(dtype=object))


def check_labels(
    adata: AnnData,
    *,
    label_key: str = keys.LABEL,
    organism: Literal["human", "mouse"] = "human",
    label_names: str | Path | None = None,
    settings: Mapping[str, Any] | None = None,
    random_state: int = 0,
) -> pd.DataFrame:
    """Hold the user's labels against the markers; the labels stay as they are.

    Parameters
    ----------
    adata
        Cells x genes with log-normalised `X` and clusters.
    label_key
        Column of `obs` with the labels; a cell without one is `Unknown`.
    organism
        Whose markers.
    label_names
        TSV with more names of labels, columns `label` and `population`.
    settings
        More keyword arguments of `annotate`.
    random_state
        Seed.

    Returns
    -------
    DataFrame with the columns of `keys.OPINIONS_TABLE`, opinion `markers`: one row a label, and
    `All`. `agreement` is the share of the label's cells for which the markers say the same,
    `other_label` what they say most often instead, `margin` by how much the label wins. Writes the
    opinion into `obsm["opinions"]` as well.

    Raises
    ------
    MissingKeyError
        If `X`, the clusters or the column are absent.
    InputError
        If no cell type has enough markers in the data.
    """
    if label_key not in adata.obs:
        check_obs(adata, label_key=label_key)
    add_marker_opinion(adata, organism=organism, settings=settings, random_state=random_state)
    return compare_opinions(
        adata, opinions=[keys.MARKERS], label_names=label_names, population_key=label_key
    )
