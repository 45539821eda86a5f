"""How much memory there is, and how much each stage will need: said before the work begins."""

from __future__ import annotations

import resource
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crs_sc.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "CohortSize",
    "attribution_chunk",
    "available_memory",
    "fits_whole",
    "job_memory",
    "memory_lines",
    "memory_of",
    "refuse_too_large",
    "samples_that_fit",
    "size_of",
    "stage_memory",
]

_GB = 1e9
# Python with the libraries that attribution loads, and with those of all stages.
_BASE, _BASE_OF_RUN = 0.3 * _GB, 0.9 * _GB
# A stored value of a sparse matrix, float32 and int32.
_VALUE = 8
# Values of a chunk: more makes nothing faster, fewer makes it slow.
_MOST_VALUES, _FEWEST_VALUES = 1 << 20, 1 << 16
# A pass holds three chunks, and copies of parts of one.
_CHUNKS = 5
# Bytes of a row of `obs` with its name, and of all that a pass and the calls keep of a cell.
_CELL_OF_PASS = 350
# Bytes of a gene in a row of the pseudobulk: sums, and three sparse matrices of the same size.
_SUM = 44
# The cohort stays on disk. Of each value: the genes that are selected, or mark a cell type, are a
# quarter of them at the most, and are held twice while they are put together.
_SELECTED = 0.25 * 2 * _VALUE
# Counts of one sample as read, of the analysed genome, of the cells that pass, and normalised.
_COPIES_OF_SAMPLE = 6.5
# Populations that are found in blood or a lymphoid organ.
_POPULATIONS = 20
# Components, neighbours, graph, layout and scores of a cell.
_CELL_OF_COHORT = 4000


@dataclass(frozen=True)
class CohortSize:
    """What the memory of a run depends on.

    Attributes
    ----------
    n_cells, n_genes
        Size of the cohort.
    n_values
        Counts that are not zero.
    largest_sample
        Share of the cells that are in the largest sample.
    n_groups
        Samples times populations, as far as they are known.
    """

    n_cells: int
    n_genes: int
    n_values: int
    largest_sample: float
    n_groups: int


def size_of(n_cells: Mapping[str, int], *, n_genes: int, n_values: int) -> CohortSize:
    """Size of a cohort whose populations are not known yet.

    Parameters
    ----------
    n_cells
        Cells of each sample.
    n_genes, n_values
        Of the cohort.
    """
    total = sum(n_cells.values())
    return CohortSize(
        n_cells=total,
        n_genes=n_genes,
        n_values=n_values,
        largest_sample=max(n_cells.values()) / total,
        n_groups=_POPULATIONS * len(n_cells),
    )


def stage_memory(size: CohortSize) -> dict[str, float]:
    """Peak memory of each stage of a run in bytes, about.

    Parameters
    ----------
    size
        Of the cohort before quality control.

    Returns
    -------
    By stage. `qc` is that of the largest sample; `report` and `sources` hold what `compare` does.
    """
    sample = size.largest_sample
    whole = _BASE_OF_RUN + _SELECTED * size.n_values + _CELL_OF_COHORT * size.n_cells
    return {
        "qc": _BASE_OF_RUN
        + _COPIES_OF_SAMPLE * _VALUE * size.n_values * sample
        + _CELL_OF_COHORT * size.n_cells * sample
        + _CELL_OF_PASS * size.n_cells,
        "cluster": whole,
        "annotate": whole,
        "sources": whole,
        "compare": whole + _SUM * size.n_groups * size.n_genes,
        "report": whole,
    }


def job_memory(known: Mapping[str, Any], stage: str, *, sample: str | None = None) -> int:
    """Megabytes that a job of a workflow should ask for: what its stage needs, and half of it more.

    Parameters
    ----------
    known
        Cells of each sample (`n_cells`), `n_genes` and `n_values`, as `crs-sc samples` leaves them
        in `work/samples.json`.
    stage
        One of `stage_memory`.
    sample
        Whose QC it is.
    """
    size = size_of(known["n_cells"], n_genes=known["n_genes"], n_values=known["n_values"])
    if sample is not None:
        size = replace(size, largest_sample=known["n_cells"][sample] / size.n_cells)
    return int(1.5 * stage_memory(size)[stage] / 1e6)


