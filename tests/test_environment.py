"""environment.yml, pyproject.toml, .python-version and uv.lock name the same environment."""

from __future__ import annotations

import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import yaml

from crs_sc.run.versions import PACKAGE, imported_modules

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
CONDA = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
MATCH_SPEC = re.compile(r"^[a-z0-9_.-]+([<>=!]=?[0-9][0-9.*]*(,[<>=!]=?[0-9][0-9.*]*)*)?$")


def conda_packages() -> dict[str, str]:
    strings = [entry for entry in CONDA["dependencies"] if isinstance(entry, str)]
    assert all(MATCH_SPEC.match(entry) for entry in strings)
    return dict(re.match(r"([a-z0-9_.-]+)(.*)", entry).groups() for entry in strings)


def test_conda_installs_the_package_itself_with_every_extra() -> None:
    (pip,) = [entry["pip"] for entry in CONDA["dependencies"] if isinstance(entry, dict)]
    assert pip == ["-e .[all]"]
    extras = PROJECT["optional-dependencies"]
    (everything,) = extras["all"]
    named = set(re.search(r"\[(.*)\]", everything).group(1).split(","))
    assert named == set(extras) - {"all"}


def test_python_is_the_same_everywhere() -> None:
    packages = conda_packages()
    assert set(packages) == {"python", "pip"}
    assert packages["python"] == PROJECT["requires-python"]
    pinned = (ROOT / ".python-version").read_text(encoding="utf-8").strip()
    lowest = PROJECT["requires-python"].removeprefix(">=")
    assert tuple(map(int, pinned.split("."))) >= tuple(map(int, lowest.split(".")))


def test_lock_holds_every_dependency() -> None:
    lock = tomllib.loads((ROOT / "uv.lock").read_text(encoding="utf-8"))
    locked = {package["name"] for package in lock["package"]}
    wanted = {re.match(r"[A-Za-z0-9_.-]+", entry).group() for entry in PROJECT["dependencies"]}
    assert {name.lower().replace("_", "-") for name in wanted} <= locked


# Declared although nothing here imports them.
NOT_IMPORTED = {
    "pynndescent": "scanpy's neighbours and UMAP; 0.7.0 breaks them above 8,192 cells",
    "scikit-misc": "scanpy's seurat_v3 gene selection, which does not declare it",
    "umap-learn": "scanpy's UMAP",
}


def test_every_import_is_declared_and_every_declared_dependency_imported() -> None:
    modules = set().union(*map(imported_modules, PACKAGE.rglob("*.py")))
    modules -= {"crs_sc", *sys.stdlib_module_names}
    owners = packages_distributions()
    unknown = {module for module in modules if module not in owners}
    assert not unknown
    imported = {owners[module][0].lower().replace("_", "-") for module in modules}
    extras = [line for lines in PROJECT["optional-dependencies"].values() for line in lines]
    declared, optional = (
        {re.match(r"[A-Za-z0-9_.-]+", line).group().lower().replace("_", "-") for line in lines}
        for lines in (PROJECT["dependencies"], extras)
    )
    assert imported <= declared | optional
    assert declared - imported == set(NOT_IMPORTED)
