"""Power against statsmodels, and against the share of simulated studies that find the effect."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from statsmodels.stats.power import TTestIndPower, TTestPower

from crs_sc import keys
from crs_sc.comparison import detectable_effect, smallest_effect
from crs_sc.comparison.linear_model import finish
from crs_sc.comparison.power import needed_effect
from crs_sc.errors import InputError, MissingKeyError


@pytest.mark.parametrize(("n", "m"), [(2, 2), (3, 3), (4, 7), (5, 5), (12, 30)])
@pytest.mark.parametrize("power", [0.5, 0.8, 0.95])
def test_unpaired_is_that_of_statsmodels(n: int, m: int, power: float) -> None:
    found = smallest_effect(0.7, n_reference=n, n_treated=m, power=power)
    reached = TTestIndPower().power(found / 0.7, nobs1=n, alpha=0.05, ratio=m / n)
    assert reached == pytest.approx(power, abs=1e-9)


@pytest.mark.parametrize("n", [2, 3, 6, 20])
def test_paired_is_that_of_statsmodels(n: int) -> None:
    # statsmodels speaks of the sd of differences, root 2 times that of one unit.
    found = smallest_effect(1.0, n_reference=n, n_treated=n, paired=True)
    assert TTestPower().power(found / np.sqrt(2), nobs=n, alpha=0.05) == pytest.approx(
        0.8, abs=1e-9
    )


def test_simulated_studies_find_it_in_four_of_five() -> None:
    rng = np.random.default_rng(0)
    effect = smallest_effect(2.0, n_reference=4, n_treated=4)
    reference, treated = rng.normal(0, 2, (4, 20000)), rng.normal(effect, 2, (4, 20000))
    found = (stats.ttest_ind(treated, reference).pvalue <= 0.05).mean()
    assert found == pytest.approx(0.8, abs=0.012)  # four standard errors


def test_more_subjects_see_more_and_no_spread_says_nothing() -> None:
    effects = [smallest_effect(1, n_reference=n, n_treated=n) for n in range(2, 40)]
    assert (np.diff(effects) < 0).all()
    found = needed_effect([0.0, np.nan, 1.0, 1.0], 1.0, [4, 4, 0, 4])
    assert list(np.isnan(found)) == [True, True, True, False]


@pytest.mark.parametrize(
    ("spread", "settings", "message"),
    [
        (1.0, {"n_reference": 1, "n_treated": 1}, "no test"),
        (1.0, {"n_reference": 0, "n_treated": 5}, "no test"),
        (1.0, {"n_reference": 1, "n_treated": 1, "paired": True}, "no test"),
        (1.0, {"n_reference": 3, "n_treated": 4, "paired": True}, "as many of each"),
        (0.0, {"n_reference": 3, "n_treated": 4}, "spread"),
        (1.0, {"n_reference": 3, "n_treated": 4, "power": 0.01}, "alpha and power"),
    ],
)
def test_what_cannot_be_planned(spread: float, settings: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        smallest_effect(spread, **settings)


def test_moderated_tests_find_it_in_four_of_five() -> None:
    # Simulated: 4,000 tests of one spread, three against three; each has its own effect, that
    # which its row of the table names. Standard error 0.0063, and the prior is shared.
    rng = np.random.default_rng(1)
    noise = rng.normal(0, 0.5, (6, 4000))
    variance = (noise[:3].var(axis=0, ddof=1) + noise[3:].var(axis=0, ddof=1)) / 2
    table = pd.DataFrame(
        {"estimate": 0.0, "variance": variance, "unscaled": np.sqrt(2 / 3), "df": 4.0}
    )
    family = np.zeros(4000, dtype=object)

    def detectable(table: pd.DataFrame) -> np.ndarray:
        tests = finish(table, family[: len(table)])
        return needed_effect(tests["posterior_sd"], tests["unscaled"], tests["total_df"])

    effect = detectable(table)
    table["estimate"] = noise[3:].mean(axis=0) - noise[:3].mean(axis=0) + effect
    assert (finish(table, family)["pvalue"] <= 0.05).mean() == pytest.approx(0.8, abs=0.03)
    # Alone, a test has nothing to borrow from.
    single = smallest_effect(np.sqrt(variance[0]), n_reference=3, n_treated=3)
    assert detectable(table.iloc[:1])[0] == pytest.approx(single, rel=1e-9)


def test_summary_of_a_table_of_shifts() -> None:
    effects = [0.5, 1.0, 1.5, np.nan, 3.0]
    table = pd.DataFrame(
        {
            "contrast": "cart",
            "kind": "signature",
            "feature": list("abcde"),
            "population": ["Mono"] * 4 + ["T"],
            "n_reference": 3,
            "n_treated": 4,
            "detectable_effect": effects,
        }
    )
    found = detectable_effect(table)
    assert list(found["population"]) == ["Mono", "T"]
    assert found.loc[0, ["n_reference", "n_treated", "n_features"]].tolist() == [3, 4, 3]
    quartiles = found.loc[0, ["detectable_low", "detectable", "detectable_high"]].tolist()
    assert quartiles == pytest.approx([0.75, 1.0, 1.25])
    empty = pd.DataFrame(columns=keys.SHIFTS_TABLE.names)
    assert detectable_effect(empty).empty
    with pytest.raises(MissingKeyError, match=r"tl\.shifts"):
        detectable_effect(table.drop(columns="detectable_effect"))
