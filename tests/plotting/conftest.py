"""The made-up cohort for the tests of the figures."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="session")
def fake() -> Any:
    """The module that makes the cohort."""
    path = Path(__file__).parents[1] / "report" / "fake_cohort.py"
    spec = importlib.util.spec_from_file_location("fake_cohort", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def tables(fake: Any) -> dict[str, Any]:
    return fake.tables()


@pytest.fixture(scope="session")
def cells(fake: Any) -> Any:
    return fake.cells()
