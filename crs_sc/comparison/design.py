"""The design: which subjects stand against which, what is paired, what cannot be answered."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from pandas.api.types import is_numeric_dtype

from crs_sc import keys
from crs_sc.core.contrast import Contrast
from crs_sc.errors import DesignError, listing

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

__all__ = ["Contrast"]

REFERENCE = "reference"
TREATED = "treated"
BASELINE = "baseline"
# In a table of units a covariate is a column of its name behind this.
COVARIATE = "covariate:"


@dataclass(frozen=True, eq=False)
class Comparison:
    """A contrast, at one time point where it asks for that, with the units that answer it.

    A unit is one subject in one arm; several samples of a subject in an arm belong to one unit.
    `units` has columns `subject`, `arm` ("reference", "treated", "baseline"), `batch` and one a
    covariate, sorted by arm in that order and subject; in a paired contrast the complete pairs
    only, and of the baseline whoever was seen there. `status` is `ok`, `too_few_subjects` or
    `confounded`; `note` says in words what was left out or is weak.
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
        _check_covariates(contrast, list(samples.columns))
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
            named = ", ".join(f"{role} '{condition}'" for role, condition in arms.items())
            msg = f"Contrast '{contrast.name}' needs a different condition for each: {named}."
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


# They are in the model or define the units already.
_IN_DESIGN = (keys.SUBJECT, keys.CONDITION, keys.BATCH, keys.TIMEPOINT)


def _check_covariates(contrast: Contrast, columns: list[str]) -> None:
    """Raise for covariates that are not there or that the design has already."""
    for name in contrast.covariates:
        if name in _IN_DESIGN:
            msg = f"Contrast '{contrast.name}': '{name}' is no covariate, the design has it."
            raise DesignError(msg)
        if name not in columns:
            msg = (
                f"Contrast '{contrast.name}': the samples have no covariate '{name}'. "
                f"Columns: {listing(columns)}."
            )
            raise DesignError(msg)


def expand_contrasts(contrasts: Sequence[Contrast], samples: pd.DataFrame) -> list[Comparison]:
    """Concrete comparisons: one a contrast, or one a contrast and time point.

    `samples` has one row a sample (or finer) with columns `subject`, `condition` and, where they
    exist, `timepoint`, `batch` and covariates, as the sample table or the `obs` of a pseudobulk.
    Comparisons stand in the order of `contrasts`, time points in natural order (day 2 before day
    10), and only those at which an arm of the contrast was sampled.

    Raises DesignError if a condition or column is not in the data, names repeat, a covariate is
    empty for a subject, or a subject is in both arms of an unpaired contrast.
    """
    _check_contrasts(contrasts, samples)
    rows = samples[[c for c in _IN_DESIGN if c in samples.columns]].astype(str)
    for name in dict.fromkeys(name for contrast in contrasts for name in contrast.covariates):
        rows[COVARIATE + name] = numbers_or_names(samples[name])
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
    arms = arm_names(contrast)
    rows = rows[rows[keys.CONDITION].isin(list(arms))].copy()
    rows["arm"] = pd.Categorical(
        rows[keys.CONDITION].map(arms), categories=list(arms.values()), ordered=True
    )
    if keys.BATCH not in rows.columns:
        rows[keys.BATCH] = ""
    group = ["arm", keys.SUBJECT]
    units = rows.groupby(group, observed=True, sort=True)[keys.BATCH].agg(joined).reset_index()
    columns = [COVARIATE + name for name in contrast.covariates]
    # A baseline is in no model that covariates are in.
    compared = rows[rows["arm"] != BASELINE]
    for name, column in zip(contrast.covariates, columns, strict=True):
        missing = compared.loc[compared[column].isna(), keys.SUBJECT]
        if len(missing):
            msg = (
                f"Contrast '{contrast.name}': the covariate '{name}' is empty for the subjects "
                f"{listing(sorted(missing.unique()))}. Fill it in or leave them out."
            )
            raise DesignError(msg)
        values = compared.groupby(group, observed=True, sort=True)[column]
        numeric = is_numeric_dtype(compared[column])
        units = units.join(values.mean() if numeric else values.agg(joined), on=group)
    units["arm"] = units["arm"].astype(str)
    return units[[keys.SUBJECT, "arm", keys.BATCH, *columns]]


def joined(values: pd.Series) -> str | None:
    """Names of a unit of several samples, joined by "+"; None where one is missing."""
    return None if values.isna().any() else "+".join(sorted(set(values)))


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
    if _slope_names(tested) and not contrast.paired:
        names = listing(_slope_names(tested))
        return keys.OK, [
            f"covariates that are numbers ({names}) are in the model, no permutation p"
        ]
    within = listing(_within_pairs(tested))
    return keys.OK, [f"pairs straddle {within}: in the model, no permutation p"]


