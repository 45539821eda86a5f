"""Differential expression of pseudobulks; subjects are the replicates."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd

from crs_sc import keys
from crs_sc.comparison._deseq import WaldTests, full_rank, wald_tests
from crs_sc.comparison._linear import is_estimable
from crs_sc.comparison._tables import as_table
from crs_sc.comparison._units import (
    check_bulk,
    check_min_cells,
    gather,
    population_names,
    select_units,
)
from crs_sc.comparison.design import (
    BASELINE,
    REFERENCE,
    TREATED,
    expand_contrasts,
    model_matrix,
)
from crs_sc.core.parallel import parallel_map
from crs_sc.core.stats import benjamini_hochberg
from crs_sc.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData
    from numpy.typing import NDArray

    from crs_sc.comparison.design import Comparison, Contrast

__all__ = ["expression"]


def expression(
    bulk: AnnData,
    *,
    contrasts: Sequence[Contrast],
    min_cells: int = 10,
    min_count: int = 10,
    n_jobs: int = 1,
) -> pd.DataFrame:
    """Test every gene in every population with PyDESeq2 on ambient-corrected pseudobulks.

    Fold changes, their standard errors and the Wald statistic are PyDESeq2's. Its p is
    `pvalue_wald`: it takes the dispersion as known, and at a few subjects an arm its tail is far
    too small. `pvalue` is that of a quasi-likelihood t test on the same counts, size factors and
    dispersion trend, its residual variance moderated over the genes (`_quasi`).

    Unpaired contrasts of one time point share a fit, so that all arms inform the dispersions; a
    paired contrast has its own, on complete pairs with the subject as a factor. Batch is a factor
    where it differs. The per-gene fits run for all genes at once, with PyDESeq2's criteria.

    Parameters
    ----------
    bulk
        From `pseudobulk`. `X` (corrected UMI) is summed by unit and rounded.
    contrasts
        What to compare.
    min_cells
        A unit with fewer cells of a population is not a replicate for it.
    min_count
        A gene is tested where it has this many UMI in as many units as the smaller arm has, and
        more over all units of the contrast than ambient RNA explains: what another population makes
        and ambient RNA carries over is no change in this one.
    n_jobs
        Processes over which the populations are spread; with 1, `joblib.parallel_config` decides.

    Returns
    -------
    DataFrame with the columns of table `expression`: contrasts in the order given, populations
    sorted, genes in the order of the data, only those that were tested. `padj` is
    Benjamini-Hochberg of `pvalue` over the whole table. A gene with a count outlier (Cook's
    distance) has the status `count_outlier` and no p. A contrast and population without any test
    has one row with an empty gene and the reason as its status: `too_few_subjects` (fewer than two
    in an arm, or none to spare for the dispersions), `too_few_cells`, `absent_in_reference`,
    `absent_in_treated`, `confounded`, or `not_detected` (no gene with enough UMI of its own).

    Raises
    ------
    DesignError
        As `expand_contrasts`.
    InputError
        If a threshold is below 1.
    """
    check_bulk(bulk)
    check_min_cells(min_cells)
    if min_count < 1:
        msg = f"min_count must be at least 1, got {min_count!r}."
        raise InputError(msg)
    comparisons = expand_contrasts(contrasts, bulk.obs)
    genes = np.array(bulk.var_names.astype(str), dtype=object)
    arms = [_arms(bulk, comparison, min_cells, min_count) for comparison in comparisons]
    populations = list(enumerate(population_names(bulk)))
    fits = [(members, k, name) for members in _groups(comparisons) for k, name in populations]
    fitted = parallel_map(
        _fit_population, [([arms[i][k] for i in members],) for members, k, _ in fits], n_jobs=n_jobs
    )
    blocks: dict[tuple[int, int], dict[str, Any]] = {}
    for (members, k, population), found in zip(fits, fitted, strict=True):
        for i, (columns, tested) in zip(members, found, strict=True):
            identity = {"contrast": comparisons[i].name, "population": population}
            named = genes[tested] if len(tested) else [""]
            blocks[i, k] = identity | {"gene": named} | columns
    table = as_table([blocks[key] for key in sorted(blocks)], keys.EXPRESSION_TABLE)
    table["padj"] = benjamini_hochberg(table["pvalue"])
    return table


class _Arms(NamedTuple):
    """One comparison in one population: the units that are used, and what can be said.

    `expressed` marks the genes that the population makes itself, in numbers that can be compared.
    """

    units: pd.DataFrame
    counts: NDArray[np.int64]
    expressed: NDArray[np.bool_]
    paired: bool
    status: str


def _groups(comparisons: list[Comparison]) -> list[list[int]]:
    """Comparisons that share a fit: unpaired ones of one time point; each paired one alone."""
    groups: dict[tuple[Any, ...], list[int]] = {}
    for i, comparison in enumerate(comparisons):
        own = i if comparison.contrast.paired else None
        groups.setdefault((comparison.timepoint, own), []).append(i)
    return list(groups.values())


def _arms(bulk: AnnData, comparison: Comparison, min_cells: int, min_count: int) -> list[_Arms]:
    """Units, counts and status of a comparison in each population."""
    data = gather(bulk, comparison, np.arange(bulk.n_vars))
    paired = comparison.contrast.paired
    tested = (data.units["arm"] != BASELINE).to_numpy()
    units = data.units[tested].reset_index(drop=True)
    conditions = {
        REFERENCE: comparison.contrast.reference,
        TREATED: comparison.contrast.treated,
    }
    units[keys.CONDITION] = units["arm"].map(conditions)
    result = []
    for k in range(len(data.populations)):
        # Cells without any UMI left above ambient RNA are as good as none.
        n_cells = np.where(data.umi[tested, k] > 0, data.n_cells[tested, k], 0)
        used, status = select_units(units, n_cells, paired=paired, min_cells=min_cells)
        if comparison.status != keys.OK:
            status = comparison.status
        kept = units[used].reset_index(drop=True)
        if status == keys.OK:
            nuisance, arm = model_matrix(kept, paired=paired)
            status = keys.OK if is_estimable(arm, nuisance) else keys.CONFOUNDED
        rows = np.flatnonzero(tested)[used]
        counts = np.rint(data.genes[rows, k]).astype(np.int64)
        expressed = data.expressed(rows, k, min_count=min_count)
        result.append(_Arms(kept, counts, expressed, paired, status))
    return result


def _fit_population(
    arms: list[_Arms],
) -> list[tuple[dict[str, Any], NDArray[np.int64]]]:
    """Columns of the table, and the positions of the genes tested, for each comparison."""
    tested = [_tested_genes(a) for a in arms]
    status = [
        keys.NOT_DETECTED if a.status == keys.OK and not len(t) else a.status
        for a, t in zip(arms, tested, strict=True)
    ]
    fitting = [i for i, s in enumerate(status) if s == keys.OK]
    results: dict[int, WaldTests] = {}
    if fitting:
        union = np.unique(np.concatenate([tested[i] for i in fitting]))
        refused, fits = _fit([arms[i] for i in fitting], union)
        for i, fit in zip(fitting, fits, strict=True):
            rows = np.searchsorted(union, tested[i])
            results[i] = WaldTests(*(values[rows] for values in fit))
        if refused:
            status = [refused if i in fitting else s for i, s in enumerate(status)]
    answer = []
    for i, a in enumerate(arms):
        columns: dict[str, Any] = {
            "n_reference": int((a.units["arm"] == REFERENCE).sum()),
            "n_treated": int((a.units["arm"] == TREATED).sum()),
            "status": status[i],
        }
        if i in results:
            columns |= results[i]._asdict()
            outlier = np.isnan(results[i].pvalue)
            columns["status"] = np.where(outlier, keys.COUNT_OUTLIER, keys.OK)
        answer.append((columns, tested[i] if i in results else np.array([], dtype=np.int64)))
    return answer


def _tested_genes(arms: _Arms) -> NDArray[np.int64]:
    if arms.status != keys.OK:
        return np.array([], dtype=np.int64)
    return np.flatnonzero(arms.expressed)


def _fit(arms: list[_Arms], genes: NDArray[np.int64]) -> tuple[str, list[WaldTests]]:
    """Fit the units of all comparisons together; the reason where that cannot be done.

    The arms are cell means of an unpaired design, and one step between two arms of a paired one.
    """
    units = pd.concat([a.units for a in arms], ignore_index=True)
    first = ~units.duplicated([keys.CONDITION, keys.SUBJECT]).to_numpy()
    units = units[first].reset_index(drop=True)
    counts = np.concatenate([a.counts for a in arms])[first][:, genes]
    nuisance, treated = model_matrix(units, paired=arms[0].paired)
    if arms[0].paired:
        levels = [TREATED]
        main = treated[:, None].astype(np.float64)
    else:
        levels = sorted(units[keys.CONDITION].unique())
        main = (units[keys.CONDITION].to_numpy()[:, None] == np.array(levels)).astype(np.float64)
    design = full_rank(np.hstack([main, nuisance]))
    if len(design) <= design.shape[1]:
        return keys.TOO_FEW_SUBJECTS, []
    if not (counts.sum(axis=1) > 0).all():
        return keys.TOO_FEW_CELLS, []
    contrasts = []
    for a in arms:
        contrast = np.zeros(design.shape[1])
        if a.paired:
            contrast[0] = 1
        else:
            ends = a.units.drop_duplicates("arm").set_index("arm")[keys.CONDITION]
            contrast[levels.index(ends[TREATED])] = 1
            contrast[levels.index(ends[REFERENCE])] = -1
        contrasts.append(contrast)
    return "", wald_tests(counts, design, contrasts)
