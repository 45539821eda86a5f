"""Guesses of `crs-sc init`: what they make of names and files that are not a textbook's."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import yaml
from scipy import sparse

from crs_sc import read
from crs_sc.genesets import target_cytokines
from crs_sc.run.check import check_report
from crs_sc.run.config import load_config
from crs_sc.run.init import _TRANSGENE, guess_columns, guess_contrasts, write_guessed_config

if TYPE_CHECKING:
    from pathlib import Path


def put(path: Path, genes: list[str], **obs: object) -> Path:
    counts = np.random.default_rng(0).poisson(3.0, size=(20, len(genes))).astype(np.float32)
    index = [f"{path.stem}_{i}" for i in range(20)]
    ad.AnnData(
        sparse.csr_matrix(counts),
        obs=pd.DataFrame(obs, index=index),
        var=pd.DataFrame(index=genes),
    ).write_h5ad(path)
    return path


@pytest.mark.parametrize(
    ("conditions", "control"),
    [
        (["Prednisone", "control"], "control"),
        (["NTX-42", "veh"], "veh"),
        (["d07", "d0"], "d0"),
        (["CART", "unstimulated"], "unstimulated"),
        (["CART", "PBS_2"], "PBS_2"),
    ],
)
def test_control_is_a_word_and_not_the_beginning_of_a_drug(
    conditions: list[str], control: str
) -> None:
    assert [c["reference"] for c in guess_contrasts(conditions, set())] == [control]


def test_names_of_contrasts_are_there_and_differ() -> None:
    levels = ["4h LPS", "4h LPS ", "4h-LPS", "+", "ctrl"]
    names = [contrast["name"] for contrast in guess_contrasts(levels, set())]
    assert len(set(names)) == len(names) == 4
    assert all(names)


def test_weight_of_the_mouse_is_no_sampling_weight() -> None:
    obs = pd.DataFrame({"body_weight": [21.0, 22.0], "weight": [1.0, 2.0]})
    assert guess_columns(obs) == {}


def test_batch_within_a_sample_is_left_out() -> None:
    obs = pd.DataFrame({"sample": ["a", "a", "b", "b"], "plate": ["1", "2", "1", "2"]})
    assert guess_columns(obs) == {"sample": "sample"}
    obs["plate"] = ["1", "1", "2", "2"]
    assert guess_columns(obs) == {"sample": "sample", "batch": "plate"}


def test_all_files_are_looked_at(tmp_path: Path) -> None:
    genes = ["CD3D", "LYZ", "IL1B", "ACTB"]
    one = put(tmp_path / "one.h5ad", genes, lib="l1", mouse="m1", arm="PBS")
    two = put(tmp_path / "two.h5ad", genes, lib="l2", mouse="m2", arm="CART")
    out = write_guessed_config([one, two], tmp_path / "c.yaml", overwrite=False)
    settings = yaml.safe_load(out.read_text(encoding="utf-8"))
    assert settings["contrasts"] == [{"name": "CART", "treated": "CART", "reference": "PBS"}]
    # A column that one file lacks cannot be mapped.
    bare = put(tmp_path / "bare.h5ad", genes)
    out = write_guessed_config([one, bare], tmp_path / "d.yaml", overwrite=False)
    assert yaml.safe_load(out.read_text(encoding="utf-8"))["columns"] == {}


def test_mouse_genes_for_mouse_data(tmp_path: Path) -> None:
    genes = ["Cd3d", "Lyz2", "Il1b", "Actb", "Ptprc", "Nkg7"]
    out = write_guessed_config(
        [put(tmp_path / "m.h5ad", genes)], tmp_path / "c.yaml", overwrite=False
    )
    settings = yaml.safe_load(out.read_text(encoding="utf-8"))
    assert settings["organism"] == "mouse"
    assert settings["genes"] == target_cytokines(organism="mouse")


def test_a_file_of_several_conditions_without_samples_is_pointed_out(tmp_path: Path) -> None:
    arms = np.repeat(["PBS", "CART"], 10)
    path = put(tmp_path / "one.h5ad", ["CD3D", "LYZ", "IL1B"], arm=arms)
    text = write_guessed_config([path], tmp_path / "c.yaml", overwrite=False).read_text("utf-8")
    assert "more than one condition: name the library's column" in text


def fractional(path: Path, *, share: float = 1.0) -> Path:
    """Counts from which a part was taken off, as SoupX leaves them."""
    put(path, ["CD3D", "LYZ", "IL1B"], lib="l1", mouse="m1", arm="PBS")
    adata = ad.read_h5ad(path)
    rng = np.random.default_rng(1)
    taken = 0.3 * rng.random(adata.X.nnz) * (rng.random(adata.X.nnz) < share)
    adata.X.data = (adata.X.data * 9 - taken).astype(np.float32)
    adata.write_h5ad(path)
    return path


def test_counts_with_fractions_are_suggested_as_corrected(tmp_path: Path) -> None:
    path = fractional(tmp_path / "soupx.h5ad")
    out = write_guessed_config([path], tmp_path / "c.yaml", overwrite=False)
    text = out.read_text(encoding="utf-8")
    assert "counts in X." in text
    assert "CellBender or SoupX" in text
    assert yaml.safe_load(text)["estimate_ambient"] == {"corrected": True}
    config = load_config(out)
    corrected = config.estimate_ambient.corrected
    adata = read(path, columns={"sample": "lib"}, corrected=corrected)
    np.testing.assert_array_equal(adata.layers["counts"].data, np.rint(ad.read_h5ad(path).X.data))
    report, _ = check_report(config)
    assert "rounded to whole UMI" in report


def test_other_counts_are_not_declared_corrected(tmp_path: Path) -> None:
    genes = ["CD3D", "LYZ", "IL1B"]
    whole = put(tmp_path / "whole.h5ad", genes)
    log = put(tmp_path / "log.h5ad", genes)
    adata = ad.read_h5ad(log)
    adata.X = adata.X.log1p()
    adata.write_h5ad(log)
    for path in (whole, log):
        out = write_guessed_config([path], path.with_suffix(".yaml"), overwrite=False)
        text = out.read_text(encoding="utf-8")
        assert "estimate_ambient" not in yaml.safe_load(text)
        assert "# estimate_ambient:" in text


def test_contrasts_are_guessed_from_the_names() -> None:
    arms = ["CART", "CART_anakinra", "CART_tocilizumab", "vehicle"]
    assert guess_contrasts(arms, set()) == [
        {"name": "CART", "treated": "CART", "reference": "vehicle"},
        {"name": "anakinra", "treated": "CART_anakinra", "reference": "CART",
         "baseline": "vehicle"},
        {"name": "tocilizumab", "treated": "CART_tocilizumab", "reference": "CART",
         "baseline": "vehicle"},
    ]  # fmt: skip
    paired = guess_contrasts(["ctrl", "stim"], {("ctrl", "stim"), ("stim", "ctrl")})
    assert paired == [{"name": "stim", "treated": "stim", "reference": "ctrl", "paired": True}]
    assert guess_contrasts(["only"], set()) == []


def test_receptors_that_end_in_car_are_no_transgene() -> None:
    assert not [name for name in ("OSCAR", "FCAR", "CARD9", "SCARB1") if _TRANSGENE.match(name)]
    names = ("CAR", "anti-CD19_CAR", "CD19CAR", "CAR_scFv", "FMC63-28z", "WPRE", "Yescarta")
    assert all(_TRANSGENE.match(name) for name in names)