def _aliased(contrast: Contrast, tested: pd.DataFrame) -> str:
    """Say what cannot be told from the condition: batch alone, or only with the covariates."""
    columns = [COVARIATE + name for name in covariate_names(tested)]
    nuisance, arm = model_matrix(tested.drop(columns=columns), paired=contrast.paired)
    if not is_estimable(arm, nuisance):
        return "batch"
    batch = ["batch"] if tested[keys.BATCH].nunique() > 1 else []
    return listing([*batch, *covariate_names(tested)])


def _within_pairs(units: pd.DataFrame) -> list[str]:
    """Batch and covariates that differ between the two units of a pair."""
    names = {keys.BATCH: keys.BATCH} | {name: COVARIATE + name for name in covariate_names(units)}
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
    seen = [listing(time_order(time)) for time in times]
    return [f"the arms were sampled at different times (reference: {seen[0]}; treated: {seen[1]})"]


def arm_names(contrast: Contrast) -> dict[str, str]:
    """Arm of each condition of a contrast: reference, treated and, where there is one, baseline."""
    names = {contrast.reference: REFERENCE, contrast.treated: TREATED}
    return names if contrast.baseline is None else names | {contrast.baseline: BASELINE}


def unit_of(rows: pd.DataFrame, comparison: Comparison) -> NDArray[np.intp]:
    """Position in the units of a comparison of each row of a table, -1 where it is of none.

    The table has columns `subject`, `condition` and, where the comparison is at one time point,
    `timepoint`.
    """
    arm = rows[keys.CONDITION].astype(str).map(arm_names(comparison.contrast)).fillna("")
    units = pd.MultiIndex.from_frame(comparison.units[["arm", keys.SUBJECT]])
    position = units.get_indexer(pd.MultiIndex.from_arrays([arm, rows[keys.SUBJECT].astype(str)]))
    if comparison.timepoint is not None:
        position[(rows[keys.TIMEPOINT].astype(str) != comparison.timepoint).to_numpy()] = -1
    return np.asarray(position)


