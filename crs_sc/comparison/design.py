"""The design: which subjects stand against which, what is paired, what cannot be answered."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from crs_sc import keys
from crs_sc.comparison._covariates import (
    PREFIX,
    check_covariates,
    covariate_matrix,
    covariate_names,
    factor_names,
    numbers_or_names,
    of_units,
    slope_names,
)
from crs_sc.comparison._linear import is_estimable
from crs_sc.comparison._times import time_order
from crs_sc.core.contrast import Contrast
from crs_sc.errors import DesignError, listing

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

__all__ = [
    "BASELINE",
    "REFERENCE",
    "TREATED",
    "Comparison",
    "Contrast",
    "arms_of",
    "expand_contrasts",
    "model_matrix",
    "permutation_blocks",
]

REFERENCE = "reference"
TREATED = "treated"
BASELINE = "baseline"


@dataclass(frozen=True, eq=False)
class Comparison:
    """A contrast, at one time point where it asks for that, with the units that answer it.

    A unit is one subject in one arm; several samples of a subject in an arm belong to one unit.

    Attributes
    ----------
    name
        NAME, or NAME@TIME.
    contrast
        What was asked.
    timepoint
        Time point, or None for all samples.
    units
        Columns `subject`, `arm` ("reference", "treated", "baseline"), `batch` and one for each
        covariate (see `_covariates`), sorted by arm in that order and subject; in a paired contrast
        the complete pairs only, and of the baseline whoever was seen there.
    status
        `ok`, `too_few_subjects` or `confounded`.
    note
        What was left out or is weak, in words; empty where nothing.
    """

    name: str
    contrast: Contrast
    timepoint: str | None
    units: pd.DataFrame
    status: str
    note: str

    def subjects(self, arm: str) -> list[str]:
        """Subjects of an arm, sorted."""
        return [str(s) for s in self.units.loc[self.units["arm"] == arm, keys.SUBJECT]]

    @property
    def tested(self) -> pd.DataFrame:
        """The units of the reference and the treated arm."""
        return self.units.loc[self.units["arm"] != BASELINE].reset_index(drop=True)


def _check_contrasts(contrasts: Sequence[Contrast], samples: pd.DataFrame) -> None:
    """Raise for contrasts that name what is not there or contradict themselves."""
    for column in (keys.SUBJECT, keys.CONDITION):
        if column not in samples.columns:
            msg = f"The samples have no column '{column}'. Columns: {listing(samples.columns)}."
            raise DesignError(msg)
    names = [contrast.name for contrast in contrasts]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        msg = f"Contrast names must differ; repeated: {listing(repeated)}."
        raise DesignError(msg)
    found = sorted(samples[keys.CONDITION].astype(str).unique())
    for contrast in contrasts:
        check_covariates(contrast, samples.columns)
        arms = {"treated": contrast.treated, "reference": contrast.reference}
        if contrast.baseline is not None:
            arms["baseline"] = contrast.baseline
        for role, condition in arms.items():
            if condition not in found:
                msg = (
                    f"Contrast '{contrast.name}': {role} '{condition}' is not a condition of the "
                    f"data. Conditions: {listing(found)}."
                )
                raise DesignError(msg)
        if len(set(arms.values())) < len(arms):
            told = ", ".join(f"{role} '{condition}'" for role, condition in arms.items())
            msg = f"Contrast '{contrast.name}' needs a different condition for each: {told}."
            raise DesignError(msg)
        if contrast.within not in (None, keys.TIMEPOINT):
            msg = (
                f"Contrast '{contrast.name}': within can only be '{keys.TIMEPOINT}', "
                f"got '{contrast.within}'."
            )
            raise DesignError(msg)
        if contrast.within is not None and contrast.within not in samples.columns:
            msg = (
                f"Contrast '{contrast.name}' asks for within: {contrast.within}, but the samples "
                f"have no such column. Map it under `columns`, or drop `within`. "
                f"Columns: {listing(samples.columns)}."
            )
            raise DesignError(msg)


def expand_contrasts(contrasts: Sequence[Contrast], samples: pd.DataFrame) -> list[Comparison]:
    """Concrete comparisons: one a contrast, or one a contrast and time point.

    Parameters
    ----------
    contrasts
        What was asked, in the order of the answer.
    samples
        One row a sample (or finer) with columns `subject`, `condition` and, where they exist,
        `timepoint`, `batch` and covariates, as from the sample table or the `obs` of a pseudobulk.

    Returns
    -------
    Comparisons in the order of `contrasts`, time points in natural order (day 2 before day 10);
    only time points at which an arm of the contrast was sampled.

    Raises
    ------
    DesignError
        If a condition or column is not in the data, names repeat, a covariate is empty for a
        subject, or a subject is in both arms of an unpaired contrast.
    """
    _check_contrasts(contrasts, samples)
    rows = samples[[c for c in _COLUMNS if c in samples.columns]].astype(str)
    for name in dict.fromkeys(name for contrast in contrasts for name in contrast.covariates):
        rows[PREFIX + name] = numbers_or_names(samples[name])
    rows = rows.drop_duplicates()
    result = []
    for contrast in contrasts:
        if contrast.within is None:
            result.append(_comparison(contrast, rows, None))
            continue
        arms = rows[keys.CONDITION].isin([contrast.treated, contrast.reference])
        times = time_order(rows.loc[arms, keys.TIMEPOINT])
        result += [_comparison(contrast, rows[rows[keys.TIMEPOINT] == t], t) for t in times]
    return result


_COLUMNS = (keys.SUBJECT, keys.CONDITION, keys.TIMEPOINT, keys.BATCH)


def _comparison(contrast: Contrast, rows: pd.DataFrame, timepoint: str | None) -> Comparison:
    """Units, status and note of a contrast among the given rows."""
    name = contrast.name if timepoint is None else f"{contrast.name}@{timepoint}"
    units = _units(contrast, rows)
    notes = []
    in_arm = {
        arm: set(units.loc[units["arm"] == arm, keys.SUBJECT]) for arm in (REFERENCE, TREATED)
    }
    both = in_arm[REFERENCE] & in_arm[TREATED]
    if contrast.paired:
        single = sorted((in_arm[REFERENCE] | in_arm[TREATED]) - both)
        if single:
            notes.append(f"not in both arms and left out: {listing(single)}")
        units = units[(units["arm"] == BASELINE) | units[keys.SUBJECT].isin(both)]
    elif both:
        msg = (
            f"Contrast '{name}': subjects {listing(sorted(both))} are in both arms. "
            "Set paired: true, or give different subjects different names."
        )
        raise DesignError(msg)
    units = units.reset_index(drop=True)
    tested = units[units["arm"] != BASELINE]
    status, reasons = _judge(contrast, tested)
    notes += reasons
    if contrast.within is None and keys.TIMEPOINT in rows.columns:
        notes += _time_note(contrast, rows)
    return Comparison(name, contrast, timepoint, units, status, "; ".join(notes))


def _units(contrast: Contrast, rows: pd.DataFrame) -> pd.DataFrame:
    """One row a subject and arm; samples of several batches make a batch of their own."""
    arms = {contrast.reference: REFERENCE, contrast.treated: TREATED}
    if contrast.baseline is not None:
        arms[contrast.baseline] = BASELINE
    rows = rows[rows[keys.CONDITION].isin(list(arms))]
    batch = rows[keys.BATCH] if keys.BATCH in rows.columns else ""
    frame = pd.DataFrame(
        {
            keys.SUBJECT: rows[keys.SUBJECT],
            "arm": pd.Categorical(
                rows[keys.CONDITION].map(arms), categories=list(arms.values()), ordered=True
            ),
            keys.BATCH: batch,
        }
    )
    grouped = frame.groupby(["arm", keys.SUBJECT], observed=True, sort=True)[keys.BATCH]
    units = grouped.agg(lambda values: "+".join(sorted(set(values)))).reset_index()
    if contrast.covariates:
        names = [PREFIX + name for name in contrast.covariates]
        given = pd.concat([frame, rows[names]], axis=1)
        given = given[given["arm"] != BASELINE]
        values = of_units(given, ["arm", keys.SUBJECT], contrast.covariates, contrast=contrast)
        units = units.join(values, on=["arm", keys.SUBJECT])
    units["arm"] = units["arm"].astype(str)
    return units[[keys.SUBJECT, "arm", keys.BATCH, *(PREFIX + n for n in contrast.covariates)]]


def _judge(contrast: Contrast, tested: pd.DataFrame) -> tuple[str, list[str]]:
    """Status of the comparison and the reasons in words."""
    counts = {
        contrast.reference: int((tested["arm"] == REFERENCE).sum()),
        contrast.treated: int((tested["arm"] == TREATED).sum()),
    }
    few = [f"{n} of '{condition}'" for condition, n in counts.items() if n < 2]
    if min(counts.values()) == 0:
        what = "no subject is in both arms" if contrast.paired else f"subjects: {', '.join(few)}"
        return keys.TOO_FEW_SUBJECTS, [what]
    nuisance, arm = model_matrix(tested, paired=contrast.paired)
    if not is_estimable(arm, nuisance):
        return keys.CONFOUNDED, [f"{_aliased(contrast, tested)} and condition cannot be told apart"]
    if few:
        return keys.TOO_FEW_SUBJECTS, [f"subjects: {', '.join(few)}; an estimate and no p"]
    if len(tested) - np.linalg.matrix_rank(nuisance) < 2:
        what = "subjects, batches and covariates leave no degree of freedom; an estimate and no p"
        return keys.TOO_FEW_SUBJECTS, [what]
    if permutation_blocks(tested, paired=contrast.paired) is not None:
        return keys.OK, []
    if slope_names(tested) and not contrast.paired:
        told = listing(slope_names(tested))
        return keys.OK, [f"covariates that are numbers ({told}) are in the model, no permutation p"]
    within = listing(_within_pairs(tested))
    return keys.OK, [f"pairs straddle {within}: in the model, no permutation p"]


def _aliased(contrast: Contrast, tested: pd.DataFrame) -> str:
    """Say what cannot be told from the condition: batch alone, or only with the covariates."""
    columns = [PREFIX + name for name in covariate_names(tested)]
    nuisance, arm = model_matrix(tested.drop(columns=columns), paired=contrast.paired)
    if not is_estimable(arm, nuisance):
        return "batch"
    batch = ["batch"] if tested[keys.BATCH].nunique() > 1 else []
    return listing([*batch, *covariate_names(tested)])


def _within_pairs(units: pd.DataFrame) -> list[str]:
    """Batch and covariates that differ between the two units of a pair."""
    names = {keys.BATCH: keys.BATCH} | {name: PREFIX + name for name in covariate_names(units)}
    by = units.groupby(keys.SUBJECT)
    return [name for name, column in names.items() if (by[column].nunique() > 1).any()]


def _time_note(contrast: Contrast, rows: pd.DataFrame) -> list[str]:
    """Say it where the arms were sampled at different times and are pooled over time."""
    times = [
        {str(t) for t in rows.loc[rows[keys.CONDITION] == condition, keys.TIMEPOINT]}
        for condition in (contrast.reference, contrast.treated)
    ]
    if times[0] == times[1]:
        return [] if len(times[0]) == 1 else ["time points are pooled within subject"]
    told = [listing(time_order(time)) for time in times]
    return [f"the arms were sampled at different times (reference: {told[0]}; treated: {told[1]})"]


def arms_of(rows: pd.DataFrame, comparison: Comparison) -> NDArray[np.object_]:
    """Arm of each row of a table in a comparison.

    Parameters
    ----------
    rows
        Table with columns `subject`, `condition` and, where the comparison is at one time point,
        `timepoint`.
    comparison
        One of `expand_contrasts`.

    Returns
    -------
    "reference", "treated", "baseline" or "" (not part of it), shape `(n_rows,)`.
    """
    contrast = comparison.contrast
    names = {contrast.reference: REFERENCE, contrast.treated: TREATED}
    if contrast.baseline is not None:
        names[contrast.baseline] = BASELINE
    condition = rows[keys.CONDITION].astype(str)
    arm = np.array([names.get(c, "") for c in condition], dtype=object)
    if comparison.timepoint is not None:
        arm[(rows[keys.TIMEPOINT].astype(str) != comparison.timepoint).to_numpy()] = ""
    kept = set(zip(comparison.units["arm"], comparison.units[keys.SUBJECT], strict=True))
    member = [pair in kept for pair in zip(arm, rows[keys.SUBJECT].astype(str), strict=True)]
    arm[~np.array(member, dtype=bool)] = ""
    return arm


def model_matrix(
    units: pd.DataFrame, *, paired: bool
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Nuisance columns (intercept, batches, subjects of pairs, covariates) and the arm.

    Parameters
    ----------
    units
        As in `Comparison.units`; reference and treated only.
    paired
        Whether subjects are a factor of the model.

    Returns
    -------
    Nuisance matrix of shape `(n_units, n_columns)`, which may be short of full rank, and the arm,
    True where treated.
    """
    columns = [np.ones((len(units), 1))]
    for name in (keys.BATCH, keys.SUBJECT) if paired else (keys.BATCH,):
        levels = sorted(units[name].unique())
        if len(levels) > 1:
            columns.append((units[name].to_numpy()[:, None] == np.array(levels)).astype(float))
    columns.append(covariate_matrix(units))
    return np.hstack(columns), (units["arm"] == TREATED).to_numpy()


def permutation_blocks(units: pd.DataFrame, *, paired: bool) -> NDArray[np.int64] | None:
    """Block of each unit, within which arms can be exchanged; None where there is no such scheme.

    Parameters
    ----------
    units, paired
        As in `model_matrix`.

    Returns
    -------
    Subjects of a paired contrast, else batches and covariates that are factors, as integers of
    shape `(n_units,)`. None where the two units of a pair differ in batch or a covariate: swapping
    them would swap these too; and where an unpaired design has numbers as covariates.
    """
    if paired:
        if _within_pairs(units):
            return None
        codes, _ = pd.factorize(units[keys.SUBJECT], sort=True)
        return np.asarray(codes, dtype=np.int64)
    if slope_names(units):
        return None
    columns = [keys.BATCH, *(PREFIX + name for name in factor_names(units))]
    return np.asarray(units.groupby(columns, sort=True).ngroup(), dtype=np.int64)
