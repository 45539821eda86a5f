"""Absolute counts against closed forms, in the functions and through a whole run."""

from __future__ import annotations

import shutil
import warnings
from typing import TYPE_CHECKING

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from crs_sc import Run, keys, load_config
from crs_sc.comparison import Contrast, decompose, pseudobulk
from crs_sc.errors import CrsWarning, InputError, MissingKeyError
from crs_sc.io import read_absolute_counts, read_table
from crs_sc.run.check import check_report
from crs_sc.sources import (
    call_producers,
    ledger,
    producers,
    weigh_cells,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from conftest import FinishedRun


@pytest.fixture(scope="module")
def cells(cohort: Callable) -> Callable:
    """Cells by (sample, population, lineage, number, UMI of IL6 in each), without ambient RNA."""

    def made(*rows: tuple[str, str, str, int, int]) -> ad.AnnData:
        table = pd.DataFrame(rows, columns=["sample", "population", "lineage", "n", "umi"])
        table = table.loc[table.index.repeat(table["n"])].reset_index(drop=True)
        counts = np.column_stack([table["umi"], np.full(len(table), 1000)])
        obs = table[["sample", "population", "lineage"]].assign(condition=table["sample"])
        return cohort(counts, ["IL6", "ACTB"], obs, profile=np.array([0.01, 0.99]))

    return made


def counted(*rows: tuple[str, str, float]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["sample", "population", "cells_per_ul"])


BLOOD = (
    ("a", "Mono", "Myeloid", 4, 5),
    ("a", "T", "Lymphoid", 8, 1),
    ("b", "Mono", "Myeloid", 2, 5),
    ("b", "T", "Lymphoid", 10, 1),
)
COUNTS = (("a", "Mono", 400.0), ("a", "T", 1600.0), ("b", "Mono", 800.0), ("b", "T", 200.0))


def test_weight_is_count_over_sequenced_cells(cells: Callable) -> None:
    adata = cells(*BLOOD)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        weigh_cells(adata, absolute_counts=counted(*COUNTS))
    weight = adata.obs.groupby(["sample", "population"])["sampling_weight"]
    assert (weight.nunique() == 1).all()
    assert weight.first().to_dict() == {
        ("a", "Mono"): 100, ("a", "T"): 200, ("b", "Mono"): 400, ("b", "T"): 20
    }  # fmt: skip
    assert adata.obs["sampling_weight"].dtype == np.float64


def test_ledger_and_shares_are_those_of_the_blood(cells: Callable) -> None:
    adata = cells(*BLOOD)
    weigh_cells(adata, absolute_counts=counted(*COUNTS))
    table = ledger(adata, genes=["IL6"], weight_key=keys.SAMPLING_WEIGHT)
    table = table.set_index(["population", "sample"])
    # a: 400 monocytes of 5 UMI beside 1,600 T cells of 1 UMI; b: 800 of 5 beside 200 of 1.
    expected = {"a": (2000 / 3600, 0.2), "b": (4000 / 4200, 0.8)}
    for sample, (share, cell_share) in expected.items():
        row = table.loc[("Mono", sample)]
        assert row["share"] == pytest.approx(share)
        assert row["cell_share"] == pytest.approx(cell_share)
        assert row["enrichment"] == pytest.approx(share / cell_share)
    bulk = pseudobulk(adata).obs
    share = bulk.set_index(["population", "subject"])["cell_share"]
    assert share[("Mono", "b")] == pytest.approx(0.8)


def test_decomposition_is_of_the_mean_cell_of_the_blood(cells: Callable) -> None:
    adata = cells(*BLOOD)
    weigh_cells(adata, absolute_counts=counted(*COUNTS))
    call_producers(adata, genes=["IL6"])
    table = decompose(
        ledger(adata, genes=["IL6"], weight_key=keys.SAMPLING_WEIGHT),
        producers(adata),
        contrasts=[Contrast("c", treated="b", reference="a")],
        samples=adata.obs.drop_duplicates("sample").set_index("sample")[["subject", "condition"]],
    ).set_index("population")
    # Only the shares of the cells differ between a and b, so all of the change is composition.
    assert table.loc["Mono", "total"] == pytest.approx(5 * (0.8 - 0.2))
    assert table.loc["T", "total"] == pytest.approx(0.2 - 0.8)
    np.testing.assert_allclose(table["composition"], table["total"])


def test_a_lineage_counts_the_populations_without_a_row_of_their_own(cells: Callable) -> None:
    adata = cells(
        ("a", "Classical", "Mono", 3, 1),
        ("a", "Non-classical", "Mono", 2, 1),
        ("a", "CD4", "T", 5, 0),
        ("a", "CD8", "T", 5, 0),
        ("a", "B", "B", 4, 0),
        ("a", "Plasma", "B", 1, 0),
    )
    table = counted(("a", "Mono", 100), ("a", "T", 500), ("a", "CD8", 50), ("a", "B", 20))
    weigh_cells(adata, absolute_counts=table)
    found = adata.obs.groupby("population")["sampling_weight"].first()
    # `B` is a population and a lineage: it holds the plasma cells too, which have no row.
    assert found.to_dict() == {
        "Classical": 20, "Non-classical": 20, "CD4": 100, "CD8": 10, "B": 4, "Plasma": 4
    }  # fmt: skip


def test_rows_may_differ_between_samples(cells: Callable) -> None:
    adata = cells(("a", "CD4", "T", 2, 0), ("b", "CD4", "T", 2, 0), ("b", "CD8", "T", 2, 0))
    weigh_cells(
        adata, absolute_counts=counted(("a", "CD4", 10), ("b", "T", 40), ("elsewhere", "CD4", 7))
    )
    assert adata.obs.groupby("sample")["sampling_weight"].first().to_dict() == {"a": 5, "b": 10}


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 5), st.floats(0.5, 1e4)), min_size=1, max_size=5),
    st.randoms(use_true_random=False),
)
def test_weights_add_up_to_the_counts_in_any_order(
    cells: Callable, populations: list[tuple[int, float]], random: object
) -> None:
    adata = cells(*((("a", f"p{i}", "x", n, 1)) for i, (n, _) in enumerate(populations)))
    rows = [("a", f"p{i}", value) for i, (_, value) in enumerate(populations)]
    random.shuffle(rows)
    order = list(range(adata.n_obs))
    random.shuffle(order)
    adata = adata[order].copy()
    weigh_cells(adata, absolute_counts=counted(*rows))
    total = adata.obs.groupby("population")["sampling_weight"].sum()
    for i, (_, value) in enumerate(populations):
        assert total[f"p{i}"] == pytest.approx(value)


