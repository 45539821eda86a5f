"""Panels in lines: more than a page is wide go on in the next line."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from crs_sc.plotting._style import PAGE_WIDTH, new_grid

if TYPE_CHECKING:
    from collections.abc import Mapping

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["Wrapped", "wrapped_grid"]


@dataclass(frozen=True)
class Wrapped:
    """Axes of groups of panels, each group on lines of its own.

    Attributes
    ----------
    figure
        The figure.
    groups
        Panels of each group in order.
    columns
        Panels in a full line.
    """

    figure: Figure
    groups: list[list[Axes]]
    columns: int

    @property
    def first_of_lines(self) -> list[Axes]:
        """Leftmost panel of each line."""
        return [ax for panels in self.groups for ax in panels[:: self.columns]]

    @property
    def lowest(self) -> list[Axes]:
        """Lowest panel of each column."""
        return self.groups[-1][-self.columns :]


def wrapped_grid(
    n_groups: int,
    n_panels: int,
    *,
    panel: tuple[float, float],
    margin: tuple[float, float],
    share: Mapping[str, Any] | None = None,
) -> Wrapped:
    """Make a figure of groups that have as many panels each.

    Parameters
    ----------
    n_groups, n_panels
        Groups, and panels of each.
    panel, margin
        Width and height in inches of a panel, and of all that is around them.
    share
        As in `new_grid`.
    """
    columns = min(n_panels, max(1, int(PAGE_WIDTH // panel[0])))
    lines = -(-n_panels // columns)
    size = (panel[0] * columns + margin[0], panel[1] * lines * n_groups + margin[1])
    figure, grid = new_grid(lines * n_groups, columns, size, share=share)
    groups = []
    for k in range(n_groups):
        own = [ax for line in grid[k * lines : (k + 1) * lines] for ax in line]
        for ax in own[n_panels:]:
            ax.set_axis_off()
        groups.append(own[:n_panels])
    return Wrapped(figure, groups, columns)
