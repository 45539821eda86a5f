"""The stages of a run on disk: what is done, what is current, read, do, write, stamp."""

from __future__ import annotations

import logging
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from threadpoolctl import threadpool_limits

from crs_sc import keys
from crs_sc._design import design_samples, refuse_unanswerable
from crs_sc._inputs import Inputs
from crs_sc._spread import dealt, is_spread, spread
from crs_sc._stages import (
    annotate_cohort,
    attribute_sources,
    chosen_genes,
    chosen_scoring,
    chosen_signatures,
    cluster_cohort,
    compare_arms,
    genes_of_sources,
    qc_sample,
    raw_matrices,
)
from crs_sc._workspace import (
    Workspace,
    digest,
    library_versions,
    package_version,
    setting_digests,
)
from crs_sc.config import (
    STAGE_FUNCTIONS,
    STAGE_READS,
    RunConfig,
    dump_config,
    is_of_the_user,
    settings_for,
)
from crs_sc.errors import InputError, listing
from crs_sc.io import (
    allow_open_files,
    empty_droplet_profile,
    open_h5ad,
    read_table,
    source_files,
    write_h5ad,
    write_json,
    write_table,
    write_text,
)
from crs_sc.preprocessing import merge_samples, normalize
from crs_sc.sources import condense

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import pandas as pd
    from anndata import AnnData

__all__ = ["STAGES", "Run"]

logger = logging.getLogger("crs_sc")

STAGES = ("qc", "cluster", "annotate", "sources", "compare", "report")