def test_counted_cells_that_were_never_sequenced_are_named(cells: Callable) -> None:
    adata = cells(*BLOOD)
    more = (("a", "Neutrophil", 4000.0), ("b", "Neutrophil", 0.0), ("a", "Basophil", 0.0))
    with pytest.warns(CrsWarning, match="Neutrophil") as caught:
        weigh_cells(adata, absolute_counts=counted(*COUNTS, *more))
    assert len(caught) == 1
    note = adata.uns[keys.UNS][keys.NOTES][0]
    assert "4000" in note
    assert "Basophil" not in note


def test_unknown_cells_have_the_mean_weight_of_their_sample(cells: Callable) -> None:
    adata = cells(*BLOOD, ("a", keys.UNKNOWN, keys.UNKNOWN, 2, 0))
    weigh_cells(adata, absolute_counts=counted(*COUNTS))
    weight = adata.obs.groupby(["sample", "population"])["sampling_weight"].first()
    assert weight[("a", keys.UNKNOWN)] == pytest.approx(2000 / 12)
    assert "2 cells of no known type" in adata.uns[keys.UNS][keys.NOTES][0]
    weigh_cells(adata, absolute_counts=counted(*COUNTS, ("a", keys.UNKNOWN, 6)))
    weight = adata.obs.groupby(["sample", "population"])["sampling_weight"].first()
    assert weight[("a", keys.UNKNOWN)] == 3


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (COUNTS[:3], r"T / b \(10\).*Add a row for the population or for its lineage"),
        (COUNTS[:2], "no row for the samples b"),
        ((*COUNTS, COUNTS[0]), "a / Mono is there more than once"),
        ((*COUNTS[:3], ("b", "T", 0.0)), r"T / b \(10\).*The row says 0"),
        ((*COUNTS[:3], ("b", "T", -1.0)), "b / T must have a count"),
        ((*COUNTS[:3], ("b", "T", "many")), "b / T must have a count"),
        ((*COUNTS[:3], ("b", "T", np.nan)), "b / T must have a count"),
        ((*COUNTS[:3], ("b", "T", np.inf)), "b / T must have a count"),
    ],
)
def test_what_is_wrong_with_the_counts_is_said(rows: tuple, words: str, cells: Callable) -> None:
    adata = cells(*BLOOD)
    with pytest.raises(InputError, match=words):
        weigh_cells(adata, absolute_counts=counted(*rows))
    assert keys.SAMPLING_WEIGHT not in adata.obs


def test_columns_are_named(cells: Callable) -> None:
    with pytest.raises(MissingKeyError, match="no column cells_per_ul"):
        weigh_cells(
            cells(*BLOOD),
            absolute_counts=counted(*COUNTS).rename(columns={"cells_per_ul": "count"}),
        )


