"""Reversal against the ratio by hand, planted truth and designs that cannot answer."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from scipy import sparse

from crs_sc import keys
from crs_sc.comparison import Contrast, reversal, signature_scores
from crs_sc.comparison.reversal import arm_effects, effect_covariance, fieller_interval

GENES = [f"G{i}" for i in range(100)]
SIGNATURES = {"up": GENES[:10], "flat": GENES[40:60], "absent": ["X"]}
DRUG = Contrast("drug", treated="CART_drug", reference="CART", baseline="vehicle")


def _bulk(
    levels: dict[str, float], *, n: int = 5, seed: int = 0, paired: bool = False
) -> ad.AnnData:
    """Simulated pseudobulk of one population; the ten first genes stand at `levels` (log2)."""
    rng = np.random.default_rng(seed)
    base = rng.lognormal(0, 1, size=100)
    base[-1] = 50 * base.sum()  # holds the total, so that CPM follow the planted levels
    rows, counts = [], []
    for condition, level in levels.items():
        for i in range(n):
            rate = base * 2 ** rng.normal(0, 0.2, size=100)
            rate[:10] *= 2**level
            rate *= 1e6 / rate.sum()
            counts.append(rng.poisson(rate))
            rows.append((f"d{i}" if paired else f"{condition}{i}", condition, "Mono"))
    obs = pd.DataFrame(rows, columns=["subject", "condition", "population"])
    obs.index = pd.Index([f"r{i}" for i in range(len(obs))])
    obs["n_cells"], obs["n_cells_total"] = 100, 100
    obs["weight"], obs["weight_total"] = 100.0, 100.0
    X = sparse.csr_matrix(np.array(counts, dtype=np.float64))
    return ad.AnnData(
        X=X,
        obs=obs,
        var=pd.DataFrame(index=GENES),
        layers={"counts": X.copy(), "ambient": sparse.csr_matrix(X.shape)},
    )


def _row(bulk: ad.AnnData, feature: str = "up", contrast: Contrast = DRUG) -> pd.Series:
    table = reversal(bulk, contrasts=[contrast], signatures=SIGNATURES)
    return table[table["feature"] == feature].iloc[0]


@pytest.mark.parametrize("truth", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("paired", [False, True])
def test_planted_reversal(truth: float, *, paired: bool) -> None:
    bulk = _bulk(
        {"vehicle": 0, "CART": 3, "CART_drug": 3 * (1 - truth)}, n=6, paired=paired, seed=3
    )
    contrast = Contrast("drug", "CART_drug", "CART", paired=paired, baseline="vehicle")
    row = _row(bulk, contrast=contrast)
    assert row.status == "ok"
    assert row.reversal == pytest.approx(truth, abs=0.12)
    assert row.ci_low - 0.03 <= truth <= row.ci_high + 0.03


def test_reversal_is_the_ratio_of_means() -> None:
    bulk = _bulk({"vehicle": 0, "CART": 2, "CART_drug": 1})
    scores = signature_scores(bulk, signatures=SIGNATURES)["up"]
    mean = scores.groupby(bulk.obs["condition"]).mean()
    expected = (mean["CART_drug"] - mean["CART"]) / (mean["vehicle"] - mean["CART"])
    assert _row(bulk).reversal == pytest.approx(expected, rel=1e-9)


def test_nothing_to_reverse() -> None:
    row = _row(_bulk({"vehicle": 0, "CART": 0, "CART_drug": 0}, seed=1), feature="flat")
    assert row.status == "no_shift_to_reverse"
    assert np.isnan([row.reversal, row.ci_low, row.ci_high]).all()


def test_statuses_and_rows() -> None:
    bulk = _bulk({"vehicle": 0, "CART": 3, "CART_drug": 1})
    table = reversal(bulk, contrasts=[DRUG], signatures=SIGNATURES, genes=["G1"])
    assert list(table.columns) == keys.REVERSAL_TABLE.names
    assert list(table["feature"]) == ["up", "flat", "absent", "G1"]
    assert table.loc[2, "status"] == "not_measured"
    for condition, status in (
        ("vehicle", "absent_in_baseline"),
        ("CART", "absent_in_reference"),
        ("CART_drug", "absent_in_treated"),
    ):
        changed = bulk.copy()
        changed.obs.loc[changed.obs["condition"] == condition, "n_cells"] = 0
        assert _row(changed).status == status
    few = bulk.copy()
    few.obs["n_cells"] = 9
    assert _row(few).status == "too_few_cells"
    aliased = bulk.copy()
    aliased.obs["batch"] = aliased.obs["condition"]
    assert _row(aliased).status == "confounded"


def test_one_subject_in_an_arm_gives_a_ratio_and_no_interval() -> None:
    bulk = _bulk({"vehicle": 0, "CART": 3, "CART_drug": 0})
    bulk = bulk[~bulk.obs["subject"].isin([f"vehicle{i}" for i in range(1, 5)])].copy()
    row = _row(bulk)
    assert row.status == "too_few_subjects"
    assert row.reversal == pytest.approx(1, abs=0.3)
    assert np.isnan(row.ci_low)


def test_contrasts_without_baseline_are_left_out() -> None:
    bulk = _bulk({"vehicle": 0, "CART": 3})
    plain = Contrast("cart", treated="CART", reference="vehicle")
    table = reversal(bulk, contrasts=[plain], signatures=SIGNATURES)
    assert table.empty
    assert list(table.columns) == keys.REVERSAL_TABLE.names


def test_order_of_the_rows_does_not_matter() -> None:
    bulk = _bulk({"vehicle": 0, "CART": 3, "CART_drug": 1})
    shuffled = bulk[np.random.default_rng(0).permutation(bulk.n_obs)].copy()
    tables = [
        reversal(b, contrasts=[DRUG], signatures=SIGNATURES).to_csv() for b in (bulk, shuffled)
    ]
    assert tables[0] == tables[1]


def _ratios(
    Y: np.ndarray, arms: np.ndarray, batch: np.ndarray, subject: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Ratio and interval of every column, all of one family."""
    fit = arm_effects(Y, arms, batch, subject)
    n = Y.shape[1]
    covariance, df = effect_covariance(
        fit.effects,
        fit.variances.T,
        np.tile(fit.unscaled, (n, 1, 1)),
        np.tile(fit.df, (n, 1)),
        caution=2.0,
    )
    return fit.effects[0] / fit.effects[1], *fieller_interval(fit.effects, covariance, df)


