"""Trajectories, the stress adjustment, the waterfall and the rings of the shift heat map."""

from __future__ import annotations

from typing import TYPE_CHECKING

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import PathCollection
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

import crs_sc.plotting as pl
from crs_sc import keys
from crs_sc.errors import InputError, MissingKeyError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ARMS = ["vehicle", "CART"]


def legend_texts(figure: Figure) -> list[str]:
    legends = [*figure.legends, *(ax.get_legend() for ax in figure.axes)]
    return [text.get_text() for one in legends if one is not None for text in one.get_texts()]


def tick_labels(ax: Axes, axis: str) -> list[str]:
    labels = ax.get_xticklabels() if axis == "x" else ax.get_yticklabels()
    return [label.get_text() for label in labels]


def courses(times: dict[str, float], genes: tuple[str, ...] = ("IL1B", "IL6")) -> pd.DataFrame:
    rows = [
        (gene, arm, f"{arm}{i}", name, time, 10.0 * (g + 1) * (i + 1) * t * (arm == "CART"),
         t > 0 and arm == "CART")
        for g, gene in enumerate(genes) for arm in ARMS for i in range(3)
        for t, (name, time) in enumerate(times.items())
    ]  # fmt: skip
    columns = ["gene", "condition", "subject", "timepoint", "time", "output", "above_soup"]
    return pd.DataFrame(rows, columns=columns)


class TestTrajectories:
    def test_a_line_a_subject_and_the_median_of_the_arm(self):
        figure = pl.trajectories(courses({"d0": 0, "d2": 2, "d7": 7}), conditions=ARMS)
        assert isinstance(figure, Figure)
        assert [ax.get_title() for ax in figure.axes] == ["IL1B", "IL6"]
        colours = pl.arm_colours(ARMS, ARMS)
        for g, ax in enumerate(figure.axes):
            thick = [line for line in ax.lines if line.get_linewidth() > 2]
            thin = [line for line in ax.lines if line.get_linewidth() < 1]
            assert (len(thick), len(thin)) == (2, 6)
            (median,) = (line for line in thick if line.get_color() == colours["CART"])
            assert median.get_xdata().tolist() == [0, 2, 7]
            assert median.get_ydata()[1:].tolist() == pytest.approx([20 * (g + 1), 40 * (g + 1)])
            # Zero stands on the foot of the axis, which says 0.
            foot = median.get_ydata()[0]
            assert dict(zip(ax.get_yticks(), tick_labels(ax, "y"), strict=True))[foot] == "0"
            assert tick_labels(ax, "x") == ["d0", "d2", "d7"]
            assert ax.get_xlabel() == ""
        assert legend_texts(figure) == [*ARMS, "above ambient RNA", "ambient RNA explains it"]

    def test_hollow_where_ambient_rna_explains_it(self):
        (ax,) = pl.trajectories(courses({"d0": 0, "d2": 2}), genes=["IL6"]).axes
        points = [c for c in ax.collections if len(c.get_offsets())]
        fills = [[to_hex(f) for f in c.get_facecolors()] for c in points]
        assert sum(f == ["#ffffff", "#ffffff"] for f in fills) == 3  # vehicle
        filled = [f for f in fills if f[1] != "#ffffff"]
        assert len(filled) == 3
        assert all(f[0] == "#ffffff" for f in filled)

    def test_near_times_are_ranks_and_say_so(self):
        figure = pl.trajectories(courses({"6h": 0.25, "d1": 1, "d28": 28}))
        ax = figure.axes[0]
        assert ax.get_xticks().tolist() == [0, 1, 2]
        assert ax.get_xlabel() == "not to scale"

    def test_many_genes_stay_on_a_page_and_empty_panels_are_off(self):
        genes = tuple(f"G{i}" for i in range(7))
        figure = pl.trajectories(courses({f"d{i}": i for i in range(6)}, genes))
        assert figure.get_figwidth() < 12
        shown = [ax for ax in figure.axes if ax.axison]
        assert [ax.get_title() for ax in shown] == list(genes)

    def test_labels_do_not_overlap(self):
        figure = pl.trajectories(courses({f"day {i}": i for i in range(9)}), conditions=ARMS)
        with pl.style():
            figure.canvas.draw()
        for ax in figure.axes:
            boxes = [label.get_window_extent() for label in ax.get_xticklabels()]
            # Slanted labels: their right ends must be apart by a line of text.
            ends = np.array([box.x1 for box in boxes])
            assert (np.diff(ends) > 0.6 * boxes[0].height / 2).all()

    def test_nothing_to_draw(self):
        table = courses({"d0": 0})
        with pytest.raises(InputError, match="no rows"):
            pl.trajectories(table, genes=["TNF"])
        with pytest.raises(MissingKeyError, match="above_soup"):
            pl.trajectories(table.drop(columns="above_soup"))
        silent = table.assign(output=0.0)
        assert pl.trajectories(silent).axes[0].get_title() == "IL1B"

    def test_nothing_global_changes(self):
        before = mpl.rcParams.copy()
        pl.trajectories(courses({"d0": 0, "d1": 1}))
        assert mpl.rcParams == before


