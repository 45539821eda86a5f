"""Levels of receptors against closed forms and planted truth."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from crs_sc import keys
from crs_sc.core.ambient import native_cpm
from crs_sc.core.stats import benjamini_hochberg
from crs_sc.errors import InputError, MissingKeyError
from crs_sc.sources import receivers
from crs_sc.sources.receivers import mean_over_subjects

if TYPE_CHECKING:
    from collections.abc import Callable

    import anndata as ad


@pytest.fixture(scope="module")
def planted(cohort: Callable) -> Callable:
    """Four subjects in two arms; IL6R in monocytes only, IL6ST in all, ambient RNA everywhere."""

    def made(seed: int = 0, *, rho: float = 0.1) -> ad.AnnData:
        rng, n = np.random.default_rng(seed), 1600
        subject = np.array(["m1", "m2", "m3", "m4"])[np.arange(n) % 4]
        monocyte = np.arange(n) < n // 2
        rates = np.array([[0.6, 0.5, 2999.0], [0.0, 0.5, 1500.0]])
        native = rng.poisson(rates[np.where(monocyte, 0, 1)])
        profile = native.sum(axis=0) / native.sum()
        ambient = rng.poisson(rho / (1 - rho) * native.sum(axis=1, keepdims=True) * profile)
        obs = {
            "population": np.where(monocyte, "Classical monocyte", "CD4 T"),
            "subject": subject,
            "condition": np.where(np.isin(subject, ["m1", "m2"]), "a", "b"),
        }
        counts, genes = native + ambient, ["IL6R", "IL6ST", "ACTB"]
        return cohort(counts, genes, obs, fraction=rho, upper=1.1 * rho, profile=profile)

    return made


def test_mean_over_subjects_is_student() -> None:
    values = np.array([[3.0, 5.0, 10.0, np.nan], [2.0, np.nan, np.nan, np.nan], [np.nan] * 4])
    mean, low, high = mean_over_subjects(values, level=0.9)
    known = values[0, :3]
    expected = stats.t.interval(0.9, 2, known.mean(), stats.sem(known))
    assert (low[0], high[0]) == pytest.approx(expected)
    assert mean[:2] == pytest.approx([6.0, 2.0])
    assert np.isnan([mean[2], low[1], high[1], low[2]]).all()


def test_native_cpm_is_that_of_the_cell_without_its_ambient() -> None:
    # 8 of 2,000 native UMI; a tenth of the UMI is ambient RNA, of which 3 per thousand are the
    # gene.
    native, ambient = 2000.0, 2000.0 / 9
    seen = 8 + 0.003 * ambient
    found = native_cpm(
        np.array([seen, 1.0]), np.array([0.003 * ambient, 0.0]), np.array([native, 0])
    )
    assert found[0] == pytest.approx(4000.0)
    assert np.isnan(found[1])


def test_table_is_the_closed_form(cohort: Callable) -> None:
    # Two subjects, one of them with two libraries; every cell has 100 UMI, rho is 0.2.
    obs = pd.DataFrame(
        {
            "population": "NK",
            "sample": np.repeat(["s1", "s2", "s3"], 10),
            "subject": np.repeat(["m1", "m1", "m2"], 10),
            "condition": "CART",
        }
    )
    umi = np.repeat([6, 8, 3], 10)
    counts = np.column_stack([umi, 100 - umi])
    profile = np.array([0.05, 0.95])
    adata = cohort(counts, ["CD40", "ACTB"], obs, fraction=0.2, upper=0.22, profile=profile)
    (row,) = receivers(adata, cytokines=["CD40LG"]).to_dict("records")
    # Ambient RNA adds 100 x 0.2 x 0.05 = 1 UMI a cell; 80 UMI of a cell are its own.
    levels = np.array([1e6 * (140 - 20) / 1600, 1e6 * (30 - 10) / 800])
    assert row["cpm"] == pytest.approx(levels.mean())
    _, high = stats.t.interval(0.95, 1, levels.mean(), stats.sem(levels))
    assert row["ci_low"] == 0
    assert row["ci_high"] == pytest.approx(high)
    assert (row["umi"], row["n_cells"], row["n_subjects"]) == (170, 30, 2)
    assert row["corrected_umi"] == pytest.approx(170 - 30)
    # Poisson(1) gives 3 or more with p 0.08, which is no evidence; 6 or more with p 0.0006 is.
    assert row["fraction"] == pytest.approx((1.0 + 0.0) / 2)
    assert row["padj"] == pytest.approx(stats.poisson.sf(169, 30 * 1.1), rel=1e-6)
    assert row["state"] == keys.ABOVE_AMBIENT


def test_planted_receptor_is_found_and_ambient_is_not(planted: Callable) -> None:
    table = receivers(planted(1))
    assert list(table.columns) == keys.RECEIVERS_TABLE.names
    assert set(table["cytokine"]) == {"IL6"}
    index = table.set_index(["gene", "population"])
    assert (index.loc[("IL6R", "Classical monocyte"), "state"] == keys.ABOVE_AMBIENT).all()
    assert index.loc[("IL6R", "Classical monocyte"), "cpm"].mean() == pytest.approx(200, rel=0.15)
    ambient = index.loc[("IL6R", "CD4 T")]
    assert (ambient["umi"] > 0).all()
    assert (ambient["state"] == keys.AMBIENT_COMPATIBLE).all()
    assert (ambient["cpm"] < 10).all()
    assert (index.loc["IL6ST", "state"] == keys.ABOVE_AMBIENT).all()


def test_ambient_without_expression_averages_out(cohort: Callable) -> None:
    # Cut off at zero in each subject the mean would be about 0.4 standard errors too high.
    means = []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        obs = pd.DataFrame(
            {"population": "B", "subject": np.repeat([f"m{i}" for i in range(6)], 40),
             "condition": "a"}
        )  # fmt: skip
        profile = np.array([0.01, 0.99])
        counts = np.column_stack([rng.poisson(1.0, 240), np.full(240, 999)])
        adata = cohort(counts, ["CD40", "ACTB"], obs, fraction=0.1, upper=0.11, profile=profile)
        means.append(receivers(adata).iloc[0][["umi", "cpm", "state"]].tolist())
    above = sum(state == keys.ABOVE_AMBIENT for *_, state in means)
    assert above <= 2
    raw = np.array([(umi - 240) / 240 for umi, *_ in means])
    assert np.mean([cpm for _, cpm, _ in means]) == pytest.approx(
        1e6 * np.clip(raw, 0, None).mean() / 900, rel=0.15
    )


def test_gene_of_two_cytokines_is_one_test(planted: Callable) -> None:
    adata = planted(2)
    adata.var_names = ["IL1R1", "CD40", "ACTB"]
    adata.varm["ambient_profile"].index = adata.var_names
    table = receivers(adata, cytokines=["CD40LG", "IL1B", "IL1A"])
    assert list(dict.fromkeys(table["cytokine"])) == ["CD40LG", "IL1B", "IL1A"]
    shared = table.loc[table["gene"] == "IL1R1"].drop(columns="cytokine")
    a, b = (shared.iloc[i : i + 4].reset_index(drop=True) for i in (0, 4))
    pd.testing.assert_frame_equal(a, b)
    once = receivers(adata, cytokines=["CD40LG", "IL1B"])
    assert table["padj"].iloc[:8].tolist() == once["padj"].tolist()
    largest = 1.1 * 0.1 * np.asarray(adata.layers["counts"].sum(axis=1)).ravel()
    pvalues = []
    for gene in ("CD40", "IL1R1"):
        for population in ("CD4 T", "Classical monocyte"):
            for condition in ("a", "b"):
                chosen = adata.obs["population"] == population
                mine = (chosen & (adata.obs["condition"] == condition)).to_numpy()
                umi = adata[mine, gene].layers["counts"].sum()
                share = adata.varm["ambient_profile"].loc[gene, "m1"]
                pvalues.append(stats.poisson.sf(umi - 1, largest[mine].sum() * share))
    np.testing.assert_allclose(once["padj"], benjamini_hochberg(pvalues), rtol=1e-4, atol=1e-300)


def test_few_cells_no_cells_and_no_umi_are_told_apart(cohort: Callable) -> None:
    obs = pd.DataFrame(
        {
            "population": ["NK"] * 12 + ["B"] * 3 + ["NK"] * 12,
            "subject": ["m1"] * 15 + ["m2"] * 12,
            "condition": ["a"] * 15 + ["b"] * 12,
        }
    )
    counts = np.column_stack([np.r_[np.zeros(12), [4, 4, 4], np.full(12, 2)], np.full(27, 500)])
    adata = cohort(counts, ["CD40", "ACTB"], obs, fraction=0.0, profile=np.array([0.1, 0.9]))
    table = receivers(adata).set_index(["population", "condition"])
    assert table["state"].to_dict() == {
        ("NK", "a"): keys.NOT_DETECTED, ("B", "a"): keys.TOO_FEW_CELLS,
        ("NK", "b"): keys.ABOVE_AMBIENT, ("B", "b"): "",
    }  # fmt: skip
    assert table.loc[("B", "a"), "umi"] == 12
    assert np.isnan(table.loc[("B", "a"), "cpm"])
    assert table.loc[("NK", "b"), "cpm"] == pytest.approx(1e6 * 2 / 502)
    assert np.isnan(table.loc[("NK", "b"), "ci_low"])
    few = receivers(adata, min_cells=3).set_index(["population", "condition"])
    assert few.loc[("B", "a"), "state"] == keys.ABOVE_AMBIENT


def test_mouse_has_its_own_symbols(planted: Callable) -> None:
    adata = planted(0)
    adata.var_names = ["Il6ra", "Il6st", "Actb"]
    adata.varm["ambient_profile"].index = adata.var_names
    assert set(receivers(adata, organism="mouse")["cytokine"]) == {"Il6"}
    nothing = receivers(adata)
    assert nothing.empty
    assert list(nothing.columns) == keys.RECEIVERS_TABLE.names


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 1000))
def test_order_of_cells_does_not_matter(planted: Callable, seed: int) -> None:
    adata = planted(0)
    order = np.random.default_rng(seed).permutation(adata.n_obs)
    pd.testing.assert_frame_equal(receivers(adata), receivers(adata[order].copy()))


def test_errors_say_what_to_do(planted: Callable) -> None:
    adata = planted(0)
    with pytest.raises(InputError, match="list of symbols"):
        receivers(adata, cytokines="IL6")
    with pytest.raises(InputError, match="min_cells"):
        receivers(adata, min_cells=0)
    with pytest.raises(InputError, match="rat"):
        receivers(adata, organism="rat")
    with pytest.raises(MissingKeyError, match="population_key"):
        receivers(adata, population_key="celltype")
    del adata.uns[keys.UNS]
    with pytest.raises(MissingKeyError, match="estimate_ambient"):
        receivers(adata)
