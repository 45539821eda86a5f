"""Leave a simulated cohort on disk as a lab would, with the truth beside it."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import yaml

from crs_sc import io, keys
from crs_sc.datasets.sampling import draw_samples, make_world
from crs_sc.datasets.simulate import DESCRIPTION, LAB_NAMES, plan_of
from crs_sc.datasets.truth import Book, describe
from crs_sc.errors import InputError
from crs_sc.io._write import GuardedFile, full_disk_error

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from contextlib import AbstractContextManager
    from os import PathLike

    from numpy.typing import NDArray
    from scipy import sparse

    from crs_sc.datasets.sampling import Sample, World
    from crs_sc.datasets.simulate import SimulatedCohort

__all__ = ["growing_h5ad", "read_settings", "simulate_to_disk", "write_cohort"]

# Elements a chunk of HDF5.
_CHUNK = 1 << 16
_COHORT, _SHEET = "cohort.h5ad", "samples.tsv"
_CONFIG = """\
# A simulated CRS cohort: no animal and no patient is in it.
# crs-sc run config.yaml -o OUT

input: {input}                  # relative to this file
columns:                            # your names of the columns of obs
  sample: lib                       # one library
  subject: mouse                    # the animal: the unit of replication
  condition: arm                    # the arm of the study
{columns}
{contrasts}
genes: [{genes}]                  # the cytokines of the ledger
organism: {organism}               # two genomes; the first is analysed
{transgene}seed: 0

