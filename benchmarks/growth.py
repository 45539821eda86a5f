"""How time and memory of each stage grow with the cells.

`python benchmarks/growth.py b10.json b50.json b200.json b1000.json` reads what
`python benchmarks/pipeline.py --json FILE` wrote for cohorts of several sizes, prints for each step
its figures at each size and the slope of their logarithms (over all sizes, and between the two
largest: 1 is linear), and draws them on logarithmic axes in `benchmarks/growth.png`. On a machine
with other work `--time cpu` takes the seconds of processor.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.ticker import LogLocator

WAYS = ("crs-sc run", "plain scanpy")
LABELS = {"seconds": "seconds", "cpu": "seconds of processor", "peak_gb": "peak memory, GB"}


def read_figures(paths: list[Path]) -> pd.DataFrame:
    """One row a way, step and size: `way`, `step`, `cells`, `seconds`, `cpu`, `peak_gb`."""
    rows = []
    for path in paths:
        run = json.loads(path.read_text())
        for way in WAYS:
            for step, figures in run.get(way, {}).items():
                rows.append({"way": way, "step": step, "cells": run["cells"], **figures})
    return pd.DataFrame(rows).sort_values("cells", kind="stable", ignore_index=True)


def slope(cells: pd.Series, values: pd.Series) -> float:
    """Least squares of the logarithms; missing for a single size, or where a value is zero."""
    if len(cells) < 2 or (values <= 0).any():
        return np.nan
    return float(np.polyfit(np.log(cells), np.log(values), 1)[0])


def growth_table(figures: pd.DataFrame, measure: str) -> pd.DataFrame:
    """One row a step: its figure at each size, and both slopes."""
    rows = {}
    for (way, step), own in figures.groupby(["way", "step"], sort=False):
        last = own.tail(2)
        rows[way, step] = {
            **{f"{n:,}": value for n, value in zip(own["cells"], own[measure], strict=True)},
            "slope": slope(own["cells"], own[measure]),
            "last two": slope(last["cells"], last[measure]),
        }
    sizes = [f"{n:,}" for n in sorted(figures["cells"].unique())]
    return pd.DataFrame(rows).T[[*sizes, "slope", "last two"]].round(2)


def draw(figures: pd.DataFrame, time: str, path: Path) -> None:
    """Draw time above memory, one column a way, a line a step; dotted lines grow linearly."""
    sizes = sorted(figures["cells"].unique())
    # A single size has no slope to see.
    n_sizes = figures.groupby("way")["cells"].nunique()
    ways = [way for way in WAYS if n_sizes.get(way, 0) > 1]
    fig, grid = plt.subplots(
        2, len(ways), figsize=(4.6 * len(ways), 7.4), sharex=True, sharey="row", squeeze=False,
        layout="constrained",
    )  # fmt: skip
    for column, way in enumerate(ways):
        own = figures[figures["way"] == way]
        for ax, measure in zip(grid[:, column], (time, "peak_gb"), strict=True):
            for i, (step, line) in enumerate(own.groupby("step", sort=False)):
                look = {"color": "black", "lw": 2} if step == "all" else {"color": f"C{i % 10}"}
                style = "-" if i < 10 or step == "all" else "--"
                ax.plot(line["cells"], line[measure], style, marker="o", ms=3, label=step, **look)
            if measure == "peak_gb":
                ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            ends = own.loc[own["step"] == "all", ["cells", measure]].to_numpy()[[0, -1]]
            ax.plot(ends[:, 0], ends[0, 1] * ends[:, 0] / ends[0, 0], ":", color="grey")
            ax.set(xscale="log", yscale="log", ylabel=LABELS[measure] if column == 0 else "")
            ax.set_xticks(sizes, [f"{n:,}" for n in sizes])
            ax.minorticks_off()
            ax.yaxis.set_major_formatter("{x:g}")
            ax.grid(color="#DDDDDD", lw=0.5)
        grid[0, column].set_title(way)
        grid[1, column].set_xlabel("cells")
        names = grid[0, column].get_legend_handles_labels()
        grid[1, column].legend(
            *names, loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=3, fontsize=7.5,
            frameon=False,
        )  # fmt: skip
    fig.savefig(path, dpi=90)


def main() -> None:
    """Print the tables and draw the plot."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", type=Path, nargs="+", help="from `pipeline.py --json`")
    parser.add_argument("--time", choices=["seconds", "cpu"], default="seconds")
    parser.add_argument("--plot", type=Path, default=Path(__file__).with_name("growth.png"))
    given = parser.parse_args()
    figures = read_figures(given.files)
    for measure in (given.time, "peak_gb"):
        print(f"\n{LABELS[measure]}")
        print(growth_table(figures, measure).to_string(na_rep=""))
    draw(figures, given.time, given.plot)


if __name__ == "__main__":
    main()
