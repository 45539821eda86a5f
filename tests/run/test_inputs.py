"""The input of a run: one sample read alone, digests kept, memory asked for before the work."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import anndata as ad
import pytest
from anndata.abc import CSRDataset

from crs_sc import Run, keys, load_config
from crs_sc.core.memory import samples_that_fit, stage_memory
from crs_sc.errors import InputError
from crs_sc.io import CohortFiles
from crs_sc.run import store
from crs_sc.run.check import check_report
from crs_sc.run.store import Store, file_digest

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import FinishedRun


def test_qc_of_one_sample_reads_it_alone_and_leaves_the_same_file(
    small_run: FinishedRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[object] = []
    read = CohortFiles.read

    def recorded(self: CohortFiles, samples: list[str] | None = None) -> object:
        asked.append(samples)
        return read(self, samples)

    monkeypatch.setattr(CohortFiles, "read", recorded)
    run = Run(load_config(small_run.config), tmp_path / "out")
    name = run.samples()[2]
    path = run.qc(name)
    assert asked == [[name]]
    # The finished run held all samples at once.
    whole = small_run.out / path.relative_to(tmp_path / "out")
    assert path.read_bytes() == whole.read_bytes()
    with pytest.raises(InputError, match="no sample 'nobody'"):
        run.qc("nobody")


def test_a_cohort_that_fits_is_read_once_and_then_let_go(
    small_cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(load_config(small_cohort), tmp_path / "out")
    seen = []
    monkeypatch.setattr(Run, "qc", lambda self, name: seen.append(self._cells(name).n_obs))
    run.stage("qc")
    assert seen == list(run.sample_sizes().values())
    assert run._whole is None


def test_a_digest_is_made_again_only_if_the_file_was_touched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "a"
    file.write_bytes(b"one")
    space = Store(tmp_path / "out")
    first = space.input_digest(file)
    assert first == file_digest(file)
    with monkeypatch.context() as patch:
        patch.setattr(store, "file_digest", lambda _: pytest.fail("was read again"))
        assert Store(tmp_path / "out").input_digest(file) == first
    times = file.stat()
    # The same size and the same time of change, as a copying tool can leave them.
    file.write_bytes(b"two")
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    second = space.input_digest(file)
    assert second == file_digest(file) != first
    for note in (tmp_path / "out" / "work" / "inputs").iterdir():
        note.write_text('{"state": 3', encoding="utf-8")
    assert space.input_digest(file) == second


def test_no_more_samples_at_a_time_than_fit(small_cohort: Path, tmp_path: Path) -> None:
    config = load_config(small_cohort)
    size = Run(config, tmp_path / "out")._size()
    one = stage_memory(size)["qc"]
    for room, fitting in ((0.5, 1), (1.5, 1), (2.5, 2), (9, 4)):
        assert samples_that_fit(4, size, limit=room * one) == fitting


def test_too_little_memory_ends_a_run_before_it_begins(small_cohort: Path, tmp_path: Path) -> None:
    config = load_config(small_cohort).model_copy(update={"memory_limit": 0.01})
    with pytest.raises(InputError, match=r"needs about .* may use 0\.0 GB"):
        Run(config, tmp_path / "out").all_stages()
    assert not (tmp_path / "out" / "work" / "qc").exists()
    text, _ = check_report(config)
    assert "Peak memory, about (GB): qc " in text
    assert "A run would stop for want of memory" in text
    text, _ = check_report(load_config(small_cohort))
    assert "A run would stop" not in text


def test_counts_of_all_samples_are_one_file_that_anyone_can_open(small_run: FinishedRun) -> None:
    work = Store(small_run.out)
    cohort = work.cohort(after="annotate")
    counts = cohort.layers[keys.COUNTS]
    assert isinstance(counts, CSRDataset)
    whole = ad.read_h5ad(small_run.out / "work" / "counts.h5ad")
    assert list(whole.obs_names) == list(cohort.obs_names)
    assert (ad.read_h5ad(small_run.out / "cohort.h5ad").layers[keys.COUNTS] != whole.X).nnz == 0
    assert whole.X.sum() == counts[:].sum()
