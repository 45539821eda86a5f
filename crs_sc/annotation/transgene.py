"""The CAR transgene, against ambient RNA and against samples that cannot have it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy import stats

from crs_sc import keys
from crs_sc.core.ambient import ambient_rejections, take_counts
from crs_sc.core.checks import add_note, check_obs, store
from crs_sc.errors import InputError, listing

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData
    from numpy.typing import NDArray

__all__ = ["call_transgene"]


def call_transgene(
    adata: AnnData,
    *,
    transgene: Sequence[str],
    before: tuple[str, ...] = (),
    alpha: float = 0.05,
    sample_key: str = keys.SAMPLE,
    layer: str = keys.COUNTS,
) -> None:
    """Call the CAR transgene in each cell, and name the T cells that have it `CAR T`.

    Transcripts of a transgene are often missed at the 3' end, so a cell without any is
    `not_detected`, never negative. T cells are tested among T cells, all others among themselves.

    Samples without the product (before infusion, or of an arm that never had it) tell how often
    the test is wrong: the counts there are no transgene, so their rate per UMI is also expected
    in every other sample, and the share of their T cells that the test would still have called
    goes into the notes as its rate of false positives. Their own cells are never called.

    Parameters
    ----------
    adata
        Cells x genes after :func:`annotate`, with ambient RNA of each sample.
    transgene
        Features of the construct.
    before
        Conditions or time points without the product. Without any, the rate of false positives
        is not known.
    alpha
        False discovery rate of the call against ambient RNA.
    sample_key
        Column of `obs` with the library.
    layer
        Layer with raw counts.

    Returns
    -------
    None. Writes `obs["transgene"]` and `uns["crs_sc"]["transgene"]` (a row for each sample: T
    cells, those with UMI of the transgene, those expected from ambient RNA alone, those that pass
    the test, and whether the sample is without the product), and changes `obs["population"]`.

    Raises
    ------
    InputError
        If no feature of the construct is in the data, or no sample is of a condition or time
        point in `before`.

    Examples
    --------
    >>> import crs_sc as crs
    >>> adata = crs.datasets.toy_cohort()
    >>> crs.tl.call_transgene(adata, transgene=["CAR"], before=("vehicle",))
    """
    check_obs(adata, population_key=keys.POPULATION, lineage_key=keys.LINEAGE)
    is_before = _without_product(adata, before)
    cells = take_counts(adata, transgene, sample_key=sample_key, layer=layer)
    absent = [feature for feature in transgene if feature not in cells.genes]
    if absent:
        add_note(adata, f"Features of the transgene that are not in the data: {listing(absent)}.")
    umi, expected = cells.umi.sum(axis=1), cells.expected.sum(axis=1)
    if is_before.any():
        stray = umi[is_before].sum() / cells.depth[is_before].sum()
        expected = np.maximum(expected, stray * cells.depth)
    is_t = (adata.obs[keys.LINEAGE] == "T").to_numpy()
    passes = np.zeros(adata.n_obs, dtype=bool)
    for family in (np.flatnonzero(is_t), np.flatnonzero(~is_t)):
        passes[family] = ambient_rejections(
            umi[family], expected[family], cells.sample_codes[family], alpha=alpha
        )
    store(
        adata,
        keys.TRANSGENE,
        _by_sample(adata.obs[sample_key].astype(str), is_t, is_before, umi, expected, passes),
    )
    _note_false_positives(adata, passes[is_before & is_t])
    detected = passes & ~is_before
    adata.obs[keys.TRANSGENE] = pd.Categorical(
        np.where(detected, "detected", "not_detected"), categories=["detected", "not_detected"]
    )
    elsewhere = int((detected & ~is_t).sum())
    if elsewhere:
        add_note(adata, f"{elsewhere} cells outside the T lineage carry the transgene.")
    population = np.where(detected & is_t, keys.CAR_T, adata.obs[keys.POPULATION].astype(str))
    adata.obs[keys.POPULATION] = pd.Categorical(population)


def _without_product(adata: AnnData, before: Sequence[str]) -> NDArray[np.bool_]:
    """Cells of samples of the conditions or time points in `before`."""
    columns = [name for name in (keys.CONDITION, keys.TIMEPOINT) if name in adata.obs]
    values = {name: adata.obs[name].astype(str) for name in columns}
    known = {value for column in values.values() for value in column.unique()}
    if unknown := [name for name in before if str(name) not in known]:
        msg = (
            f"No sample is of {listing(unknown)} (before). Conditions and time points: "
            f"{listing(sorted(known), most=20)}."
        )
        raise InputError(msg)
    found = np.zeros(adata.n_obs, dtype=bool)
    for column in values.values():
        found |= column.isin([str(name) for name in before]).to_numpy()
    return found


def _by_sample(
    sample: pd.Series,
    is_t: NDArray[np.bool_],
    is_before: NDArray[np.bool_],
    umi: NDArray[np.integer],
    expected: NDArray[np.float64],
    passes: NDArray[np.bool_],
) -> pd.DataFrame:
    """Evidence in the T cells of each sample."""
    cells = pd.DataFrame(
        {
            "sample": sample.to_numpy(),
            "n_t_cells": is_t.astype(int),
            "n_with_umi": (is_t & (umi > 0)).astype(int),
            "n_with_umi_expected": np.where(is_t, -np.expm1(-expected), 0.0),
            "n_detected": (is_t & passes).astype(int),
        }
    )
    table = cells.groupby("sample", sort=True).sum()
    table["without_product"] = pd.Series(is_before, index=sample.to_numpy()).groupby(level=0).any()
    return table.reset_index()


def _note_false_positives(adata: AnnData, passes: NDArray[np.bool_]) -> None:
    """Say how often T cells without the product pass, with the upper end of its interval."""
    if not len(passes):
        return
    n, wrong = len(passes), int(passes.sum())
    most = 1.0 if wrong == n else float(stats.beta.ppf(0.95, wrong + 1, n - wrong))
    add_note(
        adata,
        f"False positives of the transgene: {wrong} of {n} T cells of samples without the product "
        f"pass the test ({wrong / n:.2%}, with 95 % confidence below {most:.2%}); none is called.",
    )
