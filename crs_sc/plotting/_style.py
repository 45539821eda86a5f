"""One look for every figure: fixed colours, a sensible order, legends outside the axes."""

from __future__ import annotations

import colorsys
import functools
import zlib
from collections.abc import Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from crs_sc import keys
from crs_sc.errors import InputError, MissingKeyError, listing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    from crs_sc.keys import TableSpec

# Hue by lineage, lightness within it. The order is that of every axis and legend.
POPULATION_COLOURS = {
    "Classical monocyte": "#D55E00",
    "Intermediate monocyte": "#F2A65A",
    "Non-classical monocyte": "#FBD9A6",
    "Macrophage": "#8C3A0B",
    "cDC1": "#B59B00",
    "cDC2": "#E8CD2A",
    "AS-DC": "#6E5F00",
    "Migratory DC": "#F6EA9A",
    "pDC": "#CC79A7",
    "Neutrophil": "#A61C3C",
    "Mast cell": "#EBA9CE",
    "CD4 T": "#56B4E9",
    "CD8 T": "#0072B2",
    "Treg": "#B3DBF4",
    "CAR T": "#08306B",
    "NK": "#2AA6A0",
    "B": "#2E8B57",
    "Plasma cell": "#A5D6A7",
    "Megakaryocyte": "#7B4FA3",
    "Erythroid": "#F4A6A6",
    "HSPC": "#9A9A72",
    "B-ALL blast": "#1F1F1F",
    "AML blast": "#5F5F5F",
    keys.UNKNOWN: "#D0D0D0",
}
SIGNATURE_LABELS = {
    "il1_response": "IL-1 response",
    "il6_stat3_response": "IL-6/STAT3 response",
    "ifn_gamma_response": "IFN-gamma response",
    "type1_ifn_response": "type I IFN response",
    "nfkb_response": "NF-kB response",
    "gmcsf_response": "GM-CSF response",
    "hla_dr": "HLA-DR",
    "s100a_high": "S100A-high",
    "il1_tone_agonist": "IL-1 tone, agonists",
    "il1_tone_antagonist": "IL-1 tone, antagonists",
    "hypoxia_glycolysis": "hypoxia and glycolysis",
    "anti_inflammatory": "anti-inflammatory",
    "hla_dr_low": "HLA-DR low",
    "interferon_stimulated": "interferon-stimulated",
}
SPECIES_COLOURS = {"human": "#D55E00", "mouse": "#0072B2", "mixed": "#7B4FA3"}
# Width of all panels, in inches, that a page shows without making the letters too small.
PAGE_WIDTH = 9.5
# Opacity of a bar whose shares say little.
PALE = 0.35
REFERENCE_GREY = "#8C8C8C"
# Okabe and Ito's palette without yellow, which is faint on white.
ARM_COLOURS = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#4B3F72")

_RC: dict[str, Any] = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.labelsize": 9,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.fontsize": 8,
    "legend.title_fontsize": 8,
    "legend.frameon": False,
    "figure.titlesize": 11,
    "figure.facecolor": "white",
    "axes.facecolor": "white",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "axes.edgecolor": "#444444",
    "axes.axisbelow": True,
    "xtick.color": "#333333",
    "ytick.color": "#333333",
    "lines.linewidth": 1.2,
    "savefig.bbox": "tight",
    "svg.hashsalt": "crs_sc",
    # Text of the size that it has in the SVG.
    "text.hinting": "none",
}


@contextmanager
def style() -> Iterator[None]:
    """Context in which figures get the look of the package; nothing global is changed.

    The plotting functions use it themselves. Save a figure inside it as well, because matplotlib
    makes some of the ticks only while it draws.

    Yields
    ------
    Nothing.

    Examples
    --------
    >>> import crs_sc as crs
    >>> with crs.pl.style():
    ...     ax = crs.pl.umap(crs.datasets.toy_cohort())
    ...     ax.figure.savefig("umap.png")
    """
    import matplotlib as mpl
    from matplotlib import pyplot as plt

    # Loads the backend now: inside the context a notebook's would forget that it shows figures.
    plt.draw_if_interactive()  # type: ignore[no-untyped-call]
    with mpl.rc_context(_RC):  # type: ignore[arg-type]
        yield


def styled[**P, R](function: Callable[P, R]) -> Callable[P, R]:
    """Run a plotting function inside `style()`."""

    @functools.wraps(function)
    def inside(*args: P.args, **kwargs: P.kwargs) -> R:
        with style():
            return function(*args, **kwargs)

    return inside


