"""What memory there is, and what a run will need."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from crs_sc.core.memory import (
    _cgroup_left,
    _meminfo_available,
    attribution_chunk,
    available_memory,
    job_memory,
    memory_of,
    refuse_too_large,
    size_of,
    stage_memory,
)
from crs_sc.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path


def _group(folder: Path, **files: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text, encoding="ascii")


def test_every_group_above_the_process_counts(tmp_path: Path) -> None:
    (tmp_path / "cgroup").write_text("0::/job/step\n", encoding="ascii")
    root = tmp_path / "fs"
    _group(root / "job", memory__max="8000\n", memory__current="5000\n",
           memory__stat="anon 1\ninactive_file 1500\nactive_file 500\n")  # fmt: skip
    _group(root / "job" / "step", memory__max="max\n", memory__current="5000\n")
    assert _cgroup_left(tmp_path / "cgroup", root) == [8000 - (5000 - 2000)]
    _group(root / "job" / "step", memory__max="5200\n", memory__current="5000\n")
    assert min(_cgroup_left(tmp_path / "cgroup", root)) == 200


def test_version_1_and_no_groups(tmp_path: Path) -> None:
    (tmp_path / "cgroup").write_text(
        "5:cpuset:/x\n4:cpu,memory:/slurm/job_1\n0::/\n", encoding="ascii"
    )
    folder = tmp_path / "fs" / "memory" / "slurm" / "job_1"
    _group(folder, memory__limit_in_bytes="9000", memory__usage_in_bytes="1000")
    # The largest number of version 1 is no limit.
    _group(folder.parent, memory__limit_in_bytes=str(2**63 - 4096), memory__usage_in_bytes="1")
    assert _cgroup_left(tmp_path / "cgroup", tmp_path / "fs") == [8000]
    assert _cgroup_left(tmp_path / "none", tmp_path / "fs") == []
    (tmp_path / "meminfo").write_text("MemTotal: 9 kB\nMemAvailable: 7 kB\n", encoding="ascii")
    assert _meminfo_available(tmp_path / "meminfo") == 7 * 1024
    assert _meminfo_available(tmp_path / "none") == float("inf")


def test_a_limit_of_the_settings_counts_instead() -> None:
    assert memory_of(2.5) == 2.5e9
    assert 0 < memory_of(None) == pytest.approx(available_memory(), rel=0.5)


def test_what_cannot_fit_is_refused_and_named() -> None:
    size = size_of({"a": 40_000, "b": 10_000}, n_genes=20_000, n_values=50_000_000)
    even = size_of({"a": 25_000, "b": 25_000}, n_genes=20_000, n_values=50_000_000)
    needed = stage_memory(size)
    assert size.largest_sample == 0.8
    # QC holds one sample at a time: the largest counts.
    assert stage_memory(even)["qc"] < needed["qc"]
    assert stage_memory(even)["cluster"] == needed["cluster"]
    refuse_too_large(needed, limit=max(needed.values()))
    with pytest.raises(InputError, match=r"Stage 'qc' needs about .* GB.*memory_limit"):
        refuse_too_large(needed, limit=1e9)
    double = size_of({"a": 80_000, "b": 20_000}, n_genes=20_000, n_values=100_000_000)
    assert all(stage_memory(double)[name] > needed[name] for name in needed)


def test_a_job_asks_for_what_its_stage_needs_and_half_more() -> None:
    known = {"n_cells": {"a": 40_000, "b": 10_000}, "n_genes": 20_000, "n_values": 50_000_000}
    needed = stage_memory(size_of(**known))
    assert job_memory(known, "cluster") == int(1.5 * needed["cluster"] / 1e6)
    assert job_memory(known, "qc", sample="a") == int(1.5 * needed["qc"] / 1e6)
    assert job_memory(known, "qc", sample="b") < job_memory(known, "qc", sample="a")


def test_chunks_follow_from_the_limit() -> None:
    size = size_of({f"s{i}": 62_500 for i in range(16)}, n_genes=20_000, n_values=500_000_000)
    sizes = [attribution_chunk(size, limit=limit) for limit in (0.95e9, 0.96e9, 8e9)]
    assert sizes == sorted(sizes)
    assert sizes[0] < sizes[2]
    with pytest.raises(InputError, match="Attribution needs about"):
        attribution_chunk(size, limit=0.5e9)
