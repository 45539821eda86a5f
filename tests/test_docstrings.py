"""Docstrings of the public functions: every section that applies, and an example that runs."""

from __future__ import annotations

import ast
import dataclasses
import doctest
import inspect
import re
import textwrap
from typing import TYPE_CHECKING, Any

import pytest

import crs_sc
from crs_sc import datasets, genesets, io, plotting, preprocessing, report, tl

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def _public() -> dict[str, Any]:
    """Every public function and class under the first name that it is known by."""
    names: dict[str, Any] = {}
    modules = {
        "pp": preprocessing,
        "tl": tl,
        "pl": plotting,
        "io": io,
        "genesets": genesets,
        "datasets": datasets,
        "report": report,
        "crs_sc": crs_sc,
    }
    for short, module in modules.items():
        for name in module.__all__:
            thing = getattr(module, name)
            is_known = any(thing is other for other in names.values())
            if (inspect.isfunction(thing) or inspect.isclass(thing)) and not is_known:
                names[f"{short}.{name}"] = thing
    return names


PUBLIC = _public()
FUNCTIONS = {name: thing for name, thing in PUBLIC.items() if inspect.isfunction(thing)}


def section(thing: object, *titles: str) -> str:
    """Text of the first of these sections of a docstring; empty where it has none."""
    text = inspect.getdoc(thing) or ""
    for title in titles:
        found = re.search(
            rf"(?:^|\n){title}\n-+\n(.*?)(?=\n[A-Z][A-Za-z ]+\n-{{3,}}|\Z)", text, re.S
        )
        if found:
            return found[1]
    return ""


def documented(text: str) -> list[str]:
    """Names that a section of parameters has."""
    return [
        name.strip().lstrip("*")
        for line in text.splitlines()
        if line and not line.startswith(" ")
        for name in line.split(":")[0].split(",")
    ]


def raises(function: Callable[..., Any]) -> bool:
    """Whether the body raises by itself."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    return any(isinstance(node, ast.Raise) and node.exc for node in ast.walk(tree))


def missing(function: Callable[..., Any]) -> list[str]:
    """Sections that apply to a function and are not in its docstring."""
    signature = inspect.signature(function)
    needed = {
        "Parameters": bool(signature.parameters),
        "Returns": signature.return_annotation not in (None, "None"),
        "Raises": raises(function),
        "Examples": True,
    }
    either = {"Returns": ("Returns", "Yields")}
    return [
        title
        for title, is_needed in needed.items()
        if is_needed and not section(function, *either.get(title, (title,)))
    ]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_section_that_applies_is_there(name: str) -> None:
    function = FUNCTIONS[name]
    assert (inspect.getdoc(function) or "").strip(), "no docstring"
    names = documented(section(function, "Parameters"))
    assert names == list(inspect.signature(function).parameters)
    assert not missing(function)


@pytest.mark.parametrize("name", sorted(PUBLIC.keys() - FUNCTIONS.keys()))
def test_classes_are_documented(name: str) -> None:
    kind = PUBLIC[name]
    assert (inspect.getdoc(kind) or "").strip(), "no docstring"
    if dataclasses.is_dataclass(kind):
        fields = [field.name for field in dataclasses.fields(kind) if field.name[0] != "_"]
        assert documented(section(kind, "Attributes", "Parameters")) == fields


@pytest.mark.parametrize("name", FUNCTIONS)
def test_example_runs(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    example = section(FUNCTIONS[name], "Examples")
    test = doctest.DocTestParser().get_doctest(example, {}, name, None, None)
    assert test.examples, "no example"
    outcome = doctest.DocTestRunner(optionflags=FLAGS, verbose=False).run(test)
    assert outcome.failed == 0, capsys.readouterr().out