def test_effects_and_their_covariance_agree_with_statsmodels() -> None:
    rng = np.random.default_rng(2)
    arms, batch = np.repeat([0, 1, 2], 4), np.tile([0, 0, 1, 1], 3)
    design = np.column_stack([np.eye(3)[arms], batch])
    Y = rng.normal(size=(12, 2))
    fit = arm_effects(Y, arms, batch, np.arange(12))
    contrasts = np.array([[0, -1, 1, 0], [1, -1, 0, 0]])
    for j in range(2):
        model = sm.OLS(Y[:, j], design).fit()
        np.testing.assert_allclose(fit.effects[:, j], contrasts @ model.params, rtol=1e-10)
        # Were the arms alike, their components would add up to the covariance of the model.
        expected = contrasts @ model.normalized_cov_params @ contrasts.T
        np.testing.assert_allclose(
            fit.unscaled.sum(axis=0), expected[[0, 0, 1], [0, 1, 1]], rtol=1e-10
        )
        pooled = (fit.variances[:, j] * fit.df).sum() / fit.df.sum()
        assert pooled == pytest.approx(model.mse_resid, rel=1e-10)
    assert fit.df.sum() == pytest.approx(8)
    alone = arm_effects(Y, arms, np.zeros(12, dtype=int), np.arange(12))
    for arm in range(3):
        np.testing.assert_allclose(alone.variances[arm], Y[arms == arm].var(axis=0, ddof=1))
    aliased = np.where(arms == 1, 1, 0)
    assert arm_effects(Y, arms, aliased, np.arange(12)) is None


