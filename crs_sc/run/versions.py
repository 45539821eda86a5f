"""What the results of a stage depend on beside input and settings: its code and its libraries."""

from __future__ import annotations

import hashlib
import platform
import re
import sys
from functools import cache, lru_cache
from importlib.metadata import Distribution, requires, version
from pathlib import Path

__all__ = ["code_digest", "imported_modules", "libraries", "package_version"]

PACKAGE = Path(__file__).resolve().parents[1]

# Rooms of the package that every stage goes through, and those of each stage. A stage depends on
# the ones before it through their keys.
SHARED = ("errors.py", "keys.py", "data", "core", "genesets", "io", "run")
ROOMS = {
    "qc": ("preprocessing",),
    "cluster": ("preprocessing", "clustering"),
    "annotate": ("preprocessing", "clustering", "annotation"),
    "sources": ("sources",),
    "compare": ("comparison",),
    "report": ("report", "plotting", "comparison"),
}

_IMPORT = re.compile(r"^ *(?:from (\w+)[\w.]* import |import (\w+))", re.MULTILINE)


def package_version() -> str:
    """Version of this package as installed."""
    return version("crs_sc")


@lru_cache
def code_digest(stage: str) -> str:
    """SHA-256 of the source and the data of all rooms that a stage runs through."""
    state = hashlib.sha256()
    for path in _files(stage):
        state.update(str(path.relative_to(PACKAGE)).encode())
        state.update(path.read_bytes())
    return state.hexdigest()


@lru_cache
def libraries(stage: str | None = None) -> dict[str, str]:
    """Versions of Python and of the libraries that the code of a stage imports; of all if None."""
    stages = ROOMS if stage is None else (stage,)
    files = {path for one in stages for path in _files(one) if path.suffix == ".py"}
    modules = frozenset(name for path in files for name in imported_modules(path))
    owners = _owners(modules - {"crs_sc", *sys.stdlib_module_names})
    return {"python": platform.python_version()} | {name: version(name) for name in owners}


@cache
def imported_modules(path: Path) -> frozenset[str]:
    """Modules that a file imports anywhere, by the name at their top.

    Read off the statements: to parse the whole package takes as long as to start a stage.
    """
    return frozenset(one or other for one, other in _IMPORT.findall(path.read_text("utf-8")))


def _files(stage: str) -> list[Path]:
    """Files of the rooms of a stage, sorted; what Python and numba keep beside them is none."""
    found = []
    for name in (*SHARED, *ROOMS[stage]):
        room = PACKAGE / name
        found += [room] if room.is_file() else [p for p in room.rglob("*") if p.is_file()]
    return sorted(path for path in found if "__pycache__" not in path.parts)


@lru_cache
def _owners(modules: frozenset[str]) -> tuple[str, ...]:
    """Distributions, among those that this package declares, that hold these modules; sorted.

    Most bear the name of their module; the files of the others are looked at (to look at those of
    the whole environment, as `packages_distributions` does, takes a second).
    """
    declared = {re.split(r"[^\w.-]", line)[0] for line in requires("crs_sc") or []}
    held = {name: found for name in declared for found in Distribution.discover(name=name)}
    named = {name.lower().replace("-", "_") for name in held}
    left = modules - named
    return tuple(
        name
        for name in sorted(held)
        if name.lower().replace("-", "_") in modules
        or any(file.parts[0] in left for file in held[name].files or [])
    )
