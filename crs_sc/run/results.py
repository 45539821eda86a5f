"""What the stages of a run have made: in its files, and the last of it still in memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

from crs_sc import comparison, keys
from crs_sc.io import (
    allow_open_files,
    open_h5ad,
    read_table,
    write_h5ad,
    write_table,
)
from crs_sc.preprocessing import merge_samples, normalize
from crs_sc.run.design import covariate_names

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    import pandas as pd
    from anndata import AnnData

    from crs_sc.run.config import RunConfig
    from crs_sc.run.workspace import Workspace

__all__ = ["Results"]


class Results:
    """Cohort, pseudobulk and tables, so that a run of all stages reads nothing back.

    Parameters
    ----------
    config
        Settings.
    space
        Output folder of the run.
    samples
        Gives the names of the samples.
    """

    def __init__(
        self, config: RunConfig, space: Workspace, samples: Callable[[], list[str]]
    ) -> None:
        self._config, self._space, self._samples = config, space, samples
        self._cohort: tuple[str, AnnData] | None = None
        self._bulk: AnnData | None = None
        self._tables: dict[str, pd.DataFrame] = {}

    def merged(self) -> AnnData:
        """All samples after QC; their counts stay on disk, where QC has written them."""
        samples = self._samples()
        allow_open_files(len(samples))
        return merge_samples([open_h5ad(self._space.sample(name)) for name in samples])

    def cohort(self, stage: str) -> AnnData:
        """Return the cohort as a stage left it."""
        import anndata as ad

        if self._cohort is not None and self._cohort[0] == stage:
            return self._cohort[1]
        if stage == "sources":
            adata = open_h5ad(self._space.cohort)
        else:
            adata = self.merged()
            added = ad.read_h5ad(self._space.stage(stage))
            normalize(adata, **self._config.normalize)
            for slot in ("obs", "var", "obsm", "varm", "obsp", "uns"):
                setattr(adata, slot, getattr(added, slot))
        self._cohort = (stage, adata)
        return adata

    def keep(self, stage: str, adata: AnnData) -> Path:
        """Write the cohort of a stage: whole after the sources, else what it adds to QC's files."""
        import anndata as ad

        self._cohort = (stage, adata)
        if stage == "sources":
            self._bulk = None
            write_h5ad(adata, self._space.cohort)
            return self._space.cohort
        added = ad.AnnData(
            obs=adata.obs,
            var=adata.var,
            obsm=dict(adata.obsm),
            varm=dict(adata.varm),
            obsp=dict(adata.obsp),
            uns=dict(adata.uns),
        )
        write_h5ad(added, self._space.stage(stage))
        return self._space.stage(stage)

    def pseudobulk(self) -> AnnData:
        """UMI by subject and population."""
        if self._bulk is None:
            self._bulk = comparison.pseudobulk(
                self.cohort("sources"),
                covariates=covariate_names(self._config),
                min_cells=self._config.shifts.min_cells,
            )
        return self._bulk

    def keep_tables(self, tables: Mapping[str, pd.DataFrame], *, n_jobs: int) -> list[Path]:
        """Write tables by name."""
        for name, table in tables.items():
            self._tables[name] = write_table(table, self._space.table(name), n_jobs=n_jobs)
        return [self._space.table(name) for name in tables]

    def table(self, name: str) -> pd.DataFrame:
        """Return a table of `keys.TABLES`."""
        if name not in self._tables:
            self._tables[name] = read_table(self._space.table(name))
        return self._tables[name]

    def tables(self) -> dict[str, pd.DataFrame]:
        """All tables."""
        return {name: self.table(name) for name in keys.TABLES}
