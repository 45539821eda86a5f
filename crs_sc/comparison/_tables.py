"""Kernel: rows into a table of the contract."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd

if TYPE_CHECKING:
    from collections.abc import Sequence

    from crs_sc.keys import TableSpec

__all__ = ["as_table"]

_DTYPES = {"str": "str", "int": "int64", "float": "float64", "bool": "bool"}


def as_table(parts: Sequence[dict[str, Any]], spec: TableSpec) -> pd.DataFrame:
    """Blocks of rows as one DataFrame with the columns and dtypes of a table.

    Parameters
    ----------
    parts
        One dict a block: a list, array or scalar for each column of the table, at least one of
        them not a scalar.
    spec
        The table.
    """
    frames = [pd.DataFrame(part, columns=spec.names) for part in parts]
    table = pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=spec.names)
    return table.astype({column.name: _DTYPES[column.dtype] for column in spec.columns})
