from __future__ import annotations

from typing import TYPE_CHECKING

import anndata as ad
import numpy as np
import pandas as pd
import pytest

from crs_sc import keys
from crs_sc.errors import CrsWarning, InputError
from crs_sc.io import describe_file, read

if TYPE_CHECKING:
    from pathlib import Path

HUMAN = ["IL1B", "IL6", "CD14", "LYZ", "ACTB", "NKG7"]
MOUSE = ["Il1b", "Il6", "Cd14", "Lyz2", "Actb", "Nkg7"]


def put(
    tmp_path: Path, genes: list[str], *, var: dict[str, list[str]] | None = None, scale: int = 1
) -> Path:
    """Cells x genes where gene j has j + 1 + i % 3 UMI in cell i, so that sums are known."""
    n = len(genes)
    X = (np.arange(n) + 1)[None, :] + (np.arange(12) % 3)[:, None]
    frame = pd.DataFrame(var or {}, index=genes)
    adata = ad.AnnData((X * scale).astype(np.float32), var=frame)
    adata.obs_names = [f"c{i}" for i in range(12)]
    path = tmp_path / "x.h5ad"
    adata.write_h5ad(path)
    return path


@pytest.mark.parametrize("prefix", ["GRCh38_", "hg19_", "GRCh38___", "hg38-", "HUMAN_"])
def test_prefix_of_one_genome_is_stripped(tmp_path: Path, prefix: str) -> None:
    got = read(put(tmp_path, [prefix + gene for gene in HUMAN]))
    assert list(got.var_names) == HUMAN
    assert got.var["original_name"].iloc[0] == prefix + "IL1B"
    assert keys.GENOME not in got.var


@pytest.mark.parametrize(
    ("human", "mouse"),
    [("GRCh38_", "mm10___"), ("hg19_", "mm10_"), ("GRCh38-", "GRCm39-"), ("HUMAN_", "MOUSE_")],
)
def test_two_genomes_stay_apart(tmp_path: Path, human: str, mouse: str) -> None:
    names = [human + gene for gene in HUMAN] + [mouse + gene for gene in MOUSE] + ["CAR"]
    path = put(tmp_path, names)
    got = read(path, organism="human+mouse")
    assert list(got.var_names) == names
    assert list(got.var[keys.SYMBOL]) == [*HUMAN, *MOUSE, "CAR"]
    assert list(got.var[keys.GENOME]) == ["human"] * 6 + ["mouse"] * 6 + ["human"]
    assert describe_file(path).organism == "human+mouse"
    assert read(path, organism="mouse+human").var[keys.GENOME].iloc[-1] == "mouse"


def test_two_genomes_by_id_or_column(tmp_path: Path) -> None:
    ids = [f"ENSG{i:011d}.3" for i in range(6)] + [f"ENSMUSG{i:011d}.1" for i in range(6)]
    got = read(put(tmp_path, HUMAN + MOUSE, var={"gene_ids": ids}))
    assert list(got.var[keys.GENOME]) == ["human"] * 6 + ["mouse"] * 6
    assert got.var[keys.GENE_ID].iloc[0] == "ENSG00000000000"
    genome = ["GRCh38"] * 6 + ["mm10"] * 6
    got = read(put(tmp_path, HUMAN + MOUSE, var={"genome": genome}))
    assert list(got.var[keys.GENOME]) == ["human"] * 6 + ["mouse"] * 6


def test_same_name_in_both_genomes_is_never_added_up(tmp_path: Path) -> None:
    genes = [*HUMAN, "7SK", *MOUSE, "7SK"]
    genome = ["GRCh38"] * 7 + ["mm10"] * 7
    with pytest.warns(UserWarning, match="not unique"):
        path = put(tmp_path, genes, var={"genome": genome})
    got = read(path)
    assert got.shape == (12, 14)
    assert {"human_7SK", "mouse_7SK"} <= set(got.var_names)


@pytest.mark.parametrize("column", ["feature_name", "gene_symbols", "Symbol"])
def test_ensembl_ids_with_symbols(tmp_path: Path, column: str) -> None:
    ids = [f"ENSG{i:011d}.3" for i in range(6)]
    got = read(put(tmp_path, ids, var={column: [*HUMAN[:5], ""]}))
    assert list(got.var_names) == [*HUMAN[:5], ids[5]]
    assert got.var[keys.GENE_ID].iloc[1] == "ENSG00000000001"


def test_ensembl_ids_without_symbols(tmp_path: Path) -> None:
    ids = ["ENSG00000136244.12", "ENSG00000125538", "ENSG99999999999"]
    with pytest.warns(CrsWarning, match="2 of 3 were named"):
        got = read(put(tmp_path, ids))
    assert list(got.var_names) == ["IL6", "IL1B", "ENSG99999999999"]


def test_old_symbols(tmp_path: Path) -> None:
    got = read(put(tmp_path, ["IL8", "ACTB", "IL6", "LYZ"]))
    assert list(got.var_names) == ["CXCL8", "ACTB", "IL6", "LYZ"]
    assert any("IL8 is CXCL8" in note for note in got.uns[keys.UNS]["notes"])
    beside = read(put(tmp_path, ["IL8", "CXCL8", "IL6", "LYZ"]))
    assert list(beside.var_names) == ["IL8", "CXCL8", "IL6", "LYZ"]


@pytest.mark.filterwarnings("ignore:Variable names are not unique")
def test_repeated_symbols_are_added_up(tmp_path: Path) -> None:
    genes = ["IL6", "ACTB", "IL6", "LYZ", "IL6"]
    path = put(tmp_path, genes)
    got = read(path)
    X = ad.read_h5ad(path).X
    assert list(got.var_names) == ["IL6", "ACTB", "LYZ"]
    want = np.column_stack([X[:, [0, 2, 4]].sum(axis=1), X[:, 1], X[:, 3]])
    assert np.array_equal(got.layers["counts"].toarray(), want)
    assert any("added up: IL6" in note for note in got.uns[keys.UNS]["notes"])


def test_names_that_a_spreadsheet_made_dates(tmp_path: Path) -> None:
    genes = ["IL6", "ACTB", "LYZ", "NKG7", "2-Sep", "Mar-05", "1-Mar", "2001-03-01"]
    with pytest.warns(CrsWarning, match="turned 4 gene names into dates"):
        got = read(put(tmp_path, genes))
    assert list(got.var_names[4:]) == ["SEPTIN2", "MARCHF5", "1-Mar", "2001-03-01"]


def test_names_missing(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="1 genes without a name"):
        read(put(tmp_path, ["IL6", "", "LYZ"]))


@pytest.mark.parametrize(
    ("genes", "organism"),
    [(HUMAN, "human"), (MOUSE, "mouse"), (["mt-Nd1", "Gm1992", "Xkr4", "4930578C19Rik"], "mouse")],
)
def test_organism_guess(tmp_path: Path, genes: list[str], organism: str) -> None:
    assert describe_file(put(tmp_path, genes)).organism == organism


def test_barnyard(shared_data: Path) -> None:
    path = shared_data / "hgmm_100_barnyard.h5ad"
    got = read(path, organism="human+mouse")
    truth = ad.read_h5ad(path)
    assert (got.layers["counts"] != truth.X).nnz == 0
    human = np.asarray(
        got.layers["counts"][:, (got.var[keys.GENOME] == "human").to_numpy()].sum(axis=1)
    )
    assert np.array_equal(human.ravel(), truth.obs["hg19_counts"].to_numpy())
    assert {"IL6", "Il6"} <= set(got.var[keys.SYMBOL])
