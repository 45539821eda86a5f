"""One simulated sample: which cells are in the droplets, what they express, what the soup adds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import sparse

from crs_sc.datasets._kernels import (
    add_soup,
    draw_native,
    producer_counts,
    shifted_probability,
    soup_profile,
)
from crs_sc.datasets._planted import POPULATIONS, PRODUCTION, Production

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from crs_sc.datasets.profiles import Profiles

__all__ = [
    "DROPLETS",
    "Droplets",
    "Plan",
    "Sample",
    "draw_sample",
    "plan_droplets",
    "production",
    "shares",
]

DROPLETS = ("singlet", "doublet", "cross_species", "low_quality")
SINGLET, DOUBLET, CROSS_SPECIES, LOW_QUALITY = range(4)
HUMAN = np.array([population.species == "human" for population in POPULATIONS])
DEBRIS_DEPTH = 0.08
DYING_DEPTH = 0.5
DYING_MITOCHONDRIAL = 8.0


@dataclass(frozen=True)
class Plan:
    """The parameters of `simulate_cohort`, which says what they mean."""

    arms: tuple[str, ...]
    n_subjects_per_arm: int
    cells_per_sample: int
    n_background_genes: int
    contamination: tuple[float, float]
    lysis: dict[str, float]
    erythroid_soup: float
    doublet_rate: float
    cross_species_rate: float
    mouse_fraction: float
    low_quality_rate: float
    effect_scale: float
    dispersion: float
    depth_sd: float
    subject_sd: float
    response_sd: float
    producer_sd: float
    composition_concentration: float
    random_state: int

    @property
    def lysis_weights(self) -> NDArray[np.float64]:
        """Weight of each of `POPULATIONS` in the soup."""
        return np.array([self.lysis.get(population.name, 1.0) for population in POPULATIONS])


@dataclass(frozen=True)
class Droplets:
    """What is in each droplet, arrays of shape `(n_droplets,)`.

    Attributes
    ----------
    kind
        Position in `DROPLETS`.
    population, partner
        Positions in `POPULATIONS`; the partner is -1 where there is one cell.
    """

    kind: NDArray[np.int64]
    population: NDArray[np.int64]
    partner: NDArray[np.int64]


@dataclass(frozen=True)
class Sample:
    """One library with its truth.

    Attributes
    ----------
    droplets
        What is in each droplet.
    counts
        What the sequencer sees, CSR of int64, `(n_droplets, n_genes)`.
    native
        The part of `counts` that is not soup.
    contamination
        Expected share of soup in a droplet.
    """

    droplets: Droplets
    counts: sparse.csr_matrix
    native: sparse.csr_matrix
    contamination: float


def shares(arm: int, *, effect_scale: float) -> NDArray[np.float64]:
    """Mean share of each population among the human cells of an arm, `(n_populations,)`."""
    planted = np.array([population.share for population in POPULATIONS])
    mean = planted[:, 0] + effect_scale * (planted[:, arm] - planted[:, 0])
    mean = np.maximum(mean, 0.0)
    return np.asarray(mean / mean.sum())


def production(entry: Production, arm: int, *, effect_scale: float) -> tuple[float, float]:
    """Share of producers and mean UMI of a producer in an arm.

    Parameters
    ----------
    entry
        What is planted.
    arm
        Position in `ARMS`.
    effect_scale
        How far to go from the first arm to this one.
    """
    share = entry.share[0] + effect_scale * (entry.share[arm] - entry.share[0])
    umi = entry.umi[0] + effect_scale * (entry.umi[arm] - entry.umi[0])
    return min(max(share, 0.0), 1.0), max(umi, 1.0)


def plan_droplets(share: NDArray[np.float64], plan: Plan, *, rng: np.random.Generator) -> Droplets:
    """Decide what is in each droplet, in random order.

    The number of droplets of each kind is the rate times the cells of the sample, rounded.

    Parameters
    ----------
    share
        Share of each population among the human cells, `(n_populations,)`.
    plan
        Settings of the cohort.
    rng
        Source of the draws.
    """
    n = plan.cells_per_sample
    kind = np.repeat(
        [DOUBLET, CROSS_SPECIES, LOW_QUALITY],
        [round(n * r) for r in (plan.doublet_rate, plan.cross_species_rate, plan.low_quality_rate)],
    )
    kind = np.concatenate([kind, np.full(n - len(kind), SINGLET)])
    population = rng.choice(len(share), size=n, p=share)
    mouse = np.flatnonzero(~HUMAN)
    # The last droplets are singlets.
    n_mouse = round(n * plan.mouse_fraction)
    population[n - n_mouse :] = rng.choice(mouse, size=n_mouse)
    partner = np.full(n, -1)
    partner[kind == CROSS_SPECIES] = rng.choice(mouse, size=int((kind == CROSS_SPECIES).sum()))
    for own in np.unique(population[kind == DOUBLET]):
        rows = np.flatnonzero((kind == DOUBLET) & (population == own))
        others = np.where(np.arange(len(share)) == own, 0.0, share)
        partner[rows] = rng.choice(len(share), size=len(rows), p=others / others.sum())
    order = rng.permutation(n)
    return Droplets(kind[order], population[order], partner[order])


def draw_sample(arm: int, profiles: Profiles, plan: Plan, *, rng: np.random.Generator) -> Sample:
    """Draw one library of one subject.

    Parameters
    ----------
    arm
        Position in `ARMS`.
    profiles
        Expected expression.
    plan
        Settings of the cohort.
    rng
        Source of the draws; a subject's own, so that samples do not depend on each other.
    """
    mean_share = shares(arm, effect_scale=plan.effect_scale)
    share = np.zeros_like(mean_share)
    present = mean_share > 0
    share[present] = rng.dirichlet(plan.composition_concentration * mean_share[present])
    rates = _subject_rates(arm, profiles, plan, rng)
    droplets = plan_droplets(share, plan, rng=rng)

    has_partner = np.flatnonzero(droplets.partner >= 0)
    droplet = np.concatenate([np.arange(len(droplets.kind)), has_partner])
    population = np.concatenate([droplets.population, droplets.partner[has_partner]])
    low_quality = droplets.kind[droplet] == LOW_QUALITY
    dying = low_quality & (rng.random(len(droplet)) < 0.5)
    quality = np.where(dying, DYING_DEPTH, np.where(low_quality, DEBRIS_DEPTH, 1.0))
    depth = quality * rng.lognormal(-(plan.depth_sd**2) / 2, plan.depth_sd, size=len(droplet))
    dying_rates = rates * np.where(profiles.mitochondrial, DYING_MITOCHONDRIAL, 1.0)
    cells = draw_native(
        depth,
        population + len(POPULATIONS) * dying,
        np.concatenate([rates, dying_rates]),
        dispersion=plan.dispersion,
        rng=rng,
    )
    cells = cells + _produced(arm, population, depth, profiles, plan, rng)

    soup = soup_profile(
        cells, plan.lysis_weights[population], extra=plan.erythroid_soup * profiles.erythroid
    )
    ones = np.ones(len(droplet), dtype=np.int64)
    shape = (len(droplets.kind), len(droplet))
    native = sparse.csr_matrix((ones, (droplet, np.arange(len(droplet)))), shape) @ cells
    contamination = rng.uniform(*plan.contamination)
    native_umi = np.asarray(native.sum(axis=1)).ravel()
    added = add_soup(native_umi, soup, contamination=contamination, rng=rng)
    return Sample(droplets, sparse.csr_matrix(native + added), native, contamination)


def _subject_rates(
    arm: int, profiles: Profiles, plan: Plan, rng: np.random.Generator
) -> NDArray[np.float64]:
    """Compute expected UMI by population in one subject: planted shift, subject effects, sex."""
    own = plan.response_sd * rng.standard_normal(profiles.shift.shape[1:]) * HUMAN[:, None]
    log2_rate = profiles.gene_shift(profiles.shift[arm] + own)
    noise = plan.subject_sd * rng.standard_normal(profiles.rates.shape)
    rates = profiles.rates * np.exp2(log2_rate) * np.exp(noise - plan.subject_sd**2 / 2)
    is_female = rng.random() < 0.5
    return rates * ~(profiles.male if is_female else profiles.female)


def _produced(
    arm: int,
    population: NDArray[np.int64],
    depth: NDArray[np.float64],
    profiles: Profiles,
    plan: Plan,
    rng: np.random.Generator,
) -> sparse.csr_matrix:
    """UMI of the planted producers, `(n_cells, n_genes)`: a Bernoulli draw, then at least one."""
    position = {population.name: k for k, population in enumerate(POPULATIONS)}
    rows, columns, umi = [], [], []
    for entry, column in zip(PRODUCTION, profiles.produced, strict=True):
        share, mean = production(entry, arm, effect_scale=plan.effect_scale)
        share = shifted_probability(share, plan.producer_sd * rng.standard_normal())
        cells = np.flatnonzero(population == position[entry.population])
        cells = cells[rng.random(len(cells)) < share]
        rows.append(cells)
        columns.append(np.full(len(cells), column))
        umi.append(producer_counts(mean * depth[cells], dispersion=plan.dispersion, rng=rng))
    shape = (len(population), len(profiles.genes))
    where = (np.concatenate(rows), np.concatenate(columns))
    return sparse.coo_matrix((np.concatenate(umi), where), shape).tocsr()