def population_order(populations: Iterable[str]) -> list[str]:
    """Sort populations by lineage; the user's own names after them, Unknown last.

    Parameters
    ----------
    populations
        Names, in any order; each is returned once.

    Returns
    -------
    Each name once.

    Examples
    --------
    >>> import crs_sc as crs
    >>> crs.pl.population_order(["Unknown", "B", "Classical monocyte"])
    ['Classical monocyte', 'B', 'Unknown']
    """
    rank = {name: i for i, name in enumerate(POPULATION_COLOURS)}
    last = len(rank)
    rank[keys.UNKNOWN] = last + 1
    return sorted(
        {str(name) for name in populations}, key=lambda name: (rank.get(name, last), name)
    )


def population_colours(populations: Iterable[str]) -> dict[str, str]:
    """Give each population its colour; a name that is not ours gets one by its letters.

    Parameters
    ----------
    populations
        Names; order and number do not change any colour.

    Returns
    -------
    Colour of each name, `#RRGGBB`, in the order of `population_order`.

    Examples
    --------
    >>> import crs_sc as crs
    >>> crs.pl.population_colours(["NK", "B"])
    {'NK': '#2AA6A0', 'B': '#2E8B57'}
    """
    return {
        name: POPULATION_COLOURS.get(name) or _named_colour(name)
        for name in population_order(populations)
    }


def _named_colour(name: str) -> str:
    code = zlib.crc32(name.encode())
    lightness = (0.38, 0.52, 0.66)[code % 3]
    rgb = colorsys.hls_to_rgb((code >> 8) / 2**24, lightness, 0.55)
    return "#" + "".join(f"{round(255 * part):02X}" for part in rgb)


def feature_label(name: str) -> str:
    """Name a signature or state as a reader would; a gene or a user's set keeps its own name.

    Parameters
    ----------
    name
        As in the tables.

    Returns
    -------
    The name for a reader.

    Examples
    --------
    >>> import crs_sc as crs
    >>> crs.pl.feature_label("il6_stat3_response")
    'IL-6/STAT3 response'
    """
    if name in SIGNATURE_LABELS:
        return SIGNATURE_LABELS[name]
    return name if any(letter.isupper() for letter in name) else name.replace("_", " ")


def arm_order(values: Iterable[str], conditions: Sequence[str] | None) -> list[str]:
    """Sort the arms that occur in `values`, in the order of `conditions`, others after by name."""
    present = {str(value) for value in values}
    first = [name for name in conditions or () if name in present]
    return first + sorted(present.difference(first))


def arm_colours(values: Iterable[str], conditions: Sequence[str] | None) -> dict[str, str]:
    """Give each arm its colour; the first of `conditions` is the reference and grey.

    Parameters
    ----------
    values
        Arms that are drawn.
    conditions
        All arms of the study in order. None: by name, none of them grey.

    Returns
    -------
    Colour of each arm, `#RRGGBB`, in order.

    Examples
    --------
    >>> import crs_sc as crs
    >>> crs.pl.arm_colours(["CART", "vehicle"], ["vehicle", "CART"])
    {'vehicle': '#8C8C8C', 'CART': '#D55E00'}
    """
    everything = [*(conditions or ()), *arm_order(values, conditions)]
    palette = [REFERENCE_GREY, *ARM_COLOURS] if conditions else list(ARM_COLOURS)
    chosen = {
        name: palette[i] if i < len(palette) else _named_colour(name)
        for i, name in enumerate(dict.fromkeys(everything))
    }
    return {name: chosen[name] for name in arm_order(values, conditions)}


def sample_layout(
    samples: pd.DataFrame, *, conditions: Sequence[str] | None
) -> tuple[dict[str, float], dict[str, tuple[float, float]]]:
    """Place samples along an axis, arm by arm with a gap of 0.8 bars between arms.

    Returns the position of each sample, and the first and last position of each arm.
    """
    unique = samples[[keys.SAMPLE, keys.CONDITION]].astype(str).drop_duplicates()
    positions: dict[str, float] = {}
    spans: dict[str, tuple[float, float]] = {}
    at = 0.0
    for arm in arm_order(unique[keys.CONDITION], conditions):
        names = sorted(unique.loc[unique[keys.CONDITION] == arm, keys.SAMPLE])
        for i, name in enumerate(names):
            positions[name] = at + i
        spans[arm] = (at, at + len(names) - 1)
        at += len(names) + 0.8
    return positions, spans


