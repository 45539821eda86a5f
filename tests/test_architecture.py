"""The house rules: who may import whom, what importing the package costs, no stray literals."""

from __future__ import annotations

import ast
import graphlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "crs_sc"

# Layers from the bottom; a module may import from its own layer only what is listed in SAME.
LAYERS: tuple[frozenset[str], ...] = (
    frozenset({"errors", "keys"}),
    frozenset({"core"}),
    frozenset({"genesets", "io"}),
    frozenset({"preprocessing", "clustering", "annotation", "sources", "comparison", "plotting"}),
    frozenset({"tl"}),
    frozenset({"report", "datasets"}),
    frozenset({"run"}),
    frozenset({"config", "steps"}),
    frozenset({"cli", "__main__", "__init__"}),
)
SAME = {("errors", "keys"), ("genesets", "io"), ("io", "genesets"), ("__main__", "cli")}
# A function with more wants a small class that names them.
MOST_ARGUMENTS = 8
SCIENCE = ("preprocessing", "clustering", "annotation", "sources", "comparison", "plotting")
# Private parts of other packages, and reading a file past its library.
FORBIDDEN = re.compile(
    r"\b(anndata|scanpy|pydeseq2|sklearn|umap|leidenalg|igraph)\._[a-z]|\bpreadv\b"
)


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def level(name: str) -> int:
    return next(i for i, layer in enumerate(LAYERS) if name in layer)


def imported_rooms(path: Path) -> set[str]:
    rooms: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            module = (node.module or "").split(".")
            if module[0] == "crs_sc":
                rooms |= {module[1]} if len(module) > 1 else {alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            rooms |= {
                alias.name.split(".")[1] for alias in node.names if alias.name.startswith("crs_sc.")
            }
    return rooms


FILES = sorted(PACKAGE.rglob("*.py"))
# The public surface at the top names every room.
ROOMS = [path for path in FILES if path != PACKAGE / "__init__.py"]


@pytest.mark.parametrize("path", ROOMS, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_go_downward(path: Path) -> None:
    own = room(path)
    for other in imported_rooms(path) - {own}:
        if (own, other) in SAME:
            continue
        assert level(other) < level(own), f"{path.name}: '{own}' must not import '{other}'"


@pytest.mark.parametrize("room_name", SCIENCE)
def test_science_packages_do_not_import_each_other(room_name: str) -> None:
    for path in (PACKAGE / room_name).rglob("*.py"):
        others = imported_rooms(path) & set(SCIENCE) - {room_name}
        assert not others, f"{path.name} imports {sorted(others)}"


def module_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported_modules(path: Path, modules: set[str]) -> set[str]:
    """Modules of the package that a module needs while it is loaded.

    Not those for the type checker alone, nor those that a function imports when it is called.
    """
    needed: set[str] = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Import):
            needed |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            inner = {f"{node.module}.{alias.name}" for alias in node.names} & modules
            # Of `from room import module, function`, the front of the room is asked for a name.
            needed |= inner if len(inner) == len(node.names) else inner | {node.module}
    return needed & modules - {"crs_sc"}


def test_no_circle_of_imports() -> None:
    modules = {module_of(path): path for path in FILES}
    graph = {name: imported_modules(path, set(modules)) for name, path in modules.items()}
    # Raises a CycleError that names the circle.
    order = list(graphlib.TopologicalSorter(graph).static_order())
    assert set(order) == set(modules)


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_nothing_private_of_other_packages(path: Path) -> None:
    found = FORBIDDEN.search(path.read_text(encoding="utf-8"))
    assert found is None, f"{path.name}: {found[0] if found else ''}"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_no_assert_print_or_swallowed_error(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        assert not isinstance(node, ast.Assert), f"{path}:{node.lineno}: assert"
        if isinstance(node, ast.Call):
            assert getattr(node.func, "id", "") != "print", f"{path}:{node.lineno}: print"
        if isinstance(node, ast.ExceptHandler):
            only_pass = all(isinstance(statement, ast.Pass) for statement in node.body)
            assert not only_pass, f"{path}:{node.lineno}: error swallowed"


def test_private_functions_take_few_arguments() -> None:
    """Public functions are called by keyword and may have many settings; kernels may not."""
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                positional = [*node.args.posonlyargs, *node.args.args]
                n = len(positional) + (len(node.args.kwonlyargs) if node.name[0] == "_" else 0)
                assert n <= MOST_ARGUMENTS, f"{path}:{node.lineno} {node.name}: {n} arguments"


def test_no_private_module_at_the_root() -> None:
    assert not [p.name for p in PACKAGE.glob("_*.py") if not p.name.startswith("__")]


def test_import_is_light_and_offline() -> None:
    code = (
        "import socket, sys\n"
        "socket.socket = None\n"
        "import crs_sc\n"
        "heavy = {'scanpy', 'anndata', 'pandas', 'matplotlib', 'numba', 'h5py'}\n"
        "print(','.join(sorted(heavy & set(sys.modules))))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_every_public_name_resolves() -> None:
    import crs_sc

    for name in crs_sc.__all__:
        assert getattr(crs_sc, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nope'"):
        crs_sc.nope  # noqa: B018
