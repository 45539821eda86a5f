"""`crs-sc check` sees what would stop a run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from crs_sc._check_run import check_report
from crs_sc.config import RunConfig
from crs_sc.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path

GENES = ["CD3D", "LYZ", "IL1B", "ISG15", "ACTB", "IFIT1"]


def put(path: Path, *, rate: float = 30.0, genes: list[str] = GENES) -> Path:
    counts = np.random.default_rng(0).poisson(rate, size=(20, len(genes))).astype(np.float32)
    index = [f"{path.stem}_{i}" for i in range(20)]
    ad.AnnData(
        sparse.csr_matrix(counts),
        obs=pd.DataFrame(index=index),
        var=pd.DataFrame(index=genes),
    ).write_h5ad(path)
    return path


def config(path: Path, **settings: Any) -> RunConfig:
    return RunConfig(input=(path,), **({"genes": ("IL1B",)} | settings))


def test_genes_without_which_a_run_stops(tmp_path: Path) -> None:
    path = put(tmp_path / "a.h5ad")
    assert check_report(config(path))[1]
    for settings, word in (
        ({"genes": ("IL6",)}, "No cytokine is in the data"),
        ({"transgene": ("FMC63",)}, "No transgene feature is in the data"),
        ({"signatures": ("inflammasome",), "genes": ("LYZ",)}, "No signature gene is in the data"),
    ):
        file = put(tmp_path / "b.h5ad", genes=[g for g in GENES if g != "IL1B"] + ["G1"])
        text, is_sound = check_report(
            config(file if "signatures" in settings else path, **settings)
        )
        assert word in text
        assert not is_sound
    assert check_report(config(path, transgene=("FMC63", "LYZ")))[1]


def test_weights_are_said(tmp_path: Path) -> None:
    path = put(tmp_path / "a.h5ad")
    adata = ad.read_h5ad(path)
    adata.obs["w"] = np.where(np.arange(20) < 10, 1.0, 2.5)
    adata.write_h5ad(path)
    assert "1 to 2.5" in check_report(config(path, columns={"sampling_weight": "w"}))[0]


def test_raw_matrices_of_a_sheet_are_opened(tmp_path: Path) -> None:
    put(tmp_path / "a.h5ad")
    sheet = tmp_path / "sheet.tsv"
    sheet.write_text("path\traw_path\na.h5ad\traw.h5ad\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"raw\.h5ad"):
        check_report(config(sheet))
    put(tmp_path / "raw.h5ad")
    with pytest.raises(InputError, match="Give the raw matrix"):
        check_report(config(sheet))
    put(tmp_path / "raw.h5ad", rate=3.0, genes=[f"X{i}" for i in range(6)])
    with pytest.raises(InputError, match="no UMI of the genes of the data"):
        check_report(config(sheet))
    put(tmp_path / "raw.h5ad", rate=3.0)
    assert "1 of 1 samples have a raw matrix" in check_report(config(sheet))[0]
