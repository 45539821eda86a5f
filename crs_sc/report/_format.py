"""Numbers and names as a reader wants them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["amount", "cells_named", "interval", "listed", "percent", "pvalue", "signed"]

_PLURALS = {
    "Classical monocyte": "classical monocytes",
    "Intermediate monocyte": "intermediate monocytes",
    "Non-classical monocyte": "non-classical monocytes",
    "Macrophage": "macrophages",
    "AS-DC": "AS-DCs",
    "Migratory DC": "migratory DCs",
    "pDC": "pDCs",
    "Neutrophil": "neutrophils",
    "Mast cell": "mast cells",
    "Plasma cell": "plasma cells",
    "Megakaryocyte": "megakaryocytes",
    "Erythroid": "erythroid cells",
    "HSPC": "progenitors",
    "B-ALL blast": "B-ALL blasts",
    "AML blast": "AML blasts",
    "Unknown": "cells of unknown type",
}


def cells_named(population: str) -> str:
    """Name a population in a sentence: `Classical monocyte` -> `classical monocytes`."""
    if population in _PLURALS:
        return _PLURALS[population]
    if population.endswith("s"):
        return population
    return f"{population}s" if population.lower().endswith("cell") else f"{population} cells"


def amount(value: float) -> str:
    """Three significant digits, thousands separated, no exponent for everyday sizes."""
    if math.isnan(value):
        return "not known"
    size = abs(value)
    if size >= 100:
        return f"{value:,.0f}".replace("-", "\u2212")
    if size == 0:
        return "0"
    if size < 1e-4:
        return f"{value:.1e}".replace("-", "\u2212")
    digits = max(0, 2 - math.floor(math.log10(size)))
    text = f"{value:.{digits}f}"
    if "." in text:
        text = text.rstrip("0").rstrip(".")
    return text.replace("-", "\u2212")


def signed(value: float) -> str:
    """`amount` with its sign always shown."""
    return f"+{amount(value)}" if value > 0 else amount(value)


def listed(names: Sequence[str]) -> str:
    """Join names as a sentence does: `a, b and c`."""
    return f"{', '.join(names[:-1])} and {names[-1]}" if len(names) > 1 else names[0]


def percent(share: float) -> str:
    """Share as a percentage: whole numbers from 10 %, one decimal below."""
    if math.isnan(share):
        return "not known"
    value = 100 * share
    if 0 < abs(value) < 0.1:
        return "less than 0.1 %"
    digits = 0 if abs(value) >= 9.95 or value == 0 else 1
    return f"{value:,.{digits}f} %".replace("-", "\u2212")


def interval(low: float, high: float, *, as_percent: bool = False) -> str:
    """`80 to 93 %`, or `0.8 to 1.2`; empty where there is none."""
    if math.isnan(low) or math.isnan(high):
        return ""
    if not as_percent:
        return f"{amount(low)} to {amount(high)}"
    start, end = percent(low), percent(high)
    return f"{start.removesuffix(' %')} to {end}"


def pvalue(p: float, floor: float = math.nan) -> str:
    """`0.029 (floor 0.029)`: p and the smallest that the design can reach."""
    if math.isnan(p):
        return "no p"
    text = _small(p)
    return text if math.isnan(floor) else f"{text} (floor {_small(floor)})"


def _small(p: float) -> str:
    if p < 1e-4:
        return "below 0.0001"
    return f"{p:.2g}" if p < 0.995 else "1"
