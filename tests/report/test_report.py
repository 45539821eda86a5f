"""Figures and page: complete, self-contained, the same twice, honest where there is nothing."""

from __future__ import annotations

import re

import pandas as pd
import pytest

from crs_sc import keys, plotting
from crs_sc.comparison import Contrast, pseudobulk, shifts, subject_scores
from crs_sc.report import key_figures, write_figures, write_report
from crs_sc.report.figures import FIGURES
from crs_sc.report.words import SECTIONS

PROVENANCE = {"crs_sc": "0.1.0", "versions": {"scanpy": "1.12"}, "inputs": {"a.h5ad": "sha256:0"}}


@pytest.fixture(scope="module")
def contrasts(fake):
    return [Contrast(**one) for one in fake.CONTRASTS]


def make(folder, adata, tables, figures=(), **config):
    truth = config.pop("truth", None)
    write_report(
        adata, tables, figures, folder / "report.html", config=config, provenance=PROVENANCE,
        truth=truth,
    )  # fmt: skip
    return (folder / "report.html").read_text(encoding="utf-8")


def external(page):
    """Whatever a browser would fetch from elsewhere."""
    loads = re.findall(r"""(?:src|href|url)\s*[=(]\s*["']?([^"')\s>]+)""", page)
    return [link for link in loads if not link.startswith(("data:", "#", "tables/", "figures/"))]


def test_the_lists_of_figures_and_tables_fit_the_page():
    sections = {key for key, _ in SECTIONS}
    drawn = {spec.function for spec in FIGURES.values()}
    helpers = {"arm_colours", "feature_label", "population_colours", "population_order", "style"}
    # Of one contrast and gene; the page shows all of them.
    assert drawn == set(plotting.__all__) - helpers - {"waterfall"}
    for spec in FIGURES.values():
        assert spec.title
        assert spec.section in sections
        assert spec.needs <= {"cells", *keys.TABLES}
    for table in keys.TABLES.values():
        assert not table.section or table.section in sections


def test_all_key_figures_of_a_full_cohort(cells, tables, contrasts):
    figures = key_figures(cells, tables, contrasts=contrasts)
    names = [item.name for item in figures]
    # Without time points there is no course.
    assert {name.partition("--")[0] for name in names} == set(FIGURES) - {"trajectories"}
    assert len(names) == len(set(names))
    assert [name for name in names if name.startswith("volcano")] == [
        "volcano--cart", "volcano--anakinra", "volcano--tocilizumab",
    ]  # fmt: skip


def test_barnyard_shows_all_droplets_where_they_were_kept(cells, tables, contrasts):
    adata = cells.copy()
    droplets = pd.DataFrame(
        {"umi_analysed": [900, 5, 400], "umi_other": [10, 700, 380],
         "species": ["human", "mouse", "mixed"], "sample": "a"}
    )  # fmt: skip
    adata.uns["crs_sc"] = {"droplets": droplets, "species_call": {"min_fraction": 0.8}}
    found = {item.name: item for item in key_figures(adata, tables, contrasts=contrasts)}
    ax = found["barnyard"].draw()
    assert len(ax.collections[0].get_offsets()) == 3
    assert "80 % of one genome" in [text.get_text() for text in ax.get_legend().get_texts()]


def test_receivers_have_a_figure_for_each_headline_cytokine(tables):
    names = [item.name for item in key_figures(None, tables)]
    assert [name for name in names if name.startswith("receivers")] == [
        "receivers--IL1B", "receivers--IL6",
    ]  # fmt: skip


def test_only_figures_with_something_to_show(tables):
    assert key_figures(None, {}) == []
    names = {item.name for item in key_figures(None, {"qc": tables["qc"]})}
    assert names == {"qc_overview"}
    empty = {name: table.iloc[:0] for name, table in tables.items()}
    assert key_figures(None, empty) == []


def test_figures_are_the_same_twice(cells, tables, contrasts, tmp_path):
    few = {name: tables[name] for name in ("ledger",)}
    first = write_figures(cells, few, tmp_path / "a", contrasts=contrasts)
    second = write_figures(cells, few, tmp_path / "b", contrasts=contrasts)
    assert [path.name for path in first] == [path.name for path in second]
    assert {path.suffix for path in first} == {".png", ".svg"}
    for one, other in zip(first, second, strict=True):
        assert one.read_bytes() == other.read_bytes(), one.name


def test_figures_do_not_depend_on_the_processes(cells, tables, contrasts, tmp_path):
    few = {name: tables[name] for name in ("qc", "ledger")}
    here = write_figures(cells, few, tmp_path / "a", contrasts=contrasts)
    spread = write_figures(cells, few, tmp_path / "b", contrasts=contrasts, n_jobs=2)
    assert [path.name for path in here] == [path.name for path in spread]
    assert {"qc_overview.svg", "umap_population.svg"} <= {path.name for path in spread}
    for one, other in zip(here, spread, strict=True):
        assert one.read_bytes() == other.read_bytes(), one.name


def test_courses_only_where_there_are_time_points(cells, tables, contrasts):
    adata = cells.copy()
    follow = adata.obs["sample"].astype(str)
    adata.obs["timepoint"] = follow.str[-1].map({"1": "d1", "2": "d1", "3": "d3", "4": "d3"})
    adata.obs["subject"] = follow.str[:-1] + (follow.str[-1].astype(int) % 2).astype(str)
    found = {item.name: item for item in key_figures(adata, tables, contrasts=contrasts)}
    figure = found["trajectories"].draw()
    assert [ax.get_title() for ax in figure.axes[:2]] == ["IL1B", "IL6"]
    assert [tick.get_text() for tick in figure.axes[0].get_xticklabels()] == ["d1", "d3"]


