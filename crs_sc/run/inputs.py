"""The input of a run: what is known of it, and the cells of one sample at a time."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from crs_sc import keys
from crs_sc.core.memory import (
    fits_whole,
    memory_lines,
    memory_of,
    refuse_too_large,
    size_of,
    stage_memory,
)
from crs_sc.errors import listing
from crs_sc.run.stages import input_files, refuse_unusable

if TYPE_CHECKING:
    from collections.abc import Callable

    from anndata import AnnData

    from crs_sc.core.memory import CohortSize
    from crs_sc.io import CohortFiles
    from crs_sc.run.config import RunConfig
    from crs_sc.run.workspace import Workspace

__all__ = ["Inputs"]

logger = logging.getLogger("crs_sc")


class Inputs:
    """The files of a config, looked at once.

    Parameters
    ----------
    config
        Settings.
    space
        Output folder of the run.
    key
        Gives the digest of all that samples and QC depend on.
    """

    def __init__(self, config: RunConfig, space: Workspace, key: Callable[[], str]) -> None:
        self._config, self._space, self._key = config, space, key
        self._files: CohortFiles | None = None
        self._whole: AnnData | None = None

    def sample_sizes(self) -> dict[str, int]:
        """Cells of each sample, sorted by name."""
        return {str(name): int(n) for name, n in self._known()["n_cells"].items()}

    def cells(self, sample: str) -> AnnData:
        """Return one sample; where the input is not held whole, only its cells are read."""
        if self._whole is None:
            return self._source().read([sample])
        return self._whole[self._whole.obs[keys.SAMPLE] == sample].copy()

    def hold(self) -> None:
        """Read all samples at once, if they fit into memory beside the work on one of them."""
        if fits_whole(self._size(), limit=self._limit()):
            logger.info("reading %s", listing(self._config.input))
            self._whole = self._source().read()

    def release(self) -> None:
        """Hold nothing longer."""
        self._whole = self._files = None

    def refuse_too_large(self) -> None:
        """Say what memory the stages need, and raise if one cannot fit.

        Raises
        ------
        InputError
            Naming the stage.
        """
        needed = stage_memory(self._size())
        for line in memory_lines(needed, limit=self._limit()):
            logger.info(line)
        refuse_too_large(needed, limit=self._limit())

    def jobs_that_fit(self, n_jobs: int) -> int:
        """Say how many samples fit into memory at a time, `n_jobs` at the most."""
        return max(1, int(min(n_jobs, self._limit() / stage_memory(self._size())["qc"])))

    def _source(self) -> CohortFiles:
        """Cells and genes of the input, if its design can be answered."""
        if self._files is None:
            self._files = input_files(self._config)
            refuse_unusable(self._files.header(), self._config)
        return self._files

    def _known(self) -> dict[str, Any]:
        """Sizes of the input, remembered on disk so that jobs need not read for them."""
        stamp = self._space.read_stamp("samples")
        if stamp is None or stamp["key"] != self._key():
            source = self._source()
            stamp = {
                "n_cells": source.sample_sizes(),
                "n_genes": len(source.var),
                "n_values": source.n_values,
            }
            self._space.finish("samples", self._key(), [], **stamp)
        return stamp

    def _size(self) -> CohortSize:
        known = self._known()
        return size_of(known["n_cells"], n_genes=known["n_genes"], n_values=known["n_values"])

    def _limit(self) -> float:
        return memory_of(self._config.memory_limit)
