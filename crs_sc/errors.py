"""The errors that the package raises on purpose: what is wrong, where, and how to mend it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = [
    "CrsError",
    "CrsWarning",
    "DesignError",
    "InputError",
    "MissingExtraError",
    "MissingKeyError",
    "listing",
]


class CrsError(Exception):
    """Base of every error that the package raises on purpose."""


class InputError(CrsError):
    """A file, matrix, table or setting cannot be used as it is."""


class DesignError(CrsError):
    """The study design cannot answer the question that was asked of it."""


class MissingKeyError(InputError):
    """A column or slot that a function needs is not in the AnnData."""


class MissingExtraError(CrsError):
    """An optional dependency is not installed."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(
            f"{package} is not installed. Install it with: pip install 'crs_sc[{extra}]'"
        )


class CrsWarning(UserWarning):
    """Something was left out or done in a weaker way; the result says so too."""


def listing(names: Iterable[object], *, most: int = 12) -> str:
    """Names for an error message: all of them, or the first few and how many more.

    Parameters
    ----------
    names
        What to list.
    most
        How many to name at the most.
    """
    items = [str(name) for name in names]
    shown = ", ".join(items[:most]) if items else "none"
    return shown if len(items) <= most else f"{shown} and {len(items) - most} more"