def model_matrix(
    units: pd.DataFrame, *, paired: bool
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Nuisance columns (intercept, batches, subjects of pairs, covariates) and who is treated.

    The nuisance matrix, `(n_units, n_columns)`, may be short of full rank. Of the covariates of
    `units` (reference and treated only) numbers are centred and scaled, names are indicators.
    """
    columns = [np.ones((len(units), 1))]
    factors = [keys.BATCH, keys.SUBJECT] if paired else [keys.BATCH]
    columns += [indicators(units[name]) for name in factors if units[name].nunique() > 1]
    for name in _slope_names(units):
        values = units[COVARIATE + name].to_numpy(dtype=np.float64)
        columns.append(((values - values.mean()) / values.std())[:, None])
    columns += [indicators(units[COVARIATE + name]) for name in factor_names(units)]
    return np.hstack(columns), (units["arm"] == TREATED).to_numpy()


def indicators(values: pd.Series | NDArray[np.integer]) -> NDArray[np.float64]:
    """One column a level, sorted: 1 where a unit has it."""
    return pd.get_dummies(values, dtype=np.float64).to_numpy()


def basis(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """Orthonormal basis of the column space."""
    U, s, _ = np.linalg.svd(matrix, full_matrices=False)
    rank = int((s > s[0] * max(matrix.shape) * np.finfo(np.float64).eps).sum())
    return np.asarray(U[:, :rank])


def is_estimable(arm: NDArray[np.bool_], nuisance: NDArray[np.float64]) -> bool:
    """Whether the arm (True where treated) is not a combination of the nuisance columns."""
    z = arm.astype(np.float64)
    Q = basis(nuisance)
    rest = z - Q @ (Q.T @ z)
    return bool(float(rest @ rest) > 1e-10 * max(float(z @ z), 1.0))


def permutation_blocks(units: pd.DataFrame, *, paired: bool) -> NDArray[np.int64] | None:
    """Block of each unit, within which arms can be exchanged; None where there is no such scheme.

    Blocks are the subjects of a paired contrast, else batches and covariates that are factors. None
    where the two units of a pair differ in batch or a covariate: swapping them would swap these
    too; and where an unpaired design has numbers as covariates.
    """
    if paired:
        if _within_pairs(units):
            return None
        codes, _ = pd.factorize(units[keys.SUBJECT], sort=True)
        return np.asarray(codes, dtype=np.int64)
    if _slope_names(units):
        return None
    columns = [keys.BATCH, *(COVARIATE + name for name in factor_names(units))]
    return np.asarray(units.groupby(columns, sort=True).ngroup(), dtype=np.int64)


# What other programs write where a value is missing.
_MISSING = ("", "nan", "NaN", "<NA>")


def numbers_or_names(values: pd.Series) -> pd.Series:
    """Covariate as float64 where every value that is there is a number, else as str."""
    text = values.astype(object).where(values.notna(), None).map(str, na_action="ignore")
    present = text[text.notna() & ~text.isin(_MISSING)]
    numbers = pd.to_numeric(present, errors="coerce").astype(np.float64)
    if np.isfinite(numbers.to_numpy()).all():
        return numbers.reindex(values.index)
    return present.astype("str").reindex(values.index)


def covariate_names(units: pd.DataFrame) -> list[str]:
    """Covariates of a table of units."""
    return [c.removeprefix(COVARIATE) for c in units.columns if c.startswith(COVARIATE)]


def _slope_names(units: pd.DataFrame) -> list[str]:
    """Covariates that are numbers and differ between the units."""
    return [c for c in _differing(units) if is_numeric_dtype(units[COVARIATE + c])]


def factor_names(units: pd.DataFrame) -> list[str]:
    """Covariates that are names and differ between the units."""
    return [c for c in _differing(units) if not is_numeric_dtype(units[COVARIATE + c])]


def _differing(units: pd.DataFrame) -> list[str]:
    return [c for c in covariate_names(units) if units[COVARIATE + c].nunique() > 1]


# Letters of a unit, and how many of it make a day.
_UNITS_A_DAY = {
    "min": 1440.0, "mins": 1440.0, "minute": 1440.0, "minutes": 1440.0, "h": 24.0, "hr": 24.0,
    "hrs": 24.0, "hour": 24.0, "hours": 24.0, "d": 1.0, "day": 1.0, "days": 1.0, "w": 1 / 7,
    "wk": 1 / 7, "wks": 1 / 7, "week": 1 / 7, "weeks": 1 / 7,
}  # fmt: skip
# Names of the time before everything.
_BEFORE = frozenset({"pre", "baseline", "before", "screening"})
_NAME = re.compile(
    r"^\s*(?P<before>[A-Za-z]*)(?P<gap>[\s_.]*)(?P<sign>[-+\u2212]?)\s*"
    r"(?P<number>\d+(?:\.\d+)?)\s*(?P<after>[A-Za-z]*)\s*$"
)


def time_values(names: Iterable[str]) -> dict[str, float]:
    """Time of each name in days, where all of them carry one; empty where they do not.

    Understood are a number with or without a unit before or behind it ("D3", "day 10", "6h",
    "2 weeks", "-1"), and words for the time before everything ("pre", "baseline"), one day before
    the first. A dash right behind a word is a minus ("D-1" beside "D0") unless every name has one
    ("day-1", "day-2"). Numbers without any unit are taken as they are.
    """
    unique = list(dict.fromkeys(names))
    before = [name for name in unique if name.strip().lower() in _BEFORE]
    found = {name: _NAME.match(name) for name in unique if name not in before}
    matches = {name: match for name, match in found.items() if match is not None}
    if not matches or len(matches) < len(found):
        return {}
    dashed = all(m["before"] and not m["gap"] and m["sign"] == "-" for m in matches.values())
    values = {}
    for name, match in matches.items():
        units = (_UNITS_A_DAY.get(match[side].lower()) for side in ("after", "before"))
        value = float(match["number"]) / next((n for n in units if n), 1.0)
        negative = match["sign"] in ("-", "\u2212") and not dashed
        values[name] = -value if negative else value
    first = min(values.values())
    return {name: values[name] if name in values else first - 1 for name in unique}


def time_order(names: Iterable[str]) -> list[str]:
    """Sort time points by time, each once; where not all carry one, "pre" is first, 2 before 10."""
    unique = sorted(set(names))
    values = time_values(unique)

    def key(name: str) -> tuple[float, bool, list[tuple[int, int, str]]]:
        return values.get(name, math.inf), name.strip().lower() not in _BEFORE, _natural(name)

    return sorted(unique, key=key)


def _natural(name: str) -> list[tuple[int, int, str]]:
    """Key for sorting words by the numbers in them."""
    parts = re.split(r"(\d+)", name)
    return [(1, int(p), "") if p.isdecimal() else (0, 0, p) for p in parts]
