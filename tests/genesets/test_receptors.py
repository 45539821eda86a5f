"""The packaged table of receptors: complete, known to the other tables, translated."""

from __future__ import annotations

import pytest

from crs_sc import genesets
from crs_sc.errors import InputError
from crs_sc.genesets._tables import packaged_table


def test_rows_are_well_formed_and_have_a_source() -> None:
    table = genesets.load_receptors()
    assert list(table.columns) == ["cytokine", "gene", "role", "source"]
    assert set(table["role"]) == set(genesets.RECEPTOR_ROLES)
    assert (table["source"].str.len() > 0).all()
    assert not table.duplicated(["cytokine", "gene"]).any()
    assert table.map(lambda value: value == value.strip()).all(axis=None)


def test_every_cytokine_of_the_ledger_but_the_antagonist_has_a_receptor() -> None:
    table = genesets.load_receptors()
    heard = set(table.loc[table["role"] == "receptor", "cytokine"])
    assert heard == {*genesets.target_cytokines(), "CD40LG"} - {"IL1RN"}


def test_every_symbol_is_known_to_the_tables_of_names() -> None:
    table = genesets.load_receptors()
    symbols = {*table["cytokine"], *table["gene"]}
    assert symbols <= set(packaged_table("orthologs")["human"])
    assert symbols <= set(packaged_table("gene_ids")["symbol"])


def test_mouse_has_the_orthologues() -> None:
    table = genesets.load_receptors(organism="mouse")
    pairs = set(zip(table["cytokine"], table["gene"], table["role"], strict=True))
    assert {("Il6", "Il6ra", "receptor"), ("Il1b", "Il1r2", "decoy")} <= pairs
    assert not any("xcl" in cytokine.lower() for cytokine, _, _ in pairs)
    with pytest.raises(InputError, match="rat"):
        genesets.load_receptors(organism="rat")


def test_callers_cannot_change_the_packaged_table() -> None:
    table = genesets.load_receptors()
    table.loc[:, "role"] = "changed"
    assert "changed" not in set(genesets.load_receptors()["role"])
