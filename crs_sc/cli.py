"""The command line: a thin shell over `steps`. Heavy imports wait until a command runs."""

from __future__ import annotations

import logging
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from crs_sc.run.config import RunConfig
    from crs_sc.run.runner import Run

__all__ = ["main"]

_IN = click.Path(path_type=Path)
_CONFIG = click.argument("config", type=_IN)
_OUT = click.option("-o", "--out", type=_IN, required=True, help="Output folder.")
_JOBS = click.option(
    "-j", "--jobs", type=click.IntRange(min=1), default=1, show_default=True,
    help="Processes; no result depends on it.",
)  # fmt: skip


def _processors() -> int:
    from crs_sc.core.threads import processor_count

    return processor_count()


# One process for each processor, where the whole run is one command.
_ALL_JOBS = click.option(
    "-j", "--jobs", type=click.IntRange(min=1), default=_processors,
    show_default="the processors given to it", help="Processes; no result depends on it.",
)  # fmt: skip
_FORCE = click.option("--force", is_flag=True, help="Do it again even if nothing has changed.")
_MEMORY = click.option(
    "--memory", type=click.FloatRange(min=0, min_open=True),
    help="Memory in GB that may be used, in place of `memory_limit` of the config.",
)  # fmt: skip


class _Group(click.Group):
    """Commands in the order of a run; expected errors are one line and exit 1."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return list(self.commands)

    def invoke(self, ctx: click.Context) -> Any:
        from crs_sc.errors import CrsError

        try:
            return super().invoke(ctx)
        except CrsError as error:
            if ctx.params.get("verbose"):
                raise
            _fail(str(error))
        except BrokenPipeError:
            sys.exit(1)
        except OSError as error:
            if ctx.params.get("verbose"):
                raise
            _fail(f"{error.strerror or error}: '{error.filename}'")


def _fail(message: str) -> NoReturn:
    click.echo(f"crs-sc: error: {message}", err=True)
    sys.exit(1)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("-v", "--verbose", is_flag=True, help="Tracebacks and the libraries' warnings.")
@click.option("-q", "--quiet", is_flag=True, help="No progress.")
@click.version_option(package_name="crs_sc")
def main(*, verbose: bool, quiet: bool) -> None:
    """Find which cells make IL-1 and IL-6, and whether a treatment shifts it.

    Start with `crs-sc demo -o demo`, or with your own file: `crs-sc init FILE.h5ad`,
    `crs-sc check CONFIG`, `crs-sc run CONFIG -o OUT`.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger = logging.getLogger("crs_sc")
    logger.handlers = [handler]
    logger.setLevel(logging.WARNING if quiet else logging.INFO)
    if not verbose:
        _only_own_warnings()


def _only_own_warnings() -> None:
    """Show this package's warnings as a line each; those of libraries only with -v."""
    from crs_sc.errors import CrsWarning

    warnings.simplefilter("ignore")
    warnings.simplefilter("always", CrsWarning)

    def show(message: Warning | str, *_: Any, **__: Any) -> None:
        click.echo(f"crs-sc: warning: {message}", err=True)

    warnings.showwarning = show


def _config(path: Path, memory: float | None) -> RunConfig:
    from crs_sc.run.config import load_config

    config = load_config(path)
    return config if memory is None else config.model_copy(update={"memory_limit": memory})


def _run(
    config: Path,
    out: Path,
    *,
    jobs: int = 1,
    force: bool = False,
    memory: float | None = None,
) -> Run:
    from crs_sc.run.runner import Run

    return Run(_config(config, memory), out, n_jobs=jobs, force=force)


def _started(jobs: int) -> AbstractContextManager[None]:
    """Start other processes; they import what the stages need while this one goes on."""
    from crs_sc.core.parallel import started

    libraries = ("faiss", "igraph", "sklearn.metrics", "matplotlib.pyplot", "pydeseq2.ds")
    return started(("crs_sc.run.runner", "crs_sc.report", *libraries), n_jobs=jobs)


@main.command()
@_OUT
@_ALL_JOBS
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
def demo(*, out: Path, jobs: int, seed: int) -> None:
    """Simulate a small cohort, analyse it, print planted beside found."""
    from crs_sc.datasets import simulate_cohort, write_cohort
    from crs_sc.report import planted_beside_found

    folder = out / "simulated"
    with _started(jobs):
        write_cohort(simulate_cohort(random_state=seed), folder)
        results = _run(folder / "config.yaml", out, jobs=jobs).all_stages()
    click.echo(planted_beside_found(out / "tables", folder / "truth"), err=True)
    _print(results)


@main.command()
@_CONFIG
@_OUT
@_ALL_JOBS
@_MEMORY
@_FORCE
@click.option("--dask", metavar="SCHEDULER", help="Spread over a dask cluster, not over -j.")
def run(
    *, config: Path, out: Path, jobs: int, memory: float | None, force: bool, dask: str | None
) -> None:
    """Analyse the cohort of CONFIG: all stages, from the files to the report."""
    from crs_sc.core.parallel import over_dask

    jobs = 1 if dask else jobs
    with over_dask(dask) if dask else _started(jobs):
        _print(_run(config, out, jobs=jobs, force=force, memory=memory).all_stages())