def test_no_stress_figure_where_nothing_was_adjusted(tables):
    shifts = tables["shifts"].assign(estimate_stress_adjusted=float("nan"))
    names = {item.name for item in key_figures(None, tables | {"shifts": shifts})}
    assert "stress_adjustment" not in names
    assert "shifts_signatures" in names


def test_scores_are_those_of_the_tests(cells, contrasts):
    """The difference of the arms' means is the estimate, where both see the same genes."""
    genes = ["SOCS3", "PIM1", "CD14", "NOT_THERE"]
    kwargs = {"signatures": {"x": genes}, "min_cells": 2, "min_count": 3, "min_genes": 2}
    scores = subject_scores(pseudobulk(cells), **kwargs)
    table = shifts(pseudobulk(cells), contrasts=contrasts[:1], **kwargs).set_index("population")
    n_compared = 0
    for population, own in scores.groupby("population"):
        means = own.groupby("condition")["score"].mean()
        row = table.loc[population]
        if row["status"] == "ok" and row["n_genes"] == 2:
            n_compared += 1
            assert means["CART"] - means["vehicle"] == pytest.approx(row["estimate"])
    assert n_compared >= 2
    # Of CD14 the T cells have a UMI here and there: no gene that they express.
    assert table.loc["CD4 T", "n_genes"] < table.loc["Classical monocyte", "n_genes"]


def test_scores_are_one_row_a_subject(cells, fake):
    genes = {"x": ["SOCS3", "PIM1"]}
    scores = subject_scores(pseudobulk(cells), signatures=genes, min_cells=1, min_count=1)
    assert set(scores["condition"]) == set(fake.ARMS)
    assert not scores.duplicated(["feature", "population", "subject", "condition"]).any()
    means = scores.groupby("condition")["score"].mean()
    assert means["vehicle"] < means["CART"]


def test_page_is_complete_and_loads_nothing(cells, tables, fake, contrasts, tmp_path):
    few = {name: tables[name] for name in ("qc", "decomposition")}
    figures = write_figures(None, few, tmp_path / "figures", contrasts=contrasts)
    page = make(tmp_path, cells, tables, figures, contrasts=list(fake.CONTRASTS), seed=7)
    assert external(page) == []
    assert page.count("data:image/svg+xml;base64,") == 3
    for words in (
        "Classical monocytes are the largest source of IL1B in every arm",
        "IL1B output per sampled cell rises",
        "Transcripts are not secreted protein",
        "endothelial and stromal cells, neutrophils and tissue macrophages",
        "Never sampled, so in no share",
        "neutrophils (absent from PBMC, and mostly lost in droplets)",
        f"{tables['qc']['n_other_species'].sum():,} cells of the other species",
        f"{tables['qc']['n_cross_species'].sum():,} droplets with cells of both species",
        "Potential responders to IL1B are classical monocytes",
        "neither a change nor its absence is shown",
        "show no relevant change (within \u00b10.5 log2)",
        "go the same way at equal handling stress",
        "too few cells of a population: Unknown 8, pDC 8.",
        "CART, 4 subjects: IL1A+IL1B came first in 4; exact sign test p 0.12 (floor 0.12).",
        "tables/exclusions.tsv",
        "tables/onset.tsv",
        "tables/arm_by_time.tsv",
        "tables/production.tsv",
        "scanpy",
        "<td>7</td>",
    ):
        assert words in page, words
    assert "Simulated data" not in page
    for anchor in re.findall(r'href="#([\w-]+)"', page):
        assert f'id="{anchor}"' in page


def test_page_of_a_simulated_cohort_says_so(cells, tables, fake, tmp_path):
    truth = {name: fake.tables(3)[name] for name in ("ledger", "decomposition", "shifts")}
    page = make(tmp_path, cells, tables, contrasts=list(fake.CONTRASTS), truth=truth)
    assert "Simulated data" in page
    assert "planted share" in page
    assert "Source shares, planted and found" in page


def test_page_without_contrast(cells, tables, tmp_path):
    kept = {name: tables[name] for name in ("qc", "ledger", "ledger_by_condition", "producers")}
    page = make(tmp_path, cells, kept, contrasts=[])
    assert "No contrast was set" in page
    assert 'id="shifts"' not in page
    assert "largest source of IL6" in page


def test_page_of_nothing_still_stands(tmp_path):
    page = make(tmp_path, None, {}, contrasts=[])
    assert "no source can be named" in page
    assert external(page) == []


def test_notes_are_shown_and_escaped(cells, tables, tmp_path):
    adata = cells.copy()
    adata.uns["crs_sc"] = {"notes": ["No mitochondrial gene <b>in</b> the file."]}
    page = make(tmp_path, adata, tables, contrasts=[])
    assert "No mitochondrial gene &lt;b&gt;in&lt;/b&gt; the file." in page


def test_missing_numbers_are_empty_cells(cells, tables, tmp_path):
    qc = tables["qc"].assign(n_doublets=tables["qc"]["n_doublets"].astype("Int64"))
    qc.loc[0, "n_doublets"] = None
    qc["median_mt_fraction"] = float("nan")
    page = make(tmp_path, cells, tables | {"qc": qc}, contrasts=[])
    body = page.partition("<script>")[0]
    assert not re.search(r"\bnan\b", body, re.IGNORECASE)
    assert "&lt;NA&gt;" not in page
