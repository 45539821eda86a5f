"""Scores of signatures: which genes count, what counting adds, and what is too little to test."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import optimize, sparse, stats

from crs_sc import keys
from crs_sc.comparison import Contrast, reversal, shifts
from crs_sc.comparison.design import expand_contrasts
from crs_sc.comparison.linear_model import expected_variance, finish, hedges_correction, squeeze
from crs_sc.comparison.units import expressed_scores, find_features, gather

CART = Contrast("cart", treated="CART", reference="vehicle")
GENES = [f"G{i}" for i in range(60)]


def make_bulk(rates: np.ndarray, *, n: int = 4, depth: float = 2e5, seed: int = 0) -> ad.AnnData:
    """Simulated pseudobulk of one population, Poisson counts, `n` subjects in each of 3 arms."""
    rng = np.random.default_rng(seed)
    arms = ["vehicle", "CART", "drug"]
    obs = pd.DataFrame(
        {
            "subject": [f"{arm}{i}" for arm in arms for i in range(n)],
            "condition": np.repeat(arms, n),
            "population": "Mono",
        }
    )
    obs.index = obs["subject"].to_numpy()
    obs["n_cells"] = obs["n_cells_total"] = 100
    obs["weight"] = obs["weight_total"] = 100.0
    X = sparse.csr_matrix(rng.poisson(rates / rates.sum() * depth, (len(obs), len(rates))) * 1.0)
    layers = {"counts": X.copy(), "ambient": sparse.csr_matrix(X.shape)}
    return ad.AnnData(X=X, obs=obs, var=pd.DataFrame(index=GENES), layers=layers)


def test_expected_variance_is_the_maximum_of_the_likelihood() -> None:
    rng = np.random.default_rng(1)
    counting, df = rng.lognormal(-3, 1, 80), rng.integers(2, 9, 80).astype(float)
    truth = 0.05 + 2 * counting
    s2 = truth * rng.chisquare(df) / df
    found = expected_variance(s2, df, counting)

    def deviance(log_terms: np.ndarray) -> float:
        mean = np.exp(log_terms[0]) + np.exp(log_terms[1]) * counting
        return float((df * (s2 / mean + np.log(mean))).sum())

    best = optimize.minimize(deviance, [-3.0, 0.0], method="Nelder-Mead", tol=1e-10)
    own = float((df * (s2 / found + np.log(found))).sum())
    assert own == pytest.approx(best.fun, abs=1e-5)
    line = np.polyfit(counting, found, 1)
    assert found == pytest.approx(np.polyval(line, counting))


def test_expected_variance_finds_what_was_planted() -> None:
    rng = np.random.default_rng(2)
    counting = rng.uniform(0, 1, 20_000)
    s2 = (0.1 + 0.5 * counting) * rng.chisquare(6, 20_000) / 6
    assert expected_variance(s2, 6, counting) == pytest.approx(0.1 + 0.5 * counting, rel=0.05)


def test_expected_variance_of_few_tests_or_of_none_that_vary_is_one() -> None:
    assert (expected_variance(np.arange(1.0, 10), 6, np.arange(9.0)) == 1).all()
    assert (expected_variance(np.zeros(20), 6, np.arange(20.0)) == 1).all()
    # Where counting says nothing, all tests share one expectation, and missing ones are no tests.
    s2 = np.append(np.linspace(0.5, 1.5, 20), np.nan)
    assert expected_variance(s2, 6, np.zeros(21)) == pytest.approx(1.0)


def test_finish_moderates_about_the_expected_variance() -> None:
    rng = np.random.default_rng(3)
    counting = rng.uniform(0.01, 1, 50)
    table = pd.DataFrame(
        {
            "estimate": rng.normal(size=50),
            "variance": counting * rng.chisquare(6, 50) / 6,
            "unscaled": np.sqrt(0.5),
            "df": 6.0,
            "counting": counting,
        }
    )
    done = finish(table, np.full(50, "signature", dtype=object), caution=0.0)
    expected = expected_variance(table["variance"], 6, counting)
    ratio = squeeze(table["variance"] / expected, 6.0)
    se = np.sqrt(0.5 * ratio.variance * expected)
    p = 2 * stats.t.sf(table["estimate"].abs() / se, ratio.df)
    assert done["pvalue"].to_numpy() == pytest.approx(p)
    assert (done["ci_high"] - done["ci_low"]).to_numpy() == pytest.approx(
        2 * stats.t.ppf(0.975, ratio.df) * se
    )
    # The effect size is over the sd that was seen, whatever was expected.
    g = table["estimate"] / np.sqrt(table["variance"]) * hedges_correction(6.0)
    assert done["hedges_g"].to_numpy() == pytest.approx(g.to_numpy())


def test_counting_variance_is_that_of_poisson_counts() -> None:
    rates = np.geomspace(1, 100, len(GENES))
    signatures = {"few": GENES[:5], "many": GENES[5:40], "one": GENES[50:51]}
    values, counting = [], []
    for seed in range(60):
        bulk = make_bulk(rates, seed=seed)
        [comparison] = expand_contrasts([CART], bulk.obs)
        features = find_features(bulk, signatures=signatures, genes=[], min_count=1)
        data = gather(bulk, comparison, columns=features.columns)
        rows = np.arange(len(data.units))
        scores = expressed_scores(data, rows, 0, features)
        values.append(scores.by_unit)
        counting.append(scores.counting)
    seen = np.concatenate(values).var(axis=0)
    assert np.mean(counting, axis=0) == pytest.approx(seen, rel=0.15)


def test_signature_of_too_few_genes_has_an_estimate_and_no_test() -> None:
    rates = np.full(len(GENES), 1e-6)
    rates[:3], rates[10:12], rates[20], rates[40:] = 10, 10, 10, 10
    bulk = make_bulk(rates)
    signatures = {
        "three": GENES[:10],
        "two": GENES[10:20],
        "one": GENES[20:30],
        "none": GENES[30:40],
        "pair": GENES[10:12],
        "absent": ["X"],
    }
    table = shifts(bulk, contrasts=[CART], signatures=signatures, genes=["G20"])
    table = table.set_index("feature")
    assert table["status"].to_dict() == {
        "three": keys.OK,
        "two": keys.TOO_FEW_GENES,
        "one": keys.TOO_FEW_GENES,
        "none": keys.NOT_DETECTED,
        # All that it has; and a gene speaks for itself.
        "pair": keys.OK,
        "absent": keys.NOT_MEASURED,
        "G20": keys.OK,
    }
    small = table.loc[["two", "one"]]
    assert small["n_genes"].tolist() == [2, 1]
    assert small[["estimate", "loo_low", "loo_high"]].notna().all(axis=None)
    assert small[["pvalue", "padj", "ci_low", "pvalue_permutation"]].isna().all(axis=None)
    assert (small["verdict"] == "").all()
    allowed = shifts(bulk, contrasts=[CART], signatures=signatures, min_genes=1)
    assert (allowed.set_index("feature").loc[["two", "one"], "status"] == keys.OK).all()


def test_reversal_of_too_few_genes_has_a_ratio_and_no_interval() -> None:
    rates = np.full(len(GENES), 1e-6)
    rates[:2], rates[40:] = 10, 10
    drug = Contrast("drug", treated="drug", reference="CART", baseline="vehicle")
    table = reversal(make_bulk(rates), contrasts=[drug], signatures={"two": GENES[:10]})
    row = table.iloc[0]
    assert row["status"] == keys.TOO_FEW_GENES
    assert np.isfinite(row["reversal"])
    assert np.isnan(row["ci_low"])
