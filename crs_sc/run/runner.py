"""The stages of a run on disk: what is done, what is current, read, do, write, stamp."""

from __future__ import annotations

import logging
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from threadpoolctl import threadpool_limits

from crs_sc.core.parallel import is_parallel, parallel_map
from crs_sc.errors import InputError, listing
from crs_sc.io import (
    empty_droplet_profile,
    source_files,
    write_h5ad,
    write_json,
    write_text,
)
from crs_sc.run.config import (
    SETTINGS_OF,
    RunConfig,
    dump_config,
    is_of_the_user,
)
from crs_sc.run.design import design_samples, refuse_unanswerable
from crs_sc.run.inputs import Inputs
from crs_sc.run.results import Results
from crs_sc.run.stages import (
    annotate_cohort,
    attribute_sources,
    chosen_genes,
    chosen_signatures,
    cluster_cohort,
    compare_arms,
    empty_comparisons,
    genes_of_sources,
    order_of_onset,
    qc_sample,
    raw_matrices,
)
from crs_sc.run.workspace import (
    Workspace,
    digest,
    library_versions,
    package_version,
    setting_digests,
)
from crs_sc.sources import condense

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    import pandas as pd

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
        self._inputs = Inputs(config, self.space, lambda: self._key("samples"))
        self._input_digests: dict[str, str] = {}
        self._results = Results(config, self.space, self.samples)
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
        self._do(f"qc/{sample}", lambda: self._qc(sample))
        return self.space.sample(sample)

    def _qc(self, sample: str) -> list[Path]:
        cells = self._inputs.cells(sample)
        empty = {
            name: empty_droplet_profile(raw, organism=self.config.organism)
            for name, raw in raw_matrices(cells, self.config).items()
        }
        path = self.space.sample(sample)
        write_h5ad(qc_sample(cells, self.config, empty_profiles=empty), path)
        return [path]

    def _qc_quietly(self, sample: str) -> None:
        """Do QC of one sample in whatever process, for which this object travels there."""
        self._finish(f"qc/{sample}", lambda: self._qc(sample))

    def _qc_of_all(self) -> None:
        """Do QC sample by sample, from one reading of the input where that fits into memory."""
        todo = [n for n in self.samples() if self.force or not self._is_current(f"qc/{n}")]
        jobs = self._inputs.jobs_that_fit(self.n_jobs)
        if len(todo) > 1 and is_parallel(jobs):
            largest_first = sorted(todo, key=lambda n: -self.sample_sizes()[n])
            start = time.perf_counter()
            parallel_map(self._qc_quietly, [(name,) for name in largest_first], n_jobs=jobs)
            logger.info("qc: %.1f s", time.perf_counter() - start)
            self._verified.update(f"qc/{name}" for name in todo)
            self._inputs.release()
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
        adata = self._results.merged()
        tables = cluster_cohort(adata, self.config, n_jobs=self.n_jobs)
        return [self._results.keep("cluster", adata), *self._write(tables)]

    def _annotate(self) -> list[Path]:
        adata = self._results.cohort("cluster")
        tables = annotate_cohort(adata, self.config, n_jobs=self.n_jobs)
        return [self._results.keep("annotate", adata), *self._write(tables)]

    def _sources(self) -> list[Path]:
        adata = self._results.cohort("annotate")
        # One pass over the counts instead of one by each function.
        few = condense(adata, genes=genes_of_sources(self.config))
        tables = attribute_sources(few, self.config)
        adata.obs, adata.uns = few.obs, few.uns
        adata.obsm.update(few.obsm)
        return [*self._write(tables), self._results.keep("sources", adata)]

    def _compare(self) -> list[Path]:
        samples = design_samples(self._results.cohort("sources"), self.config)
        refuse_unanswerable(samples, self.config)
        ledger = self._results.table("ledger")
        tables = {"onset": order_of_onset(ledger, samples, self.config)}
        if self.config.contrasts:
            tables |= compare_arms(
                self._results.pseudobulk(),
                self.config,
                samples=samples,
                ledger=ledger,
                producers=self._results.table("producers"),
                n_jobs=self.n_jobs,
            )
        else:
            tables |= empty_comparisons()
        return self._write(tables)

    def _write(self, tables: dict[str, pd.DataFrame]) -> list[Path]:
        return self._results.keep_tables(tables, n_jobs=self.n_jobs)

    def _report(self) -> list[Path]:
        from crs_sc.report import read_truth, write_figures, write_report

        adata, tables = self._results.cohort("sources"), self._results.tables()
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

    # --- doing --------------------------------------------------------------------------------

    def _do(self, name: str, work: Callable[[], list[Path]]) -> None:
        """Do `work` unless its stamp is current, and stamp the files that it returns."""
        if not self.force and self._is_current(name):
            logger.info("%s: unchanged, skipped", name)
            return
        seconds = self._finish(name, work)
        logger.info("%s: %.1f s", name, seconds)

    def _finish(self, name: str, work: Callable[[], list[Path]]) -> float:
        """Do `work`, stamp the files that it returns; its seconds."""
        start = time.perf_counter()
        # One thread of the linear algebra: with several the last digits depend on their number.
        with threadpool_limits(limits=1):
            files = work()
        seconds = round(time.perf_counter() - start, 2)
        self.space.finish(name, self._key(name), files, seconds=seconds)
        self._verified.add(name)
        return seconds

    def _is_current(self, name: str) -> bool:
        if name not in self._verified and self.space.is_current(name, self._key(name)):
            self._verified.add(name)
        return name in self._verified

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
        settings = {name: content[name] for name in SETTINGS_OF[stage]}
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