truth: truth                        # what was planted; only a simulated cohort has it
"""
_TRANSGENE = "transgene: [{}]                    # features of the CAR construct\n"
_BEFORE = "call_transgene: {before: [vehicle]}  # samples without the product: false positives\n"
# By the parameter that asks for them.
_MORE_COLUMNS = {
    "timepoints": "  timepoint: day                    # when the animal was sampled\n",
    "batches": "  batch: batch                      # a block of the tests\n",
}


def read_settings(path: str | PathLike[str]) -> dict[str, Any]:
    """Read settings of a simulated cohort from a YAML file.

    Parameters
    ----------
    path
        Parameters of `simulate_cohort` by name, or the `truth/settings.yaml` of a cohort, whose
        `parameters` make it again.

    Returns
    -------
    The parameters by name, for `simulate_to_disk` and `iter_samples`, which check them.

    Raises
    ------
    InputError
        If the file cannot be read or is no mapping.

    Examples
    --------
    >>> from pathlib import Path
    >>> import crs_sc as crs
    >>> _ = Path("settings.yaml").write_text("cells_per_sample: 500", encoding="utf-8")
    >>> crs.datasets.read_settings("settings.yaml")
    {'cells_per_sample': 500}
    """
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        msg = f"'{path}' cannot be read as YAML: {error}"
        raise InputError(msg) from error
    content = {} if content is None else content
    if isinstance(content, dict) and isinstance(content.get("parameters"), dict):
        content = content["parameters"]
    if not isinstance(content, dict):
        msg = f"'{path}' must hold settings by name, such as `cells_per_sample: 500`."
        raise InputError(msg)
    return {str(name): value for name, value in content.items()}


def write_cohort(cohort: SimulatedCohort, out_dir: str | PathLike[str]) -> Path:
    """Write a simulated cohort, a config that is ready to run, and the truth.

    Parameters
    ----------
    cohort
        Result of :func:`simulate_cohort`.
    out_dir
        Folder; made if it is not there. Files of the same names are replaced.

    Returns
    -------
    Path of the config. Writes `cohort.h5ad`, `config.yaml`, `truth/settings.yaml` and each table
    of the truth as `truth/NAME.tsv`. With empty droplets there is no `cohort.h5ad` but a sample
    sheet `samples.tsv`, and for each sample a filtered and a raw matrix in `samples/`.

    Examples
    --------
    >>> import crs_sc as crs
    >>> cohort = crs.datasets.simulate_cohort(n_subjects_per_arm=1, cells_per_sample=50)
    >>> crs.datasets.write_cohort(cohort, "simulated").name
    'config.yaml'
    """
    out = Path(out_dir)
    for name, table in cohort.truth.items():
        io.write_table(table, out / "truth" / f"{name}.tsv")
    adata = cohort.adata
    genes, names = adata.var_names.to_list(), adata.obs_names.to_numpy(dtype=str)
    for sample, empty in cohort.empty_droplets.items():
        rows = np.flatnonzero(adata.obs[LAB_NAMES["sample"]] == sample)
        with _sample_files(out, sample, genes) as (filtered, raw):
            for file in (filtered, raw):
                file.append(adata.X[rows], names[rows].tolist(), {})
            raw.append(empty, _empty_names(sample, empty.shape[0]), {})
    if cohort.empty_droplets:
        _write_sheet(out, cohort.truth["samples"])
    else:
        io.write_h5ad(adata, out / _COHORT)
    return _write_settings(out, cohort.settings)


def simulate_to_disk(
    out_dir: str | PathLike[str], *, settings: Mapping[str, Any] | None = None
) -> Path:
    """Simulate a cohort of any size straight to disk.

    Leaves what `write_cohort` leaves of `simulate_cohort` with the same settings. At most 10,000
    droplets are in memory at a time, so that memory grows neither with the number of samples nor
    with their size; a sample of more is drawn twice.

    Parameters
    ----------
    out_dir
        Folder; made if it is not there. Files of the same names are replaced.
    settings
        Parameters of :func:`simulate_cohort` by name, such as from :func:`read_settings`; those
        left out take its defaults.

    Returns
    -------
    Path of the config. It is written last, and an older one is removed first: a cohort without a
    config is not finished.

    Raises
    ------
    InputError
        If a setting is unknown or out of range, the folder cannot be written to, or the disk is
        full.

    Examples
    --------
    >>> import crs_sc as crs
    >>> settings = {"n_subjects_per_arm": 1, "cells_per_sample": 50}
    >>> crs.datasets.simulate_to_disk("simulated", settings=settings).name
    'config.yaml'
    """
    world = make_world(plan_of(settings))
    plan, genes, out = world.plan, world.profiles.genes.index.to_list(), Path(out_dir)
    book = Book(world)
    (out / "config.yaml").unlink(missing_ok=True)
    with contextlib.ExitStack() as stack:
        tables = {
            name: stack.enter_context(growing_table(out / "truth" / f"{name}.tsv"))
            for name in ("cells", "producer_cells", "soup")
        }
        whole = None if plan.n_empty_droplets else stack.enter_context(_whole_file(out, world))
        for sample in draw_samples(world):
            with contextlib.ExitStack() as own:
                name = sample.library.identity["sample"]
                files = (
                    own.enter_context(_sample_files(out, name, genes))
                    if whole is None
                    else (whole,)
                )
                _append_sample(files, tables, sample=sample, book=book)
                if plan.n_empty_droplets:
                    empty = sample.empty_droplets()
                    files[-1].append(empty, _empty_names(name, empty.shape[0]), {})
        small = book.tables()
        for name, table in small.items():
            io.write_table(table, out / "truth" / f"{name}.tsv")
    if plan.n_empty_droplets:
        _write_sheet(out, small["samples"])
    return _write_settings(out, describe(world))


def _append_sample(
    files: Sequence[GrowingH5ad],
    tables: Mapping[str, GrowingTable],
    *,
    sample: Sample,
    book: Book,
) -> None:
    """Draw the cells of a sample into the files, and their truth into the tables."""
    for name, table in book.open(sample).items():
        tables[name].append(table)
    identity = {LAB_NAMES[name]: value for name, value in sample.library.identity.items()}
    for part in sample.parts():
        rows = book.add(part, sample)
        for file in files:
            file.append(part.counts, rows["cells"]["cell"].to_list(), identity)
        for name, table in rows.items():
            tables[name].append(table)


def _whole_file(out: Path, world: World) -> AbstractContextManager[GrowingH5ad]:
    """Return the one file of the cohort, with the columns of the design."""
    design = pd.DataFrame([library.identity for library in world.plan.libraries()])
    columns = {LAB_NAMES[name]: sorted(design[name].unique()) for name in design.columns}
    genes = world.profiles.genes.index.to_list()
    return growing_h5ad(out / _COHORT, genes=genes, columns=columns, description=DESCRIPTION)


@contextlib.contextmanager
def _sample_files(
    out: Path, sample: str, genes: list[str]
) -> Iterator[tuple[GrowingH5ad, GrowingH5ad]]:
    """Open the filtered and the raw matrix of a sample; the sheet says what it is."""
    paths = [out / path for path in _sample_paths(sample)]
    with (
        growing_h5ad(paths[0], genes=genes, columns={}, description=DESCRIPTION) as filtered,
        growing_h5ad(paths[1], genes=genes, columns={}, description=DESCRIPTION) as raw,
    ):
        yield filtered, raw


def _sample_paths(sample: str) -> tuple[str, str]:
    return f"samples/{sample}.h5ad", f"samples/{sample}_raw.h5ad"


def _empty_names(sample: str, n: int) -> list[str]:
    return [f"{sample}_empty_{droplet + 1:06d}" for droplet in range(n)]


def _write_sheet(out: Path, samples: pd.DataFrame) -> None:
    """Sample sheet with the lab's own names of the columns."""
    design = samples[[name for name in LAB_NAMES if name in samples.columns]]
    paths = [_sample_paths(sample) for sample in samples["sample"]]
    sheet = design.rename(columns=LAB_NAMES)
    sheet.insert(0, "path", [filtered for filtered, _ in paths])
    sheet.insert(1, keys.RAW_PATH, [raw for _, raw in paths])
    io.write_table(sheet, out / _SHEET)


def _write_settings(out: Path, settings: dict[str, Any]) -> Path:
    io.write_text(yaml.safe_dump(settings, sort_keys=False), out / "truth" / "settings.yaml")
    io.write_text(_config_text(settings), out / "config.yaml")
    return out / "config.yaml"


