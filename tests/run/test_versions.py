"""What a stage depends on beside input and settings: a changed line or library does it again."""

from __future__ import annotations

import ast
import importlib.metadata
import shutil
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from crs_sc import Run, load_config
from crs_sc.run import versions
from crs_sc.run.runner import STAGES

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from conftest import FinishedRun

FILES = sorted(versions.PACKAGE.rglob("*.py"))


@pytest.fixture(autouse=True)
def _forgotten() -> Iterator[None]:
    """Look at the package anew before and after each test."""
    for function in (versions.code_digest, versions.libraries):
        function.cache_clear()
    yield
    for function in (versions.code_digest, versions.libraries):
        function.cache_clear()


@pytest.fixture(scope="module")
def finished(small_run: FinishedRun, tmp_path_factory: pytest.TempPathFactory) -> FinishedRun:
    """Copy the small run: whoever asks with another key leaves another stamp."""
    out = tmp_path_factory.mktemp("versions") / "out"
    shutil.copytree(small_run.out, out)
    return replace(small_run, out=out)


def current_stages(run: FinishedRun) -> list[str]:
    one = Run(load_config(run.config), run.out)
    names = {"qc": f"qc/{one.samples()[0]}"}
    return [stage for stage in STAGES if one._is_current(names.get(stage, stage))]


@pytest.mark.parametrize(
    ("file", "kept"),
    [
        ("sources/ledger.py", STAGES[:3]),
        ("report/__init__.py", STAGES[:5]),
        ("annotation/cell_types.py", STAGES[:2]),
        ("data/receptors.tsv", ()),
        ("plotting/__pycache__/junk.nbi", STAGES),
        ("datasets/__init__.py", STAGES),
    ],
)
def test_a_changed_line_redoes_what_runs_it(
    finished: FinishedRun,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    file: str,
    kept: tuple[str, ...],
) -> None:
    assert current_stages(finished) == list(STAGES)
    copy = tmp_path / "crs_sc"
    shutil.copytree(versions.PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    (copy / file).parent.mkdir(exist_ok=True)
    with (copy / file).open("a", encoding="utf-8") as code:
        code.write("\n# One more line.\n")
    versions.code_digest.cache_clear()
    monkeypatch.setattr(versions, "PACKAGE", copy)
    assert current_stages(finished) == list(kept)


@pytest.mark.parametrize(("library", "kept"), [("pydeseq2", STAGES[:4]), ("anndata", ())])
def test_another_version_of_a_library_redoes_what_imports_it(
    finished: FinishedRun, monkeypatch: pytest.MonkeyPatch, library: str, kept: tuple[str, ...]
) -> None:
    def version(name: str) -> str:
        return "0" if name == library else importlib.metadata.version(name)

    monkeypatch.setattr(versions, "version", version)
    assert current_stages(finished) == list(kept)


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(versions.PACKAGE)))
def test_imports_are_those_that_python_sees(path: Path) -> None:
    seen = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            seen |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            seen.add(str(node.module).partition(".")[0])
    assert versions.imported_modules(path) >= seen


def test_rooms_of_a_stage_hold_whatever_they_import() -> None:
    for stage, rooms in versions.ROOMS.items():
        held = {name.removesuffix(".py") for name in (*versions.SHARED, *rooms)}
        for room in rooms:
            for path in (versions.PACKAGE / room).rglob("*.py"):
                for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                    if isinstance(node, ast.ImportFrom) and str(node.module).startswith("crs_sc"):
                        _, _, module = str(node.module).partition(".")
                        names = [module] if module else [alias.name for alias in node.names]
                        found = {name.partition(".")[0] for name in names}
                        assert found <= held, f"{stage}: {path}"
