"""What a key figure of the report is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from crs_sc import keys

if TYPE_CHECKING:
    from collections.abc import Callable

    from anndata import AnnData

__all__ = ["KeyFigure", "organism_of", "slug"]


@dataclass(frozen=True)
class KeyFigure:
    """One figure that there is something to show for.

    Attributes
    ----------
    name
        File name without its suffix.
    draw
        Makes the figure (or axes).
    """

    name: str
    draw: Callable[[], Any]


def organism_of(adata: AnnData) -> Any:
    """Organism of the genes, as the reader wrote it down."""
    name = str(adata.uns.get(keys.UNS, {}).get(keys.ORGANISM, "human"))
    return name.partition("+")[0]


def slug(name: str) -> str:
    """Make a part of a file name."""
    return "".join(letter if letter.isalnum() or letter in "-_" else "_" for letter in name)
