"""Estimates, errors, t and intervals of the unmoderated fit against statsmodels; p against scipy.

Each design goes through the model matrix of the package, and through statsmodels as a formula, so
that both the columns and the fit are held against it; then through `shifts` as a whole.
"""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import statsmodels.formula.api as smf
from scipy import sparse, stats

from crs_sc.comparison import Contrast, pseudobulk, shifts, signature_scores
from crs_sc.comparison.design import expand_contrasts, model_matrix
from crs_sc.comparison.linear_model import fit_arm, moderate

TOLERANCE = 1e-6


def _samples(kind: str) -> pd.DataFrame:
    """One row a sample: 4 against 5 subjects, or 6 pairs; batches, age and sex where asked."""
    rng = np.random.default_rng(len(kind))
    if kind.startswith("paired"):
        rows = [(f"s{i}", arm, f"b{i % 3}") for i in range(6) for arm in ("vehicle", "CART")]
        if "straddling" in kind:
            rows = [(s, arm, f"b{(i + i // 4) % 2}") for i, (s, arm, _) in enumerate(rows)]
    else:
        rows = [(f"s{i}", "vehicle" if i < 4 else "CART", f"b{i % 2}") for i in range(9)]
    samples = pd.DataFrame(rows, columns=["subject", "condition", "batch"])
    if "batch" not in kind and "straddling" not in kind:
        samples = samples.drop(columns="batch")
    samples["age"] = rng.uniform(8, 12, size=len(samples))
    samples["sex"] = rng.choice(["f", "m"], size=len(samples))
    return samples


DESIGNS = {
    "unpaired": ("arm", ()),
    "unpaired batch": ("arm + C(batch)", ()),
    "paired": ("arm + C(subject)", ()),
    "paired batch": ("arm + C(subject)", ()),
    "paired straddling": ("arm + C(subject) + C(batch)", ()),
    "unpaired age": ("arm + age", ("age",)),
    "unpaired batch age sex": ("arm + C(batch) + age + C(sex)", ("age", "sex")),
    "paired age": ("arm + C(subject) + age", ("age",)),
}


@pytest.mark.parametrize("kind", DESIGNS)
def test_fit_of_each_design(kind: str) -> None:
    formula, covariates = DESIGNS[kind]
    samples = _samples(kind)
    contrast = Contrast(
        "c", "CART", "vehicle", paired=kind.startswith("paired"), covariates=tuple(covariates)
    )
    units = expand_contrasts([contrast], samples)[0].tested
    nuisance, arm = model_matrix(units, paired=contrast.paired)
    y = np.random.default_rng(1).normal(5, 2, size=len(units)) + arm
    fit = fit_arm(y[:, None], arm, nuisance)
    tests = moderate(fit.estimate, fit.variance, fit.unscaled, fit.df)  # one test: no prior

    order = pd.MultiIndex.from_frame(samples[["subject", "condition"]])
    named = units["arm"].map({"treated": "CART", "reference": "vehicle"})
    frame = samples.set_index(order).loc[list(zip(units["subject"], named, strict=True))]
    frame = frame.reset_index(drop=True).assign(y=y, arm=arm.astype(float))
    model = smf.ols(f"y ~ {formula}", data=frame).fit()

    # Not by its number of columns: the formula's matrix may be short of full rank, as ours.
    assert fit.df == model.df_resid
    se = fit.unscaled * np.sqrt(fit.variance[0])
    assert fit.estimate[0] == pytest.approx(model.params["arm"], rel=TOLERANCE)
    assert se == pytest.approx(model.bse["arm"], rel=TOLERANCE)
    assert fit.estimate[0] / se == pytest.approx(model.tvalues["arm"], rel=TOLERANCE)
    assert tests.pvalue[0] == pytest.approx(model.pvalues["arm"], rel=TOLERANCE)
    expected = model.conf_int().loc["arm"].to_numpy()
    np.testing.assert_allclose([tests.ci_low[0], tests.ci_high[0]], expected, rtol=TOLERANCE)


def _bulk(kind: str) -> ad.AnnData:
    """One population and two genes in every sample of a design."""
    samples = _samples(kind)
    samples["sample"] = samples["subject"] + "_" + samples["condition"]
    rng = np.random.default_rng(2)
    obs = samples.loc[samples.index.repeat(15)].reset_index(drop=True)
    obs["population"] = "NK"
    obs.index = pd.Index([f"c{i}" for i in range(len(obs))])
    counts = sparse.csr_matrix(rng.poisson([4.0, 40.0], size=(len(obs), 2)).astype(np.float32))
    adata = ad.AnnData(obs=obs, var=pd.DataFrame(index=["G", "REST"]), layers={"counts": counts})
    return pseudobulk(adata)


@pytest.mark.parametrize("kind", ["unpaired", "unpaired batch", "paired", "paired batch"])
def test_shifts_of_a_single_gene(kind: str) -> None:
    bulk = _bulk(kind)
    contrast = Contrast("c", "CART", "vehicle", paired=kind.startswith("paired"))
    found = shifts(bulk, contrasts=[contrast], signatures={}, genes=["G"]).iloc[0]

    frame = bulk.obs[[c for c in ("subject", "condition", "batch") if c in bulk.obs]].astype(str)
    frame["y"] = signature_scores(bulk, signatures={}, genes=["G"])["G"]
    frame["arm"] = frame["condition"].eq("CART").astype(float)
    model = smf.ols(f"y ~ {DESIGNS[kind][0]}", data=frame).fit()
    assert found["estimate"] == pytest.approx(model.params["arm"], rel=TOLERANCE)
    assert found["pvalue"] == pytest.approx(model.pvalues["arm"], rel=TOLERANCE)
    expected = model.conf_int().loc["arm"].to_numpy()
    np.testing.assert_allclose([found["ci_low"], found["ci_high"]], expected, rtol=TOLERANCE)


def _distance(first: np.ndarray, second: np.ndarray | None = None) -> float:
    return abs(first.mean() - (0.0 if second is None else second.mean()))


@pytest.mark.parametrize("kind", ["unpaired", "paired"])
def test_permutation_p_of_shifts_is_that_of_scipy(kind: str) -> None:
    bulk = _bulk(kind)
    contrast = Contrast("c", "CART", "vehicle", paired=kind == "paired")
    found = shifts(bulk, contrasts=[contrast], signatures={}, genes=["G", "REST"])
    scores = signature_scores(bulk, signatures={}, genes=["G", "REST"])
    treated = bulk.obs["condition"].eq("CART").to_numpy()
    for row in found.itertuples():
        x, y = scores.loc[~treated, row.feature], scores.loc[treated, row.feature]
        if kind == "paired":
            subjects = [bulk.obs.loc[part.index, "subject"].tolist() for part in (x, y)]
            assert subjects[0] == subjects[1]
            data, way = (y.to_numpy() - x.to_numpy(),), "samples"
        else:
            data, way = (x.to_numpy(), y.to_numpy()), "independent"
        # Two-sided: the share of arrangements whose means are as far apart, or as far from 0.
        expected = stats.permutation_test(
            data,
            _distance,
            permutation_type=way,
            n_resamples=np.inf,
            alternative="greater",
        ).pvalue
        assert row.pvalue_permutation == pytest.approx(expected, abs=1e-12)