def ordered(values: Iterable[str], wanted: Sequence[str] | None) -> list[str]:
    """`wanted` as far as it occurs in `values`; without it, `values` as they come, once each."""
    present = list(dict.fromkeys(str(value) for value in values))
    return present if wanted is None else [name for name in wanted if name in present]


def check_table(table: pd.DataFrame, columns: Sequence[str], *, name: str) -> None:
    """Raise `MissingKeyError` without these columns, `InputError` without a row to draw."""
    missing = [column for column in columns if column not in table.columns]
    if missing:
        msg = (
            f"The table '{name}' has no column {listing(missing)}. "
            f"Columns: {listing(table.columns)}."
        )
        raise MissingKeyError(msg)
    if table.empty:
        msg = f"The table '{name}' has no rows, so there is nothing to draw."
        raise InputError(msg)


def choose(
    table: pd.DataFrame, spec: TableSpec | Sequence[str], *, name: str, **wanted: Any
) -> tuple[pd.DataFrame, list[list[str]]]:
    """Check a table and take what is wanted of each column: the rows, and the values in order.

    Raises
    ------
    MissingKeyError, InputError
        As `check_table`, before and after.
    """
    check_table(table, spec if isinstance(spec, Sequence) else spec.names, name=name)
    values = [ordered(table[column], some) for column, some in wanted.items()]
    for column, some in zip(wanted, values, strict=True):
        table = table.loc[table[column].isin(some)]
    check_table(table, (), name=name)
    return table, values


def new_axes(ax: Axes | None, size: tuple[float, float]) -> Axes:
    """`ax` itself, or the axes of a new figure of this size (inches)."""
    if ax is not None:
        return ax
    return new_grid(1, 1, size)[1][0][0]


def new_grid(
    rows: int, columns: int, size: tuple[float, float], *, share: Mapping[str, Any] | None = None
) -> tuple[Figure, list[list[Axes]]]:
    """Make a figure, by pyplot so that a notebook shows it, and its axes by row.

    `share`: `sharex`, `sharey`, `width_ratios` or `height_ratios` of `Figure.subplots`.
    """
    from matplotlib import pyplot as plt

    figure = plt.figure(figsize=size, layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, **dict(share or {}))
    return figure, [list(row) for row in axes]


def outside_legend(
    where: Axes | Figure,
    handles: Sequence[Any],
    *,
    title: str = "",
    columns: int = 1,
    spacing: float = 0.35,
) -> None:
    """Put a legend right of the axes, or of all panels of a figure, where it hides nothing."""
    from matplotlib.axes import Axes

    # Inside a figure its height would stretch the panels.
    place: dict[str, Any] = {"loc": "outside right upper"}
    if isinstance(where, Axes):
        place = {"loc": "upper left", "bbox_to_anchor": (1.01, 1.0), "borderaxespad": 0.0}
    look: dict[str, Any] = {
        "alignment": "left",
        "handlelength": 1.2,
        "labelspacing": spacing,
        "ncols": columns,
    }
    where.legend(handles=list(handles), title=title or None, **place, **look)


def mark(label: str, shape: str = "o", *, size: float = 5, **look: Any) -> Line2D:
    """Make an entry of a legend: a marker; `color`, or `mfc` and `mec`, say how it looks."""
    from matplotlib.lines import Line2D

    return Line2D([], [], marker=shape, ls="", ms=size, label=label, **look)


def line(label: str, color: str, **look: Any) -> Line2D:
    """Make an entry of a legend: a line."""
    from matplotlib.lines import Line2D

    return Line2D([], [], color=color, label=label, **look)


def dots(colours: Mapping[str, str]) -> list[Line2D]:
    """Make one round point of a legend for each name."""
    return [mark(name, color=colour) for name, colour in colours.items()]


def patches(colours: Mapping[str, str]) -> list[Patch]:
    """Make one filled box of a legend for each name."""
    from matplotlib.patches import Patch

    return [Patch(color=colour, label=name) for name, colour in colours.items()]


def lattice(ax: Axes, columns: Sequence[str], rows: Sequence[str], **look: Any) -> None:
    """Name columns (in this look) and rows of a grid of dots, the first row on top."""
    ax.set_xticks(range(len(columns)), columns, rotation=90, **look)
    ax.set_yticks(range(len(rows)), rows)
    ax.set_xlim(-0.6, len(columns) - 0.4)
    ax.set_ylim(len(rows) - 0.4, -0.6)


