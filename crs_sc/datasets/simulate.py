"""A simulated humanised-mouse CRS cohort in which the truth is known."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy import sparse

from crs_sc import comparison
from crs_sc._checks import check_fraction
from crs_sc.datasets._planted import (
    ARMS,
    CONTRASTS,
    NULL_POPULATION,
    POPULATIONS,
    PRODUCTION,
    RESPONSES,
    TARGETS,
    TRANSGENE,
)
from crs_sc.datasets._sample import Plan, draw_sample
from crs_sc.datasets.profiles import make_profiles
from crs_sc.datasets.truth import (
    cells_table,
    decomposition_truth,
    ledger_truth,
    producers_truth,
    sample_sums,
    shifts_truth,
)
from crs_sc.errors import InputError, listing

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from anndata import AnnData

    from crs_sc.datasets.profiles import Profiles

__all__ = ["SimulatedCohort", "simulate_cohort"]


@dataclass(frozen=True, eq=False)
class SimulatedCohort:
    """A simulated cohort and its truth.

    Attributes
    ----------
    adata
        As a lab would have it: raw counts in `X`, genes of two genomes under their prefixes, `obs`
        with the columns lib, mouse and arm, and no truth.
    truth
        Tables ledger, producers, decomposition, shifts (columns of `keys.TABLES`) and cells.
    settings
        Every parameter and everything planted, as plain values.
    """

    adata: AnnData
    truth: dict[str, pd.DataFrame]
    settings: dict[str, Any]


def simulate_cohort(
    *,
    arms: Sequence[str] = ARMS,
    n_subjects_per_arm: int = 4,
    cells_per_sample: int = 380,
    n_background_genes: int = 1000,
    contamination: tuple[float, float] = (0.04, 0.12),
    lysis: Mapping[str, float] | None = None,
    erythroid_soup: float = 0.01,
    doublet_rate: float = 0.05,
    cross_species_rate: float = 0.01,
    mouse_fraction: float = 0.05,
    low_quality_rate: float = 0.04,
    effect_scale: float = 1.0,
    dispersion: float = 0.2,
    depth_sd: float = 0.3,
    subject_sd: float = 0.1,
    response_sd: float = 0.1,
    producer_sd: float = 0.2,
    composition_concentration: float = 300.0,
    random_state: int = 0,
) -> SimulatedCohort:
    """Simulate a CRS cohort of humanised mice: vehicle, CAR T, CAR T and anakinra or tocilizumab.

    Counts are negative binomial around a profile by population, arm and subject, on real gene
    symbols. Cytokines and the transgene are different: a cell is a producer or not (Bernoulli by
    population, arm and subject), a producer has at least one UMI and every other cell exactly none
    of its own. The soup is a mixture of the sample's own cells. Monocytes are planted as the main
    source of IL1B and IL6; anakinra undoes the response to IL-1, tocilizumab the response to IL-6
    and none of the production; nothing is planted in NK cells.

    Parameters
    ----------
    arms
        Arms to simulate, of vehicle, CART, CART_anakinra and CART_tocilizumab.
    n_subjects_per_arm
        Mice an arm; one library each.
    cells_per_sample
        Droplets a library that hold a cell, good or bad, human or mouse.
    n_background_genes
        Human genes beside markers, signatures, cytokines and housekeeping genes; at most 1,080.
    contamination
        Smallest and largest share of soup in a droplet; uniform over the samples.
    lysis
        How easily the cells of a population lyse into the soup, relative to 1 for those that are
        not named. None: all alike.
    erythroid_soup
        Share of the soup that is haemoglobin of red cells.
    doublet_rate, cross_species_rate
        Share of the droplets with two human cells of different populations, and with a human and
        a mouse cell.
    mouse_fraction
        Share of the droplets with a mouse cell alone.
    low_quality_rate
        Share of the droplets with debris or a dying cell (half each).
    effect_scale
        0: all arms are like vehicle; 1: as planted; linear in shares of cells, shares of producers,
        UMI per producer and log2 shifts.
    dispersion
        Squared coefficient of variation of the expression of a gene between cells of one population
        and subject: the variance is `mean + dispersion * mean**2`.
    depth_sd
        Spread of the depth of cells, natural log.
    subject_sd
        Spread between subjects of each gene in each population, natural log.
    response_sd
        Spread between subjects of each response in each population, log2.
    producer_sd
        Spread between subjects of the share of producers, logit.
    composition_concentration
        Concentration of the Dirichlet distribution of a subject's composition; larger is less
        spread.
    random_state
        Seed.

    Returns
    -------
    SimulatedCohort. The truth of the ledger, of the producers and of the decomposition is what
    happened in the good human singlets of this very cohort; the truth of the shifts is what was
    planted.

    Raises
    ------
    InputError
        If a setting is out of range.

    Examples
    --------
    >>> cohort = simulate_cohort(n_subjects_per_arm=2, cells_per_sample=100)
    >>> cohort.truth["ledger"].columns[:2].to_list()
    ['gene', 'population']
    """
    plan = Plan(
        arms=tuple(arms),
        n_subjects_per_arm=n_subjects_per_arm,
        cells_per_sample=cells_per_sample,
        n_background_genes=n_background_genes,
        contamination=contamination,
        lysis=dict(lysis or {}),
        erythroid_soup=erythroid_soup,
        doublet_rate=doublet_rate,
        cross_species_rate=cross_species_rate,
        mouse_fraction=mouse_fraction,
        low_quality_rate=low_quality_rate,
        effect_scale=effect_scale,
        dispersion=dispersion,
        depth_sd=depth_sd,
        subject_sd=subject_sd,
        response_sd=response_sd,
        producer_sd=producer_sd,
        composition_concentration=composition_concentration,
        random_state=random_state,
    )
    _check(plan)
    return _simulate(plan)


def _simulate(plan: Plan) -> SimulatedCohort:
    """Draw the cohort of a plan and sum up its truth."""
    n_subjects = len(plan.arms) * plan.n_subjects_per_arm
    # One stream a subject, so that no sample depends on another.
    streams = [
        np.random.default_rng(seed)
        for seed in np.random.SeedSequence(plan.random_state).spawn(1 + n_subjects)
    ]
    profiles = make_profiles(
        n_background_genes=plan.n_background_genes,
        effect_scale=plan.effect_scale,
        rng=streams[0],
    )
    counts, cells, sums = _draw(plan, profiles, streams[1:])
    contrasts = [
        comparison.Contrast(name, treated, reference, baseline=baseline)
        for name, treated, reference, baseline in CONTRASTS
        if {treated, reference, baseline or reference} <= set(plan.arms)
    ]
    ledger, producers = ledger_truth(sums), producers_truth(sums)
    truth = {
        "ledger": ledger,
        "producers": producers,
        "decomposition": decomposition_truth(ledger, producers, contrasts=contrasts),
        "shifts": shifts_truth(profiles, contrasts=contrasts, effect_scale=plan.effect_scale),
        "cells": cells,
    }
    adata = _assemble(counts, profiles.genes, cells)
    return SimulatedCohort(adata, truth, _describe(plan, contrasts))


def _check(plan: Plan) -> None:
    """Raise unless the settings are in range."""
    unknown = [arm for arm in plan.arms if arm not in ARMS]
    if unknown or not plan.arms or len(set(plan.arms)) < len(plan.arms):
        msg = f"arms must be some of {listing(ARMS)}, each once; got {listing(plan.arms)}."
        raise InputError(msg)
    strangers = [name for name in plan.lysis if name not in {p.name for p in POPULATIONS}]
    if strangers:
        msg = (
            f"lysis names {listing(strangers)}, which the cohort does not have. "
            f"Populations: {listing(p.name for p in POPULATIONS)}."
        )
        raise InputError(msg)
    if any(weight < 0 for weight in plan.lysis.values()):
        msg = f"lysis must not be negative, got {plan.lysis}."
        raise InputError(msg)
    if min(plan.n_subjects_per_arm, plan.cells_per_sample) < 1:
        msg = (
            "n_subjects_per_arm and cells_per_sample must be at least 1, "
            f"got {plan.n_subjects_per_arm} and {plan.cells_per_sample}."
        )
        raise InputError(msg)
    low, high = plan.contamination
    if not 0 <= low <= high < 1:
        msg = f"contamination must be two numbers, 0 <= low <= high < 1; got {plan.contamination}."
        raise InputError(msg)
    kinds = ("doublet_rate", "cross_species_rate", "mouse_fraction", "low_quality_rate")
    for name in (*kinds, "erythroid_soup"):
        check_fraction(name, getattr(plan, name))
    if sum(getattr(plan, name) for name in kinds) >= 1:
        msg = f"{', '.join(kinds)} must leave room for good human cells: their sum is 1 or more."
        raise InputError(msg)
    spreads = ("effect_scale", "dispersion", "depth_sd", "subject_sd", "response_sd", "producer_sd")
    for name in spreads:
        if getattr(plan, name) < 0:
            msg = f"{name} must not be negative, got {getattr(plan, name)}."
            raise InputError(msg)
    if plan.composition_concentration <= 0:
        msg = f"composition_concentration must be positive, got {plan.composition_concentration}."
        raise InputError(msg)


def _draw(
    plan: Plan, profiles: Profiles, streams: Sequence[np.random.Generator]
) -> tuple[list[sparse.csr_matrix], pd.DataFrame, pd.DataFrame]:
    """Draw every sample: its counts, its cells, and its sums by population and cytokine."""
    symbols = pd.Index(profiles.genes["symbol"])
    targets = symbols.get_indexer(pd.Index(TARGETS))
    counts, cells, sums = [], [], []
    for subject, rng in enumerate(streams):
        arm = plan.arms[subject // plan.n_subjects_per_arm]
        identity = {
            "sample": f"lib{subject + 1:02d}",
            "subject": f"mouse{subject + 1:02d}",
            "condition": arm,
        }
        names = [f"{identity['sample']}_{cell + 1:06d}" for cell in range(plan.cells_per_sample)]
        sample = draw_sample(ARMS.index(arm), profiles, plan, rng=rng)
        counts.append(sample.counts.astype(np.float32))
        cells.append(cells_table(sample, names=names, identity=identity))
        sums.append(sample_sums(sample, columns=targets).assign(**identity))
    return counts, pd.concat(cells, ignore_index=True), pd.concat(sums, ignore_index=True)


def _assemble(counts: list[sparse.csr_matrix], genes: pd.DataFrame, cells: pd.DataFrame) -> AnnData:
    """Put the samples together as a lab's own file."""
    from anndata import AnnData

    names = {"sample": "lib", "subject": "mouse", "condition": "arm"}
    obs = cells[list(names)].rename(columns=names).astype("category")
    obs.index = pd.Index(cells["cell"].to_numpy(dtype=str))
    return AnnData(
        X=sparse.csr_matrix(sparse.vstack(counts, format="csr")),
        obs=obs,
        var=pd.DataFrame(index=pd.Index(genes.index.to_numpy(dtype=str))),
        uns={"description": "Simulated by crs_sc.datasets.simulate_cohort."},
    )


def _describe(plan: Plan, contrasts: Sequence[comparison.Contrast]) -> dict[str, Any]:
    """Everything that was asked for and planted, as plain values."""
    return {
        "simulated": True,
        "parameters": {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in asdict(plan).items()
        },
        "null_population": NULL_POPULATION,
        "transgene": TRANSGENE,
        "genes": list(TARGETS),
        "contrasts": [asdict(contrast) for contrast in contrasts],
        "arm_order": list(ARMS),
        "populations": [
            {"population": p.name, "lineage": p.lineage, "species": p.species, "umi": p.umi}
            | {"share_by_arm": list(p.share)}
            for p in POPULATIONS
        ],
        "production": [
            {"gene": entry.gene, "population": entry.population}
            | {"producer_share_by_arm": list(entry.share), "umi_by_arm": list(entry.umi)}
            for entry in PRODUCTION
        ],
        "log2_shift_by_arm": {
            signature: {population: list(shift) for population, shift in planted.items()}
            for signature, planted in RESPONSES.items()
        },
    }
