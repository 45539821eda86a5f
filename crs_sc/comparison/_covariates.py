"""Kernel: covariates of a design, numbers as a slope and anything else as a factor.

In a table of units a covariate is a column of its name behind `PREFIX`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from pandas.api.types import is_numeric_dtype

from crs_sc import keys
from crs_sc.errors import DesignError, listing

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from crs_sc.comparison.design import Contrast

__all__ = [
    "PREFIX",
    "check_covariates",
    "covariate_matrix",
    "covariate_names",
    "factor_names",
    "numbers_or_names",
    "of_units",
    "slope_names",
]

PREFIX = "covariate:"
# What other programs write where a value is missing.
_MISSING = ("", "nan", "NaN", "<NA>")
# They are in the model or define the units already.
_TAKEN = (keys.SUBJECT, keys.CONDITION, keys.BATCH, keys.TIMEPOINT)


def check_covariates(contrast: Contrast, columns: Iterable[str]) -> None:
    """Raise for covariates that are not there or that the design has already.

    Parameters
    ----------
    contrast
        What was asked.
    columns
        Of the samples.
    """
    known = list(columns)
    for name in contrast.covariates:
        if name in _TAKEN:
            msg = f"Contrast '{contrast.name}': '{name}' is no covariate, the design has it."
            raise DesignError(msg)
        if name not in known:
            msg = (
                f"Contrast '{contrast.name}': the samples have no covariate '{name}'. "
                f"Columns: {listing(known)}."
            )
            raise DesignError(msg)


def numbers_or_names(values: pd.Series) -> pd.Series:
    """Covariate as float64 where every value that is there is a number, else as str.

    Parameters
    ----------
    values
        Of any dtype; missing values stay missing.
    """
    text = values.astype(object).where(values.notna(), None).map(str, na_action="ignore")
    present = text[text.notna() & ~text.isin(_MISSING)]
    numbers = pd.to_numeric(present, errors="coerce").astype(np.float64)
    if np.isfinite(numbers.to_numpy()).all():
        return numbers.reindex(values.index)
    return present.astype("str").reindex(values.index)


def of_units(
    rows: pd.DataFrame, group: list[str], names: Iterable[str], *, contrast: Contrast
) -> pd.DataFrame:
    """Covariates of each unit: the mean of its numbers, or its names joined by "+".

    Parameters
    ----------
    rows
        Columns `group` and the covariates behind `PREFIX`.
    group
        Columns that make a unit.
    names
        Covariates.
    contrast
        For the message.

    Returns
    -------
    One row a unit, sorted by `group`.

    Raises
    ------
    DesignError
        If a value is missing.
    """
    columns = [PREFIX + name for name in names]
    for name, column in zip(names, columns, strict=True):
        missing = rows.loc[rows[column].isna(), keys.SUBJECT]
        if len(missing):
            msg = (
                f"Contrast '{contrast.name}': the covariate '{name}' is empty for the subjects "
                f"{listing(sorted(missing.unique()))}. Fill it in or leave them out."
            )
            raise DesignError(msg)
    grouped = rows.groupby(group, observed=True, sort=True)
    parts = [
        grouped[c].mean() if is_numeric_dtype(rows[c]) else grouped[c].agg(_joined) for c in columns
    ]
    return pd.concat(parts, axis=1)


def _joined(values: pd.Series) -> str:
    return "+".join(sorted(set(values)))


def covariate_names(units: pd.DataFrame) -> list[str]:
    """Covariates of a table of units."""
    return [c.removeprefix(PREFIX) for c in units.columns if c.startswith(PREFIX)]


def slope_names(units: pd.DataFrame) -> list[str]:
    """Covariates that are numbers and differ between the units."""
    return [c for c in covariate_names(units) if _is_number(units, c) and _differs(units, c)]


def factor_names(units: pd.DataFrame) -> list[str]:
    """Covariates that are names and differ between the units."""
    return [c for c in covariate_names(units) if not _is_number(units, c) and _differs(units, c)]


def _is_number(units: pd.DataFrame, name: str) -> bool:
    return is_numeric_dtype(units[PREFIX + name])


def _differs(units: pd.DataFrame, name: str) -> bool:
    return units[PREFIX + name].nunique() > 1


def covariate_matrix(units: pd.DataFrame) -> NDArray[np.float64]:
    """Columns of the model: numbers centred and scaled, an indicator for each name of a factor.

    Parameters
    ----------
    units
        Reference and treated.

    Returns
    -------
    Shape `(n_units, n_columns)`; without columns where no covariate differs.
    """
    columns = [np.zeros((len(units), 0))]
    for name in slope_names(units):
        values = units[PREFIX + name].to_numpy(dtype=np.float64)
        columns.append(((values - values.mean()) / values.std())[:, None])
    for name in factor_names(units):
        values = units[PREFIX + name].to_numpy(dtype=object)
        levels = np.array(sorted(set(values)), dtype=object)
        columns.append((values[:, None] == levels).astype(np.float64))
    return np.hstack(columns)