def _config_text(settings: dict[str, Any]) -> str:
    lines = ["contrasts:                          # estimates are treated less reference"]
    for contrast in settings["contrasts"]:
        fields = {name: contrast[name] for name in ("name", "treated", "reference", "baseline")}
        fields |= {"paired": "true" if contrast["paired"] else "", "within": contrast["within"]}
        given = ", ".join(f"{name}: {value}" for name, value in fields.items() if value)
        lines.append(f"  - {{{given}}}")
    given = settings["parameters"]
    more = [text for name, text in _MORE_COLUMNS.items() if given[name]]
    is_human = settings["organism"].startswith("human")
    main = {gene.upper(): gene for gene in settings["genes"]}
    before = _BEFORE if "vehicle" in given["arms"] else ""
    return _CONFIG.format(
        input=f"{_SHEET if given['n_empty_droplets'] else _COHORT}",
        columns="".join(more),
        contrasts="\n".join(lines) + "\n" if len(lines) > 1 else "",
        genes=", ".join([main["IL1B"], main["IL6"]]),
        organism=settings["organism"],
        # Only human cells have it.
        transgene=_TRANSGENE.format(settings["transgene"]) + before if is_human else "",
    )


class GrowingH5ad:
    """An h5ad in the making; from :func:`growing_h5ad`. Its counts go to disk as they come."""

    def __init__(
        self, file: Any, genes: Sequence[str], columns: Mapping[str, Sequence[str]]
    ) -> None:
        from anndata.io import sparse_dataset, write_elem
        from scipy import sparse

        empty = sparse.csr_matrix((0, len(genes)), dtype=np.float32)
        # In 64 bits from the start: a file may come to hold more than 2**31 counts.
        empty.indptr = empty.indptr.astype(np.int64)
        write_elem(file, "X", empty, dataset_kwargs={"chunks": (_CHUNK,)})
        self._file, self._counts = file, sparse_dataset(file["X"])
        self._var = pd.DataFrame(index=pd.Index(np.array(genes, dtype=object), dtype=object))
        self._categories = {name: list(values) for name, values in columns.items()}
        self._codes: dict[str, list[NDArray[np.int16]]] = {name: [] for name in columns}
        self._names: list[str] = []

    def append(
        self, counts: sparse.csr_matrix, names: Sequence[str], identity: Mapping[str, str]
    ) -> None:
        """Add cells: counts, names, and the value of each column, the same for all of them."""
        self._counts.append(counts.astype(np.float32, copy=False))
        self._names.extend(names)
        for name, values in self._categories.items():
            code = values.index(identity[name])
            self._codes[name].append(np.full(len(names), code, dtype=np.int16))

    def finish(self, description: str) -> None:
        """Write everything but the counts."""
        from anndata.io import write_elem

        columns = {
            name: pd.Categorical.from_codes(
                np.concatenate([*codes, []]).astype(np.int16), pd.Index(values)
            )
            for (name, codes), values in zip(
                self._codes.items(), self._categories.values(), strict=True
            )
        }
        index = pd.Index(np.array(self._names, dtype=object), dtype=object)
        write_elem(self._file, "obs", pd.DataFrame(columns, index=index))
        write_elem(self._file, "var", self._var)
        write_elem(self._file, "uns", {"description": description})
        pointers = self._file["X/indptr"][...]
        if pointers[-1] < 1 << 31:
            # scipy wants one type for indices and pointers.
            del self._file["X/indptr"]
            self._file["X/indptr"] = pointers.astype(np.int32)
        for name in ("obsm", "varm", "obsp", "varp", "layers"):
            write_elem(self._file, name, {})
        self._file.attrs.update({"encoding-type": "anndata", "encoding-version": "0.1.0"})


@contextlib.contextmanager
def growing_h5ad(
    path: Path, *, genes: Sequence[str], columns: Mapping[str, Sequence[str]], description: str
) -> Iterator[GrowingH5ad]:
    """Write an h5ad cells by cells; it is there when the body ends, and not if the body raises.

    `columns` are those of `obs` and the values that each can have.
    """
    import h5py

    with io.atomic_path(path) as temporary, GuardedFile(temporary) as guard:
        with h5py.File(guard, "w") as file:
            growing = GrowingH5ad(file, genes, columns)
            yield growing
            growing.finish(description)
        if guard.error is not None:
            raise full_disk_error(path, guard.error) from guard.error


class GrowingTable:
    """A table in the making, in the format of `io.write_table`; from :func:`growing_table`."""

    def __init__(self, handle: Any) -> None:
        self._handle = handle
        self._is_new = True

    def append(self, frame: pd.DataFrame) -> None:
        """Add rows."""
        frame.to_csv(
            self._handle, sep="\t", index=False, header=self._is_new, lineterminator="\n", na_rep=""
        )
        self._is_new = False


@contextlib.contextmanager
def growing_table(path: Path) -> Iterator[GrowingTable]:
    """Write a table rows by rows; it is there when the body ends, and not if the body raises."""
    with (
        io.atomic_path(path) as temporary,
        temporary.open("w", encoding="utf-8", newline="\n") as handle,
    ):
        yield GrowingTable(handle)
