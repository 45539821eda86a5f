"""The house rules: who may import whom, what importing the package costs, no stray literals."""

from __future__ import annotations

import ast
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
    frozenset({"cli", "__main__", "__init__"}),
)
SAME = {("errors", "keys"), ("genesets", "io"), ("io", "genesets"), ("__main__", "cli")}
# A function with more wants a small class that names them.
MOST_ARGUMENTS = 13
SCIENCE = ("preprocessing", "clustering", "annotation", "sources", "comparison", "plotting")


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
