"""Cytokines and responses with a time course of their own, and the order of onset planted so."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import yaml

from crs_sc import keys
from crs_sc.comparison import onset
from crs_sc.datasets import read_settings, simulate_cohort, simulate_to_disk
from crs_sc.errors import InputError

TIMES = {"d0": 0.0, "d1": 1.0, "d2": 0.8, "d3": 0.4}
LATE = {"d0": 0.0, "d1": 0.1, "d2": 1.0, "d3": 0.6}
STUDY = {
    "arms": ("CART",),
    "n_subjects_per_arm": 7,
    "cells_per_sample": 300,
    "n_background_genes": 0,
    "timepoints": TIMES,
}
TINY = {"n_subjects_per_arm": 1, "cells_per_sample": 40, "n_background_genes": 0}


def onset_of(made):
    """The analysis, on the counts with their ambient RNA, which is taken as known."""
    samples = made.truth["samples"].set_index("sample")
    return onset(made.truth["ledger"], samples=samples)


@pytest.fixture(scope="module")
def late_il6():
    return simulate_cohort(**STUDY, courses={"IL6": LATE, "il6_stat3_response": LATE})


def test_planted_order_of_onset_is_found(late_il6):
    planted, found = late_il6.truth["onset"], onset_of(late_il6)
    assert list(planted.columns) == keys.ONSET_TABLE.names
    assert (planted["first"] == "IL1A+IL1B").all()
    assert (planted["order"] == "first").all()
    assert (planted["onset_first"] == "d1").all()
    assert (planted["onset_second"] == "d2").all()
    assert found["n_first"].iloc[0] >= 6
    assert found["n_second"].iloc[0] == 0
    assert found["pvalue"].iloc[0] <= 0.05
    columns = ["onset_first", "onset_second"]
    assert found["subject"].equals(planted["subject"])
    assert (found[columns] == planted[columns]).all(axis=1).sum() >= 6


def test_the_other_order_is_found_too():
    made = simulate_cohort(**STUDY, courses={"IL1A": LATE, "IL1B": LATE})
    assert (made.truth["onset"]["order"] == "second").all()
    found = onset_of(made)
    assert found["n_second"].iloc[0] >= 6
    assert found["pvalue"].iloc[0] <= 0.05


@pytest.mark.parametrize("seed", [0, 1])
def test_one_course_for_all_plants_no_order(seed):
    made = simulate_cohort(**STUDY, random_state=seed)
    assert (made.truth["onset"]["order"] == "tied").all()
    assert made.truth["onset"]["pvalue"].isna().all()
    found = onset_of(made)
    assert found["n_tied"].iloc[0] >= 6
    assert not found["pvalue"].iloc[0] <= 0.05


def test_without_any_effect_no_onset_is_planted():
    made = simulate_cohort(**STUDY | {"n_subjects_per_arm": 2}, effect_scale=0.0)
    planted = made.truth["onset"]
    assert (planted["state_first"] == keys.ALWAYS).all()
    assert (planted["order"] == "unknown").all()


def test_rates_and_shifts_follow_their_own_course(late_il6):
    quiet = {"producer_sd": 0.0, "repeat_sd": 0.0}
    made = simulate_cohort(
        **TINY,
        arms=("CART",),
        timepoints=TIMES,
        courses={"IL6": LATE, "il6_stat3_response": LATE},
        noise=quiet,
    )
    rates = made.truth["production_rates"].merge(made.truth["samples"][["sample", "timepoint"]])
    rates = rates[rates["population"] == "Classical monocyte"]
    rates = rates.set_index(["gene", "timepoint"])[["probability", "umi"]]
    for time, common in TIMES.items():
        for gene, effect, p, umi in (
            ("IL6", LATE[time], (0.005, 0.30), (2, 4)),
            ("IL1B", common, (0.05, 0.55), (3, 8)),
        ):
            assert rates.loc[(gene, time), "probability"] == pytest.approx(
                p[0] + effect * (p[1] - p[0])
            )
            assert rates.loc[(gene, time), "umi"] == pytest.approx(
                umi[0] + effect * (umi[1] - umi[0])
            )
    courses = late_il6.truth["courses"].set_index(["kind", "feature", "timepoint"])["effect"]
    for time, common in TIMES.items():
        assert courses["composition", "", time] == common
        assert courses["response", "il1_response", time] == common
        assert courses["response", "il6_stat3_response", time] == LATE[time]
        assert courses["production", "IL1B", time] == common
        assert courses["production", "IL6", time] == LATE[time]


def test_planted_shift_of_a_response_follows_its_course():
    deep = {"cells_per_sample": 400, "n_subjects_per_arm": 1, "n_background_genes": 0}
    arms = ("vehicle", "CART")
    made = simulate_cohort(
        **deep, arms=arms, timepoints=TIMES, courses={"il6_stat3_response": LATE}
    )
    row = ["contrast", "feature", "population"]
    shifts = made.truth["shifts"].set_index(row)["estimate"]
    stat3, il1 = (
        np.array([shifts[f"cart@{time}", name, "Classical monocyte"] for time in TIMES])
        for name in ("il6_stat3_response", "il1_response")
    )
    assert stat3[0] == 0
    assert stat3[1] < 0.3 * stat3[3]
    assert il1[1] > 1.3 * il1[3]


def test_courses_leave_everything_else_as_it_was():
    settings = TINY | {"arms": ("CART",), "timepoints": ("d0", "d2"), "contamination": 0.0}
    one = simulate_cohort(**settings)
    other = simulate_cohort(**settings, courses={"IFNG": {"d0": 0.0, "d2": 0.0}})
    same = {"d0": 0.0, "d2": 1.0}
    again = simulate_cohort(**settings, courses={"IL6": same, "il1_response": same})
    assert (one.adata.X != again.adata.X).nnz == 0
    rates = [made.truth["production_rates"].set_index("gene") for made in (one, other)]
    pd.testing.assert_frame_equal(*(table.drop(index="IFNG") for table in rates))
    assert not rates[0].loc["IFNG"].equals(rates[1].loc["IFNG"])
    populations = [made.truth["cells"]["population"] for made in (one, other)]
    pd.testing.assert_series_equal(*populations)


def test_courses_come_from_a_file_of_settings(tmp_path):
    text = yaml.safe_dump(
        {
            **TINY,
            "arms": ["vehicle", "CART"],
            "timepoints": {"d0": 0, "d1": 1, "d2": 1},
            "courses": {"IL6": {"d0": 0, "d1": 0.1, "d2": 1}},
        }
    )
    (tmp_path / "settings.yaml").write_text(text, encoding="utf-8")
    settings = read_settings(tmp_path / "settings.yaml")
    simulate_to_disk(tmp_path / "a", settings=settings)
    planted = pd.read_csv(tmp_path / "a" / "truth" / "onset.tsv", sep="\t")
    own = planted[planted["condition"] == "CART"]
    assert own["onset_first"].to_list() == ["d1"]
    assert own["onset_second"].to_list() == ["d2"]
    # What was written makes the cohort again.
    again = read_settings(tmp_path / "a" / "truth" / "settings.yaml")
    simulate_to_disk(tmp_path / "b", settings=again)
    for name in ("onset", "courses", "cells"):
        first, second = (tmp_path / x / "truth" / f"{name}.tsv" for x in "ab")
        assert first.read_bytes() == second.read_bytes()


@pytest.mark.parametrize(
    ("courses", "message"),
    [
        ({"IL6": {"d0": 0.0}}, r"courses\['IL6'\] must give .* timepoints"),
        ({"IL6": {"d0": 0.0, "d9": 1.0}}, r"courses\['IL6'\] must give"),
        ({"IL6": {"d0": 0.0, "d1": -1.0}}, r"courses\['IL6'\]\['d1'\] must not be negative"),
        ({"IL99": {"d0": 0.0, "d1": 1.0}}, "courses names IL99"),
    ],
)
def test_courses_that_make_no_sense_are_refused(courses, message):
    with pytest.raises(InputError, match=message):
        simulate_cohort(**TINY, timepoints=("d0", "d1"), courses=courses)
