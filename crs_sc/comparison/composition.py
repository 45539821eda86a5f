"""Composition: more or fewer cells of a population, on the logit of its share."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from crs_sc import keys
from crs_sc.comparison._fit import finish, test_arm, withhold
from crs_sc.comparison._units import check_bulk, gather, select_units
from crs_sc.comparison.design import BASELINE, REFERENCE, TREATED, expand_contrasts

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData
    from numpy.typing import ArrayLike, NDArray

    from crs_sc.comparison.design import Comparison, Contrast

__all__ = ["composition"]

# Said beside the test, not instead of it.
_SAID = (keys.ABSENT_IN_REFERENCE, keys.ABSENT_IN_TREATED)


def logit_share(share: ArrayLike, n_total: ArrayLike) -> NDArray[np.float64]:
    """Logit of a share of cells, half a cell added to either side so that 0 and 1 are finite.

    Parameters
    ----------
    share
        Share of the population, by sampling weight where there is one.
    n_total
        Cells it was counted among.
    """
    p, n = np.asarray(share, dtype=np.float64), np.asarray(n_total, dtype=np.float64)
    return np.asarray(np.log((p * n + 0.5) / ((1 - p) * n + 0.5)))


def composition(
    bulk: AnnData, *, contrasts: Sequence[Contrast], random_state: int = 0
) -> pd.DataFrame:
    """Test the share of each population among the cells of a subject.

    Least squares on the logit of the share, with the design, moderation, permutation and
    correction of `shifts`.

    Parameters
    ----------
    bulk
        From `pseudobulk`.
    contrasts
        What to compare.
    random_state
        Seed, used only where there are too many permutations to list.

    Returns
    -------
    DataFrame with the columns of `keys.COMPOSITION_TABLE`, a row for every contrast (and time
    point) and population. A population that one arm lacks altogether is tested all the same and
    its status says `absent_in_reference` or `absent_in_treated`; the other statuses are
    `too_few_cells` (neither arm has a cell of it), `too_few_subjects` and `confounded`.

    Raises
    ------
    DesignError
        As in `shifts`.

    Notes
    -----
    Shares add up to one: when one population grows, the others shrink. With absolute counts as
    sampling weights the shares are those of the specimen, and still shares.
    """
    check_bulk(bulk)
    comparisons = expand_contrasts(contrasts, bulk.obs)
    blocks = [_comparison_rows(bulk, c, random_state=random_state) for c in comparisons]
    if not blocks:
        return pd.DataFrame(columns=keys.COMPOSITION_TABLE.names)
    table = pd.concat(blocks, ignore_index=True)
    table = finish(table, np.zeros(len(table), dtype=object))
    return table[keys.COMPOSITION_TABLE.names]


def _comparison_rows(bulk: AnnData, comparison: Comparison, *, random_state: int) -> pd.DataFrame:
    """Rows of one comparison, one a population."""
    data = gather(bulk, comparison, np.zeros(0, dtype=np.int64))
    tested = (data.units["arm"] != BASELINE).to_numpy()
    units = data.units[tested].reset_index(drop=True)
    n_cells, share = data.n_cells[tested], data.share[tested]
    answerable = comparison.status != keys.CONFOUNDED and units["arm"].nunique() == 2
    used = np.full(len(units), answerable)
    result = test_arm(
        logit_share(share, data.n_cells_total[tested])[used],
        units[used].reset_index(drop=True),
        paired=comparison.contrast.paired,
        status=comparison.status,
        random_state=random_state,
    )
    table = result.columns
    table.insert(0, "contrast", comparison.name)
    table.insert(1, "population", data.populations)
    for name, arm in (("share_reference", REFERENCE), ("share_treated", TREATED)):
        rows = (units["arm"] == arm).to_numpy()
        table[name] = share[rows].mean(axis=0) if rows.any() else np.nan
    found = [
        select_units(units, n_cells[:, k], paired=False, min_cells=1)[1]
        for k in range(len(data.populations))
    ]
    table["status"] = [
        said if result.status == keys.OK and said in _SAID else result.status for said in found
    ]
    nowhere = n_cells.sum(axis=0) == 0
    if answerable and nowhere.any():
        withhold(table, nowhere, keys.TOO_FEW_CELLS)
    return table
