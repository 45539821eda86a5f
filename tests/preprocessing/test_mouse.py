"""Ambient RNA of mouse macrophages beside human CAR T cells, against simulated cohorts.

There are no mouse T or B cells in them, so that the panels of the human path say little.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest

from crs_sc import keys, pp, read, tl
from crs_sc.datasets import SimulatedCohort, simulate_cohort

if TYPE_CHECKING:
    from pathlib import Path

    import anndata as ad

PREFIX = "mm10___"
SETTINGS = [(0.0, ""), (0.1, ""), (0.1, "Macrophage"), (0.1, "Monocyte"), (0.25, "Macrophage")]
TARGETS = ["Il1b", "Il6"]


@functools.cache
def cohort(rho: float, lysing: str) -> SimulatedCohort:
    """Two samples; one lineage lyses three times as easily as the others."""
    return simulate_cohort(
        myeloid_species="mouse",
        arms=("vehicle", "CART"),
        n_subjects_per_arm=1,
        cells_per_sample=700,
        n_background_genes=300,
        contamination=rho,
        lysis={lysing: 3.0} if lysing else None,
        n_empty_droplets=1500,
        random_state=round(100 * rho) + len(lysing),
    )


def analyse(
    made: SimulatedCohort, folder: Path, *, organism: str, empty: bool = False
) -> tuple[ad.AnnData, pd.DataFrame]:
    """Cells after ambient RNA was estimated, and its table with the planted contamination."""
    adata = made.adata
    names = adata.var_names
    if organism == "mouse":
        is_mouse = names.str.startswith(PREFIX)
        adata = adata[:, is_mouse].copy()
        adata.var_names = [name.removeprefix(PREFIX) for name in adata.var_names]
    adata.write_h5ad(folder / "cohort.h5ad")
    columns = {"sample": "lib", "subject": "mouse", "condition": "arm"}
    everything = read(folder / "cohort.h5ad", columns=columns, organism=organism)
    pp.call_species(everything, organism=organism)
    cells = pp.select_species(everything, organism=organism)
    pp.quality_control(cells)
    empties = {
        sample: pd.Series(np.asarray(counts.sum(axis=0)).ravel(), index=names)
        for sample, counts in made.empty_droplets.items()
    }
    if organism == "mouse":
        empties = {
            sample: profile[profile.index.str.startswith(PREFIX)].rename(
                lambda name: name.removeprefix(PREFIX)
            )
            for sample, profile in empties.items()
        }
    pp.estimate_ambient(cells, organism=organism, empty_profiles=empties if empty else None)
    table = cells.uns[keys.UNS][keys.CONTAMINATION].copy()
    truth = made.truth["samples"].set_index("sample")["contamination_analysed"]
    return cells, table.assign(truth=truth, error=table["ambient_fraction"] - truth)


@pytest.mark.parametrize("organism", ["mouse+human", "mouse"])
@pytest.mark.parametrize("empty", [True, False])
def test_contamination_of_macrophages_is_found(
    tmp_path: Path, organism: str, *, empty: bool
) -> None:
    tables = [
        analyse(cohort(*setting), tmp_path, organism=organism, empty=empty)[1]
        for setting in SETTINGS
    ]
    table = pd.concat(tables)
    assert not table["ambient_source"].str.endswith("assumed").any()
    assert table["error"].abs().mean() < (0.01 if empty or "+" in organism else 0.02)
    assert table["error"].abs().max() < 0.06
    assert (table.loc[table["truth"] == 0, "ambient_fraction"] < 0.003).all()
    held = table["truth"].between(table["ambient_lower"], table["ambient_upper"])
    assert held.mean() >= 0.8


def test_cells_that_make_the_panel_are_no_evidence(tmp_path: Path) -> None:
    made = simulate_cohort(
        myeloid_species="mouse",
        arms=("vehicle", "CART"),
        n_subjects_per_arm=1,
        cells_per_sample=700,
        n_background_genes=100,
        populations=("Macrophage", "Classical monocyte"),
        contamination=0.1,
    )
    _, alone = analyse(made, tmp_path, organism="mouse")
    assert alone["ambient_source"].str.endswith("assumed").all()
    assert (alone["ambient_upper"] > alone["truth"]).all()
    _, both = analyse(made, tmp_path, organism="mouse+human")
    assert (both["ambient_source"] == "pooled_cells; species").all()
    assert both["error"].abs().max() < 0.02


@pytest.mark.parametrize("organism", ["mouse+human", "mouse"])
def test_mouse_cytokines_from_file_to_ledger(tmp_path: Path, organism: str) -> None:
    made = cohort(0.1, "Macrophage")
    adata, _ = analyse(made, tmp_path, organism=organism)
    planted = made.truth["cells"].set_index("cell")
    good = planted.index[(planted["droplet"] == "singlet") & (planted["species"] == "mouse")]
    cells = adata[adata.obs_names.isin(good)].copy()
    cells.obs[keys.POPULATION] = planted["population"].reindex(cells.obs_names).to_numpy()
    tl.call_producers(cells, genes=TARGETS)
    assert list(cells.obsm[keys.PRODUCER_STATE].columns) == TARGETS
    truth = made.truth["producer_cells"]
    for gene in TARGETS:
        called = cells.obs_names[cells.obsm[keys.PRODUCER_STATE][gene] == keys.PRODUCER]
        real = set(truth.loc[truth["gene"] == gene, "cell"])
        assert len(called) >= 20
        assert np.mean([cell not in real for cell in called]) < 0.1, gene
    row = ["gene", "population", "sample"]
    ledger = tl.ledger(cells, genes=TARGETS).set_index(row)["share"]
    expected = made.truth["ledger"].set_index(row)["share"].dropna().loc[TARGETS]
    error = (ledger.reindex(expected.index).fillna(0) - expected).abs()
    assert error.groupby("gene").mean().max() < 0.04


@pytest.mark.parametrize("organism", ["mouse+human", "mouse"])
def test_macrophages_and_neutrophils_are_annotated(tmp_path: Path, organism: str) -> None:
    made = cohort(0.1, "")
    adata, _ = analyse(made, tmp_path, organism=organism)
    cells = pp.filter_cells(adata)
    pp.normalize(cells)
    planted = made.truth["cells"].set_index("cell").reindex(cells.obs_names)
    cells.obs[keys.CLUSTER] = pd.Categorical(planted["population"].astype(str))
    tl.annotate(cells, organism="mouse")
    singlet = ((planted["droplet"] == "singlet") & (planted["species"] == "mouse")).to_numpy()
    right = (cells.obs[keys.POPULATION].astype(str) == planted["population"])[singlet]
    by_population = right.groupby(planted["population"][singlet]).mean()
    assert by_population[["Macrophage", "Neutrophil", "NK"]].min() > 0.9
