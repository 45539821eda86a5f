"""`crs-sc check` sees what would stop a run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from crs_sc.errors import InputError, MissingKeyError
from crs_sc.run.check import check_report
from crs_sc.run.config import RunConfig

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


def cohort(path: Path, *, n_subjects: int = 4, **obs: Any) -> Path:
    """Ten cells of two types from each of `n_subjects` subjects in each of two arms."""
    n = 2 * n_subjects * 10
    subject = np.repeat(np.arange(2 * n_subjects), 10)
    arm = np.where(subject < n_subjects, "vehicle", "CART")
    level = 20 + 3 * np.random.default_rng(1).normal(size=2 * n_subjects)[subject]
    counts = np.random.default_rng(0).poisson(level[:, None], size=(n, len(GENES)))
    columns = {"sample": subject, "subject": subject, "condition": arm, "kind": "T"} | obs
    ad.AnnData(
        sparse.csr_matrix(counts.astype(np.float32)),
        obs=pd.DataFrame(columns, index=[f"c{i}" for i in range(n)]),
        var=pd.DataFrame(index=GENES),
    ).write_h5ad(path)
    return path


CART = {"name": "cart", "treated": "CART", "reference": "vehicle"}


def test_what_a_contrast_can_answer_is_said(tmp_path: Path) -> None:
    path = cohort(tmp_path / "a.h5ad")
    text, is_sound = check_report(config(path, contrasts=(CART,)))
    assert is_sound
    # 2 / (8 over 4) permutations; 2.38 sd is what a t test of four against four finds.
    for words in (
        "Subjects by arm:",
        "cart (CART against vehicle): 4 against 4 subjects, unpaired.",
        "Smallest permutation p 0.0286; 80 % power from a shift of 2.4 sd between subjects",
        "types under `columns: label` to see it",
        "The design can be answered.",
    ):
        assert words in text, text
    assert [line.split() for line in text.splitlines() if line.startswith("CART ")] == [
        ["CART", "4"]
    ]


def test_effects_in_log2_units_where_there_are_labels(tmp_path: Path) -> None:
    path = cohort(tmp_path / "a.h5ad")
    settings = {
        "contrasts": (CART,),
        "columns": {"label": "kind"},
        "signatures": ("type1_ifn_response",),
    }
    text = check_report(config(path, **settings))[0]
    name, value = text.splitlines()[-3].split()
    assert name == "T"
    # Both genes of the signature rise and fall with the others, so their CPM hardly differ.
    assert 0 < float(value) < 1
    one = cohort(tmp_path / "b.h5ad", n_subjects=1)
    text, is_sound = check_report(config(one, **settings))
    assert is_sound
    assert "No p can be given (too few subjects)" in text
    assert "In no population is there enough for a test" in text


def test_time_points_and_pairs_are_said(tmp_path: Path) -> None:
    subject = np.repeat([0, 1, 2, 3, 0, 1, 2, 3], 10)
    day = np.where(np.arange(80) % 20 < 10, "d10", "d2")
    path = cohort(tmp_path / "a.h5ad", subject=subject, sample=np.repeat(range(8), 10), day=day)
    settings = {"contrasts": (CART | {"paired": True},), "columns": {"timepoint": "day"}}
    text, is_sound = check_report(config(path, **settings))
    assert is_sound
    heading = text.partition("Subjects by arm and time point:\n")[2].partition("\n")[0]
    assert heading.split() == ["d2", "d10", "subjects"]
    assert "4 pairs" in text
    assert "sd within subjects" in text


def test_what_cannot_be_answered_is_refused(tmp_path: Path) -> None:
    arm = np.where(np.arange(80) < 40, "vehicle", "CART")
    path = cohort(tmp_path / "a.h5ad", run=arm, sex=arm)
    for settings, why in (
        ({"columns": {"batch": "run"}}, "batch and condition cannot be told apart"),
        ({"contrasts": (CART | {"covariates": ["sex"]},)}, "sex and condition cannot be told"),
        ({"contrasts": (CART | {"paired": True},)}, "no subject is in both arms"),
    ):
        text, is_sound = check_report(config(path, **({"contrasts": (CART,)} | settings)))
        assert not is_sound
        refused = [line for line in text.splitlines() if line.startswith("Refused: cart ")]
        assert len(refused) == 1
        assert why in refused[0]
        assert text.endswith("Mend the design before a run.")


def test_covariates_are_one_a_sample_and_there(tmp_path: Path) -> None:
    age = np.repeat([30.0, 41, 35, 52, 47, 33, 60, 38], 10)
    path = cohort(tmp_path / "a.h5ad", age=age, mixed=np.arange(80))
    asked = [(CART | {"covariates": [name]},) for name in ("age", "mixed", "weight")]
    text, is_sound = check_report(config(path, contrasts=asked[0]))
    assert is_sound
    assert "covariates age" in text
    assert "are in the model, no permutation p" in text
    with pytest.raises(InputError, match="Sample '0' has more than one mixed"):
        check_report(config(path, contrasts=asked[1]))
    with pytest.raises(MissingKeyError, match=r"no column 'weight' \(covariates\)"):
        check_report(config(path, contrasts=asked[2]))