@main.command()
@click.argument("files", nargs=-1, required=True, type=_IN)
@click.option("-o", "--out", type=_IN, default=Path("config.yaml"), show_default=True,
              help="Config to write.")  # fmt: skip
@click.option("--force", is_flag=True, help="Write over an existing config.")
def init(*, files: tuple[Path, ...], out: Path, force: bool) -> None:
    """Look at FILES and write a commented config with the best guesses."""
    from crs_sc.run.init import write_guessed_config

    _print([write_guessed_config(list(files), out, overwrite=force)])


@main.command()
@_CONFIG
@_MEMORY
def check(*, config: Path, memory: float | None) -> None:
    """Say whether input and design are sound; changes nothing."""
    from crs_sc.run.check import check_report

    text, is_sound = check_report(_config(config, memory))
    click.echo(text)
    sys.exit(0 if is_sound else 1)


@main.command()
@_OUT
@click.option("--settings", type=_IN, help="YAML with parameters of simulate_cohort.")
@click.option("--seed", type=click.IntRange(min=0), help="Seed, in place of that of the settings.")
def simulate(*, out: Path, settings: Path | None, seed: int | None) -> None:
    """Simulate a cohort with planted truth, sample by sample: data, config and truth tables."""
    from crs_sc.datasets import read_settings, simulate_to_disk

    chosen = {} if settings is None else read_settings(settings)
    if seed is not None:
        chosen["random_state"] = seed
    _print([simulate_to_disk(out, settings=chosen), out / "truth"])


@main.command()
@_CONFIG
@_OUT
@_FORCE
@click.option("--sample", help="Only this sample.")
def qc(*, config: Path, out: Path, force: bool, sample: str | None) -> None:
    """Stage 1, by sample: species, quality, ambient RNA, doublets."""
    run = _run(config, out, force=force)
    names = run.samples() if sample is None else [sample]
    _print([run.qc(name) for name in names])


@main.command()
@_CONFIG
@_OUT
def samples(*, config: Path, out: Path) -> None:
    """Print the samples, the file stems of their QC, and their cells (for workflows)."""
    run = _run(config, out)
    for name, n_cells in run.sample_sizes().items():
        click.echo(f"{name}\t{run.store.sample_file(name).stem}\t{n_cells}")


def _stage(name: str, help_text: str) -> None:
    @main.command(name=name, help=help_text)
    @_CONFIG
    @_OUT
    @_JOBS
    @_FORCE
    def command(*, config: Path, out: Path, jobs: int, force: bool) -> None:
        run = _run(config, out, jobs=jobs, force=force)
        run.stage(name)
        _print(run.store.files(name))


_stage("cluster", "Stage 2: merge, normalise, select genes, embed, cluster.")
_stage("annotate", "Stage 3: cell types, myeloid states, signature scores.")
_stage("sources", "Stage 4: producers and the source ledger; writes cohort.h5ad.")
_stage("compare", "Stage 5: shifts, decomposition, reversal, composition, expression.")
_stage("report", "Stage 6: figures, report.html, provenance.")


@main.command()
@click.argument("file", required=False, type=_IN)
@click.option("--organism", default="human", show_default=True,
              type=click.Choice(["human", "mouse", "human+mouse", "mouse+human"]))  # fmt: skip
@click.option("--gene-sets", type=_IN, help="Your own gene sets too: GMT, or TSV with set, symbol.")
def genesets(*, file: Path | None, organism: str, gene_sets: Path | None) -> None:
    """List the gene sets as TSV, with their sources and how much of each FILE can see."""
    from crs_sc.genesets import overview
    from crs_sc.io import gene_symbols

    names = None if file is None else gene_symbols(file, organism=organism)
    analysed: Any = organism.partition("+")[0]
    table = overview(names, organism=analysed, user=gene_sets)
    click.echo(table.to_csv(sep="\t", index=False, lineterminator="\n"), nl=False)


@main.command()
@_CONFIG
@_OUT
@_MEMORY
def attribute(*, config: Path, out: Path, memory: float | None) -> None:
    """Attribution alone, for one h5ad with labels: its counts are gone over once, on disk."""
    from threadpoolctl import threadpool_limits

    from crs_sc.run.attribute import attribute as attribute_file

    with threadpool_limits(limits=1):
        _print(attribute_file(_config(config, memory), out))


@main.command()
def schema() -> None:
    """Print the JSON schema of a CONFIG, for editors that complete and check YAML."""
    import json

    from crs_sc.run.config import config_schema

    click.echo(json.dumps(config_schema(), indent=2))


@main.command("keys")
def show_keys() -> None:
    """List every AnnData slot and table column that the package writes."""
    from crs_sc import keys

    for spec in keys.ALL_KEYS:
        unit = f" [{spec.unit}]" if spec.unit else ""
        click.echo(f"{spec.slot}['{spec.name}']\t{spec.dtype} {spec.shape}{unit}\t{spec.meaning}")
    for table in keys.TABLES.values():
        click.echo(f"\ntables/{table.name}.tsv: {table.meaning}")
        for column in table.columns:
            click.echo(f"  {column.name}\t{column.dtype}\t{column.meaning}")


def _print(paths: list[Path]) -> None:
    for path in paths:
        click.echo(str(path))