def test_names_in_the_file_stay_strings(tmp_path: Path) -> None:
    path = tmp_path / "counts.tsv"
    path.write_text("sample\tpopulation\tcells_per_ul\n01\tNA\t3\n01\tT\t\n", encoding="utf-8")
    table = read_absolute_counts(path)
    assert table["sample"].tolist() == ["01", "01"]
    assert table["population"].tolist() == ["NA", "T"]
    assert np.isnan(table["cells_per_ul"][1])
    with pytest.raises(InputError, match="no table of absolute counts"):
        read_absolute_counts(tmp_path / "none.tsv")


# --- the whole run ----------------------------------------------------------------------------


def per_microlitre(obs: pd.DataFrame) -> pd.DataFrame:
    """Counts under which a blood has a fifth of the sequenced share of monocytes, by lineage."""
    table = obs.groupby(["sample", "lineage"], observed=True).size().reset_index(name="n")
    factor = np.where(table["lineage"] == "Monocyte", 2.0, 10.0)
    table = table.assign(cells_per_ul=table["n"] * factor).rename(columns={"lineage": "population"})
    neutrophils = counted(*((sample, "Neutrophil", 3000) for sample in table["sample"].unique()))
    return pd.concat([table[list(neutrophils.columns)], neutrophils], ignore_index=True)


def test_run_with_counts_gives_the_ledger_of_the_blood(
    small_run: FinishedRun, tmp_path: Path
) -> None:
    adata = ad.read_h5ad(small_run.out / "cohort.h5ad")
    assert keys.SAMPLING_WEIGHT not in adata.obs
    per_microlitre(adata.obs).to_csv(tmp_path / "counts.tsv", sep="\t", index=False)
    content = yaml.safe_load(small_run.config.read_text(encoding="utf-8"))
    for name in ("input", "truth"):
        content[name] = str(small_run.config.parent / content[name])
    (tmp_path / "config.yaml").write_text(
        yaml.safe_dump(content | {"absolute_counts": "counts.tsv"}), encoding="utf-8"
    )
    config = load_config(tmp_path / "config.yaml")
    assert "Neutrophil" in check_report(config)[0]
    out = tmp_path / "out"
    # The stages before the sources do not depend on the counts, and are not done again.
    shutil.copytree(small_run.out, out)
    before = (out / "work" / "annotate.json").stat().st_mtime_ns
    with pytest.warns(CrsWarning, match="no cell was sequenced of Neutrophil"):
        Run(config, out).all_stages()

    raw = read_table(small_run.out / "tables" / "ledger.tsv")
    found = read_table(out / "tables" / "ledger.tsv")
    per_cell = np.where(raw["population"].str.contains("monocyte"), 2.0, 10.0)
    raw["made"] = raw["corrected_umi"] * per_cell
    raw["cells"] = raw["n_cells"] * per_cell
    by_sample = raw.groupby(["gene", "sample"])
    share = raw["made"] / by_sample["made"].transform("sum").replace(0, np.nan)
    np.testing.assert_allclose(found["share"], share, atol=1e-12)
    np.testing.assert_allclose(
        found["cell_share"], raw["cells"] / by_sample["cells"].transform("sum"), atol=1e-12
    )
    pd.testing.assert_series_equal(found["corrected_umi"], raw["corrected_umi"])
    # Composition and decomposition follow; what one cell expresses does not.
    for name, same in (("composition", False), ("decomposition", False), ("expression", True)):
        tables = [read_table(run / "tables" / f"{name}.tsv") for run in (out, small_run.out)]
        assert tables[0].equals(tables[1]) == same, name
    assert "Neutrophil" in (out / "report.html").read_text(encoding="utf-8")

    # Another table is another ledger, of the same annotation.
    changed = per_microlitre(adata.obs)
    changed.loc[changed["population"] == "Monocyte", "cells_per_ul"] *= 2
    changed.to_csv(tmp_path / "counts.tsv", sep="\t", index=False)
    with pytest.warns(CrsWarning):
        Run(config, out).stage("sources")
    assert (out / "work" / "annotate.json").stat().st_mtime_ns == before
    assert not read_table(out / "tables" / "ledger.tsv")["share"].equals(found["share"])


def test_counts_are_checked_before_the_work(small_cohort: Path, tmp_path: Path) -> None:
    path = tmp_path / "counts.tsv"
    counted(("lib01", "T", 5.0)).to_csv(path, sep="\t", index=False)
    config = load_config(small_cohort).model_copy(update={"absolute_counts": path})
    for attempt in (lambda: check_report(config), lambda: Run(config, tmp_path).samples()):
        with pytest.raises(InputError, match="no row for the samples lib02"):
            attempt()
