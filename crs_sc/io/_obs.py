"""The user's columns of `obs` under the names that the package uses."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from crs_sc import keys
from crs_sc.errors import InputError, MissingKeyError, listing

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

__all__ = ["CANONICAL", "canonical_obs", "check_in_all_files", "check_mapping"]

CANONICAL = (
    keys.SAMPLE,
    keys.SUBJECT,
    keys.CONDITION,
    keys.TIMEPOINT,
    keys.BATCH,
    keys.LABEL,
    keys.SAMPLING_WEIGHT,
)
_RESERVED = frozenset(spec.name for spec in keys.ALL_KEYS if spec.slot == "obs")
# What other programs write where a value is missing.
_MISSING = ("", "nan", "NaN", "<NA>")


def check_mapping(columns: Mapping[str, str | None] | None) -> dict[str, str | None]:
    """Raise unless every key is one of the canonical names."""
    mapping = dict(columns or {})
    unknown = [name for name in mapping if name not in CANONICAL]
    if unknown:
        msg = f"columns has the unknown name {listing(unknown)}. Names: {', '.join(CANONICAL)}."
        raise InputError(msg)
    return mapping


def check_in_all_files(
    mapping: Mapping[str, str | None], columns_of: Mapping[Path, pd.Index]
) -> None:
    """Raise if a mapped column is in some of the files only; cells may lack a label."""
    for name, column in mapping.items():
        lacking = [path for path, columns in columns_of.items() if column not in columns]
        if column is not None and name != keys.LABEL and 0 < len(lacking) < len(columns_of):
            msg = (
                f"`obs` has no column '{column}' ({name}) in {len(lacking)} of {len(columns_of)} "
                f"files: {listing(lacking)}. Add it there, or name it in a sample sheet."
            )
            raise MissingKeyError(msg)


def _natural(value: str) -> list[tuple[int, float, str]]:
    """Sort key that puts day 2 before day 10."""
    parts = re.split(r"(\d+(?:\.\d+)?)", value)
    return [(0, float(p), "") if i % 2 else (1, 0.0, p) for i, p in enumerate(parts)]


def _text(value: Any) -> str:
    """One value as a person writes it: a whole float (from a column with gaps) has no '.0'."""
    if isinstance(value, float | np.floating) and float(value).is_integer():
        return str(int(value))
    return str(value)


def _categorical(values: pd.Series, *, name: str, source: str) -> pd.Categorical:
    """Categorical of strings: categories as the user ordered them, else in natural order."""
    # All is settled between the distinct values: a million cells are not looked at one by one.
    if isinstance(values.dtype, pd.CategoricalDtype):
        codes, levels = values.cat.codes.to_numpy(), list(values.cat.categories)
        text = in_order = [_text(level) for level in levels]
    else:
        codes, levels = pd.factorize(values)[0], list(pd.unique(values.dropna()))
        text = [_text(level) for level in levels]
        if pd.api.types.is_numeric_dtype(values.dtype):
            in_order = [_text(level) for level in sorted(levels)]
        else:
            in_order = sorted(text, key=_natural)
    used = np.bincount(codes[codes >= 0], minlength=len(text)) > 0
    present = {level for level, is_used in zip(text, used, strict=True) if is_used} - {*_MISSING}
    categories = pd.Index([t for t in dict.fromkeys(in_order) if t in present], dtype="str")
    # The last is what has the code -1.
    codes = np.append(categories.get_indexer(pd.Index(text, dtype="str")), -1)[codes]
    missing = int((codes < 0).sum())
    if missing and name != keys.LABEL:
        msg = (
            f"`obs['{source}']` ({name}) is empty for {missing} of {len(values)} cells. "
            "Fill it in or leave those cells out."
        )
        raise InputError(msg)
    return pd.Categorical.from_codes(codes, categories=categories)


def _weights(values: pd.Series, *, source: str) -> pd.Series:
    is_category = isinstance(values.dtype, pd.CategoricalDtype)
    plain = values.astype(object) if is_category else values
    weights = pd.to_numeric(plain, errors="coerce").astype("float64")
    wrong = int((~np.isfinite(weights) | (weights <= 0)).sum())
    if wrong:
        msg = (
            f"`obs['{source}']` ({keys.SAMPLING_WEIGHT}) must be a number above 0; it is not for "
            f"{wrong} of {len(weights)} cells."
        )
        raise InputError(msg)
    return weights


def canonical_obs(
    obs: pd.DataFrame, mapping: Mapping[str, str | None], *, default_sample: pd.Series
) -> pd.DataFrame:
    """Copy the mapped columns to their canonical names, the user's other columns after them.

    `mapping` is that of `read`; `default_sample` is the sample of each cell if no column says. A
    user's column that has a name which the package writes itself is kept as `<name>_original`.
    """
    sources = {name: mapping.get(name, name if name in obs.columns else None) for name in CANONICAL}
    canonical: dict[str, Any] = {}
    for name, source in sources.items():
        if source is None:
            continue
        if source not in obs.columns:
            msg = f"`obs` has no column '{source}' ({name}). Columns: {listing(obs.columns)}."
            raise MissingKeyError(msg)
        values = obs[source]
        if name == keys.SAMPLING_WEIGHT:
            canonical[name] = _weights(values, source=source)
            continue
        if name == keys.SAMPLE and name not in mapping and values.isna().any():
            # Some files of a list have a column `sample`, and others do not.
            values = values.astype(object).where(values.notna(), default_sample)
        canonical[name] = _categorical(values, name=name, source=source)
    if keys.SAMPLE not in canonical:
        canonical[keys.SAMPLE] = _categorical(default_sample, name=keys.SAMPLE, source=keys.SAMPLE)
    canonical.setdefault(keys.SUBJECT, canonical[keys.SAMPLE].copy())
    canonical.setdefault(keys.CONDITION, pd.Categorical(["all"] * len(obs)))
    slashed = [name for name in canonical[keys.SAMPLE].categories if "/" in name]
    if slashed:
        msg = (
            f"Samples become names of files and must not have a '/': {listing(slashed)}. "
            "Rename them, or map another column to `sample`."
        )
        raise InputError(msg)
    result = pd.DataFrame(
        {name: canonical[name] for name in CANONICAL if name in canonical}, index=obs.index
    )
    taken = set(map(str, obs.columns)) | _RESERVED
    for column in obs.columns:
        if sources.get(column) == column:
            continue
        name = str(column)
        if name in _RESERVED or "/" in name:
            name = name.replace("/", "_") + "_original" * (name in _RESERVED)
            while name in taken:
                name = f"{name}_original"
        taken.add(name)
        result[name] = obs[column]
    return result
