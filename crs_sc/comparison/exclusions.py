"""Which units a contrast leaves out, population by population, and why."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from crs_sc import keys
from crs_sc.comparison._units import check_bulk, check_min_cells, population_names, select_units
from crs_sc.comparison.design import REFERENCE, TREATED, expand_contrasts

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData

    from crs_sc.comparison.design import Comparison, Contrast

__all__ = ["exclusions"]


def exclusions(
    bulk: AnnData, *, contrasts: Sequence[Contrast], min_cells: int = 10
) -> pd.DataFrame:
    """List every subject that a test of a population does without.

    Parameters
    ----------
    bulk
        From `pseudobulk`.
    contrasts
        What is compared.
    min_cells
        A unit with fewer cells of a population is not a replicate for it; as in the tests.

    Returns
    -------
    DataFrame with the columns of `keys.EXCLUSIONS_TABLE`, one row for each subject and arm that
    is left out of a contrast (and time point) for a population. Reasons:

    - `no_cells`, `too_few_cells`: the subject has none, or fewer than `min_cells`;
    - `incomplete_pair`: it has enough, but not in both arms of a paired contrast;
    - `not_tested`: it has enough, but the population is not tested in this contrast at all; the
      status in the table of the test says why.

    Of the two arms that are compared; a baseline is none of them. Cells are those of the subject
    in the arm, over the time points that the contrast pools.

    Raises
    ------
    DesignError
        As `shifts`.
    """
    check_bulk(bulk)
    check_min_cells(min_cells)
    tables = [
        _excluded(_cells(bulk, comparison), comparison, min_cells)
        for comparison in expand_contrasts(contrasts, bulk.obs)
    ]
    if not tables:
        return pd.DataFrame(columns=keys.EXCLUSIONS_TABLE.names)
    return pd.concat(tables, ignore_index=True)


def _cells(bulk: AnnData, comparison: Comparison) -> pd.DataFrame:
    """Cells of each population in each subject and compared arm, of broken pairs too.

    Returns
    -------
    DataFrame indexed by arm and subject (sorted), one column a population.
    """
    contrast = comparison.contrast
    arms = {contrast.reference: REFERENCE, contrast.treated: TREATED}
    rows = bulk.obs[bulk.obs[keys.CONDITION].astype(str).isin(list(arms))]
    if comparison.timepoint is not None:
        rows = rows[rows[keys.TIMEPOINT].astype(str) == comparison.timepoint]
    frame = rows[[keys.SUBJECT, keys.POPULATION]].astype(str)
    frame["arm"] = rows[keys.CONDITION].astype(str).map(arms)
    frame[keys.N_CELLS] = rows[keys.N_CELLS]
    cells = frame.groupby(["arm", keys.SUBJECT, keys.POPULATION])[keys.N_CELLS].sum()
    table: pd.DataFrame = cells.unstack(keys.POPULATION)
    return table[population_names(bulk)]


def _excluded(cells: pd.DataFrame, comparison: Comparison, min_cells: int) -> pd.DataFrame:
    """Rows of one comparison, by population, reference before treated, and subject."""
    contrast, units = comparison.contrast, comparison.tested
    tested = pd.MultiIndex.from_frame(units[["arm", keys.SUBJECT]])
    tables = []
    for population, n_cells in cells.items():
        counts = n_cells.loc[tested].to_numpy()
        used, _ = select_units(units, counts, paired=contrast.paired, min_cells=min_cells)
        if comparison.status == keys.CONFOUNDED:
            used[:] = False
        enough = n_cells >= min_cells
        both = enough.groupby(level=keys.SUBJECT).transform("sum") == 2
        reason = np.select(
            [n_cells == 0, ~enough, ~both & contrast.paired],
            [keys.NO_CELLS, keys.TOO_FEW_CELLS, keys.INCOMPLETE_PAIR],
            default=keys.NOT_TESTED,
        )
        left_out = ~n_cells.index.isin(tested[used])
        arm, subject = (n_cells.index[left_out].get_level_values(i) for i in (0, 1))
        tables.append(
            pd.DataFrame(
                {
                    "contrast": comparison.name,
                    "population": population,
                    "subject": subject,
                    "condition": np.where(arm == REFERENCE, contrast.reference, contrast.treated),
                    "n_cells": n_cells[left_out].to_numpy(),
                    "reason": reason[left_out],
                }
            )
        )
    return pd.concat(tables, ignore_index=True)
