"""Species by share of UMI, and the genes of one genome."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from crs_sc import keys
from crs_sc.errors import InputError, MissingKeyError
from crs_sc.preprocessing import call_species, select_species

if TYPE_CHECKING:
    from pathlib import Path


def two_genomes() -> ad.AnnData:
    counts = np.array([[95, 5, 0], [10, 0, 90], [50, 0, 50], [90, 0, 10], [3, 0, 0]], dtype=float)
    names = ["GRCh38_IL6", "GRCh38_ACTB", "mm10___Il6"]
    var = pd.DataFrame({keys.GENOME: ["human", "human", "mouse"]}, index=names)
    adata = ad.AnnData(sparse.csr_matrix(counts, dtype=np.float32), var=var)
    adata.layers[keys.COUNTS] = adata.X.copy()
    return adata


def test_species_follow_the_share_of_umi_and_limits_belong_to_a_species() -> None:
    adata = two_genomes()
    call_species(adata)
    assert adata.obs[keys.SPECIES].tolist()[:4] == ["human", "mouse", "mixed", "human"]
    assert pd.isna(adata.obs[keys.SPECIES].iloc[4])
    np.testing.assert_allclose(adata.obs[keys.SPECIES_FRACTION], [1, 0.1, 0.5, 0.9, 1])


def test_first_named_genome_is_analysed() -> None:
    adata = two_genomes()
    call_species(adata, organism="mouse+human")
    assert adata.uns[keys.UNS][keys.ORGANISM] == "mouse"
    np.testing.assert_allclose(adata.obs[keys.SPECIES_FRACTION].iloc[:3], [0, 0.9, 0.5])
    assert list(select_species(adata, organism="mouse+human").var_names) == ["Il6"]


def test_genomes_are_never_added_up() -> None:
    adata = two_genomes()
    call_species(adata)
    human = select_species(adata)
    assert list(human.var_names) == ["IL6", "ACTB"]
    assert human.n_obs == adata.n_obs
    np.testing.assert_array_equal(human.layers[keys.COUNTS].toarray()[:, 0], [95, 10, 50, 90, 3])


def test_single_genome_is_all_one_species() -> None:
    adata = two_genomes()
    del adata.var[keys.GENOME]
    call_species(adata, organism="mouse")
    assert (adata.obs[keys.SPECIES] == "mouse").all()
    assert select_species(adata, organism="mouse").shape == adata.shape


def test_unusable_settings_say_why() -> None:
    adata = two_genomes()
    with pytest.raises(InputError, match="organism must be"):
        call_species(adata, organism="rat")
    with pytest.raises(InputError, match="min_fraction"):
        call_species(adata, min_fraction=0.4)
    with pytest.raises(MissingKeyError, match="call_species"):
        select_species(adata)
    adata.var[keys.GENOME] = "human"
    with pytest.raises(InputError, match="no mouse gene"):
        call_species(adata, organism="mouse")


def test_barnyard_agrees_with_the_published_calls(shared_data: Path) -> None:
    adata = ad.read_h5ad(shared_data / "hgmm_100_barnyard.h5ad")
    adata.layers[keys.COUNTS] = adata.X
    adata.var[keys.GENOME] = adata.var["genome"].astype(str).map({"hg19": "human", "mm10": "mouse"})
    call_species(adata, min_umi=500)
    cells = adata.obs["droplet"].astype(str).to_numpy() == "cell"
    published = adata.obs["species_call"].astype(str).to_numpy()[cells]
    assert (adata.obs[keys.SPECIES].astype(str).to_numpy()[cells] == published).all()
    assert (published == "human").sum() == 67
    human = select_species(adata)
    assert "CD3D" in human.var_names
    assert not human.var_names.str.startswith("hg19").any()
