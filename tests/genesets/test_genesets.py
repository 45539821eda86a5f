"""Packaged gene tables, the user's gene sets, symbols and gene families."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from crs_sc import genesets, keys
from crs_sc.errors import CrsWarning, InputError
from crs_sc.genesets._tables import packaged_table
from crs_sc.preprocessing.ambient import MARKERS, PANELS

POPULATIONS = {
    "Classical monocyte": "Monocyte",
    "Intermediate monocyte": "Monocyte",
    "Non-classical monocyte": "Monocyte",
    "Macrophage": "Macrophage",
    "cDC1": "DC",
    "cDC2": "DC",
    "AS-DC": "DC",
    "Migratory DC": "DC",
    "pDC": "pDC",
    "Neutrophil": "Neutrophil",
    "Mast cell": "Mast cell",
    "CD4 T": "T",
    "CD8 T": "T",
    "Treg": "T",
    "CAR T": "T",
    "NK": "NK",
    "B": "B",
    "Plasma cell": "B",
    "Megakaryocyte": "Megakaryocyte",
    "Erythroid": "Erythroid",
    "HSPC": "Progenitor",
    "B-ALL blast": "Blast",
    "AML blast": "Blast",
    "Unknown": "Unknown",
}
SIGNATURES = {
    "il1_response",
    "il6_stat3_response",
    "ifn_gamma_response",
    "type1_ifn_response",
    "nfkb_response",
    "gmcsf_response",
    "inflammasome",
    "inflammatory_monocyte",
    "s100a_high",
    "hla_dr",
    "anti_inflammatory",
    "proliferation",
    "cytotoxicity",
    "dissociation_stress",
}
BOTH = ("human", "mouse")


# --- packaged tables --------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["cell_types", "signatures", "aliases", "orthologs", "gene_ids"])
def test_every_row_has_a_source_and_no_blanks_around_values(name: str) -> None:
    table = packaged_table(name)
    assert (table["source"].str.len() > 0).all()
    assert table.map(lambda value: value == value.strip()).all(axis=None)
    assert not table.duplicated().any()


@pytest.mark.parametrize("name", ["cell_types", "signatures"])
def test_rows_are_unique_and_well_formed(name: str) -> None:
    table = packaged_table(name)
    assert list(table.columns) == [
        "symbol",
        "set",
        "role",
        "lineage",
        "weight",
        "organism",
        "source",
    ]
    assert not table.duplicated(["set", "symbol", "organism"]).any(), "marker and negative at once"
    assert set(table["role"]) <= {"marker", "negative"}
    assert set(table["organism"]) <= set(BOTH)
    assert table["weight"].astype(float).between(0, 1, inclusive="right").all()


@pytest.mark.parametrize("organism", BOTH)
def test_target_cytokines_are_in_no_panel_and_no_signature(organism: str) -> None:
    targets = set(genesets.target_cytokines(organism=organism))
    assert len(targets) >= 9
    used = set(genesets.load_cell_types(organism=organism)["symbol"])
    used |= set(genesets.load_signatures(organism=organism)["symbol"])
    assert not used & targets


def test_the_mouse_targets_are_the_orthologues() -> None:
    assert genesets.target_cytokines() == list(genesets.TARGET_CYTOKINES)
    assert genesets.target_cytokines(organism="mouse") == [
        "Il1a", "Il1b", "Il6", "Tnf", "Ccl2", "Il18", "Il1rn", "Csf2", "Ifng",
    ]  # fmt: skip


def test_panels_cover_the_vocabulary() -> None:
    panels = genesets.cell_type_panels()
    assert set(panels) == set(POPULATIONS) - {keys.CAR_T, keys.UNKNOWN}
    assert genesets.lineages() == POPULATIONS
    assert all(6 <= len(genes) <= 16 for genes in panels.values())
    table = genesets.load_cell_types()
    negatives = table[table["role"] == "negative"].groupby("set").size()
    assert set(negatives.index) == set(panels)


def test_no_two_panels_share_most_of_their_genes() -> None:
    # By weight: a gene that several types share counts little in each of them.
    table = genesets.load_cell_types()
    table = table[table["role"] == "marker"]
    weights = table.pivot_table(index="symbol", columns="set", values="weight").fillna(0.0)
    total = weights.sum()
    for one in weights:
        for other in weights:
            if one < other:
                shared = weights[[one, other]].min(axis=1).sum() / min(total[one], total[other])
                assert shared <= 0.4, (one, other, shared)


def test_monocyte_panels_have_no_interferon_gene() -> None:
    signatures = genesets.signatures()
    interferon = {*signatures["type1_ifn_response"], "IFITM2", "IFITM3", "HES4", "IFI6", "CXCL10"}
    panels = genesets.cell_type_panels()
    for population in ("Classical monocyte", "Intermediate monocyte", "Non-classical monocyte"):
        assert not interferon & set(panels[population])


@pytest.mark.parametrize("organism", BOTH)
def test_signatures_of_both_organisms(organism: str) -> None:
    found = genesets.signatures(organism=organism)
    assert set(found) == SIGNATURES
    assert all(len(genes) >= 4 and len(genes) == len(set(genes)) for genes in found.values())
    assert not set(found["nfkb_response"]) & set(found["dissociation_stress"])
    assert "CXCL10" not in found["type1_ifn_response"]


def test_signatures_are_in_the_order_of_the_file() -> None:
    table = packaged_table("signatures")
    assert list(genesets.signatures()) == table["set"].unique().tolist()
    stress = table.loc[table["set"] == "dissociation_stress", "symbol"].tolist()
    assert genesets.signatures()["dissociation_stress"] == stress
    assert len(stress) == 32


def test_signatures_by_name_and_with_the_users_own() -> None:
    chosen = genesets.signatures(
        names=["hla_dr", "il1_response"], user={"mine": ["IL6"], "hla_dr": ["HLA-DRA"]}
    )
    assert list(chosen) == ["hla_dr", "il1_response", "mine"]
    assert chosen["hla_dr"] == ["HLA-DRA"]
    with pytest.raises(InputError, match="No signature il2_response"):
        genesets.signatures(names=["il2_response"])


def test_mouse_panels_are_mouse_genes() -> None:
    panels = genesets.cell_type_panels(organism="mouse")
    assert set(genesets.cell_type_panels()) - set(panels) == {"Intermediate monocyte", "AS-DC"}
    assert all(len(genes) >= 6 for genes in panels.values())
    table = genesets.load_cell_types(organism="mouse")
    assert (table["organism"] == "mouse").all()
    assert table["symbol"].map(lambda gene: not gene.isupper()).all()
    assert not table.duplicated(["set", "role", "symbol"]).any()
    assert "Ly6c2" in panels["Classical monocyte"]
    assert not {"Cd14", "S100a8"} & set(panels["Classical monocyte"]), "own rows stand alone"
    assert {"Cd3d", "Foxp3"} <= set(panels["Treg"]), "borrowed through the orthologues"


def test_loaded_tables_can_be_changed_without_harm() -> None:
    for load in (
        genesets.load_cell_types,
        genesets.load_signatures,
        genesets.load_receptors,
        genesets.orthologs,
    ):
        table = load()
        table["source"] = "gone"
        assert (load()["source"] != "gone").all()


@pytest.mark.parametrize(
    "call",
    [
        genesets.load_cell_types,
        genesets.load_signatures,
        genesets.cell_type_panels,
        genesets.signatures,
        genesets.target_cytokines,
        genesets.load_receptors,
    ],
)
def test_unknown_organism(call: object) -> None:
    with pytest.raises(InputError, match="organism must be 'human' or 'mouse', got 'rat'"):
        call(organism="rat")  # type: ignore[operator]


# --- receptors --------------------------------------------------------------------------------


def test_receptors_have_a_role_and_a_source() -> None:
    table = genesets.load_receptors()
    assert list(table.columns) == ["cytokine", "gene", "role", "source"]
    assert set(table["role"]) == set(genesets.RECEPTOR_ROLES)
    assert (table["source"].str.len() > 0).all()
    assert not table.duplicated(["cytokine", "gene"]).any()
    assert table.map(lambda value: value == value.strip()).all(axis=None)


def test_every_cytokine_of_the_ledger_but_the_antagonist_has_a_receptor() -> None:
    table = genesets.load_receptors()
    received = set(table.loc[table["role"] == "receptor", "cytokine"])
    assert received == {*genesets.target_cytokines(), "CD40LG"} - {"IL1RN"}


def test_receptors_are_known_to_the_tables_of_names() -> None:
    table = genesets.load_receptors()
    symbols = {*table["cytokine"], *table["gene"]}
    assert symbols <= set(packaged_table("orthologs")["human"])
    assert symbols <= set(packaged_table("gene_ids")["symbol"])


def test_receptors_of_the_mouse_are_the_orthologues() -> None:
    table = genesets.load_receptors(organism="mouse")
    pairs = set(zip(table["cytokine"], table["gene"], table["role"], strict=True))
    assert {("Il6", "Il6ra", "receptor"), ("Il1b", "Il1r2", "decoy")} <= pairs
    assert not any("xcl" in cytokine.lower() for cytokine, _, _ in pairs)


# --- aliases, ids, orthologues ----------------------------------------------------------------


def test_aliases_lead_to_one_current_symbol() -> None:
    table = packaged_table("aliases")
    assert not table.duplicated(["alias", "organism"]).any()
    for organism, rows in table.groupby("organism"):
        assert not set(rows["alias"]) & set(rows["symbol"]), organism
        own = packaged_table("gene_ids")
        current = set(own.loc[own["organism"] == organism, "symbol"])
        assert not set(rows["alias"]) & current, organism


def test_packaged_symbols_are_current() -> None:
    for organism in BOTH:
        for load in (genesets.load_cell_types, genesets.load_signatures):
            symbols = load(organism=organism)["symbol"].tolist()
            assert genesets.resolve_symbols(symbols, organism=organism) == symbols


def test_orthologues_cover_the_human_tables() -> None:
    pairs = genesets.orthologs()
    human = set(genesets.load_cell_types()["symbol"]) | set(genesets.load_signatures()["symbol"])
    receptors = genesets.load_receptors()
    human |= {*genesets.TARGET_CYTOKINES, *receptors["cytokine"], *receptors["gene"]}
    human |= {gene for genes in (PANELS | MARKERS).values() for gene in genes}
    assert human <= set(pairs["human"])
    none = pairs.loc[pairs["mouse"] == "", "human"]
    assert not set(none) & set(pairs.loc[pairs["mouse"] != "", "human"])
    by_gene = pairs.groupby("human")["mouse"].agg(list)
    assert by_gene["FCGR3A"] == ["Fcgr4"]
    assert by_gene["LYZ"] == ["Lyz2"]
    assert by_gene["CXCL8"] == [""]
    assert by_gene["CD2"] == ["Cd2"]
    assert by_gene["TRBC1"] == ["Trbc1", "Trbc2"]
    assert by_gene["HLA-DRB1"] == ["H2-Eb1"]


def test_ensembl_ids_have_one_symbol() -> None:
    ids = packaged_table("gene_ids")
    assert not ids["gene_id"].duplicated().any()
    assert ids["gene_id"].str.fullmatch(r"ENS(MUS)?G\d{11}").all()
    is_mouse = ids["gene_id"].str.startswith("ENSMUSG")
    assert (is_mouse == (ids["organism"] == "mouse")).all()
    human = set(genesets.load_cell_types()["symbol"]) | set(genesets.load_signatures()["symbol"])
    assert human | set(genesets.TARGET_CYTOKINES) <= set(ids["symbol"])


def test_resolve_symbols() -> None:
    names = ["IL8", "WARS", "DDX58", "MARCH1", "1-Mar", "ENSG00000136244.12", "IL6", "NOT_A_GENE"]
    assert genesets.resolve_symbols(names) == [
        "CXCL8",
        "WARS1",
        "RIGI",
        "MARCHF1",
        "MARCHF1",
        "IL6",
        "IL6",
        "NOT_A_GENE",
    ]
    mouse = ["ENSMUSG00000025746", "Igj", "IL8"]
    assert genesets.resolve_symbols(mouse, organism="mouse") == ["Il6", "Jchain", "IL8"]


# The first text takes Hypothesis a second or two, more on a busy machine.
@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(st.lists(st.text(max_size=12), max_size=8))
def test_resolving_twice_changes_nothing(names: list[str]) -> None:
    once = genesets.resolve_symbols(names)
    assert len(once) == len(names)
    assert genesets.resolve_symbols(once) == once


def test_match_genes_in_both_directions() -> None:
    data = ["IL8", "IL6", "ENSG00000125538.11", "WARS1"]
    wanted = ["CXCL8", "IL6", "IL1B", "WARS", "TNF", "CXCL8"]
    assert genesets.match_genes(wanted, data) == {
        "CXCL8": "IL8",
        "IL6": "IL6",
        "IL1B": "ENSG00000125538.11",
        "WARS": "WARS1",
    }
    assert genesets.match_genes(["ENSG00000136244"], data) == {"ENSG00000136244": "IL6"}


def test_a_gene_under_its_own_name_comes_first() -> None:
    assert genesets.match_genes(["CXCL8"], ["IL8", "CXCL8"]) == {"CXCL8": "CXCL8"}
    assert genesets.match_genes(["IL8"], ["CXCL8", "IL8"]) == {"IL8": "IL8"}


def test_coverage_is_exact() -> None:
    table = genesets.coverage(
        {"b": ["IL6", "CXCL8", "TNF"], "a": ["IL1B"], "none": []}, ["IL8", "IL6"]
    )
    expected = pd.DataFrame(
        {
            "gene_set": ["b", "a", "none"],
            "n_genes": [3, 1, 0],
            "n_found": [2, 0, 0],
            "missing": ["TNF", "IL1B", ""],
        }
    )
    pd.testing.assert_frame_equal(table, expected.astype({"gene_set": str, "missing": str}))
    assert list(table.columns) == keys.COVERAGE_TABLE.names


def test_coverage_without_gene_sets() -> None:
    table = genesets.coverage({}, ["IL6"])
    assert table.empty
    assert list(table.columns) == keys.COVERAGE_TABLE.names


# --- the user's gene sets ---------------------------------------------------------------------

SETS = {"one": ["IL6", "SOCS3"], "two": ["TNF"]}


def test_gene_sets_from_gmt_tsv_and_mapping(tmp_path) -> None:
    gmt = tmp_path / "sets.gmt"
    gmt.write_text("one\thttp://x\tIL6\tSOCS3\t\t\n\ntwo\tna\tTNF\n")
    tsv = tmp_path / "sets.tsv"
    tsv.write_text("symbol\tset\trole\nIL6\tone\tmarker\nSOCS3\tone\tmarker\nTNF\ttwo\tmarker\n"
                   "CD3E\tone\tnegative\n")  # fmt: skip
    assert genesets.read_gmt(gmt) == SETS
    assert genesets.read_gene_sets(gmt) == SETS
    assert genesets.read_gene_sets(str(tsv)) == SETS
    assert genesets.read_gene_sets({name: tuple(genes) for name, genes in SETS.items()}) == SETS


@pytest.mark.parametrize(
    ("name", "text", "complaint"),
    [
        ("a.gmt", "", "no gene sets"),
        ("a.gmt", "one\tna\n", "line 1: a GMT line is a name"),
        ("a.gmt", "one\tna\tIL6\none\tna\tTNF\n", "line 2: the gene set 'one' is there twice"),
        ("a.gmt", "one\tna\t\t\n", "gene set 'one' has no genes"),
        ("a.gmt", "\tna\tIL6\n", "has no name"),
        ("a.gmt", "one\tna\tIL6\tTNF\tIL6\n", "gene set 'one' has genes twice: IL6"),
        ("a.tsv", "", "no column set and symbol"),
        ("a.tsv", "set\tgene\none\tIL6\n", "no column symbol. Columns: set, gene"),
        ("a.tsv", "set\tsymbol\n", "no gene sets"),
        ("a.tsv", "set\tsymbol\none\n", "a row has 1 fields, the header 2"),
        ("a.xlsx", "x", "read from .gmt, .tsv or .txt files, got '.xlsx'"),
    ],
)
def test_bad_files_give_one_clear_error(tmp_path, name: str, text: str, complaint: str) -> None:
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(InputError, match=re.escape(complaint)):
        genesets.read_gene_sets(path)


def test_markers_of_the_user_add_to_the_packaged_types_or_take_their_place(tmp_path) -> None:
    tsv = tmp_path / "types.tsv"
    tsv.write_text(
        "symbol\tset\trole\tlineage\tweight\nSDC1\tMyeloma\tmarker\tBlast\t1\n"
        "CD3D\tMyeloma\tnegative\tBlast\t0.5\nGNLY\tNK\tmarker\t\t1\n"
    )
    table = genesets.load_cell_types(user=tsv)
    packaged = genesets.load_cell_types()
    assert list(table.columns) == list(packaged.columns)
    assert table.loc[table["set"] == "NK", ["symbol", "lineage"]].to_numpy().tolist() == [
        ["GNLY", "NK"]
    ]
    assert set(table.loc[table["set"] == "Myeloma", "lineage"]) == {"Blast"}
    rest = packaged[packaged["set"] != "NK"].reset_index(drop=True)
    pd.testing.assert_frame_equal(table.iloc[: len(rest)], rest)
    mapped = genesets.load_cell_types(user={"ILC": ["KIT", "TRDC"]})
    assert set(mapped.loc[mapped["set"] == "ILC", "lineage"]) == {"ILC"}


def test_markers_of_the_user_that_are_target_cytokines_are_warned_of() -> None:
    with pytest.warns(CrsWarning, match="IL1B"):
        genesets.load_cell_types(user={"M1": ["CD86", "IL1B"]})


@pytest.mark.parametrize(("role", "weight"), [("positive", "1"), ("marker", "0"), ("marker", "x")])
def test_bad_roles_and_weights_give_one_clear_error(tmp_path, role: str, weight: str) -> None:
    tsv = tmp_path / "types.tsv"
    tsv.write_text(f"symbol\tset\trole\tweight\nCD1A\tA\t{role}\t{weight}\nCD2\tA\tmarker\t1\n")
    with pytest.raises(InputError, match="a role is 'marker' or 'negative'"):
        genesets.read_markers(tsv)


def test_overview_lists_every_set_once_with_sources() -> None:
    table = genesets.overview(["IL8", "CD14", "LYZ"], user={"mine": ["CXCL8", "NOPE"]})
    assert table["gene_set"].is_unique
    assert set(table["kind"]) == {"cell type", "signature", "user"}
    assert (table["sources"].str.len() > 0).all()
    mine = table.set_index("gene_set").loc["mine"]
    assert (mine["n_genes"], mine["n_found"], mine["missing"]) == (2, 1, "NOPE")
    monocyte = table.set_index("gene_set").loc["Classical monocyte"]
    assert (monocyte["n_found"], monocyte["lineage"]) == (2, "Monocyte")
    assert genesets.overview()["n_found"].isna().all()


def test_few_rows_rest_on_general_knowledge() -> None:
    for name, most in (("cell_types", 0.08), ("signatures", 0.12)):
        source = packaged_table(name)["source"]
        assert source.str.startswith("general knowledge").mean() <= most, name


def test_absent_and_binary_files(tmp_path) -> None:
    with pytest.raises(InputError, match=r"Cannot read the gene sets in .*No such file"):
        genesets.read_gmt(tmp_path / "absent.gmt")
    binary = tmp_path / "binary.gmt"
    binary.write_bytes(b"\x89\xff\xfe\x00")
    with pytest.raises(InputError, match="not a text file"):
        genesets.read_gmt(binary)


@pytest.mark.parametrize(
    ("sets", "complaint"),
    [
        ({}, "no gene sets"),
        ({"one": []}, "gene set 'one' has no genes"),
        ({"one": "IL6"}, "is one string"),
        ({"one": ["IL6", "IL6 "]}, "has genes twice: IL6"),
    ],
)
def test_bad_mappings(sets: dict, complaint: str) -> None:
    with pytest.raises(InputError, match=complaint):
        genesets.read_gene_sets(sets)


# --- gene families ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("family", "inside", "outside"),
    [
        (
            genesets.mitochondrial_genes,
            ["MT-CO1", "MT-ND4L", "mt-Nd1", "ENSG00000198804.2", "ENSMUSG00000064351"],
            ["MT1X", "MTOR", "MTRNR2L1", "Mtor", "MT2A", "ENSG00000136244"],
        ),
        (
            genesets.immune_receptor_genes,
            ["TRAV1-2", "TRBV20-1", "TRBD1", "TRAJ33", "TRGV9", "TRDV2", "IGHV3-23", "IGKV1D-33",
             "IGLVI-70", "IGKJ1", "IGHD3-10", "IGHD", "IGHM", "IGHG1", "IGHA2", "IGKC", "IGLC2",
             "Trav3-1", "Ighv1-26", "Ighg2c", "Igkc", "Tcrg-V4", "IGHGP"],
            ["TRAC", "TRBC1", "TRDC", "TRAF1", "TRADD", "TRDMT1", "IGHMBP2", "IGLL1", "IGLL5",
             "IGF1", "JCHAIN", "Traf2", "Tcrg-C1", "TRAJX"],
        ),
        (
            genesets.immunoglobulin_genes,
            ["IGHV3-23", "IGKC", "IGLC3", "IGHE", "Ighm", "Iglc1", "ENSG00000211592"],
            ["TRAV1-2", "JCHAIN", "IGLL5", "IGHMBP2", "IGSF6"],
        ),
        (
            genesets.haemoglobin_genes,
            ["HBA1", "HBA2", "HBB", "HBD", "HBG2", "HBM", "Hbb-bs", "Hba-a1", "Hbq1b"],
            ["HBEGF", "HBS1L", "HBP1", "Hbegf", "AHSP", "HBBP1"],
        ),
        (
            genesets.sex_genes,
            ["XIST", "RPS4Y1", "DDX3Y", "Xist", "Uty", "Eif2s3y", "ENSG00000229807"],
            ["RPS4X", "DDX3X", "EIF1AX", "XIAP"],
        ),
    ],
)  # fmt: skip
def test_gene_families(family, inside: list[str], outside: list[str]) -> None:
    mask = family(pd.Index([*inside, *outside]))
    assert isinstance(mask, np.ndarray)
    assert mask.dtype == bool
    names = np.array([*inside, *outside])
    assert names[mask].tolist() == inside
    assert family([]).shape == (0,)


# --- real data --------------------------------------------------------------------------------


def test_old_symbols_of_real_data_are_found(shared_data) -> None:
    import anndata

    names = anndata.read_h5ad(shared_data / "kang_ifnb_3800.h5ad", backed="r").var_names
    assert "CXCL8" not in names
    assert genesets.match_genes(["CXCL8", "JCHAIN", "IL6"], names) == {
        "CXCL8": "IL8",
        "JCHAIN": "IGJ",
        "IL6": "IL6",
    }
    full = anndata.read_h5ad(shared_data / "pbmc4k_soupx_2170.h5ad", backed="r").var_names
    table = genesets.coverage(genesets.cell_type_panels() | genesets.signatures(), full)
    assert (table["n_found"] == table["n_genes"]).all(), table


def test_ids_agree_with_the_reference_of_a_real_file(shared_data) -> None:
    import anndata

    var = anndata.read_h5ad(shared_data / "hgmm_100_barnyard.h5ad", backed="r").var
    for organism, prefix in (("human", "hg19_"), ("mouse", "mm10_")):
        rows = var[var["genome"].astype(str) == prefix.rstrip("_")]
        ids = rows["gene_id"].astype(str).str.removeprefix(prefix)
        symbols = rows["symbol"].astype(str).str.removeprefix(prefix)
        by_id = genesets.resolve_symbols(ids, organism=organism)
        known = np.array(by_id) != ids.to_numpy()
        assert known.sum() > 300
        by_symbol = genesets.resolve_symbols(symbols[known], organism=organism)
        assert np.array(by_id)[known].tolist() == by_symbol
