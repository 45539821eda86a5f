"""A run: its stages one after the other, each done only if what it depends on has changed."""

from __future__ import annotations

import logging
import time
from datetime import UTC, datetime
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from threadpoolctl import threadpool_limits

from crs_sc import keys
from crs_sc.core.memory import (
    CohortSize,
    fits_whole,
    memory_lines,
    memory_of,
    refuse_too_large,
    samples_that_fit,
    size_of,
    stage_memory,
)
from crs_sc.core.parallel import is_parallel, parallel_map
from crs_sc.errors import InputError, listing
from crs_sc.io import source_files, write_json, write_text
from crs_sc.run.config import FILES, SETTINGS_OF, RunConfig, dump_config, is_of_the_user
from crs_sc.run.inputs import chosen_genes, chosen_signatures, input_files, refuse_unusable
from crs_sc.run.stages import (
    annotate_cohort,
    cluster_cohort,
    compare_arms,
    make_pseudobulk,
    qc_sample,
    sources_of_cohort,
)
from crs_sc.run.store import Store, digest, file_digest
from crs_sc.run.versions import code_digest, libraries, package_version

if TYPE_CHECKING:
    from collections.abc import Callable

    from anndata import AnnData

    from crs_sc.io import CohortFiles

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
        Processes for what can be shared out; no result depends on it. With 1,
        `joblib.parallel_config` decides, so that a dask cluster can do it.
    force
        Do every stage again, whatever is there.
    """

    def __init__(
        self, config: RunConfig, out: Path, *, n_jobs: int = 1, force: bool = False
    ) -> None:
        self.config, self.n_jobs, self.force = config, n_jobs, force
        self.store = Store(out)
        for path in source_files(list(config.input)):
            if path.resolve() == self.store.cohort_file.resolve():
                msg = f"A run into '{out}' would write over '{path}'. Choose another output folder."
                raise InputError(msg)
        self._whole: AnnData | None = None
        # Stages whose files were found whole, or were written, by this object.
        self._verified: set[str] = set()

    # --- the run ------------------------------------------------------------------------------

    def all_stages(self) -> list[Path]:
        """Do all stages; those that are done and current are skipped.

        Returns
        -------
        The results: cohort, tables, figures and report.
        """
        needed, limit = stage_memory(self._size()), memory_of(self.config.memory_limit)
        for line in memory_lines(needed, limit=limit):
            logger.info(line)
        refuse_too_large(needed, limit=limit)
        for stage in STAGES:
            self.stage(stage)
        out = self.store.out
        return [out / "report.html", self.store.cohort_file, out / "tables", out / "figures"]

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
        self._do(f"qc/{sample}", partial(self._qc, sample))
        return self.store.sample_file(sample)

    # --- what each stage does -----------------------------------------------------------------

    def _qc(self, sample: str) -> list[Path]:
        return [self.store.write_sample(sample, qc_sample(self._cells(sample), self.config))]

    def _cluster(self) -> list[Path]:
        cohort = self.store.merge(self.samples())
        tables = cluster_cohort(cohort, self.config, n_jobs=self.n_jobs)
        return [*self.store.keep("cluster", cohort), *self._keep_tables(tables)]

    def _annotate(self) -> list[Path]:
        cohort = self.store.cohort(after="cluster")
        tables = annotate_cohort(cohort, self.config, n_jobs=self.n_jobs)
        return [*self.store.keep("annotate", cohort), *self._keep_tables(tables)]

    def _sources(self) -> list[Path]:
        cohort = self.store.cohort(after="annotate")
        tables = sources_of_cohort(cohort, self.config)
        path = self.store.keep_cohort(cohort, target_sum=self.config.normalize.target_sum)
        return [*self._keep_tables(tables), path]

    def _compare(self) -> list[Path]:
        tables = compare_arms(
            self.store.cohort(after="sources"),
            self._pseudobulk,
            self.config,
            tables=self.store.table,
            n_jobs=self.n_jobs,
        )
        return self._keep_tables(tables)

    def _report(self) -> list[Path]:
        from crs_sc.report import read_truth, write_figures, write_report

        config, out = self.config, self.store.out
        cohort, tables = self.store.cohort(after="sources"), self.store.tables()
        resolved = config.model_copy(update={"genes": tuple(chosen_genes(config))})
        settings = resolved.model_dump(mode="json")
        before = self.store.files("report")
        figures = write_figures(
            cohort,
            tables,
            out / "figures",
            contrasts=config.contrasts,
            signatures=chosen_signatures(config),
            n_jobs=self.n_jobs,
        )
        settings_file = out / "config.yaml"
        # A config of the user may lie there; the provenance has the settings too.
        if not is_of_the_user(settings_file):
            write_text(dump_config(resolved), settings_file)
        provenance = self._provenance(settings)
        write_json(provenance, out / "provenance.json")
        write_report(
            cohort,
            tables,
            figures,
            out / "report.html",
            config=settings,
            provenance=provenance,
            truth=None if config.truth is None else read_truth(config.truth),
        )
        files = [*figures, settings_file, out / "provenance.json", out / "report.html"]
        # Figures of other settings would be taken for those of this run.
        for path in set(before) - set(files):
            path.unlink(missing_ok=True)
        return files

    def _pseudobulk(self) -> AnnData:
        return self.store.pseudobulk(partial(make_pseudobulk, config=self.config))

    def _keep_tables(self, tables: dict[str, Any]) -> list[Path]:
        return self.store.keep_tables(tables, n_jobs=self.n_jobs)

    # --- the input ----------------------------------------------------------------------------

    @cached_property
    def _files(self) -> CohortFiles:
        """Cells and genes of the input, if its design can be answered."""
        files = input_files(self.config)
        refuse_unusable(files.header(), self.config)
        return files

    @cached_property
    def _known(self) -> dict[str, Any]:
        """Sizes of the input, remembered on disk so that jobs need not read for them."""
        stamp = self.store.stamp("samples")
        # Before anything is written, the input must be usable.
        if stamp is None or stamp["key"] != self._key("samples"):
            files = self._files
            stamp = {
                "n_cells": files.sample_sizes(),
                "n_genes": len(files.var),
                "n_values": files.n_values,
            }
            self.store.finish("samples", self._key("samples"), [], **stamp)
        return stamp

    def _size(self) -> CohortSize:
        return size_of(**{name: self._known[name] for name in ("n_cells", "n_genes", "n_values")})

    def sample_sizes(self) -> dict[str, int]:
        """Cells of each sample, sorted by name."""
        return {str(name): int(n) for name, n in self._known["n_cells"].items()}

    def samples(self) -> list[str]:
        """Names of the samples, sorted."""
        return list(self.sample_sizes())

    def _cells(self, sample: str) -> AnnData:
        """Return one sample; where the input is not held whole, only its cells are read."""
        if self._whole is None:
            return self._files.read([sample])
        return self._whole[self._whole.obs[keys.SAMPLE] == sample].copy()

    def _qc_of_all(self) -> None:
        """Do QC sample by sample, from one reading of the input where that fits into memory."""
        todo = [n for n in self.samples() if self.force or not self._is_current(f"qc/{n}")]
        size, limit = self._size(), memory_of(self.config.memory_limit)
        jobs = samples_that_fit(self.n_jobs, size, limit=limit)
        if len(todo) > 1 and is_parallel(jobs):
            largest_first = sorted(todo, key=lambda n: -self.sample_sizes()[n])
            start = time.perf_counter()
            parallel_map(self._qc_elsewhere, [(name,) for name in largest_first], n_jobs=jobs)
            logger.info("qc: %.1f s", time.perf_counter() - start)
            self._verified.update(f"qc/{name}" for name in todo)
        else:
            if len(todo) > 1 and fits_whole(size, limit=limit):
                logger.info("reading %s", listing(self.config.input))
                self._whole = self._files.read()
            for sample in self.samples():
                self.qc(sample)
        self._whole = None
        self.__dict__.pop("_files", None)

    def _qc_elsewhere(self, sample: str) -> None:
        """Do QC of one sample in whatever process, for which this object travels there."""
        self._finish(f"qc/{sample}", partial(self._qc, sample))

    # --- what is done and current -------------------------------------------------------------

    def _do(self, name: str, work: Callable[[], list[Path]]) -> None:
        """Do `work` unless its stamp is current, and stamp the files that it returns."""
        if not self.force and self._is_current(name):
            logger.info("%s: unchanged, skipped", name)
            return
        logger.info("%s: %.1f s", name, self._finish(name, work))

    def _finish(self, name: str, work: Callable[[], list[Path]]) -> float:
        """Do `work`, stamp the files that it returns; its seconds."""
        start = time.perf_counter()
        # One thread of the linear algebra: with several the last digits depend on their number.
        with threadpool_limits(limits=1):
            files = work()
        seconds = round(time.perf_counter() - start, 2)
        self.store.finish(name, self._key(name), files, seconds=seconds)
        self._verified.add(name)
        return seconds

    def _is_current(self, name: str) -> bool:
        if name not in self._verified and self.store.is_current(name, self._key(name)):
            self._verified.add(name)
        return name in self._verified

    def _require_before(self, name: str) -> None:
        """Raise unless every stage before `name` is done and current."""
        for stage in STAGES[: STAGES.index(name)]:
            parts = [f"qc/{sample}" for sample in self.samples()] if stage == "qc" else [stage]
            for part in parts:
                if not self._is_current(part):
                    msg = (
                        f"Stage '{name}' needs '{part}', which is not done in '{self.store.out}' "
                        "with this input, these settings and this version. "
                        f"Run `crs-sc {stage}` first, or `crs-sc run`."
                    )
                    raise InputError(msg)

    def _key(self, name: str) -> str:
        """Digest of all that the result of a stage depends on.

        That is the code that it runs, the libraries that this imports, the settings that it reads,
        and the stage before, or the content of the input.
        """
        stage = "qc" if name == "samples" else name.partition("/")[0]
        before: Any = list(self._input_files.values())
        if index := STAGES.index(stage):
            before = self._key(STAGES[index - 1])
        return digest(name, code_digest(stage), libraries(stage), before, self._settings(stage))

    def _settings(self, stage: str) -> dict[str, Any]:
        content = self.config.model_dump(mode="json")
        settings = {name: content[name] for name in SETTINGS_OF[stage]}
        return settings | _file_digests(settings)

    @cached_property
    def _input_files(self) -> dict[str, str]:
        """Digest of the content of each input file, whatever its name and folder."""
        files = source_files(list(self.config.input))
        return {str(path): self.store.input_digest(path) for path in files}

    def _provenance(self, settings: dict[str, Any]) -> dict[str, Any]:
        """Versions, settings, seed, digests of the inputs, and the seconds of each stage."""
        stages = [f"qc/{sample}" for sample in self.samples()] + list(STAGES[1:-1])
        stamps = {name: self.store.stamp(name) or {} for name in stages}
        return {
            "crs_sc": package_version(),
            "versions": libraries(),
            "seed": self.config.seed,
            "inputs": self._input_files
            | {settings[name]: sha256 for name, sha256 in _file_digests(settings).items()},
            "settings": settings,
            "seconds": {name: stamp.get("seconds") for name, stamp in stamps.items()},
            "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        }


def _file_digests(settings: dict[str, Any]) -> dict[str, str]:
    """Digests of the files that settings name, by setting."""
    return {name: file_digest(Path(settings[name])) for name in FILES if settings.get(name)}
