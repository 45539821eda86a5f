"""The CAR transgene, against the soup."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from crs_sc import keys
from crs_sc._checks import add_note, check_obs
from crs_sc._soup import soup_rejections, take_counts
from crs_sc.errors import listing

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData

__all__ = ["call_transgene"]


def call_transgene(
    adata: AnnData,
    *,
    transgene: Sequence[str],
    alpha: float = 0.05,
    sample_key: str = keys.SAMPLE,
    layer: str = keys.COUNTS,
) -> None:
    """Call the CAR transgene in each cell, and name the T cells that have it `CAR T`.

    Transcripts of a transgene are often missed at the 3' end, so a cell without any is
    `not_detected`, never negative.

    Parameters
    ----------
    adata
        Cells x genes after :func:`annotate`, with the soup of each sample.
    transgene
        Features of the construct.
    alpha
        False discovery rate of the call against the soup.
    sample_key
        Column of `obs` with the library.
    layer
        Layer with raw counts.

    Returns
    -------
    None. Writes `obs["transgene"]` and changes `obs["population"]`.

    Raises
    ------
    InputError
        If no feature of the construct is in the data.
    """
    check_obs(adata, population_key=keys.POPULATION, lineage_key=keys.LINEAGE)
    cells = take_counts(adata, transgene, sample_key=sample_key, layer=layer)
    absent = [feature for feature in transgene if feature not in cells.genes]
    if absent:
        add_note(adata, f"Features of the transgene that are not in the data: {listing(absent)}.")
    detected = soup_rejections(
        cells.umi.sum(axis=1), cells.expected.sum(axis=1), cells.sample_codes, alpha=alpha
    )
    adata.obs[keys.TRANSGENE] = pd.Categorical(
        np.where(detected, "detected", "not_detected"), categories=["detected", "not_detected"]
    )
    is_car_t = detected & (adata.obs[keys.LINEAGE] == "T").to_numpy()
    elsewhere = int((detected & ~is_car_t).sum())
    if elsewhere:
        add_note(adata, f"{elsewhere} cells outside the T lineage carry the transgene.")
    population = np.where(is_car_t, keys.CAR_T, adata.obs[keys.POPULATION].astype(str))
    adata.obs[keys.POPULATION] = pd.Categorical(population)
