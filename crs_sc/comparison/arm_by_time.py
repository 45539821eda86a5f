"""Arm by time: does a shift grow or fade between two time points."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from pandas.api.types import is_numeric_dtype

from crs_sc import keys
from crs_sc.comparison._covariates import PREFIX
from crs_sc.comparison._fit import TEST_COLUMNS, TESTED, finish, test_arm, withhold
from crs_sc.comparison._linear import LinearFit, fit_arm, is_estimable
from crs_sc.comparison._scores import ExpressedScores, expressed_scores, has_too_few_genes
from crs_sc.comparison._units import (
    check_bulk,
    check_min_cells,
    find_features,
    gather,
    population_names,
    select_units,
)
from crs_sc.comparison.design import BASELINE, REFERENCE, TREATED, expand_contrasts, model_matrix

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from anndata import AnnData
    from numpy.typing import NDArray

    from crs_sc.comparison._units import Features, UnitData
    from crs_sc.comparison.design import Comparison, Contrast

__all__ = ["arm_by_time"]

FOLLOWED = "followed"
INDEPENDENT = "independent"


def arm_by_time(
    bulk: AnnData,
    *,
    contrasts: Sequence[Contrast],
    signatures: Mapping[str, Sequence[str]],
    genes: Sequence[str] = (),
    min_cells: int = 10,
    min_count: int = 10,
    min_genes: int = 3,
    random_state: int = 0,
) -> pd.DataFrame:
    """Test whether a shift differs between time points: a difference of differences.

    For each contrast within time points, each time point against the first at which both arms
    were sampled. Where subjects are followed, each gives one change over time, and the changes of
    the arms are compared as in `shifts`: what is constant in a subject, batch and covariates too,
    falls out. Of a cohort that is followed in part, those seen at both times are used. Where other
    subjects were taken at each time, least squares with arm, time and their product; there is no
    permutation p then, because arms can be exchanged only if they never differ.

    Parameters
    ----------
    bulk
        From `pseudobulk`, with time points.
    contrasts
        Those with `within: timepoint` are used.
    signatures
        Name and genes of each signature.
    genes
        Single genes.
    min_cells
        A unit with fewer cells of a population at either time is not a replicate for it.
    min_count
        As in `shifts`, over the units of both times.
    min_genes
        As in `shifts`.
    random_state
        Seed, used only where there are too many permutations to list.

    Returns
    -------
    DataFrame with the columns of `keys.ARM_BY_TIME_TABLE`: every such contrast, later time point,
    signature and gene, and population has a row. Statuses are those of `shifts`; a population is
    absent in an arm that lacks it at either time.

    Raises
    ------
    DesignError
        As in `shifts`.
    """
    check_bulk(bulk)
    check_min_cells(min_cells)
    features = find_features(bulk, signatures=signatures, genes=genes)
    blocks = []
    for contrast in contrasts:
        if contrast.within is None:
            continue
        seen = [c for c in expand_contrasts([contrast], bulk.obs) if _has_both_arms(c)]
        for late in seen[1:]:
            times = _Times(bulk, seen[0], late, features, min_count=min_count, min_genes=min_genes)
            tables = [
                times.rows(k, min_cells=min_cells, random_state=random_state)
                for k in range(len(population_names(bulk)))
            ]
            table = pd.concat(tables, ignore_index=True)
            blocks.append(table.sort_values(["_feature", "population"], kind="stable"))
    if not blocks or not features.names:
        return pd.DataFrame(columns=keys.ARM_BY_TIME_TABLE.names)
    table = pd.concat(blocks, ignore_index=True)
    # A change of a followed subject has another variance than one unit.
    families = (table["kind"] + "|" + table["subjects"]).to_numpy(dtype=object)
    return finish(table, families)[keys.ARM_BY_TIME_TABLE.names]


def _has_both_arms(comparison: Comparison) -> bool:
    return {REFERENCE, TREATED} <= set(comparison.units["arm"])


class _Times:
    """A contrast at two time points: its units, the earlier ones first, and their sums."""

    def __init__(
        self,
        bulk: AnnData,
        early: Comparison,
        late: Comparison,
        features: Features,
        *,
        min_count: int,
        min_genes: int,
    ) -> None:
        self.late, self.early, self.features = late, early, features
        self.min_count, self.min_genes = min_count, min_genes
        parts = [gather(bulk, c, features.columns) for c in (early, late)]
        self.populations = parts[0].populations
        units = [part.units for part in parts]
        tested = [(u["arm"] != BASELINE).to_numpy() for u in units]
        names = [
            pd.MultiIndex.from_frame(u.loc[t, ["arm", keys.SUBJECT]])
            for u, t in zip(units, tested, strict=True)
        ]
        self.data = _stack(*parts)
        both = names[0].intersection(names[1], sort=False)
        self.subjects = FOLLOWED if len(both) else INDEPENDENT
        # Positions in the stacked units: of followed ones in one order for both times.
        chosen = [n.get_indexer(both) if len(both) else np.arange(len(n)) for n in names]
        self.rows_at = [
            np.flatnonzero(t)[c] + shift
            for t, c, shift in zip(tested, chosen, (0, len(units[0])), strict=True)
        ]
        self.units_at = [
            u.loc[t].iloc[c].reset_index(drop=True)
            for u, t, c in zip(units, tested, chosen, strict=True)
        ]

    def rows(self, population: int, *, min_cells: int, random_state: int) -> pd.DataFrame:
        """Rows of one population, one a feature."""
        paired = self.late.contrast.paired
        n_cells = [self.data.n_cells[rows, population] for rows in self.rows_at]
        if self.subjects == FOLLOWED:
            # A subject needs its cells at both times.
            enough = np.minimum(*n_cells)
            used, status = select_units(
                self.units_at[0], enough, paired=paired, min_cells=min_cells
            )
            at = [rows[used] for rows in self.rows_at]
            scores = self._responses(np.concatenate(at), population)
            Y = scores.by_unit
            changed = _changes(*(u[used].reset_index(drop=True) for u in self.units_at))
            result = test_arm(
                Y[len(at[0]) :] - Y[: len(at[0])],
                changed,
                paired=paired,
                status=status,
                random_state=random_state,
            )
            columns, status = result.columns, result.status
        else:
            picked = [
                select_units(u, n, paired=paired, min_cells=min_cells)
                for u, n in zip(self.units_at, n_cells, strict=True)
            ]
            status = next((s for _, s in picked if s != keys.OK), keys.OK)
            usable = all(used.any() for used, _ in picked)
            keep = [used & usable for used, _ in picked]
            at = [rows[used] for rows, used in zip(self.rows_at, keep, strict=True)]
            scores = self._responses(np.concatenate(at), population)
            Y = scores.by_unit
            units = [u[used] for u, used in zip(self.units_at, keep, strict=True)]
            columns, status = _product(Y, *units, paired=paired, status=status)
        return self._table(columns, status, scores, self.populations[population])

    def _responses(self, rows: NDArray[np.integer], population: int) -> ExpressedScores:
        return expressed_scores(
            self.data, rows, population, self.features, min_count=self.min_count
        )

    def _table(
        self, table: pd.DataFrame, status: str, scores: ExpressedScores, population: str
    ) -> pd.DataFrame:
        table["status"], table["n_genes"] = status, scores.n_genes
        table["counting"] = scores.counting
        small = has_too_few_genes(scores, self.features, min_genes=self.min_genes)
        small &= (table["status"] == keys.OK).to_numpy()
        withhold(table, small, keys.TOO_FEW_GENES, columns=TESTED)
        if len(scores.by_unit):
            withhold(table, ~(scores.by_unit > 0).any(axis=0), keys.NOT_DETECTED)
        withhold(table, ~self.features.measured, keys.NOT_MEASURED)
        table["contrast"] = self.late.contrast.name
        table["timepoint"] = self.late.timepoint
        table["reference_timepoint"] = self.early.timepoint
        table["kind"], table["feature"] = self.features.kinds, self.features.names
        table["population"], table["subjects"] = population, self.subjects
        table["_feature"] = np.arange(len(table))
        return table


def _stack(early: UnitData, late: UnitData) -> UnitData:
    """Put the sums of both times into one; arm and time make four groups of units."""
    parts = (early, late)
    names = [f.name for f in fields(early) if isinstance(getattr(early, f.name), np.ndarray)]
    arrays: dict[str, Any] = {
        name: np.concatenate([getattr(part, name) for part in parts]) for name in names
    }
    units = [
        part.units.assign(arm=part.units["arm"] + time)
        for part, time in zip(parts, ("@early", "@late"), strict=True)
    ]
    return replace(early, units=pd.concat(units, ignore_index=True), **arrays)


def _changes(early: pd.DataFrame, late: pd.DataFrame) -> pd.DataFrame:
    """Units of the changes: a batch or covariate that stays the same falls out of a change.

    Parameters
    ----------
    early, late
        The same subjects and arms in the same order.
    """
    units = early.copy()
    for name in [keys.BATCH, *(c for c in early.columns if c.startswith(PREFIX))]:
        if is_numeric_dtype(early[name]):
            units[name] = late[name] - early[name]
        else:
            moved = early[name].astype(str) + " to " + late[name].astype(str)
            units[name] = moved.where(early[name] != late[name], "")
    return units


def _product(
    Y: NDArray[np.float64],
    early: pd.DataFrame,
    late: pd.DataFrame,
    *,
    paired: bool,
    status: str,
) -> tuple[pd.DataFrame, str]:
    """Fit arm, time and their product on units of other subjects at each time.

    Parameters
    ----------
    Y
        Responses, the early units first, shape `(n_units, n_tests)`.
    early, late
        Units of each time.
    paired, status
        As in `test_arm`.

    Returns
    -------
    Columns as of `test_arm`, and the status.
    """
    units = pd.concat([early, late], ignore_index=True)
    is_late = np.repeat([False, True], [len(early), len(late)])
    table = pd.DataFrame(np.nan, index=range(Y.shape[1]), columns=TEST_COLUMNS)
    table["n_reference"] = int((units["arm"] == REFERENCE).sum())
    table["n_treated"] = int((units["arm"] == TREATED).sum())
    if not len(units):
        return table, status
    fit = _fit_product(Y, units, is_late, paired=paired)
    if fit is None:
        return table, keys.CONFOUNDED
    table["estimate"] = fit.estimate
    left_out = []
    for subject in sorted(units[keys.SUBJECT].unique()):
        rest = (units[keys.SUBJECT] != subject).to_numpy()
        without = _fit_product(Y[rest], units[rest], is_late[rest], paired=paired)
        if without is not None:
            left_out.append(without.estimate)
    if left_out:
        table["loo_low"], table["loo_high"] = np.min(left_out, axis=0), np.max(left_out, axis=0)
    if status == keys.OK and fit.df < 1:
        status = keys.TOO_FEW_SUBJECTS
    if status == keys.OK:
        table["variance"], table["unscaled"], table["df"] = fit.variance, fit.unscaled, fit.df
    return table, status


def _fit_product(
    Y: NDArray[np.float64], units: pd.DataFrame, is_late: NDArray[np.bool_], *, paired: bool
) -> LinearFit | None:
    """Least squares of the product of arm and time; None where it is not to be had."""
    nuisance, arm = model_matrix(units, paired=paired)
    nuisance = np.column_stack([nuisance, arm, is_late])
    product = arm & is_late
    return fit_arm(Y, product, nuisance) if is_estimable(product, nuisance) else None
