"""environment.yml, pyproject.toml, .python-version and uv.lock name the same environment."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import yaml

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
