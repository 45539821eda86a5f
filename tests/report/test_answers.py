"""The sentences on top: right for the plain case and honest at the edges."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from crs_sc import keys
from crs_sc.comparison import Contrast
from crs_sc.report import shift_answers, source_answers
from crs_sc.report.answers import ordered_arms
from crs_sc.report.populations import responder_sentences
from crs_sc.report.words import amount, cells_named, interval, percent, pvalue

MONO, T = "Classical monocyte", "CD4 T"


def rows_of(spec, rows, **more):
    """Rows of a table, the first columns in order and some by name; the others are empty."""
    table = pd.DataFrame(rows, columns=spec.names[: len(rows[0])])
    return table.assign(**more).reindex(columns=spec.names)


def ledger(umi, *, n_cells=100, gene="IL6"):
    """Ledger of two populations; `umi` maps (arm, subject) to (monocyte, T) corrected UMI."""
    rows = []
    for (arm, subject), pair in umi.items():
        total = sum(pair)
        for population, value in zip((MONO, T), pair, strict=True):
            share = value / total if total else math.nan
            row = (gene, population, f"s_{subject}_{arm}", subject, arm, n_cells)
            numbers = (int(value), 0.5, float(value), share, 0.5, share / 0.5, 0.0, 1.0)
            rows.append((*row, *numbers))
    return rows_of(keys.LEDGER_TABLE, rows)


def by_condition(table, *, spread=0.1):
    rows = []
    for (gene, population, arm), part in table.groupby(["gene", "population", "condition"]):
        share = part["share"].mean()
        n = int(part["share"].notna().sum())
        low, high = (share - spread, share + spread) if n > 1 else (np.nan, np.nan)
        rows.append((gene, population, arm, n, share, low, high, 0.5, share / 0.5))
    return rows_of(keys.LEDGER_BY_CONDITION_TABLE, rows)


def made(umi, **settings):
    table = ledger(umi)
    return {"ledger": table, "ledger_by_condition": by_condition(table, **settings)}


def change(parts, *, status=keys.OK, relative=0.5, contrast="drug"):
    """Decomposition with (composition, producers, intensity) by population."""
    rows = []
    for population, values in parts.items():
        everything = (sum(values), *values)
        ends = [end for v in everything for end in (v - relative * abs(v), v + relative * abs(v))]
        rows.append((contrast, "IL6", population, *everything, *ends))
    table = rows_of(keys.DECOMPOSITION_TABLE, rows, status=status)
    numbers = table.columns[3:-1]
    total = [contrast, "IL6", keys.ALL_POPULATIONS, *table[numbers].sum(), status]
    return pd.concat([table, pd.DataFrame([total], columns=table.columns)], ignore_index=True)


class TestSources:
    def test_plain_case(self):
        (answer,) = source_answers(made({("CART", "a"): (90, 10), ("CART", "b"): (80, 20)}))
        assert answer.lead == (
            "Classical monocytes are the largest source of IL6 in every arm "
            "(mean share of its transcripts: 85 %)."
        )
        ((arm, text),) = answer.lines
        assert arm == "CART"
        assert text.startswith(
            "Classical monocytes, 85 % of the transcripts (95 % interval 75 to 95 %) "
            "from 50 % of the cells"
        )
        assert "2 subjects" in text

    def test_arms_differ(self):
        (answer,) = source_answers(made({("CART", "a"): (90, 10), ("drug", "b"): (10, 90)}))
        assert answer.lead == (
            "The largest source of IL6 differs by arm: classical monocytes in CART (90 %); "
            "CD4 T cells in drug (90 %)."
        )

    def test_nothing_above_the_soup(self):
        (answer,) = source_answers(made({("CART", "a"): (0, 0), ("CART", "b"): (0, 0)}))
        assert answer.lead == (
            "No source of IL6 can be named: no UMI above the ambient RNA in any arm."
        )
        assert "400 cells of 2 subjects" in answer.lines[0][1]
        assert "2 expected from ambient RNA" in answer.lines[0][1]

    def test_silent_arm_beside_a_loud_one(self):
        (answer,) = source_answers(made({("vehicle", "a"): (0, 0), ("CART", "b"): (90, 10)}))
        assert "in CART" in answer.lead
        assert "no source can be named in vehicle" in answer.lead

    def test_one_subject_has_no_interval(self):
        (answer,) = source_answers(made({("CART", "a"): (90, 10)}))
        assert "one subject: no interval" in answer.lines[0][1]
        assert "95 % interval" not in answer.lines[0][1]

    def test_subjects_without_umi_are_told(self):
        (answer,) = source_answers(
            made({("CART", "a"): (90, 10), ("CART", "b"): (80, 20), ("CART", "c"): (0, 0)})
        )
        assert "2 of 3 subjects, the others without IL6 above ambient RNA" in answer.lines[0][1]

    def test_overlapping_intervals_and_few_umi(self):
        (answer,) = source_answers(made({("CART", "a"): (5, 4), ("CART", "b"): (5, 4)}, spread=0.3))
        assert "which is first is not certain" in answer.lines[0][1]
        assert "Only 18 UMI in all" in answer.lines[0][1]

    def test_shares_without_a_single_producer(self):
        tables = made({("CART", "a"): (90, 10)})
        rows = [
            ("IL6", name, "s", "a", "CART", 100, 0, 5, 0, 0.0, 0.0, 0.1, 9, 0.5, 0.9, 4.0)
            for name in (MONO, T)
        ]
        tables["producers"] = rows_of(keys.PRODUCERS_TABLE, rows)
        (answer,) = source_answers(tables)
        assert "no single cell holds more UMI than ambient RNA explains" in answer.lines[0][1]

    def production(self, states, *, power=0.95):
        rows = [
            ("IL6", name, arm, 2, 200, 0, 5, 4.0, 5.0, 0.5, 0.5, power, state)
            for (name, arm), state in states.items()
        ]
        return rows_of(keys.PRODUCTION_TABLE, rows)

    def test_no_producers_is_an_answer(self):
        # Noise above the expected ambient RNA gives shares, but no population makes the cytokine.
        tables = made({("CART", "a"): (9, 1), ("CART", "b"): (8, 2)})
        tables["production"] = self.production(
            {(MONO, "CART"): keys.AMBIENT_COMPATIBLE, (T, "CART"): keys.NEGATIVE}
        )
        (answer,) = source_answers(tables)
        assert answer.lead == (
            "No producers of IL6 were found in any arm: ambient RNA explains what was seen."
        )
        assert answer.lines[0][1] == (
            "No producers. 20 UMI seen, 8 expected from ambient RNA, in 400 cells of 2 subjects. "
            "A typical producer would have been called with probability 95 %, so few can have "
            "been missed."
        )
        tables["production"] = self.production({(MONO, "CART"): keys.UNDETERMINED}, power=0.2)
        assert (
            "probability 20 %: at this depth producers can have been missed."
            in (source_answers(tables)[0].lines[0][1])
        )

    def test_arm_without_producers_beside_one_with_them(self):
        tables = made({("vehicle", "a"): (2, 1), ("CART", "b"): (90, 10)})
        tables["production"] = self.production(
            {(MONO, "vehicle"): keys.AMBIENT_COMPATIBLE, (MONO, "CART"): keys.PRODUCER}
        )
        (answer,) = source_answers(tables)
        assert "largest source of IL6 in CART" in answer.lead
        assert "no source can be named in vehicle" in answer.lead
        lines = dict(answer.lines)
        assert lines["vehicle"].startswith("No producers.")
        assert lines["CART"].startswith("Classical monocytes, 90 %")

    def test_no_ledger(self):
        assert source_answers({}) == []


class TestResponders:
    def test_full_chain_in_most_arms(self, fake):
        il1b, il6, caveat = responder_sentences(fake.tables()["receivers"], ["IL1B", "IL6", "NOPE"])
        assert il1b == (
            "Potential responders to IL1B are classical monocytes, intermediate monocytes, "
            "non-classical monocytes and cDC2 cells: IL1R1 and IL1RAP are above ambient RNA there; "
            "IL1R2, a decoy, "
            "is in classical monocytes and intermediate monocytes; IL1RN, an antagonist, is in "
            "classical monocytes."
        )
        assert "cDC2 cells and CD4 T cells: IL6R and IL6ST are above ambient RNA there" in il6
        assert il6.endswith("soluble receptor, is in CD8 T cells and B cells.")
        assert "not the receptor on the surface" in caveat

    def test_one_arm_or_a_faint_level_is_not_enough(self, fake):
        table = fake.tables()["receivers"].query("cytokine == 'IL6'")
        b = table["population"] == "B"
        table.loc[b & (table["condition"] == "CART"), "state"] = keys.ABOVE_AMBIENT
        assert "B cells" not in responder_sentences(table, ["IL6"])[0].split(":")[0]
        table.loc[b, ["state", "cpm"]] = [keys.ABOVE_AMBIENT, 1.0]
        assert "B cells" not in responder_sentences(table, ["IL6"])[0]
        table.loc[b, "cpm"] = 300.0
        assert "B cells" in responder_sentences(table, ["IL6"])[0].split(":")[0]

    def test_nobody_and_not_measured(self, fake):
        table = fake.tables()["receivers"].query("cytokine == 'IL1B'")
        lost = responder_sentences(table.query("gene != 'IL1RAP'"), ["IL1B"])[0]
        assert lost == (
            "IL1B: without IL1RAP among the genes of the data, potential responders cannot be "
            "named."
        )
        silent = table.assign(state=keys.AMBIENT_COMPATIBLE)
        assert responder_sentences(silent, ["IL1B"])[0].startswith(
            "No population has IL1R1 and IL1RAP above ambient RNA, so no potential responder to "
            "IL1B is seen; IL1R2, a decoy, is in none"
        )
        assert responder_sentences(table, ["IL6"]) == []


class TestShifts:
    CONTRAST = (Contrast("drug", "CART_drug", "CART", baseline="vehicle"),)

    def tables(self, decomposition, **more):
        umi = {
            (arm, f"{arm}{i}"): pair
            for arm, pair in (("CART", (20, 0)), ("CART_drug", (8, 0)))
            for i in range(3)
        }
        return made(umi) | {"decomposition": decomposition} | more

    def test_fall_with_its_parts(self):
        # Output per sampled cell: 20 UMI in 200 cells, 0.1, falls by 0.06.
        tables = self.tables(change({MONO: (-0.02, -0.04, 0.0), T: (0.0, 0.0, 0.0)}))
        (answer,) = shift_answers(tables, contrasts=self.CONTRAST)
        assert answer.topic == "drug: CART \u2192 CART_drug"
        assert answer.lead == (
            "IL6 output per sampled cell falls by 60 % (fewer producers among classical monocytes)."
        )
        assert answer.lines[0] == (
            "IL6",
            (
                "From 100 to 40 UMI per 1,000 sampled cells (change \u221260, 95 % interval "
                "\u221290 to \u221230). Mostly fewer producers among "
                "classical monocytes (\u221240, 95 % interval \u221260 to \u221220); fewer "
                "classical monocytes (\u221220, 95 % interval \u221230 to \u221210)."
            ),
        )

    def test_interval_over_zero_is_inconclusive(self):
        tables = self.tables(change({MONO: (0.0, -0.02, 0.0)}, relative=2))
        (answer,) = shift_answers(tables, contrasts=self.CONTRAST)
        assert answer.lead == (
            "IL6 output per sampled cell: inconclusive, the interval spans zero "
            "(estimate: down by 20 %)."
        )
        assert "spans zero" in answer.lines[0][1]

    def test_large_rise_is_a_fold(self):
        tables = self.tables(change({MONO: (0.0, 0.4, 0.0)}))
        (answer,) = shift_answers(tables, contrasts=self.CONTRAST)
        assert "rises 5.0-fold" in answer.lead

    def test_no_producers_in_either_arm(self):
        nothing = change({MONO: (0.0, 0.0, 0.0)}, status=keys.NO_PRODUCERS)
        (answer,) = shift_answers(self.tables(nothing), contrasts=self.CONTRAST)
        assert answer.lead == "IL6 is made in neither arm."

    def test_one_subject_an_arm_gives_no_interval(self):
        table = change({MONO: (0.0, -0.02, math.nan)})
        table["total"] = -0.02
        table.loc[:, [name for name in table if "_ci_" in name]] = np.nan
        (answer,) = shift_answers(self.tables(table), contrasts=self.CONTRAST)
        assert "without an interval (too few subjects)" in answer.lead
        assert "interval \u2212" not in answer.lines[0][1]

    def test_p_is_given_with_its_floor(self):
        row = ("drug", "gene", "IL6", MONO, -1.4, -2.0, -0.8, -3.0, 0.001, 0.01, 0.1, 0.1, 3, 3)
        shifts = rows_of(keys.SHIFTS_TABLE, [row], loo_low=-1.6, loo_high=-1.2, status=keys.OK)
        tables = self.tables(change({MONO: (-0.02, -0.04, 0.0)}), shifts=shifts)
        (answer,) = shift_answers(tables, contrasts=self.CONTRAST)
        assert dict(answer.lines)["IL6 level"] == (
            "In classical monocytes \u22121.40 log2 (95 % interval \u22122.00 to \u22120.80), "
            "permutation p 0.1 (floor 0.1), adjusted model p 0.01."
        )

    @pytest.mark.parametrize(
        ("verdict", "words"),
        [
            (keys.CHANGED, " Changed."),
            (keys.CHANGED_WITHIN_MARGIN, " Changed, but by less than what is relevant (\u00b10.5"),
            (keys.EQUIVALENT, " No relevant change (\u00b10.5 log2)."),
            (keys.INCONCLUSIVE, " Inconclusive: neither a change nor its absence is shown."),
        ],
    )
    def test_verdict_in_words(self, verdict, words):
        row = ("drug", "gene", "IL6", MONO, 0.1, -0.2, 0.4, 0.3, 0.5, 0.6, 0.7, 0.1, 3, 3)
        shifts = rows_of(keys.SHIFTS_TABLE, [row], status=keys.OK, verdict=verdict, margin=0.5)
        tables = self.tables(change({MONO: (-0.02, -0.04, 0.0)}), shifts=shifts)
        (answer,) = shift_answers(tables, contrasts=self.CONTRAST)
        text = dict(answer.lines)["IL6 level"]
        assert words in text
        assert "handling stress" not in text
        shifts = shifts.assign(
            estimate_stress_adjusted=-0.05, ci_low_stress_adjusted=-0.3, ci_high_stress_adjusted=0.2
        )
        (answer,) = shift_answers(tables | {"shifts": shifts}, contrasts=self.CONTRAST)
        assert dict(answer.lines)["IL6 level"].endswith(
            "At equal handling stress \u22120.05 (\u22120.30 to 0.20)."
        )

    def test_a_drug_is_judged_by_the_response_first(self):
        rows = [
            ("drug", "signature", name, MONO, value, value - 0.2, value + 0.2)
            for name, value in (
                ("il1_response", -1.2), ("il6_stat3_response", -0.6), ("ifn_gamma_response", 0.1)
            )
        ]  # fmt: skip
        verdict = [keys.CHANGED, keys.CHANGED, keys.INCONCLUSIVE]
        shifts = rows_of(keys.SHIFTS_TABLE, rows, status=keys.OK, verdict=verdict)
        tables = self.tables(change({MONO: (0.0, -0.02, 0.0)}, relative=2), shifts=shifts)
        (answer,) = shift_answers(tables, contrasts=self.CONTRAST)
        assert answer.lead.startswith(
            "IL-1 response (\u22121.2 log2) and IL-6/STAT3 response (\u22120.6 log2) fall in "
            "classical monocytes; IL6 output per sampled cell: inconclusive"
        )

    def test_no_p_says_why(self):
        row = ("drug", "gene", "IL6", MONO, -1.4, *[math.nan] * 7, 1, 1, math.nan, math.nan)
        shifts = rows_of(keys.SHIFTS_TABLE, [row], status=keys.TOO_FEW_SUBJECTS)
        tables = self.tables(change({MONO: (-0.02, -0.04, 0.0)}), shifts=shifts)
        (answer,) = shift_answers(tables, contrasts=self.CONTRAST)
        assert dict(answer.lines)["IL6 level"].endswith("no p (too few subjects for a test).")

    def test_reversal_is_beside_the_response(self, fake):
        contrasts = [Contrast(**one) for one in fake.CONTRASTS]
        answers = shift_answers(fake.tables(), contrasts=contrasts)
        assert [answer.topic.partition(":")[0] for answer in answers] == [
            "cart", "anakinra", "tocilizumab",
        ]  # fmt: skip
        assert "Reversal" not in dict(answers[0].lines)["IL-1 response"]
        assert "Reversal towards vehicle: 8" in dict(answers[1].lines)["IL-1 response"]

    def test_no_contrast(self):
        tables = self.tables(change({MONO: (0.0, 0.1, 0.0)}))
        assert shift_answers(tables, contrasts=()) == []


class TestWords:
    def test_arms_from_the_baseline_outwards(self, fake):
        contrasts = [Contrast(**one) for one in reversed(fake.CONTRASTS)]
        arms = ordered_arms(contrasts, [*fake.ARMS, "another"])
        assert arms[:2] == ["vehicle", "CART"]
        assert arms[-1] == "another"
        assert ordered_arms([], ["b", "a"]) == ["a", "b"]

    @pytest.mark.parametrize(
        ("value", "text"),
        [
            (1234.5, "1,234"), (12.345, "12.3"), (0.012, "0.012"), (0, "0"), (-2, "\u22122"),
            (0.00001, "1.0e\u221205"), (math.nan, "not known"), (99.99, "100"), (10.0, "10"),
        ],
    )  # fmt: skip
    def test_amount(self, value, text):
        assert amount(value) == text

    @pytest.mark.parametrize(
        ("share", "text"),
        [
            (0.824, "82 %"), (0.0049, "0.5 %"), (0.0002, "less than 0.1 %"), (0, "0 %"),
            (0.0996, "10 %"), (1, "100 %"), (-0.12, "\u221212 %"),
        ],
    )  # fmt: skip
    def test_percent(self, share, text):
        assert percent(share) == text

    def test_interval(self):
        assert interval(0.7512, 0.9312, as_percent=True) == "75 to 93 %"
        assert interval(math.nan, 1.0) == ""

    def test_pvalue(self):
        assert pvalue(0.0285714, 0.0285714) == "0.029 (floor 0.029)"
        assert pvalue(math.nan) == "no p"
        assert pvalue(1e-9) == "below 0.0001"

    @pytest.mark.parametrize(
        ("name", "text"),
        [
            ("Classical monocyte", "classical monocytes"), ("CAR T", "CAR T cells"),
            ("B", "B cells"),
            ("CD14+ Monocytes", "CD14+ Monocytes"), ("Unknown", "cells of unknown type"),
            ("T cell", "T cells"),
        ],
    )  # fmt: skip
    def test_cells_named(self, name, text):
        assert cells_named(name) == text