def test_subjects_of_all_arms_are_their_own_controls() -> None:
    rng = np.random.default_rng(3)
    arms, subject = np.repeat([0, 1, 2], 5), np.tile(np.arange(5), 3)
    Y = rng.normal(size=(15, 1)) + 100 * rng.normal(size=5)[subject][:, None]
    fit = arm_effects(Y, arms, np.zeros(15, dtype=int), subject)
    design = np.column_stack([np.eye(3)[arms], np.eye(5)[subject][:, 1:]])
    model = sm.OLS(Y[:, 0], design).fit()
    assert fit.variances[0, 0] == pytest.approx(model.mse_resid, rel=1e-9)
    assert fit.df[0] == model.df_resid == 8
    assert np.isnan(fit.df[1:]).all()


def test_interval_holds_the_ratios_that_a_t_test_does_not_reject() -> None:
    """Of subjects that are seen in all arms there is one variance, and the test is exact."""
    rng = np.random.default_rng(4)
    arms, subject = np.repeat([0, 1, 2], 4), np.tile(np.arange(4), 3)
    y = rng.normal(size=12) + np.repeat([0.0, 4, 2], 4) + 3 * rng.normal(size=4)[subject]
    _, low, high = _ratios(y[:, None], arms, np.zeros(12, dtype=int), subject)
    design = np.column_stack([np.eye(3)[arms], np.eye(4)[subject][:, 1:]])
    model = sm.OLS(y, design).fit()

    def p_of(ratio: float) -> float:  # treated - reference = ratio * (baseline - reference)
        return float(model.t_test([-ratio, ratio - 1, 1, 0, 0, 0]).pvalue)

    assert p_of(low[0]) == pytest.approx(0.05, rel=1e-6)
    assert p_of(high[0]) == pytest.approx(0.05, rel=1e-6)
    assert p_of((low[0] + high[0]) / 2) > 0.05


@pytest.mark.parametrize("design", ["unpaired", "paired", "pairs_and_others"])
@pytest.mark.parametrize("n", [3, 5])
def test_interval_covers_the_truth_and_a_null_drug_reverses_nothing(design: str, n: int) -> None:
    """20 families of 100 tests: 2,000 intervals, three binomial standard errors around 0.95."""
    rng = np.random.default_rng(n)
    arms = np.repeat([0, 1, 2], n)
    subject = {
        "unpaired": np.arange(3 * n),
        "paired": np.tile(np.arange(n), 3),
        "pairs_and_others": np.r_[np.arange(n), np.tile(np.arange(n, 2 * n), 2)],
    }[design]
    tolerance = 3 * np.sqrt(0.95 * 0.05 / 2000)
    for truth in (0.0, 0.5):
        held, called = [], []
        for _ in range(20):
            sd = np.sqrt(10 / rng.chisquare(10, size=100))
            own = rng.normal(size=(subject.max() + 1, 100))[subject]
            level = np.array([0.0, 8.0, 8 * (1 - truth)])[arms][:, None]
            Y = sd * (rng.normal(size=(3 * n, 100)) + own) + level * sd
            _, low, high = _ratios(Y, arms, np.zeros(3 * n, dtype=int), subject)
            known = ~np.isnan(low)
            assert known.mean() > 0.9
            held.append(((low <= truth) & (truth <= high))[known])
            called.append((low > 0)[known])
        coverage = np.concatenate(held).mean()
        assert coverage > 0.95 - tolerance
        # Satterthwaite's degrees of freedom are on the safe side where there are few.
        assert coverage < (0.95 + tolerance if design == "paired" else 0.985)
        if truth == 0:
            assert np.concatenate(called).mean() < 0.025 + 3 * np.sqrt(0.025 * 0.975 / 2000)