def shifts_table() -> pd.DataFrame:
    rows = []
    for contrast, sign in (("cart", 1.0), ("anakinra", -1.0)):
        for feature, size in (("il1_response", 1.5), ("hla_dr", 0.05)):
            for population in ("Classical monocyte", "NK"):
                value = sign * size * (population != "NK")
                changed = abs(value) > 0.5
                rows.append(
                    {
                        "contrast": contrast, "kind": "signature", "feature": feature,
                        "population": population, "estimate": value, "ci_low": value - 0.2,
                        "ci_high": value + 0.2, "padj": 0.001 if changed else 0.8,
                        "status": keys.OK, "margin": 0.5,
                        "verdict": keys.CHANGED if changed else keys.EQUIVALENT,
                        "estimate_stress_adjusted": value / 2,
                        "ci_low_stress_adjusted": value / 2 - 0.3,
                        "ci_high_stress_adjusted": value / 2 + 0.3,
                    }
                )  # fmt: skip
    return pd.DataFrame(rows).reindex(columns=keys.SHIFTS_TABLE.names)


def dots(ax: Axes) -> np.ndarray:
    return np.ma.vstack([c.get_offsets() for c in ax.collections if isinstance(c, PathCollection)])


class TestShifts:
    def test_rings_mark_what_is_equivalent(self):
        table = shifts_table()
        table.loc[0, "status"] = keys.TOO_FEW_CELLS
        figure = pl.shift_heatmap(table)
        panels = [ax for ax in figure.axes if ax.get_title()]
        marks = [[len(c.get_offsets()) for c in ax.collections] for ax in panels]
        # Dots, rings, crosses of each panel.
        assert marks == [[0, 3, 1], [1, 3, 0]]
        assert legend_texts(figure) == [
            "adjusted p < 0.05", "no relevant change (±0.5)", "not testable",
        ]  # fmt: skip

    def test_no_ring_in_the_legend_without_one(self):
        table = shifts_table().assign(verdict=keys.INCONCLUSIVE)
        assert legend_texts(pl.shift_heatmap(table)) == ["adjusted p < 0.05", "not testable"]

    def test_both_estimates_stand_in_the_row(self):
        figure = pl.stress_adjustment(shifts_table(), contrasts=["anakinra", "cart"])
        left, right = figure.axes
        assert [left.get_title(), right.get_title()] == ["anakinra", "cart"]
        # By themselves only what changed anywhere.
        assert tick_labels(left, "y") == ["Classical monocyte: IL-1 response"]
        drawn = dots(right)
        assert drawn[:, 0].tolist() == pytest.approx([1.5, 0.75])
        assert drawn[0, 1] < drawn[1, 1]
        lines = [c.get_segments()[0][:, 0] for c in right.collections if hasattr(c, "get_segments")]
        np.testing.assert_allclose(lines, [[1.3, 1.7], [0.45, 1.05]])
        assert legend_texts(figure) == ["as it is", "at equal handling stress"]

    def test_rows_go_by_population_and_the_margin_is_a_band(self):
        figure = pl.stress_adjustment(
            shifts_table(), features=["hla_dr", "il1_response"], populations=["NK"]
        )
        ax = figure.axes[0]
        assert tick_labels(ax, "y") == ["NK: HLA-DR", "NK: IL-1 response"]
        (band,) = ax.patches
        assert (band.get_x(), band.get_width()) == (-0.5, 1.0)

    def test_missing_adjustment_leaves_the_first_estimate(self):
        table = shifts_table()
        table[[c for c in table if c.endswith("_stress_adjusted")]] = np.nan
        ax = pl.stress_adjustment(table).axes[0]
        with pl.style():
            ax.figure.canvas.draw()
        assert np.isfinite(dots(ax)[:, 0].astype(float).filled(np.nan)).sum() == 1

    def test_nothing_changed_is_an_error(self):
        with pytest.raises(InputError, match="that were tested"):
            pl.stress_adjustment(shifts_table().assign(verdict=keys.EQUIVALENT))