def slanted_names(ax: Axes, at: Iterable[float], names: Iterable[str], *, angle: float) -> None:
    """Name places of the x axis aslant, each name ending at its tick."""
    ax.set_xticks(list(at), list(names), rotation=angle, ha="right", rotation_mode="anchor")


def stacked_bars(
    ax: Axes,
    shares: pd.DataFrame,
    positions: Mapping[str, float],
    colours: Mapping[str, str],
    *,
    pale: Sequence[bool] = (),
) -> None:
    """Stack the rows of `shares` from the bottom up, one bar a sample (column); some are pale."""
    import numpy as np

    x, bottom = list(positions.values()), np.zeros(len(positions))
    for name, values in shares.fillna(0).iterrows():
        height = values.to_numpy(dtype=float)
        bars = ax.bar(x, height, 0.86, bottom=bottom, color=colours[str(name)], edgecolor="white",
                      linewidth=0.3, label=str(name))  # fmt: skip
        for bar, faint in zip(bars, pale, strict=False):
            bar.set_alpha(PALE if faint else None)
        bottom += height
    ax.set_ylim(0, 1)
    ax.set_yticks([0, 0.5, 1], ["0", "50 %", "100 %"])
    ax.set_xlim(min(x) - 0.7, max(x) + 0.7)
    ax.tick_params(axis="x", length=0)


def above_bar(ax: Axes, x: float, text: str) -> None:
    """Write a small grey number above a bar of `stacked_bars`."""
    ax.text(x, 1.02, text, ha="center", va="bottom", fontsize=6, color="#666666")


def log_with_zero(ax: Axes, axis: str, *, floor: float, top: float, percent: str = "") -> None:
    """Make an axis (`x` or `y`) logarithmic; zero is drawn at `floor`, where the tick says 0."""
    import numpy as np
    from matplotlib.ticker import NullLocator

    first = int(np.ceil(np.log10(floor) + 1e-9))
    last = max(first, int(np.floor(np.log10(top))))
    decades = [10.0**power for power in range(first, last + 1)]
    if decades[0] < 4 * floor:
        decades = decades[1:]
    ticks = [floor, *decades]
    labels = ["0", *(f"{tick:g}{percent}" for tick in decades)]
    low, high = floor * 0.7, max(top * 1.5, floor * 3)
    ax.set(**{f"{axis}scale": "log", f"{axis}lim": (low, high)})
    which = ax.xaxis if axis == "x" else ax.yaxis
    which.set_ticks(ticks, labels)
    which.set_minor_locator(NullLocator())


def arm_heads(ax: Axes, spans: dict[str, tuple[float, float]], colours: dict[str, str]) -> None:
    """Draw a coloured line with the name of the arm above its bars."""
    y, across = 1.13, ax.get_xaxis_transform()
    look: dict[str, Any] = {"linewidth": 2.5, "clip_on": False, "solid_capstyle": "butt"}
    for arm, (first, last) in spans.items():
        ends = [first - 0.43, last + 0.43]
        ax.plot(ends, [y, y], color=colours[arm], transform=across, **look)
        at = ((first + last) / 2, y + 0.03)
        ax.text(*at, arm, ha="center", va="bottom", fontsize=7.5, transform=across)


def new_panels(
    n_panels: int,
    across: int,
    *,
    panel: tuple[float, float],
    margin: tuple[float, float],
    share: Mapping[str, Any] | None = None,
    n_groups: int = 1,
) -> tuple[Figure, list[list[Axes]]]:
    """Make a figure of groups of `n_panels` each, every group in lines of `across` of its own.

    Sizes in inches, `margin` around all. Axes that a last line has beyond its panels are off.
    """
    lines = -(-n_panels // across)
    size = (margin[0] + across * panel[0], margin[1] + lines * panel[1] * n_groups)
    figure, grid = new_grid(lines * n_groups, across, size, share=share)
    groups = [
        [ax for line in grid[first : first + lines] for ax in line]
        for first in range(0, len(grid), lines)
    ]
    for ax in (ax for group in groups for ax in group[n_panels:]):
        ax.set_axis_off()
    return figure, [group[:n_panels] for group in groups]


def page_columns(n_panels: int, width: float) -> int:
    """Count the panels of this width (inches) that stand side by side on a page."""
    return max(1, min(n_panels, int(PAGE_WIDTH // width)))
