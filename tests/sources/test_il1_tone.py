"""IL-1 tone: closed forms, planted ratios, and an interval that holds them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from crs_sc import genesets, keys, tl
from crs_sc.errors import InputError
from crs_sc.sources import tone_genes
from crs_sc.sources.il1_tone import Output, corrected_output, log2_ratio

if TYPE_CHECKING:
    from collections.abc import Callable

    import anndata as ad

GENES = [*tone_genes(), "ACTB"]
RATES = {
    "Classical monocyte": {"IL1B": 6.0, "IL1A": 2.0, "IL1RN": 1.5, "IL1R2": 0.5, "NLRP3": 2.0},
    "Neutrophil": {"IL1B": 1.0, "IL1R2": 8.0},
    "B": {},
}


@pytest.fixture(scope="module")
def rated(cohort: Callable) -> Callable:
    """Cells of the populations with these rates, ambient RNA of the mean profile, two samples."""

    def made(
        rates: dict[str, dict[str, float]], *, n: int = 60, ambient: float = 0.1
    ) -> ad.AnnData:
        rng = np.random.default_rng(0)
        expected = pd.DataFrame(rates).T.reindex(columns=GENES).fillna(0.0)
        expected["ACTB"] = 200.0
        population = np.repeat(list(rates), n)
        native = rng.poisson(expected.loc[population].to_numpy())
        profile = native.sum(axis=0) / native.sum()
        extra = rng.poisson(native.sum(axis=1, keepdims=True) * ambient / (1 - ambient) * profile)
        sample = np.where(np.arange(len(population)) % 2 == 0, "a", "b")
        obs = {"population": population, "sample": sample, "condition": "x"}
        known = {"fraction": ambient, "upper": ambient * 1.1, "profile": profile}
        adata = cohort(native + extra, GENES, obs, **known)
        adata.uns["native"] = pd.DataFrame(native, columns=GENES)
        return adata

    return made


def test_tone_is_that_which_was_planted_and_ambient_is_none(rated: Callable) -> None:
    adata = rated(RATES)
    table = tl.il1_tone(adata).set_index(["population", "sample"])
    assert list(table.reset_index()[keys.IL1_TONE_TABLE.names].columns) == keys.IL1_TONE_TABLE.names
    unit = [adata.obs[name].to_numpy() for name in ("population", "sample")]
    made = adata.uns["native"].groupby(unit).sum()
    ratio = np.log2((made["IL1A"] + made["IL1B"]) / (made["IL1RN"] + made["IL1R2"]))
    for name in ("Classical monocyte", "Neutrophil"):
        rows = table.loc[name]
        assert (rows["status"] == "ok").all()
        assert (rows["ci_low"] < ratio[name]).all()
        assert (ratio[name] < rows["ci_high"]).all()
        np.testing.assert_allclose(rows["log2_ratio"], ratio[name], atol=0.25)
    # B cells have nothing but ambient RNA.
    assert (table.loc["B", "status"] == "not_detected").all()
    assert table.loc["B", "log2_ratio"].isna().all()
    assert (table.loc["B", "agonist_umi"] < 15).all()
    assert table.loc["Classical monocyte", "release"].min() > table.loc["B", "release"].max() + 1
    assert (table["n_release"] == 3).all()


def test_umi_are_those_of_the_ledger(rated: Callable) -> None:
    adata = rated(RATES)
    table = tl.il1_tone(adata).set_index(["population", "sample"])
    tl.call_producers(adata, genes=["IL1A", "IL1B"])
    ledger = tl.ledger(adata, genes=["IL1A", "IL1B"]).set_index(["population", "sample"])
    row = ledger.loc[("Classical monocyte", "a")]
    assert table.loc[("Classical monocyte", "a"), "agonist_umi"] == pytest.approx(
        row["corrected_umi"].sum()
    )


def test_interval_of_counts_without_ambient_is_the_exact_one() -> None:
    found = corrected_output([0, 7], 0.0, 0.0, level=0.95)
    np.testing.assert_allclose(found.low, [0, stats.gamma.ppf(0.025, 7)])
    np.testing.assert_allclose(found.high, stats.gamma.ppf(0.975, [1, 8]))


def test_interval_holds_the_ratio_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    n = 4_000
    for a, b, ambient in ((30.0, 8.0, 5.0), (6.0, 3.0, 0.5), (200.0, 150.0, 40.0)):
        sides = [
            corrected_output(rng.poisson(mean + ambient, size=n), ambient, ambient, level=0.95)
            for mean in (a, b)
        ]
        ratio = log2_ratio(*sides)
        truth = np.log2(a / b)
        below = np.where(np.isnan(ratio.low), -np.inf, ratio.low) <= truth
        above = np.where(np.isnan(ratio.high), np.inf, ratio.high) >= truth
        assert 0.94 <= (below & above).mean() <= 0.995, (a, b, ambient)


def test_a_side_without_umi_leaves_one_end(rated: Callable) -> None:
    some = Output(np.array([8.0]), np.array([4.0]), np.array([16.0]))
    none = Output(np.array([0.0]), np.array([0.0]), np.array([2.0]))
    assert np.isnan(log2_ratio(some, none).value)
    assert log2_ratio(some, none).low == 1.0
    assert np.isnan(log2_ratio(some, none).high)
    assert log2_ratio(none, some).high == -1.0
    adata = rated({"Mast cell": {"IL1B": 5.0}, "B": {}}, ambient=0.0)
    status = tl.il1_tone(adata).set_index("population")["status"]
    assert (status.loc["Mast cell"] == "agonist_only").all()
    assert (status.loc["B"] == "not_detected").all()
    few = tl.il1_tone(adata, min_cells=31)
    assert (few["status"] == "too_few_cells").all()
    assert few["log2_ratio"].isna().all()


def test_swapping_the_sides_turns_the_sign_and_swaps_the_ends() -> None:
    rng = np.random.default_rng(1)
    a, b = (corrected_output(rng.poisson(9, size=50), 2.0, 2.5, level=0.9) for _ in range(2))
    one, other = log2_ratio(a, b), log2_ratio(b, a)
    np.testing.assert_allclose(one.value, -other.value)
    np.testing.assert_allclose(one.low, -other.high)
    assert (one.low[np.isfinite(one.low)] <= one.value[np.isfinite(one.low)]).all()


def test_mouse_has_its_own_symbols_and_absent_genes_give_no_rows(
    rated: Callable,
) -> None:
    assert set(tone_genes(organism="mouse")) == {
        "Il1a", "Il1b", "Il1rn", "Il1r2", "Nlrp3", "Casp1", "Gsdmd"
    }  # fmt: skip
    adata = rated(RATES)
    pairs = genesets.orthologs().set_index("human")["mouse"]
    mouse = adata.copy()
    mouse.var_names = [pairs.get(gene, gene) for gene in GENES]
    mouse.varm[keys.AMBIENT_PROFILE].index = mouse.var_names
    pd.testing.assert_frame_equal(tl.il1_tone(mouse, organism="mouse"), tl.il1_tone(adata))
    assert tl.il1_tone(adata, organism="mouse").empty
    with pytest.raises(InputError, match="level"):
        tl.il1_tone(adata, level=1.0)


def test_tone_stays_out_of_scores_and_panels() -> None:
    drivers = {"IL1A", "IL1B", "IL1RN"}
    for genes in genesets.signatures().values():
        assert drivers.isdisjoint(genes)
    assert drivers.isdisjoint(genesets.load_cell_types()["symbol"])
