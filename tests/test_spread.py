"""Spreading changes where the work is done, and nothing else."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

import anndata as ad
import pandas as pd
import pytest
from threadpoolctl import threadpool_info

from crs_sc import Run, load_config
from crs_sc._spread import dealt, is_spread, over_dask, spread
from crs_sc.errors import InputError

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
        assert spread(divmod, [(7, 2), (9, 4), (1, 1)], n_jobs=n_jobs) == [(3, 1), (2, 1), (1, 0)]


def test_one_job_stays_here_and_two_do_not() -> None:
    assert not is_spread(1)
    assert is_spread(2)
    assert spread(process_of, [(0,)], n_jobs=1) == [os.getpid()]
    assert os.getpid() not in spread(process_of, [(0,), (1,)], n_jobs=2)


def test_calls_have_one_thread_of_linear_algebra() -> None:
    import numpy as np

    np.eye(2) @ np.eye(2)
    assert spread(blas_threads, [()], n_jobs=1) == [{1}]


def test_errors_of_a_call_reach_the_caller() -> None:
    with pytest.raises(ZeroDivisionError):
        spread(divmod, [(1, 1), (1, 0)], n_jobs=2)


def test_dask_workers_do_the_calls(scheduler: str) -> None:
    with over_dask(scheduler):
        assert is_spread(1)
        assert os.getpid() not in spread(process_of, [(0,), (1,)], n_jobs=1)
        assert spread(divmod, [(7, 2), (9, 4)], n_jobs=1) == [(3, 1), (2, 1)]
    assert not is_spread(1)


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
        assert (here.layers["counts"] != there.layers["counts"]).nnz == 0
        stamp = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        other = json.loads((tmp_path / "work" / "qc" / f"{path.stem}.json").read_text("utf-8"))
        assert stamp["key"] == other["key"]


def test_parts_are_dealt_out_as_cards() -> None:
    assert dealt(["a", "b", "c", "d", "e"], n_jobs=2) == [["a", "c", "e"], ["b", "d"]]
    assert dealt(["a", "b"], n_jobs=4) == [["a"], ["b"]]
    # A cluster shares them out itself.
    assert dealt(["a", "b", "c"], n_jobs=1) == [["a"], ["b"], ["c"]]