class Run:
    """One cohort in one output folder.

    Parameters
    ----------
    config
        Settings.
    out
        Output folder; made if it is not there.
    n_jobs
        Processes for what can be spread; no result depends on it. With 1, `joblib.parallel_config`
        decides, so that a dask cluster can do it.
    force
        Do every stage again, whatever is there.
    """

    def __init__(
        self, config: RunConfig, out: Path, *, n_jobs: int = 1, force: bool = False
    ) -> None:
        self.config = config
        self.space = Workspace(out)
        self._refuse_overwriting(source_files(list(config.input)))
        self.n_jobs = n_jobs
        self.force = force
        # What was read or made last, so that a run of all stages reads nothing back.
        self._inputs = Inputs(config, self.space, lambda: self._key("samples"))
        self._input_digests: dict[str, str] = {}
        self._cohort: tuple[str, AnnData] | None = None
        # Stages whose files were found whole, or were written, by this object.
        self._verified: set[str] = set()

    def _refuse_overwriting(self, files: Sequence[Path]) -> None:
        """Raise if the run would write over one of these files of the user."""
        for path in files:
            if path.resolve() == self.space.cohort.resolve():
                msg = (
                    f"A run into '{self.space.out}' would write over '{path}'. Choose another "
                    "output folder."
                )
                raise InputError(msg)

    # --- the run ------------------------------------------------------------------------------

    def all_stages(self) -> list[Path]:
        """Do all stages; those that are done and current are skipped.

        Returns
        -------
        The results: cohort, tables, figures and report.
        """
        self._inputs.refuse_too_large()
        for stage in STAGES:
            self.stage(stage)
        out = self.space.out
        return [out / "report.html", self.space.cohort, out / "tables", out / "figures"]

    def stage(self, name: str) -> None:
        """Do one stage of the cohort, from what the stages before left on disk.

        Parameters
        ----------
        name
            One of `STAGES`.

        Raises
        ------
        InputError
            If a stage before it was not done, or was done with other settings.
        """
        if name == "qc":
            self._qc_of_all()
            return
        self._require_before(name)
        self._do(name, getattr(self, f"_{name}"))

    def qc(self, sample: str) -> Path:
        """Do QC of one sample.

        Parameters
        ----------
        sample
            Name of the sample.

        Returns
        -------
        File with the cells that passed.

        Raises
        ------
        InputError
            If there is no such sample.
        """
        if sample not in self.samples():
            msg = f"There is no sample '{sample}'. Samples: {listing(self.samples())}."
            raise InputError(msg)
        path = self.space.sample(sample)

        def work() -> list[Path]:
            cells = self._inputs.cells(sample)
            empty = {
                name: empty_droplet_profile(raw, organism=self.config.organism)
                for name, raw in raw_matrices(cells, self.config).items()
            }
            write_h5ad(qc_sample(cells, self.config, empty_profiles=empty), path)
            return [path]

        self._do(f"qc/{sample}", work)
        return path

    def _qc_of_all(self) -> None:
        """Do QC sample by sample, from one reading of the input where that fits into memory."""
        todo = [n for n in self.samples() if self.force or not self._is_current(f"qc/{n}")]
        jobs = self._inputs.jobs_that_fit(self.n_jobs)
        if len(todo) > 1 and is_spread(jobs):
            self._content()  # the digests of the inputs are read by all
            settings = self.config.model_dump(mode="json")
            # Several to a process, so that it looks at the input once.
            lists = dealt(sorted(todo, key=lambda n: -self.sample_sizes()[n]), n_jobs=jobs)
            calls = [(settings, self.space.out, names, self.force) for names in lists]
            start = time.perf_counter()
            spread(_qc_elsewhere, calls, n_jobs=jobs)
            logger.info("qc: %.1f s", time.perf_counter() - start)
            self._verified.update(f"qc/{name}" for name in todo)
            return
        if len(todo) > 1:
            self._inputs.hold()
        for sample in self.samples():
            self.qc(sample)
        self._inputs.release()

    def samples(self) -> list[str]:
        """Names of the samples, sorted."""
        return list(self.sample_sizes())

    def sample_sizes(self) -> dict[str, int]:
        """Cells of each sample."""
        return self._inputs.sample_sizes()

    # --- stages of the cohort -----------------------------------------------------------------

    def _cluster(self) -> list[Path]:
        adata = self._merged()
        tables = cluster_cohort(adata, self.config, n_jobs=self.n_jobs)
        return self._keep("cluster", adata, tables)

    def _annotate(self) -> list[Path]:
        adata = self._load("cluster")
        tables = annotate_cohort(adata, self.config, n_jobs=self.n_jobs)
        return self._keep("annotate", adata, tables)

    def _sources(self) -> list[Path]:
        adata = self._load("annotate")
        # One pass over the counts instead of one by each function.
        few = condense(adata, genes=genes_of_sources(self.config))
        tables = attribute_sources(few, self.config)
        adata.obs, adata.uns = few.obs, few.uns
        adata.obsm.update(few.obsm)
        self._cohort = ("sources", adata)
        write_h5ad(adata, self.space.cohort)
        return [*self._write_tables(tables), self.space.cohort]

    def _compare(self) -> list[Path]:
        adata = self._load("sources")
        refuse_unanswerable(design_samples(adata, self.config), self.config)
        tables = compare_arms(
            adata,
            self.config,
            ledger=read_table(self.space.table("ledger")),
            producers=read_table(self.space.table("producers")),
            n_jobs=self.n_jobs,
        )
        return self._write_tables(tables)

    def _report(self) -> list[Path]:
        from crs_sc.report import read_truth, write_figures, write_report

        adata = self._load("sources")
        tables = {name: read_table(self.space.table(name)) for name in keys.TABLES}
        resolved = self.config.model_copy(update={"genes": tuple(chosen_genes(self.config))})
        settings = resolved.model_dump(mode="json")
        provenance = self._provenance(settings)
        out = self.space.out
        before = self.files("report")
        figures = write_figures(
            adata,
            tables,
            out / "figures",
            contrasts=self.config.contrasts,
            signatures=chosen_signatures(self.config),
            scoring=chosen_scoring(self.config),
            n_jobs=self.n_jobs,
        )
        settings_file = out / "config.yaml"
        # A config of the user may lie there; the provenance has the settings too.
        if not is_of_the_user(settings_file):
            write_text(dump_config(resolved), settings_file)
        write_json(provenance, out / "provenance.json")
        write_report(
            adata,
            tables,
            figures,
            out / "report.html",
            config=settings,
            provenance=provenance,
            truth=None if self.config.truth is None else read_truth(self.config.truth),
        )
        files = [*figures, settings_file, out / "provenance.json", out / "report.html"]
        # Figures of other settings would be taken for those of this run.
        for path in set(before) - set(files):
            path.unlink(missing_ok=True)
        return files

    def files(self, name: str) -> list[Path]:
        """Files that a finished stage left."""
        stamp = self.space.read_stamp(name) or {"files": {}}
        return [self.space.out / file for file in stamp["files"]]

    # --- doing, keeping, loading --------------------------------------------------------------

    def _do(self, name: str, work: Any) -> None:
        """Do `work` unless its stamp is current, and stamp the files that it returns."""
        if not self.force and self._is_current(name):
            logger.info("%s: unchanged, skipped", name)
            return
        start = time.perf_counter()
        # One thread of the linear algebra: with several the last digits depend on their number.
        with threadpool_limits(limits=1):
            files = work()
        seconds = round(time.perf_counter() - start, 2)
        self.space.finish(name, self._key(name), files, seconds=seconds)
        self._verified.add(name)
        logger.info("%s: %.1f s", name, seconds)

    def _is_current(self, name: str) -> bool:
        if name not in self._verified and self.space.is_current(name, self._key(name)):
            self._verified.add(name)
        return name in self._verified

    def _keep(self, stage: str, adata: AnnData, tables: dict[str, pd.DataFrame]) -> list[Path]:
        """Leave what the stage added, without the matrix, which QC has already written."""
        import anndata as ad

        self._cohort = (stage, adata)
        added = ad.AnnData(
            obs=adata.obs,
            var=adata.var,
            obsm=dict(adata.obsm),
            varm=dict(adata.varm),
            obsp=dict(adata.obsp),
            uns=dict(adata.uns),
        )
        write_h5ad(added, self.space.stage(stage))
        return [self.space.stage(stage), *self._write_tables(tables)]

    def _write_tables(self, tables: dict[str, pd.DataFrame]) -> list[Path]:
        for name, table in tables.items():
            write_table(table, self.space.table(name))
        return [self.space.table(name) for name in tables]

    def _merged(self) -> AnnData:
        """All samples after QC; their counts stay on disk, where QC has written them."""
        allow_open_files(len(self.samples()))
        return merge_samples([open_h5ad(self.space.sample(name)) for name in self.samples()])

    def _load(self, stage: str) -> AnnData:
        """Return the cohort as a stage left it, from memory if it is there."""
        import anndata as ad

        if self._cohort is not None and self._cohort[0] == stage:
            return self._cohort[1]
        if stage == "sources":
            adata = open_h5ad(self.space.cohort)
        else:
            adata = self._merged()
            added = ad.read_h5ad(self.space.stage(stage))
            normalize(adata, **settings_for(self.config, normalize))
            for slot in ("obs", "var", "obsm", "varm", "obsp", "uns"):
                setattr(adata, slot, getattr(added, slot))
        self._cohort = (stage, adata)
        return adata

    # --- what a stage depends on --------------------------------------------------------------

    def _key(self, name: str) -> str:
        """Digest of all that the result of a stage depends on."""
        stage = name.partition("/")[0]
        if stage == "samples":
            return digest(name, package_version(), self._content(), self._settings("qc"))
        index = STAGES.index(stage)
        before = self._key(STAGES[index - 1]) if index else self._content()
        return digest(name, package_version(), before, self._settings(stage))

    def _settings(self, stage: str) -> dict[str, Any]:
        content = self.config.model_dump(mode="json")
        sections = [function.__name__ for function in STAGE_FUNCTIONS.get(stage, ())]
        settings = {name: content[name] for name in (*STAGE_READS[stage], *sections)}
        return settings | setting_digests(settings)

    def _provenance(self, settings: dict[str, Any]) -> dict[str, Any]:
        """Versions, settings, seed, digests of the inputs, and the seconds of each stage."""
        stages = [f"qc/{sample}" for sample in self.samples()] + list(STAGES[1:-1])
        stamps = {name: self.space.read_stamp(name) or {} for name in stages}
        return {
            "crs_sc": package_version(),
            "versions": library_versions(),
            "seed": self.config.seed,
            "inputs": self._input_files()
            | {settings[n]: d for n, d in setting_digests(settings).items()},
            "settings": settings,
            "seconds": {name: stamp.get("seconds") for name, stamp in stamps.items()},
            "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        }

    def _content(self) -> list[str]:
        """Digests of the input files, whatever their names and folders."""
        return list(self._input_files().values())

    def _input_files(self) -> dict[str, str]:
        """Digest of the content of each input file, read once."""
        if not self._input_digests:
            files = source_files(list(self.config.input))
            self._input_digests = {str(p): self.space.input_digest(p) for p in files}
        return self._input_digests

    def _require_before(self, name: str) -> None:
        """Raise unless every stage before `name` is done and current."""
        for stage in STAGES[: STAGES.index(name)]:
            parts = [f"qc/{sample}" for sample in self.samples()] if stage == "qc" else [stage]
            for part in parts:
                if not self._is_current(part):
                    msg = (
                        f"Stage '{name}' needs '{part}', which is not done in "
                        f"'{self.space.out}' with this input and these settings. "
                        f"Run `crs-sc {stage}` first, or `crs-sc run`."
                    )
                    raise InputError(msg)


def _qc_elsewhere(
    settings: dict[str, Any],
    out: Path,
    samples: Sequence[str],
    force: bool,  # noqa: FBT001
) -> None:
    """Do QC of some samples in another process."""
    run = Run(RunConfig(**settings), out, force=force)
    for sample in samples:
        run.qc(sample)