def attribution_chunk(size: CohortSize, *, limit: float) -> int:
    """Values of a chunk with which attribution from disk stays below a limit.

    Parameters
    ----------
    size
        Of the cohort.
    limit
        Bytes.

    Raises
    ------
    InputError
        If no chunk is small enough.
    """
    held = _BASE + _CELL_OF_PASS * size.n_cells + _SUM * size.n_groups * size.n_genes
    left = (limit - held) / (_VALUE * _CHUNKS)
    if left < _FEWEST_VALUES:
        needed = held + _VALUE * _CHUNKS * _FEWEST_VALUES
        raise InputError(_too_little("attribution", needed, limit))
    return int(min(left, _MOST_VALUES))


def memory_of(limit_gb: float | None) -> float:
    """Bytes that a run may use: the limit of its settings, or all that there are."""
    return available_memory() if limit_gb is None else limit_gb * _GB


def fits_whole(size: CohortSize, *, limit: float) -> bool:
    """Whether all counts of the input can be held while the samples are worked on."""
    held = _VALUE * size.n_values + _CELL_OF_PASS * size.n_cells
    return held + stage_memory(size)["qc"] < limit / 2


def samples_that_fit(n_jobs: int, size: CohortSize, *, limit: float) -> int:
    """Say how many samples can go through QC at a time, `n_jobs` at the most."""
    return max(1, int(min(n_jobs, limit / stage_memory(size)["qc"])))


def memory_lines(needed: dict[str, float], *, limit: float) -> list[str]:
    """Say what each stage needs and what there is."""
    stages = ", ".join(f"{name} {value / _GB:.1f}" for name, value in needed.items())
    return [f"Peak memory, about (GB): {stages}; {limit / _GB:.1f} may be used."]


def refuse_too_large(needed: dict[str, float], *, limit: float) -> None:
    """Raise before the work if a stage will not fit into memory.

    Parameters
    ----------
    needed
        Bytes by stage.
    limit
        Bytes that may be used.

    Raises
    ------
    InputError
        Naming the stage that needs most.
    """
    stage = max(needed, key=lambda name: needed[name])
    if needed[stage] > limit:
        raise InputError(_too_little(f"stage '{stage}'", needed[stage], limit))


def _too_little(what: str, needed: float, limit: float) -> str:
    return (
        f"{what[0].upper()}{what[1:]} needs about {needed / _GB:.1f} GB of memory and may use "
        f"{limit / _GB:.1f} GB (`memory_limit`, or what this machine or job has left). Ask for "
        "more memory, or use fewer cells; with cell types in the file, `crs-sc attribute` needs "
        "about 1 GB for a million cells."
    )


def available_memory() -> float:
    """Bytes that this process can still use, in its container or job.

    The smallest of what the system says is available, what each control group above the process
    leaves, and what the process may map (ulimit -v).
    """
    found = [_meminfo_available(Path("/proc/meminfo"))]
    found += _cgroup_left(Path("/proc/self/cgroup"), Path("/sys/fs/cgroup"))
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    if soft != resource.RLIM_INFINITY:
        found.append(float(soft))
    return min(value for value in found if value is not None)


def _meminfo_available(path: Path) -> float:
    """Memory that the system could give, in bytes; without limit where it does not say."""
    if not path.is_file():
        return float("inf")
    lines = dict(line.split(":", 1) for line in path.read_text(encoding="ascii").splitlines())
    return 1024.0 * float(lines["MemAvailable"].split()[0])


def _cgroup_left(membership: Path, root: Path) -> list[float]:
    """Ask each control group above the process, of version 2 or 1, what it leaves."""
    if not membership.is_file():
        return []
    left = []
    for line in membership.read_text(encoding="utf-8").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            top, names = root, ("memory.max", "memory.current")
        elif "memory" in controllers.split(","):
            top = root / "memory"
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes")
        else:
            continue
        own = top / path.lstrip("/")
        for folder in (own, *own.parents):
            if folder != top and top not in folder.parents:
                break
            left += _left_in(folder, *names)
    return left


def _left_in(folder: Path, limit_name: str, used_name: str) -> list[float]:
    """Bytes that one control group leaves, its file cache not counted; none without a limit."""
    limit_file, used_file = folder / limit_name, folder / used_name
    if not (limit_file.is_file() and used_file.is_file()):
        return []
    text = limit_file.read_text(encoding="ascii").strip()
    if text == "max" or float(text) > 1 << 60:
        return []
    stat = folder / "memory.stat"
    rows = stat.read_text(encoding="ascii").split() if stat.is_file() else []
    pairs = dict(zip(rows[::2], rows[1::2], strict=True))
    cache = sum(float(pairs.get(name, 0)) for name in ("inactive_file", "active_file"))
    used = float(used_file.read_text(encoding="ascii")) - cache
    return [max(0.0, float(text) - max(0.0, used))]
