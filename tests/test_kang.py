"""Real PBMC of eight lupus donors, control and IFN-beta (Kang 2018): what is known comes out."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anndata as ad
import pytest
from click.testing import CliRunner

from crs_sc.cli import main
from crs_sc.io import read_table

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def kang(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with the config that `crs-sc init` guesses, untouched."""
    folder = tmp_path_factory.mktemp("kang")
    runner = CliRunner()
    for arguments in (
        ["init", str(shared_data / "kang_ifnb_3800.h5ad"), "-o", str(folder / "config.yaml")],
        ["run", str(folder / "config.yaml"), "-o", str(folder)],
    ):
        result = runner.invoke(main, arguments)
        assert result.exit_code == 0, result.output
    return folder


def test_init_guesses_the_columns(kang: Path) -> None:
    text = (kang / "config.yaml").read_text(encoding="utf-8")
    for name, column in (("sample", "sample"), ("subject", "donor"), ("condition", "condition")):
        assert f"{name}: {column}" in text
    assert "paired: true" in text


def test_classical_monocytes_agree_with_the_published_labels(kang: Path, shared_data: Path) -> None:
    found = ad.read_h5ad(kang / "cohort.h5ad").obs["population"].astype(str)
    published = ad.read_h5ad(shared_data / "kang_ifnb_3800.h5ad").obs
    cd14 = published.index[
        (published["cell_type"] == "CD14+ Monocytes") & (published["demuxlet_call"] == "SNG")
    ]
    # A cell that QC left out counts as a disagreement.
    assert (found.reindex(cd14) == "Classical monocyte").mean() >= 0.95


def test_interferon_signature_rises_in_every_donor(kang: Path) -> None:
    table = read_table(kang / "tables" / "shifts.tsv").set_index(["feature", "population"])
    row = table.loc[("type1_ifn_response", "Classical monocyte")]
    assert row["n_treated"] == row["n_reference"] == 8
    assert row["pvalue_permutation"] == row["pvalue_floor"] == 2 / 2**8
    assert row["loo_low"] > 0
    assert row["padj"] < 1e-3


def test_cxcl10_is_among_the_genes_up(kang: Path) -> None:
    table = read_table(kang / "tables" / "expression.tsv")
    monocytes = table[table["population"] == "Classical monocyte"]
    up = set(monocytes.loc[(monocytes["padj"] < 0.05) & (monocytes["log2fc"] > 1), "gene"])
    assert {"CXCL10", "ISG15", "IFIT1", "IFIT3", "ISG20", "RSAD2"} <= up


def test_monocytes_are_the_main_source_of_il1b_and_cxcl8(kang: Path) -> None:
    ledger = read_table(kang / "tables" / "ledger_by_condition.tsv")
    ledger = ledger[ledger["condition"] == "ctrl"].set_index(["gene", "population"])["share"]
    for gene in ("IL1B", "CXCL8"):
        assert ledger[gene].idxmax() == "Classical monocyte"
        assert ledger[gene].max() > 0.7


def test_missing_mitochondrial_genes_are_said(kang: Path) -> None:
    notes = read_table(kang / "tables" / "qc.tsv")["note"]
    assert notes.str.contains("no mitochondrial gene").all()
    assert notes.str.contains("doublets not called").any()
    assert "itochondrial" in (kang / "report.html").read_text(encoding="utf-8")
