"""Shifts: does the treatment change a signature or a gene in a population, and how sure is it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from crs_sc import keys
from crs_sc._arrays import as_csr
from crs_sc.comparison._fit import finish, test_arm, withhold
from crs_sc.comparison._units import (
    check_bulk,
    check_min_cells,
    find_features,
    gather,
    population_names,
    score,
    select_units,
)
from crs_sc.comparison.design import BASELINE, expand_contrasts

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from anndata import AnnData

    from crs_sc.comparison._units import Features
    from crs_sc.comparison.design import Comparison, Contrast

__all__ = ["shifts", "signature_scores"]


def signature_scores(
    bulk: AnnData, *, signatures: Mapping[str, Sequence[str]], genes: Sequence[str] = ()
) -> pd.DataFrame:
    """Score signatures and genes in each row of a pseudobulk.

    The mean over the genes that are in the data of log2(CPM + 1), CPM over the soup-corrected UMI
    of the row. No other row has a say in it, so scores do not move when samples join.

    Parameters
    ----------
    bulk
        From `pseudobulk`.
    signatures
        Name and genes of each signature.
    genes
        Single genes.

    Returns
    -------
    DataFrame indexed as `bulk.obs`, one column a signature, then one a gene; missing where none
    of the genes is in the data or the row has no UMI.
    """
    check_bulk(bulk)
    features = find_features(bulk, signatures=signatures, genes=genes)
    X = as_csr(bulk.X)
    umi = np.asarray(X.sum(axis=1), dtype=np.float64).ravel()
    scores = score(X[:, features.columns].toarray(), umi, features)
    return pd.DataFrame(scores, index=bulk.obs_names, columns=features.names)


def shifts(
    bulk: AnnData,
    *,
    contrasts: Sequence[Contrast],
    signatures: Mapping[str, Sequence[str]],
    genes: Sequence[str] = (),
    min_cells: int = 10,
    min_count: int = 10,
    random_state: int = 0,
) -> pd.DataFrame:
    """Test each signature and gene in each population; subjects are the replicates.

    Least squares on the scores of `signature_scores`, with batch (where it differs) and subject
    (where paired) as factors. A gene that a population does not make itself, or of which it shows
    too few UMI to compare, counts as zero in each unit. The model p is moderated over the tests of
    signatures, and over those of genes (Smyth 2004); the permutation p exchanges the arms of
    subjects within batches, or within pairs; `padj` is Benjamini-Hochberg over the whole table.

    Parameters
    ----------
    bulk
        From `pseudobulk`.
    contrasts
        What to compare.
    signatures
        Name and genes of each signature.
    genes
        Single genes.
    min_cells
        A unit with fewer cells of a population is not a replicate for it.
    min_count
        A gene counts where it has this many UMI beyond the soup in as many units as the smaller
        arm has, and more over all units than the soup explains; arms are not told apart in that.
    random_state
        Seed, used only where there are too many permutations to list.

    Returns
    -------
    DataFrame with the columns of `keys.SHIFTS_TABLE`: every contrast (and time point), signature
    and gene, and population has a row. The estimate is in log2 units; Hedges' g is over the
    residual sd of one unit (in a paired contrast that within subjects). Where there is no test
    the status says why:

    - `not_measured`: no gene of the feature is in the data;
    - `not_detected`: none of its genes reaches `min_count` in the units that were used;
    - `absent_in_reference`, `absent_in_treated`: no cell of the population in any unit of the arm;
    - `too_few_cells`: no cells at all, or fewer than two units of an arm with `min_cells` cells;
      with one unit (or pair) an estimate and no p;
    - `too_few_subjects`: the arm has one subject: an estimate and no p; or none;
    - `confounded`: batch and condition cannot be told apart.

    Raises
    ------
    DesignError
        If a contrast names a condition that is not there, or a subject is in both arms unpaired.
    """
    check_bulk(bulk)
    check_min_cells(min_cells)
    features = find_features(bulk, signatures=signatures, genes=genes)
    blocks = [
        block
        for i, comparison in enumerate(expand_contrasts(contrasts, bulk.obs))
        for block in _comparison_rows(
            bulk,
            comparison,
            features,
            min_cells=min_cells,
            min_count=min_count,
            random_state=random_state,
            order=i,
        )
    ]
    if not blocks or not features.names:
        return pd.DataFrame(columns=keys.SHIFTS_TABLE.names)
    table = pd.concat(blocks, ignore_index=True)
    table = table.sort_values(["_order", "_feature", "population"], kind="stable")
    table = finish(table.reset_index(drop=True), table["kind"].to_numpy(dtype=object))
    return table[keys.SHIFTS_TABLE.names]


def _comparison_rows(
    bulk: AnnData,
    comparison: Comparison,
    features: Features,
    *,
    min_cells: int,
    min_count: int,
    random_state: int,
    order: int,
) -> list[pd.DataFrame]:
    """Rows of one comparison, a table for each population."""
    paired = comparison.contrast.paired
    data = gather(bulk, comparison, features.columns)
    tested = (data.units["arm"] != BASELINE).to_numpy()
    units = data.units[tested].reset_index(drop=True)
    tables = []
    for k, population in enumerate(population_names(bulk)):
        n_cells = data.n_cells[tested, k]
        used, status = select_units(units, n_cells, paired=paired, min_cells=min_cells)
        if comparison.status == keys.CONFOUNDED:
            used, status = np.zeros(len(units), dtype=bool), keys.CONFOUNDED
        rows = np.flatnonzero(tested)[used]
        Y = data.responses(rows, k, features, min_count=min_count)
        result = test_arm(
            Y,
            units[used].reset_index(drop=True),
            paired=paired,
            status=status,
            random_state=random_state,
        )
        table = result.columns
        table["status"] = result.status
        if used.any():
            withhold(table, ~(Y > 0).any(axis=0), keys.NOT_DETECTED)
        withhold(table, ~features.measured, keys.NOT_MEASURED)
        table.insert(0, "contrast", comparison.name)
        table.insert(1, "kind", features.kinds)
        table.insert(2, "feature", features.names)
        table.insert(3, "population", population)
        table["_order"], table["_feature"] = order, np.arange(len(table))
        tables.append(table)
    return tables
