"""The user's table of absolute counts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from crs_sc import keys
from crs_sc.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["read_absolute_counts"]


def read_absolute_counts(path: Path) -> pd.DataFrame:
    """Read a table of cells per microlitre by sample and population.

    Parameters
    ----------
    path
        Tab-separated, with the columns sample, population and cells_per_ul.

    Returns
    -------
    DataFrame as in the file; names are strings, so that a sample `01` stays one.

    Raises
    ------
    InputError
        If the file is not there or is no table.
    """
    try:
        return pd.read_csv(
            path,
            sep="\t",
            dtype={keys.SAMPLE: str, keys.POPULATION: str},
            keep_default_na=False,
            na_values={keys.CELLS_PER_UL: [""]},
            index_col=False,
        )
    except FileNotFoundError as error:
        msg = f"There is no table of absolute counts '{path}'."
        raise InputError(msg) from error
    except (OSError, ValueError) as error:
        msg = f"The absolute counts '{path}' cannot be read as a tab-separated table: {error}"
        raise InputError(msg) from error