def decomposition_table() -> pd.DataFrame:
    parts = {
        "Classical monocyte": (0.1, 0.6, 0.3),
        "cDC2": (0.0, -0.05, 0.02),
        "NK": (0.001, 0.0, 0.0),
    }
    rows = [
        {
            "contrast": "cart", "gene": "IL1B", "population": population, "total": sum(values),
            "composition": values[0], "producer_fraction": values[1], "intensity": values[2],
            "producer_fraction_ci_low": values[1] - 0.1, "status": keys.OK,
            "producer_fraction_ci_high": values[1] + 0.1,
        }
        for population, values in parts.items()
    ]  # fmt: skip
    return pd.DataFrame(rows).reindex(columns=keys.DECOMPOSITION_TABLE.names)


class TestWaterfall:
    def test_steps_lead_to_the_total(self):
        table = decomposition_table()
        ax = pl.waterfall(table, contrast="cart", gene="IL1B")
        bars = [bar for container in ax.containers for bar in container]
        *steps, total = bars
        assert len(steps) == 3 + 2 + 1  # a part that is zero has no bar; NK is among the others
        ends = 0.0
        for bar in steps:
            assert bar.get_y() == pytest.approx(ends)
            ends = bar.get_y() + bar.get_height()
        assert ends == pytest.approx(table["total"].sum())
        assert total.get_height() == pytest.approx(table["total"].sum())
        assert tick_labels(ax, "x") == ["Classical monocyte", "cDC2", "all others", "total"]

    def test_total_of_all_populations_is_no_step(self):
        table = decomposition_table()
        whole = table.sum(numeric_only=True).to_frame().T.assign(
            contrast="cart", gene="IL1B", population=keys.ALL_POPULATIONS, status=keys.OK,
            total_ci_low=0.4, total_ci_high=1.1,
        )  # fmt: skip
        steps = pl.waterfall(table, contrast="cart", gene="IL1B")
        ax = pl.waterfall(pd.concat([table, whole]), contrast="cart", gene="IL1B")
        assert tick_labels(ax, "x") == tick_labels(steps, "x")
        assert [bar.get_height() for c in ax.containers for bar in c] == pytest.approx(
            [bar.get_height() for c in steps.containers for bar in c]
        )
        at = len(ax.containers[0])
        (line,) = [one for one in ax.lines if list(one.get_xdata()) == [at, at]]
        assert list(line.get_ydata()) == [0.4, 1.1]

    def test_grid_of_genes_and_contrasts(self):
        table = decomposition_table()
        still = table.assign(contrast="drug", total=0.0, composition=0.0, intensity=0.0,
                             producer_fraction=0.0)  # fmt: skip
        figure = pl.waterfalls(pd.concat([table, still]), genes=["IL1B"])
        walked, empty = figure.axes
        assert walked.get_title() == "IL1B: cart"
        assert tick_labels(walked, "x")[-1] == "total"
        assert walked.containers[-1][0].get_height() == pytest.approx(table["total"].sum())
        assert [text.get_text() for text in empty.texts] == ["no change to split"]
        assert empty.get_ylim() == walked.get_ylim()

    def test_many_contrasts_go_on_in_the_next_line(self):
        many = [decomposition_table().assign(contrast=f"c{i}") for i in range(7)]
        figure = pl.waterfalls(pd.concat(many), genes=["IL1B"])
        assert figure.get_figwidth() < 13
        shown = [ax for ax in figure.axes if ax.axison]
        assert [ax.get_title() for ax in shown] == [f"IL1B: c{i}" for i in range(7)]

    def test_interval_of_a_part_stands_on_its_start(self):
        ax = pl.waterfall(decomposition_table(), contrast="cart", gene="IL1B")
        (line,) = (
            line for line in ax.lines
            if line.get_color() == "black" and line.get_xdata().tolist() == [1, 1]
        )  # fmt: skip
        assert line.get_ydata().tolist() == pytest.approx([0.1 + 0.5, 0.1 + 0.7])

    def test_axes_in_axes_out_and_chosen_populations(self):
        ax = Figure().subplots()
        found = pl.waterfall(
            decomposition_table(), contrast="cart", gene="IL1B", populations=["cDC2"], ax=ax
        )
        assert found is ax
        assert tick_labels(ax, "x") == ["cDC2", "all others", "total"]

    def test_no_such_change_says_what_there_is(self):
        with pytest.raises(InputError, match="It has: cart, IL1B"):
            pl.waterfall(decomposition_table(), contrast="cart", gene="IL6")
