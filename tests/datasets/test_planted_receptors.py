"""Receptors in the simulated cohort are where they are in blood."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from crs_sc import genesets
from crs_sc.datasets import SimulatedCohort, simulate_cohort
from crs_sc.datasets.profiles import planted

PREFIX = {"human": "GRCh38_", "mouse": "mm10___"}
# Share of a cell's UMI by receptor, from the counts of good singlets without ambient RNA.
EXPECTED_ABOVE = {
    "human": [
        ("CXCR1", "NK", "Classical monocyte"),
        ("IL18R1", "NK", "CD8 T"),
        ("IL18R1", "CD8 T", "B"),
        ("IL1R2", "Classical monocyte", "Non-classical monocyte"),
        ("IL6R", "CD4 T", "CD8 T"),
        ("CCR2", "Classical monocyte", "Non-classical monocyte"),
        ("CD40", "B", "CD4 T"),
    ],
    "mouse": [
        ("Cxcr2", "Neutrophil", "Macrophage"),
        ("Il1r2", "Neutrophil", "Macrophage"),
        ("Il18r1", "NK", "Macrophage"),
        ("Ccr2", "Classical monocyte", "Macrophage"),
    ],
}


def quiet(species: str) -> SimulatedCohort:
    """One arm without treatment, ambient RNA and doublets."""
    return simulate_cohort(
        arms=("vehicle",),
        n_subjects_per_arm=1,
        cells_per_sample=3000,
        n_background_genes=50,
        contamination=0.0,
        doublet_rate=0.0,
        cross_species_rate=0.0,
        low_quality_rate=0.0,
        myeloid_species=species,
    )


def shares(made: SimulatedCohort, species: str) -> pd.DataFrame:
    """UMI per million of each gene of the species, by population."""
    cells = made.truth["cells"]
    own = (cells["species"] == species).to_numpy()
    population = cells.loc[own, "population"].astype(str).to_numpy()
    names = sorted(set(population))
    member = (population[:, None] == names).astype(float)
    sums = member.T @ made.adata.X[own]
    genes = made.adata.var_names.str.removeprefix(PREFIX[species])
    return pd.DataFrame(1e6 * sums / sums.sum(axis=1, keepdims=True), index=names, columns=genes)


@pytest.mark.parametrize("species", ["human", "mouse"])
def test_counts_follow_the_planted_receptors(species: str) -> None:
    made = quiet(species)
    found = shares(made, species)
    planted = pd.DataFrame(made.settings["receptor_umi_per_million"]).T
    planted = planted.loc[found.index, planted.columns.isin(found.columns)]
    found = found[planted.columns]
    assert (found.to_numpy()[planted.to_numpy() == 0] == 0).all()
    high = planted.to_numpy() >= 100
    ratio = found.to_numpy()[high] / planted.to_numpy()[high]
    assert np.median(ratio) == pytest.approx(1, abs=0.1)
    for gene, more, less in EXPECTED_ABOVE[species]:
        assert found.loc[more, gene] > found.loc[less, gene], gene
    low = "IL1R1" if species == "human" else "Il1r1"
    assert found[low].max() < 30, "blood hardly has it"


def test_every_receptor_of_the_packaged_table_is_planted() -> None:
    made = {entry for entry in genesets.load_receptors()["gene"] if entry != "IL1RN"}
    assert planted()["receptors"].keys() == made
    known = set(genesets.lineages()) | set(genesets.lineages().values())
    assert {name for by_name in planted()["receptors"].values() for name in by_name} <= known
