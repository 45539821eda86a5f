"""Fixtures that several test modules share."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import make
import matplotlib as mpl
import pytest
from matplotlib import pyplot as plt

if TYPE_CHECKING:
    from collections.abc import Iterator

mpl.use("Agg")

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def _close_figures() -> Iterator[None]:
    """Leave no figure of a test open."""
    yield
    plt.close("all")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder with the real data sets; tests that need it are skipped where it is absent."""
    folder = Path(os.environ.get("CRS_SC_DATA", REPOSITORY.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"real data not found in {folder} (set CRS_SC_DATA)")
    return folder


@pytest.fixture(scope="session")
def fake() -> Any:
    """The module that makes the tables of a run, and the cells that they are about."""
    return make


@pytest.fixture
def tables() -> dict[str, Any]:
    return make.tables()


@pytest.fixture(scope="session")
def cells() -> Any:
    return make.cells()


@dataclass(frozen=True)
class FinishedRun:
    """A run of a small simulated cohort, made once for all tests that only look at it."""

    config: Path
    out: Path
    truth: Path


@pytest.fixture(scope="session")
def small_cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Config of a small simulated cohort: two arms, three mice each."""
    from crs_sc.datasets import simulate_cohort, write_cohort

    cohort = simulate_cohort(
        arms=("vehicle", "CART"),
        n_subjects_per_arm=3,
        cells_per_sample=150,
        n_background_genes=200,
        random_state=1,
    )
    return write_cohort(cohort, tmp_path_factory.mktemp("small"))


@pytest.fixture(scope="session")
def small_run(small_cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> FinishedRun:
    """All stages of the small simulated cohort. Look, do not touch."""
    from crs_sc import Run, load_config

    out = tmp_path_factory.mktemp("run") / "out"
    Run(load_config(small_cohort), out).all_stages()
    return FinishedRun(small_cohort, out, small_cohort.parent / "truth")
