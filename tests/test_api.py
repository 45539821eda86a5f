"""Conventions of the public functions: keywords, no surprises."""

from __future__ import annotations

import inspect
import re

import pytest

import crs_sc
from crs_sc import datasets, genesets, io, plotting, preprocessing, report, tl

MODULES = (preprocessing, tl, plotting, io, genesets, datasets, report)
PUBLIC = [
    pytest.param(getattr(module, name), id=f"{module.__name__}.{name}")
    for module in MODULES
    for name in module.__all__
    if inspect.isfunction(getattr(module, name))
]


@pytest.mark.parametrize("function", PUBLIC)
def test_one_or_two_positional_parameters_and_no_kwargs(function: object) -> None:
    kinds = [p.kind for p in inspect.signature(function).parameters.values()]
    assert kinds.count(inspect.Parameter.POSITIONAL_OR_KEYWORD) <= 4
    assert inspect.Parameter.VAR_KEYWORD not in kinds


@pytest.mark.parametrize("function", PUBLIC)
def test_no_boolean_is_positional(function: object) -> None:
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD:
            assert not isinstance(parameter.default, bool)


def test_version_is_that_of_the_package() -> None:
    assert re.match(r"^\d+\.\d+\.\d+$", crs_sc.__version__)
