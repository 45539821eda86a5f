"""What the report says of its clusters, and that it says the opposite of the opposite."""

from __future__ import annotations

import pytest

from crs_sc import keys
from crs_sc.plotting import cluster_stability
from crs_sc.report.populations import cluster_sentences


@pytest.fixture
def said(tables):
    return " ".join(cluster_sentences(tables))


def test_weak_clusters_are_named_with_what_they_are_found_with(tables, said):
    weak = tables["clusters"].iloc[-1]
    assert f"{weak['cluster']} (" in said
    assert f"{weak['stability']:.2f}" in said
    assert "depends on which cells were sampled" in said


def test_weak_clusters_within_a_type_move_nothing(tables):
    table = tables["clusters"]
    tables["clusters"] = table.assign(
        joins_population=table["population"].where(table["joins"] != "", "")
    )
    assert "moves nothing on this page" in " ".join(cluster_sentences(tables))
    tables["clusters"] = table.loc[table["state"] == keys.STABLE]
    assert "Every cluster with enough cells" in " ".join(cluster_sentences(tables))


def test_integration_says_what_was_gained_and_lost(tables, said):
    assert "Of 2 batches, a cell has 16 %" in said
    assert "after integration by harmony 86 %" in said
    assert "so the groups within a batch are kept" in said
    table = tables["integration"]
    tables["integration"] = table.assign(conservation_after=0.5)
    assert "merges groups that are apart" in " ".join(cluster_sentences(tables))
    tables["integration"] = table.assign(
        mixing_after=float("nan"), conservation_after=float("nan"), status=keys.CONFOUNDED
    )
    text = " ".join(cluster_sentences(tables))
    assert "may be batch or treatment. Not integrated." in text


def test_myeloid_groups_are_named_by_type_state_and_subject(said):
    assert "of which 2 are found again" in said
    assert "s0 (classical monocytes, resting)" in said
    assert "s1 (classical monocytes, inflammatory, 100 % from CART, 100 % from m1)" in said
    assert "s2" not in said


def test_circularity_names_who_would_be_regrouped(tables, said):
    assert "index of 0.94 (0.98 with as many other genes of like expression)" in said
    assert "It would regroup cDC2" in said
    table = tables["circularity"]
    tables["circularity"] = table.assign(agreement=table["agreement_control"])
    assert "no population would be regrouped" in " ".join(cluster_sentences(tables))
    # Other genes regroup them as much.
    tables["circularity"] = table.assign(agreement_control_low=0.3)
    assert "no population would be regrouped" in " ".join(cluster_sentences(tables))
    without = ["agreement_control", "agreement_control_low", "ari_control"]
    tables["circularity"] = table.assign(**dict.fromkeys(without, float("nan")))
    text = " ".join(cluster_sentences(tables))
    assert "index of 0.94. It would regroup cDC2" in text


def test_overlaps_are_counted_and_used_cytokines_are_called_circular(tables, said):
    assert "HLA-DR (1)" in said
    assert "Circular" not in said
    table = tables["gene_overlap"]
    tables["gene_overlap"] = table.assign(is_selected=True)
    assert "Circular: IL1B were used" in " ".join(cluster_sentences(tables))


def test_nothing_is_said_of_nothing():
    assert cluster_sentences({}) == []


def test_figure_shows_every_cluster_and_the_choice(tables):
    figure = cluster_stability(tables["clusters"], clustering=tables["clustering"])
    left, right = figure.axes
    assert len(right.patches) == len(tables["clusters"])
    assert [bar.get_width() for bar in right.patches] == tables["clusters"]["stability"].tolist()
    filled = left.collections[-1].get_facecolors()
    assert (filled[1][:3] < 0.2).all()
    assert (filled[0][:3] > 0.9).all()
    assert any("unstable, with" in text.get_text() for text in right.texts)
