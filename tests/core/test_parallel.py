"""Spreading changes where the work is done, and nothing else."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
import warnings
from typing import TYPE_CHECKING

import anndata as ad
import pandas as pd
import pytest
from threadpoolctl import threadpool_info

from crs_sc import Run, load_config
from crs_sc.core.parallel import is_parallel, over_dask, parallel_map, start_map, started
from crs_sc.errors import CrsError, CrsWarning, InputError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from conftest import FinishedRun


def process_of(_: int) -> int:
    return os.getpid()


def blas_threads() -> set[int]:
    return {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"}


@pytest.fixture(scope="module")
def scheduler() -> Iterator[str]:
    distributed = pytest.importorskip("distributed", reason="dask is not installed")
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, dashboard_address=None
    ) as cluster:
        yield cluster.scheduler_address


def test_results_keep_the_order_of_the_arguments() -> None:
    for n_jobs in (1, 2):
        assert parallel_map(divmod, [(7, 2), (9, 4), (1, 1)], n_jobs=n_jobs) == [
            (3, 1),
            (2, 1),
            (1, 0),
        ]


def process_after(seconds: float) -> int:
    time.sleep(seconds)
    return os.getpid()


def kill_itself(parent: int) -> None:
    if os.getpid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.5)


def warn_of(text: str) -> None:
    warnings.warn(text, CrsWarning, stacklevel=1)
    warnings.warn("of a library", UserWarning, stacklevel=1)


def mark(path: Path | None) -> None:
    if path is None:
        raise KeyError
    time.sleep(0.3)
    path.touch()


def modules_of(_: int) -> tuple[int, bool]:
    time.sleep(0.2)
    return os.getpid(), "wave" in sys.modules


def test_one_job_stays_here_and_two_have_processes_of_their_own() -> None:
    assert not is_parallel(1)
    assert is_parallel(2)
    assert parallel_map(process_of, [(0,)], n_jobs=1) == [os.getpid()]
    used = parallel_map(process_after, [(0.2,)] * 10, n_jobs=2)
    assert len(set(used)) == 2
    assert os.getpid() not in used


def test_what_is_begun_is_done_elsewhere_while_this_process_goes_on() -> None:
    begun = start_map(process_of, [(0,)], n_jobs=2)
    time.sleep(2.0)
    assert next(begun) != os.getpid()


def test_after_an_error_elsewhere_nothing_else_is_begun(tmp_path: Path) -> None:
    calls = [(None,), *((tmp_path / str(i),) for i in range(50))]
    with pytest.raises(KeyError):
        parallel_map(mark, calls, n_jobs=2)
    assert len(list(tmp_path.iterdir())) < 20


def test_a_killed_process_is_one_clear_error() -> None:
    with pytest.raises(CrsError, match="want of memory"):
        parallel_map(kill_itself, [(os.getpid(),)] * 4, n_jobs=2)
    assert parallel_map(divmod, [(7, 2), (9, 4)], n_jobs=2) == [(3, 1), (2, 1)]


def test_warnings_of_this_package_reach_the_caller() -> None:
    begun = start_map(warn_of, [("one",), ("two",)], n_jobs=3)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        time.sleep(1.0)
        list(begun)
    assert [str(w.message) for w in caught if w.category is CrsWarning] == ["one", "two"]


def test_processes_started_ahead_have_imported_and_end() -> None:
    with started(("wave",), n_jobs=2):
        found = set(parallel_map(modules_of, [(i,) for i in range(6)], n_jobs=2))
    assert True in {has for _, has in found}
    for other, _ in found:
        with pytest.raises(ProcessLookupError):
            os.kill(other, 0)


def test_calls_have_one_thread_of_linear_algebra() -> None:
    import numpy as np

    np.eye(2) @ np.eye(2)
    assert parallel_map(blas_threads, [()], n_jobs=1) == [{1}]


def test_errors_of_a_call_reach_the_caller() -> None:
    with pytest.raises(ZeroDivisionError):
        parallel_map(divmod, [(1, 1), (1, 0)], n_jobs=2)


def test_dask_workers_do_the_calls(scheduler: str) -> None:
    with over_dask(scheduler):
        assert is_parallel(1)
        assert os.getpid() not in parallel_map(process_of, [(0,), (1,)], n_jobs=1)
        assert parallel_map(divmod, [(7, 2), (9, 4)], n_jobs=1) == [(3, 1), (2, 1)]
    assert not is_parallel(1)


def test_absent_scheduler_is_one_clear_error() -> None:
    pytest.importorskip("distributed", reason="dask is not installed")
    with (
        pytest.raises(InputError, match="No dask scheduler answers"),
        over_dask("tcp://127.0.0.1:1"),
    ):
        pass


def test_qc_on_dask_is_that_of_a_run(
    scheduler: str, small_run: FinishedRun, tmp_path: Path
) -> None:
    with over_dask(scheduler):
        Run(load_config(small_run.config), tmp_path).stage("qc")
    samples = sorted((small_run.out / "work" / "qc").glob("*.h5ad"))
    assert samples
    for path in samples:
        here, there = ad.read_h5ad(path), ad.read_h5ad(tmp_path / "work" / "qc" / path.name)
        pd.testing.assert_frame_equal(here.obs, there.obs)
        assert (here.X != there.X).nnz == 0
        stamp = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        other = json.loads((tmp_path / "work" / "qc" / f"{path.stem}.json").read_text("utf-8"))
        assert stamp["key"] == other["key"]
