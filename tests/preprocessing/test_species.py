"""Species by share of UMI, and the genes of one genome."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse

from crs_sc import keys
from crs_sc.errors import InputError, MissingKeyError
from crs_sc.preprocessing import call_species, select_species
from crs_sc.preprocessing.species import SpeciesAmbient, minor_rate, one_species, species_ambient

if TYPE_CHECKING:
    from pathlib import Path


def two_genomes() -> ad.AnnData:
    counts = np.array([[95, 5, 0], [10, 0, 90], [50, 0, 50], [90, 0, 10], [3, 0, 0]], dtype=float)
    names = ["GRCh38_IL6", "GRCh38_ACTB", "mm10___Il6"]
    var = pd.DataFrame({keys.GENOME: ["human", "human", "mouse"]}, index=names)
    adata = ad.AnnData(sparse.csr_matrix(counts, dtype=np.float32), var=var)
    adata.layers[keys.COUNTS] = adata.X.copy()
    adata.obs[keys.SAMPLE] = "s"
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
    adata.obs[keys.SAMPLE] = "s"
    adata.var[keys.GENOME] = adata.var["genome"].astype(str).map({"hg19": "human", "mm10": "mouse"})
    call_species(adata, min_umi=500)
    cells = adata.obs["droplet"].astype(str).to_numpy() == "cell"
    published = adata.obs["species_call"].astype(str).to_numpy()[cells]
    assert (adata.obs[keys.SPECIES].astype(str).to_numpy()[cells] == published).all()
    assert (published == "human").sum() == 67
    human = select_species(adata)
    assert "CD3D" in human.var_names
    assert not human.var_names.str.startswith("hg19").any()


def droplets(
    rho: float, *, n: tuple[int, int, int] = (900, 60, 30), seed: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """UMI of two genomes in human, mouse and two-cell droplets of one sample, and which is which.

    Ambient RNA comes from all cells alike; a droplet holds `rho` of it.
    """
    rng = np.random.default_rng(seed)
    kind = np.repeat([0, 1, 2], n)
    depth = rng.lognormal(0, 0.4, (2, len(kind)))
    human = np.where(kind != 1, rng.poisson(2500 * depth[0]), 0)
    mouse = np.where(kind != 0, rng.poisson(3500 * depth[1]), 0)
    native = human + mouse
    share = mouse.sum() / native.sum()
    ambient = rng.poisson(rho / (1 - rho) * native)
    mouse_soup = rng.binomial(ambient, share)
    return (human + ambient - mouse_soup).astype(float), (mouse + mouse_soup).astype(float), kind


@pytest.mark.parametrize(
    ("n", "rho"),
    [
        *product([(900, 60, 30), (250, 3, 8), (60, 55, 6)], [0.0, 0.05, 0.1, 0.2, 0.3]),
        *product([(500, 0, 15)], [0.0, 0.05, 0.1]),
    ],
)
def test_soup_makes_no_second_cell_and_hides_none(n: tuple[int, int, int], rho: float) -> None:
    human, mouse, kind = droplets(rho, n=n)
    ambient = species_ambient(human, mouse)
    mostly_human, single = one_species(human, mouse, ambient, min_fraction=0.9)
    called = np.where(single, np.where(mostly_human, 0, 1), 2)
    assert (called == kind).mean() > 0.99
    assert (called[kind == 2] == 2).mean() > 0.9
    assert (called[kind == 1] == 1).all()


@pytest.mark.parametrize("rho", [0.05, 0.3])
def test_soup_of_each_species_is_measured(rho: float) -> None:
    human, mouse, kind = droplets(rho)
    ambient = species_ambient(human, mouse)
    total = human + mouse
    for found, minor, own in ((ambient.other_in_main, mouse, 0), (ambient.main_in_other, human, 1)):
        truth = minor[kind == own].sum() / total[kind == own].sum()
        assert found == pytest.approx(truth, rel=0.05, abs=5e-4)
    assert ambient.umi_main == pytest.approx(total[human >= mouse].mean(), rel=0.02)


@given(
    st.lists(st.tuples(st.integers(0, 3000), st.integers(0, 3000)), min_size=1),
    st.floats(0.55, 1.0),
)
def test_without_soup_the_rule_is_the_share_of_umi(
    pairs: list[tuple[int, int]], min_fraction: float
) -> None:
    own, other = np.array(pairs, dtype=float).T
    own += 1
    none = SpeciesAmbient(0.0, 0.0, 0, 0, np.nan, np.nan, 0.5, np.inf)
    mostly_own, single = one_species(own, other, none, min_fraction=min_fraction)
    share = own / (own + other)
    plain = np.maximum(share, 1 - share) >= min_fraction - 1e-9
    np.testing.assert_array_equal(single, plain)
    np.testing.assert_array_equal(mostly_own, share >= 0.5)


def test_rate_ignores_droplets_with_two_cells() -> None:
    rng = np.random.default_rng(0)
    total = np.full(200, 3000.0)
    minor = rng.poisson(0.1 * total).astype(float)
    minor[:60] = rng.uniform(0.25, 0.5, 60) * 3000
    rate, kept = minor_rate(minor, total)
    assert rate == pytest.approx(0.1, abs=0.005)
    assert not kept[:60].any()
    assert kept[60:].mean() > 0.95
    rate, kept = minor_rate(minor[:0], total[:0])
    assert (rate, len(kept)) == (0.0, 0)


def test_tables_of_two_genomes_are_kept_before_any_filter() -> None:
    adata = two_genomes()
    call_species(adata)
    human = select_species(adata)
    table = human.uns[keys.UNS][keys.DROPLETS]
    assert list(table.columns) == ["sample", "umi_analysed", "umi_other", "species"]
    assert table["umi_analysed"].tolist() == [100, 10, 50, 90]
    assert table["umi_other"].tolist() == [0, 90, 50, 10]
    assert table["species"].tolist() == ["human", "mouse", "mixed", "human"]
    assert human.uns[keys.UNS][keys.SPECIES_AMBIENT].index.tolist() == ["s"]
    del adata.obs[keys.SAMPLE]
    with pytest.raises(MissingKeyError, match="sample"):
        call_species(adata)


def test_single_genome_leaves_no_table_of_droplets() -> None:
    adata = two_genomes()
    del adata.var[keys.GENOME]
    call_species(adata)
    assert keys.DROPLETS not in adata.uns[keys.UNS]
