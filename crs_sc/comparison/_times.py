"""Kernel: time points in the order of time, read from their names."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["time_order", "time_values"]

# Letters of a unit, and how many of it make a day.
_UNITS = {
    "min": 1440.0, "mins": 1440.0, "minute": 1440.0, "minutes": 1440.0, "h": 24.0, "hr": 24.0,
    "hrs": 24.0, "hour": 24.0, "hours": 24.0, "d": 1.0, "day": 1.0, "days": 1.0, "w": 1 / 7,
    "wk": 1 / 7, "wks": 1 / 7, "week": 1 / 7, "weeks": 1 / 7,
}  # fmt: skip
# Names of the time before everything.
_BEFORE = frozenset({"pre", "baseline", "before", "screening"})
_NAME = re.compile(
    r"^\s*(?P<before>[A-Za-z]*)(?P<gap>[\s_.]*)(?P<sign>[-+\u2212]?)\s*"
    r"(?P<number>\d+(?:\.\d+)?)\s*(?P<after>[A-Za-z]*)\s*$"
)


def time_values(names: Iterable[str]) -> dict[str, float]:
    """Time of each name where all of them carry one, in days; empty where they do not.

    Understood are a number with or without a unit before or behind it ("D3", "day 10", "6h",
    "2 weeks", "-1"), and words for the time before everything ("pre", "baseline"), one day before
    the first. A dash right behind a word is a minus ("D-1" beside "D0") unless every name has one
    ("day-1", "day-2").

    Parameters
    ----------
    names
        Time points.

    Returns
    -------
    Days by name. Numbers without any unit are taken as they are.
    """
    unique = list(dict.fromkeys(names))
    before = [name for name in unique if name.strip().lower() in _BEFORE]
    found = {name: _NAME.match(name) for name in unique if name not in before}
    matches = {name: match for name, match in found.items() if match is not None}
    if not matches or len(matches) < len(found):
        return {}
    dashed = all(m["before"] and not m["gap"] and m["sign"] == "-" for m in matches.values())
    values = {}
    for name, match in matches.items():
        value = float(match["number"]) / _unit(match["before"], match["after"])
        negative = match["sign"] in ("-", "\u2212") and not dashed
        values[name] = -value if negative else value
    first = min(values.values())
    return {name: values[name] if name in values else first - 1 for name in unique}


def _unit(before: str, after: str) -> float:
    """Units a day, from the letters around the number; 1 where they name no unit."""
    return _UNITS.get(after.lower(), _UNITS.get(before.lower(), 1.0))


def time_order(names: Iterable[str]) -> list[str]:
    """Sort time points by time; where not all carry one, "pre" is first and 2 is before 10.

    Parameters
    ----------
    names
        Time points; each is returned once.
    """
    unique = sorted(set(names))
    values = time_values(unique)

    def key(name: str) -> tuple[float, bool, list[tuple[int, int, str]]]:
        return values.get(name, math.inf), name.strip().lower() not in _BEFORE, _natural(name)

    return sorted(unique, key=key)


def _natural(name: str) -> list[tuple[int, int, str]]:
    """Key for sorting words by the numbers in them."""
    parts = re.split(r"(\d+)", name)
    return [(1, int(p), "") if p.isdecimal() else (0, 0, p) for p in parts]
