"""Each figure draws what the table says, with stable colours and readable labels."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex
from matplotlib.container import BarContainer
from matplotlib.figure import Figure

import crs_sc.plotting as pl
from crs_sc import genesets, keys
from crs_sc.errors import InputError, MissingKeyError
from crs_sc.plotting._sources import _round_shares

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def legend_texts(figure: Figure) -> list[str]:
    legends = [*figure.legends, *(ax.get_legend() for ax in figure.axes)]
    return [text.get_text() for one in legends if one is not None for text in one.get_texts()]


def tick_labels(ax: Axes, axis: str) -> list[str]:
    labels = ax.get_xticklabels() if axis == "x" else ax.get_yticklabels()
    return [label.get_text() for label in labels]


def texts(ax: Axes) -> list[str]:
    return [text.get_text() for text in ax.texts]


def offsets(ax: Axes) -> np.ndarray:
    return np.vstack([np.asarray(part.get_offsets()) for part in ax.collections])


class TestStyle:
    def test_every_population_of_the_vocabulary_has_its_own_colour(self):
        names = genesets.lineages()
        colours = pl.population_colours(names)
        assert len(set(colours.values())) == len(names)

    def test_colour_of_a_population_does_not_depend_on_the_others(self):
        names = ["B", "My own cells", "Classical monocyte", "CD14+ Monocytes"]
        together = pl.population_colours(names)
        assert {name: pl.population_colours([name])[name] for name in names} == together

    def test_populations_go_by_lineage_users_names_after_unknown_last(self):
        names = ["Unknown", "zz", "B", "CD4 T", "Classical monocyte", "cDC2"]
        assert pl.population_order(names) == [
            "Classical monocyte", "cDC2", "CD4 T", "B", "zz", "Unknown",
        ]  # fmt: skip

    def test_reference_is_grey_and_an_absent_arm_moves_no_colour(self, fake):
        everything = pl.arm_colours(fake.ARMS, list(fake.ARMS))
        some = pl.arm_colours(["CART_tocilizumab", "vehicle"], list(fake.ARMS))
        red, green, blue = (int(everything["vehicle"][i : i + 2], 16) for i in (1, 3, 5))
        assert red == green == blue
        assert list(some) == ["vehicle", "CART_tocilizumab"]
        assert some.items() <= everything.items()

    def test_no_arm_is_grey_without_an_order(self, fake):
        grey = pl.arm_colours(fake.ARMS, list(fake.ARMS))["vehicle"]
        assert grey not in pl.arm_colours(fake.ARMS, None).values()

    def test_nothing_global_changes(self, tables):
        before = dict(mpl.rcParams)
        pl.source_shares(tables["ledger"])
        assert dict(mpl.rcParams) == before

    def test_plotting_functions_take_one_positional_argument(self):
        for name in pl.__all__:
            kinds = [p.kind for p in inspect.signature(getattr(pl, name)).parameters.values()]
            if name not in {"arm_colours"}:
                assert kinds.count(inspect.Parameter.POSITIONAL_OR_KEYWORD) <= 1, name

    def test_feature_labels(self):
        assert pl.feature_label("il6_stat3_response") == "IL-6/STAT3 response"
        assert pl.feature_label("dissociation_stress") == "dissociation stress"
        assert pl.feature_label("HALLMARK_X") == "HALLMARK_X"
        assert pl.feature_label("hla_dr_low") == "HLA-DR low"


class TestCells:
    def test_umap_draws_every_cell_in_its_colour(self, cells):
        ax = pl.umap(cells)
        (points,) = ax.collections
        assert len(points.get_offsets()) == cells.n_obs
        drawn = pd.Series([to_hex(c).upper() for c in points.get_facecolors()]).value_counts()
        counts = cells.obs["population"].value_counts()
        for name, colour in pl.population_colours(counts.index).items():
            assert drawn[colour] == counts[name]
        assert f"NK ({counts['NK']:,})" in legend_texts(ax.figure)

    def test_umap_of_many_cells_draws_some_and_counts_all(self, cells):
        ax = pl.umap(cells, most=20)
        (points,) = ax.collections
        assert len(points.get_offsets()) == 20
        assert ax.get_title() == f"Cells by population (20 of {cells.n_obs:,} drawn)"
        counts = cells.obs["population"].value_counts()
        assert f"NK ({counts['NK']:,})" in legend_texts(ax.figure)

    def test_umap_is_drawn_into_the_axes_that_it_gets(self, cells, fake):
        ax = Figure().subplots()
        assert pl.umap(cells, color="condition", conditions=fake.ARMS, ax=ax) is ax
        assert [text.split(" ")[0] for text in legend_texts(ax.figure)] == list(fake.ARMS)

    def test_umap_samples_have_their_own_shades(self, cells):
        ax = pl.umap(cells, color="sample")
        assert len({to_hex(c) for c in ax.collections[0].get_facecolors()}) == 16

    def test_umap_without_embedding_says_what_is_there(self, cells):
        with pytest.raises(MissingKeyError, match="X_other"):
            pl.umap(cells, basis="X_other")

    def test_marker_dotplot_size_is_the_share_of_cells(self, cells):
        figure = pl.marker_dotplot(cells, markers={"CD4 T": ["CD3D", "absent"], "NK": ["NKG7"]})
        ax = figure.axes[0]
        assert tick_labels(ax, "x") == ["CD3D", "NKG7"]
        rows = tick_labels(ax, "y")
        sizes = ax.collections[0].get_sizes().reshape(len(rows), 2) / 95
        values = cells[cells.obs["population"] == "NK", "NKG7"].X.toarray()
        assert sizes[rows.index("NK"), 1] == pytest.approx((values > 0).mean())

    def test_marker_dotplot_uses_the_packaged_panels(self, cells):
        assert "CD14" in tick_labels(pl.marker_dotplot(cells).axes[0], "x")

    def test_marker_dotplot_refuses_genes_that_are_not_there(self, cells):
        with pytest.raises(InputError, match="marker genes"):
            pl.marker_dotplot(cells, markers={"NK": ["absent"]})

    def test_myeloid_states_add_up_to_one_in_each_sample(self, cells, fake):
        ax = pl.myeloid_states(cells, conditions=fake.ARMS)
        heights = np.sum([[bar.get_height() for bar in group] for group in ax.containers], axis=0)
        assert heights == pytest.approx(np.ones(16))
        # "classical" is not a state of the package and comes last.
        assert legend_texts(ax.figure) == [
            "inflammatory", "interferon-stimulated", "HLA-DR low", "classical",
        ]  # fmt: skip
        arms = {to_hex(colour) for colour in pl.arm_colours(fake.ARMS, fake.ARMS).values()}
        drawn = {to_hex(group[0].get_facecolor()) for group in ax.containers}
        assert not drawn & arms
        with pytest.raises(InputError, match="myeloid state"):
            pl.myeloid_states(cells[cells.obs["lineage"] == "T"].copy())

    def test_barnyard_of_all_droplets_counts_every_call(self):
        droplets = pd.DataFrame(
            {
                "umi_analysed": [900, 5, 400, 0, 20],
                "umi_other": [10, 700, 380, 600, 3],
                "species": ["human", "mouse", "mixed", "mouse", None],
                "sample": "a",
            }
        )
        ax = pl.barnyard(droplets, min_fraction=0.8)
        drawn = {tuple(point) for point in np.asarray(ax.collections[0].get_offsets())}
        assert {(900, 10), (5, 700), (400, 380), (20, 3)} < drawn
        assert legend_texts(ax.figure) == [
            "human (1)", "mouse (2)", "mixed (1)", "too few UMI to call (1)", "80 % of one genome",
        ]  # fmt: skip
        for line, odds in zip(ax.lines, (0.25, 4.0), strict=True):
            assert np.asarray(line.get_ydata()) / line.get_xdata() == pytest.approx(odds)
        with pytest.raises(MissingKeyError, match="umi_other"):
            pl.barnyard(droplets.drop(columns="umi_other"))

    def test_barnyard_gives_back_the_umi_of_both_genomes(self, cells):
        ax = pl.barnyard(cells)
        x, y = np.asarray(ax.collections[0].get_offsets()).T
        fraction = np.sort(np.round(x / (x + y), 6))
        expected = np.sort(cells.obs[keys.SPECIES_FRACTION].to_numpy())
        assert fraction == pytest.approx(expected, abs=1e-3)

    def test_stress_has_one_point_a_sample(self, cells, tables):
        ax = pl.stress_vs_cytokine(cells, ledger=tables["ledger"], gene="IL1B")
        assert len(offsets(ax)) == 16
        with pytest.raises(InputError, match="NOPE"):
            pl.stress_vs_cytokine(cells, ledger=tables["ledger"], gene="NOPE")


class TestSources:
    def test_bars_are_the_shares_of_the_ledger(self, tables, fake):
        ledger = tables["ledger"]
        figure = pl.source_shares(ledger, genes=["IL6"], conditions=fake.ARMS)
        (ax,) = figure.axes
        samples = tick_labels(ax, "x")
        group = next(g for g in ax.containers if g.get_label() == "Classical monocyte")
        assert isinstance(group, BarContainer)
        colour = pl.population_colours(["Classical monocyte"])["Classical monocyte"]
        assert to_hex(group[0].get_facecolor()).upper() == colour
        rows = ledger.query("gene == 'IL6' and population == 'Classical monocyte'")
        shares = rows.set_index("sample")["share"].fillna(0)
        assert [bar.get_height() for bar in group] == pytest.approx(shares[samples].tolist())

    def test_samples_go_by_arm(self, tables, fake):
        ledger = tables["ledger"]
        ax = pl.source_shares(ledger, genes=["IL6"], conditions=fake.ARMS).axes[0]
        arm_of = ledger.drop_duplicates("sample").set_index("sample")["condition"]
        assert list(dict.fromkeys(arm_of[tick_labels(ax, "x")])) == list(fake.ARMS)

    def test_sample_without_umi_is_empty_and_marked(self, tables):
        ledger = tables["ledger"]
        silent = (ledger["sample"] == "car1") & (ledger["gene"] == "IL6")
        ledger.loc[silent, "share"] = np.nan
        ledger.loc[silent, "corrected_umi"] = 0.0
        some, none = (pl.source_shares(ledger, genes=[gene]).axes[0] for gene in ("IL1B", "IL6"))
        at = tick_labels(none, "x").index("car1")
        assert all(group[at].get_height() == 0 for group in none.containers)
        assert "ambient RNA only" in texts(none)
        assert "ambient RNA only" not in texts(some)
        ledger.loc[silent, "umi"] = 0
        assert "no UMI" in texts(pl.source_shares(ledger, genes=["IL6"]).axes[0])

    def test_bars_of_few_umi_are_pale(self, tables):
        ledger = tables["ledger"]
        totals = ledger.query("gene == 'IL6'").groupby("sample")["corrected_umi"].sum()
        limit = float(totals.median())
        ax = pl.source_shares(ledger, genes=["IL6"], few_umi=limit).axes[0]
        samples = tick_labels(ax, "x")
        alphas = [bar.get_alpha() for bar in ax.containers[0]]
        assert [alpha is not None for alpha in alphas] == (totals[samples] < limit).tolist()
        assert f"pale: below {limit:g} UMI" in legend_texts(ax.figure)

    def test_many_genes_stand_in_two_columns(self, tables):
        figure = pl.source_shares(tables["ledger"])
        assert len({round(ax.get_position().x0, 3) for ax in figure.axes if ax.has_data()}) == 2
        assert figure.get_size_inches()[0] < 13

    def test_producers_fill_and_ambient_rna_is_hollow(self, tables, fake):
        producers = tables["producers"]
        figure = pl.producer_dotplot(producers, genes=["TNF"], conditions=fake.ARMS)
        panels = [ax for ax in figure.axes if ax.get_title() in fake.ARMS]
        assert [ax.get_title() for ax in panels] == list(fake.ARMS)
        rows = producers.query("gene == 'TNF' and condition == 'CART'")
        sums = rows.groupby("population")[["n_producers", "umi"]].sum()
        filled, hollow, *_ = panels[1].collections
        assert len(filled.get_offsets()) == (sums["n_producers"] > 0).sum()
        ambient = (sums["n_producers"] == 0) & (sums["umi"] > 0)
        assert len(hollow.get_offsets()) == ambient.sum()
        assert len(hollow.get_facecolors()) == 0

    def test_no_producer_anywhere_is_drawn_without_fill(self, tables):
        producers = tables["producers"].assign(n_producers=0, producer_fraction=0.0)
        figure = pl.producer_dotplot(producers)
        assert len(figure.axes[0].collections[0].get_offsets()) == 0

    def test_production_decides_what_is_filled_hollow_or_too_shallow(self, tables, fake):
        production = tables["production"]
        index = ["gene", "population", "condition"]
        one = (production[index] == ["IL6", "Classical monocyte", "CART"]).all(axis=1)
        two = (production[index] == ["IL6", "NK", "CART"]).all(axis=1)
        production.loc[one, "state"] = keys.AMBIENT_COMPATIBLE
        production.loc[two, "state"] = keys.UNDETERMINED
        figure = pl.producer_dotplot(
            tables["producers"], production=production, genes=["IL6"], conditions=fake.ARMS
        )
        ax = next(ax for ax in figure.axes if ax.get_title() == "CART")
        names = tick_labels(figure.axes[0], "y")
        filled, hollow, _, shallow = (
            {names[int(y)] for _, y in np.asarray(part.get_offsets())} for part in ax.collections
        )
        rows = production.query("gene == 'IL6' and condition == 'CART'").set_index("population")
        assert filled == set(rows.index[rows["state"] == keys.PRODUCER])
        assert "Classical monocyte" in hollow
        assert shallow == {"NK"}
        assert "no UMI, too shallow to tell" in legend_texts(figure)

    def test_many_cytokines_stay_within_a_page_and_dots_of_the_legend_apart(self, tables, fake):
        producers = tables["producers"]
        ten = pd.concat(producers.query("gene == 'IL6'").assign(gene=f"GENE{i}") for i in range(10))
        figure = pl.producer_dotplot(ten, conditions=fake.ARMS)
        assert figure.get_size_inches()[0] < 13
        panels = [ax for ax in figure.axes if ax.get_title() in fake.ARMS]
        assert len({round(ax.get_position().y0, 2) for ax in panels}) == 2
        figure.draw_without_rendering()
        (legend,) = figure.legends
        sizes = [h for h in legend.legend_handles if h.get_marker() == "o"]
        radius = [h.get_markersize() / 2 * figure.dpi / 72 for h in sizes]
        height = [t.get_window_extent().y0 for t in legend.get_texts()][: len(sizes)]
        for i in range(len(sizes) - 1):
            assert height[i] - height[i + 1] > radius[i] + radius[i + 1]

    @pytest.mark.parametrize(
        ("largest", "shares"),
        [(1.0, [1.0, 0.2, 0.05]), (0.53, [0.5, 0.1, 0.02]), (0.012, [0.01, 0.002, 0.0005])],
    )
    def test_sizes_of_the_legend_are_round(self, largest, shares):
        assert _round_shares(largest) == pytest.approx(shares)

    def test_receivers_are_drawn_at_their_level(self, tables, fake):
        receivers = tables["receivers"]
        figure = pl.producers_to_receivers(
            receivers, cytokine="IL1B", ledger_by_condition=tables["ledger_by_condition"],
            production=tables["production"], conditions=fake.ARMS,
        )  # fmt: skip
        titles = [ax.get_title() for ax in figure.axes]
        assert titles == ["IL1B", "IL1R1", "IL1RAP", "IL1R2", "IL1RN"]
        assert [texts(ax)[0] for ax in figure.axes] == [
            "made by", "receptor", "co-receptor", "decoy", "antagonist",
        ]  # fmt: skip
        points = [part for part in figure.axes[1].collections if hasattr(part, "get_sizes")]
        points = [part for part in points if len(part.get_offsets())]
        rows = receivers.query("gene == 'IL1R1'")
        drawn = np.vstack([np.asarray(part.get_offsets()) for part in points[-len(fake.ARMS) :]])
        assert len(legend_texts(figure)) == len(fake.ARMS) + 2
        assert set(np.round(drawn[:, 0], 6)) <= set(np.round(rows["cpm"], 6))

    def test_receivers_without_producers_or_without_a_row(self, tables):
        receivers, shares = tables["receivers"], tables["ledger_by_condition"]
        figure = pl.producers_to_receivers(
            receivers, cytokine="IL6", ledger_by_condition=shares.query("gene == 'TNF'")
        )
        assert [ax.get_title() for ax in figure.axes] == ["IL6R", "IL6ST"]
        with pytest.raises(InputError, match="IL99"):
            pl.producers_to_receivers(receivers, cytokine="IL99", ledger_by_condition=shares)

    def test_ambient_panels_show_each_population_in_each_sample(self, tables):
        figure = pl.ambient_expected(tables["producers"], genes=["IL1B", "IL6"])
        ax = figure.axes[0]
        assert ax.get_title() == "IL1B"
        rows = tables["producers"].query("gene == 'IL1B'")
        assert len(ax.collections[0].get_offsets()) == len(rows)
        assert np.asarray(ax.collections[0].get_offsets())[:, 1].max() == rows["umi"].max()
        line = ax.lines[0]
        assert np.array_equal(line.get_xdata(), line.get_ydata())

    def test_empty_table_is_an_error(self, tables):
        with pytest.raises(InputError, match="no rows"):
            pl.source_shares(tables["ledger"].iloc[:0])
        with pytest.raises(MissingKeyError, match="share"):
            pl.source_shares(tables["ledger"].drop(columns="share"))


class TestComparison:
    def test_composition_has_a_point_a_subject(self, tables, fake):
        ax = pl.composition(tables["ledger"], conditions=fake.ARMS)
        assert tick_labels(ax, "x") == pl.population_order(fake.LINEAGES)
        assert len(offsets(ax)) == 16 * len(fake.LINEAGES)

    def test_paired_subjects_are_joined(self):
        rows = [
            ("il1_response", "NK", f"m{i}", arm, float(i + j))
            for i in range(3)
            for j, arm in enumerate(("before", "after"))
        ]
        scores = pd.DataFrame(
            rows, columns=["feature", "population", "subject", "condition", "score"]
        )
        figure = pl.signature_points(scores, conditions=["before", "after"])
        joins = [line for line in figure.axes[0].lines if to_hex(line.get_color()) == "#bbbbbb"]
        assert [list(line.get_ydata()) for line in joins] == [[0, 1], [1, 2], [2, 3]]

    def test_unpaired_subjects_are_not_joined_and_estimates_are_written(self, fake, tables):
        figure = pl.signature_points(
            fake.scores(), features=["il1_response"], populations=["cDC2"],
            conditions=fake.ARMS, shifts=tables["shifts"],
        )  # fmt: skip
        (ax,) = figure.axes
        assert len(ax.lines) == 4
        assert ax.get_xlabel().count("\n") == 2
        assert "cart: +" in ax.get_xlabel()

    def test_shift_heatmap_is_centred_at_zero_and_marks(self, tables):
        shifts = tables["shifts"]
        one = shifts.query("contrast == 'cart' and population == 'NK'").index
        shifts.loc[one, ["estimate", "padj", "status"]] = [np.nan, np.nan, keys.TOO_FEW_CELLS]
        figure = pl.shift_heatmap(shifts)
        ax = figure.axes[0]
        low, high = ax.images[0].get_clim()
        assert low == -high
        assert "Unknown" not in tick_labels(ax, "y"), "tested nowhere"
        shown = shifts.groupby("population")["estimate"].transform("count") > 0
        rows = shifts[shown].query("contrast == 'cart' and kind == 'signature'")
        dots, rings, crosses = ax.collections
        tested = rows["status"] == keys.OK
        equivalent = tested & (rows["verdict"] == keys.EQUIVALENT)
        assert equivalent.any()
        assert len(rings.get_offsets()) == equivalent.sum()
        assert len(dots.get_offsets()) == (tested & (rows["padj"] < 0.05)).sum()
        assert len(crosses.get_offsets()) == (~tested).sum()

    def test_decomposition_bars_add_up(self, tables):
        table = tables["decomposition"]
        figure = pl.decomposition_bars(table, genes=["IL6"], contrasts=["anakinra"])
        ax = figure.axes[0]
        widths = {group.get_label(): [bar.get_width() for bar in group] for group in ax.containers}
        rows = table.query("gene == 'IL6' and contrast == 'anakinra'")
        whole = rows.set_index("population").loc[keys.ALL_POPULATIONS]
        assert sum(part[0] for part in widths.values()) == pytest.approx(whole["total"])
        (intervals,) = [c for c in ax.collections if hasattr(c, "get_segments")]
        assert intervals.get_segments()[0][:, 0].tolist() == pytest.approx(
            [whole["total_ci_low"], whole["total_ci_high"]]
        )
        assert tick_labels(ax, "y").count("All populations") == 1
        assert keys.ALL_POPULATIONS not in tick_labels(ax, "y")
        own = rows.set_index("population").loc["Classical monocyte"]
        at = tick_labels(ax, "y").index("Classical monocyte")
        for part, values in widths.items():
            assert values[at] == pytest.approx(own[part])

    def test_decomposition_of_many_contrasts_goes_on_in_the_next_line(self, tables):
        one = tables["decomposition"].query("contrast == 'cart'")
        table = pd.concat([one.assign(contrast=f"cart@d{day}") for day in range(5)])
        figure = pl.decomposition_bars(table, genes=["IL1B", "IL6"])
        panels = [ax for ax in figure.axes if ax.get_title()]
        assert [ax.get_title() for ax in panels[:5]] == [f"IL1B: cart@d{day}" for day in range(5)]
        assert len(panels) == 10
        assert figure.get_size_inches()[0] < 13
        assert len({ax.get_xlim() for ax in panels[:5]}) == 1
        # One label under each column, below its lowest panel.
        assert sum(bool(ax.get_xlabel()) for ax in panels) == 3

    def test_reversal_leaves_out_populations_without_an_answer(self, tables):
        figure = pl.reversal_heatmap(tables["reversal"])
        labels = tick_labels(figure.axes[0], "y")
        assert "Classical monocyte" in labels
        assert "CD4 T" not in labels

    def test_volcano_names_the_strongest_genes_on_their_side(self, tables):
        table = tables["expression"]
        ax = pl.volcano(table, contrast="cart", population="Classical monocyte", n_labels=3)
        rows = table.query("contrast == 'cart' and population == 'Classical monocyte'")
        up = rows.loc[(rows["padj"] < 0.05) & (rows["log2fc"] > 0)]
        named = {text.get_text() for text in ax.texts if text.get_style() == "italic"}
        assert set(up.nsmallest(3, "pvalue")["gene"]) <= named
        with pytest.raises(InputError, match="nowhere"):
            pl.volcano(table, contrast="nowhere", population="NK")

    def test_enrichment_draws_every_test(self, tables):
        figure = pl.enrichment_dotplot(tables["enrichment"])
        assert sum(len(ax.collections[0].get_offsets()) for ax in figure.axes[:3]) == len(
            tables["enrichment"]
        )

    def test_qc_bars_add_up_to_the_barcodes(self, tables):
        ax = pl.qc_overview(tables["qc"]).axes[0]
        widths = np.sum([[bar.get_width() for bar in group] for group in ax.containers], axis=0)
        assert sorted(widths) == sorted(tables["qc"]["n_cells_in"])
