"""Sums of cells over the complete grid of populations and samples."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from crs_sc import keys
from crs_sc.core.arrays import string_codes

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

__all__ = ["PopulationGrid"]


class PopulationGrid:
    """Every population in every sample, in the row order of the tables.

    Parameters
    ----------
    populations, samples
        Population and sample of each cell, shape `(n_cells,)`.
    """

    def __init__(self, populations: pd.Series, samples: pd.Series) -> None:
        population_codes, self.populations = string_codes(populations)
        sample_codes, self.samples = string_codes(samples)
        self.shape = (len(self.populations), len(self.samples))
        self._cells = population_codes * len(self.samples) + sample_codes

    def sums(self, values: ArrayLike) -> NDArray[np.float64]:
        """Sum a value per cell; shape `(n_populations * n_samples,)`, samples fastest."""
        n = self.shape[0] * self.shape[1]
        return np.bincount(self._cells, weights=np.asarray(values, dtype=np.float64), minlength=n)

    def counts(self, codes: NDArray[np.integer], n_codes: int) -> NDArray[np.int64]:
        """Count the cells of each code; shape `(n_codes, n_populations * n_samples)`."""
        n = self.shape[0] * self.shape[1]
        found = np.bincount(codes * n + self._cells, minlength=n_codes * n)
        return found.reshape(n_codes, n)

    def matrix(self, values: ArrayLike) -> NDArray[np.float64]:
        """Sum a value per cell; shape `(n_populations, n_samples)`."""
        return self.sums(values).reshape(self.shape)

    def frame(self, gene: str, samples: pd.DataFrame) -> pd.DataFrame:
        """Identify the rows of the grid for one gene.

        Parameters
        ----------
        gene
            Value of the column `gene`.
        samples
            Indexed by sample, with columns `subject` and `condition`.
        """
        names = np.tile(self.samples, self.shape[0])
        return pd.DataFrame(
            {
                "gene": gene,
                "population": np.repeat(self.populations, self.shape[1]),
                "sample": names,
                "subject": samples.loc[names, keys.SUBJECT].to_numpy(),
                "condition": samples.loc[names, keys.CONDITION].to_numpy(),
            }
        )
