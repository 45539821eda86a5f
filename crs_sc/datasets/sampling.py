"""From settings to samples: droplets, what cells express, what ambient RNA adds."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy import sparse, special

from crs_sc.core.arrays import row_chunks
from crs_sc.datasets.profiles import make_profiles, plant, producers_of, shares

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from crs_sc.datasets.plan import Library, Plan
    from crs_sc.datasets.profiles import Cohort, Profiles

__all__ = [
    "DROPLETS",
    "SINGLET",
    "Part",
    "Sample",
    "World",
    "ambient_counts",
    "ambient_profile_of",
    "draw_native",
    "draw_samples",
    "gamma_poisson",
    "make_world",
    "producer_counts",
    "shifted_probability",
]

DROPLETS = ("singlet", "doublet", "cross_species", "low_quality")
SINGLET, DOUBLET, CROSS_SPECIES, LOW_QUALITY = range(4)
DEBRIS_DEPTH = 0.08
DYING_DEPTH = 0.5
DYING_MITOCHONDRIAL = 8.0
# Mean UMI of an empty droplet and their spread, natural log: nearly all below 100.
EMPTY_UMI, EMPTY_SD = 40.0, 0.4
# Droplets that are in memory at a time; a sample of more is drawn in parts of that size.
PART_SIZE = 10_000


class World(NamedTuple):
    """What all samples of a cohort share: settings, what is planted, expected expression."""

    plan: Plan
    cohort: Cohort
    profiles: Profiles


def make_world(plan: Plan) -> World:
    """Choose what is planted and draw the expression profiles."""
    cohort = plant(plan)
    seed, _ = np.random.SeedSequence(plan.random_state).spawn(2)
    return World(plan, cohort, make_profiles(cohort, plan, rng=np.random.default_rng(seed)))


def draw_samples(world: World) -> Iterator[Sample]:
    """Draw the libraries, one at a time; each has its own stream and depends on no other."""
    plan = world.plan
    _, root = np.random.SeedSequence(plan.random_state).spawn(2)
    seeds = [seed.spawn(1 + plan.n_repeats) for seed in root.spawn(plan.n_subjects)]
    for library in plan.libraries():
        own, *repeats = seeds[library.subject]
        # Drawn anew for each of its samples, which gives the same subject and keeps none.
        subject = Subject(world, rng=np.random.default_rng(own))
        yield Sample(world, library, subject, seed=repeats[library.repeat])


class _Cells(NamedTuple):
    """Cells of some droplets: their counts, `(n_cells, n_genes)`, population and droplet."""

    counts: sparse.csr_matrix
    population: NDArray[np.int64]
    droplet: NDArray[np.int64]


@dataclass(frozen=True)
class Droplets:
    """What is in each droplet, arrays of shape `(n_droplets,)`.

    Attributes
    ----------
    kind
        Position in `DROPLETS`.
    population, partner
        Positions among the populations; the partner is -1 where there is one cell.
    """

    kind: NDArray[np.int64]
    population: NDArray[np.int64]
    partner: NDArray[np.int64]

    def __getitem__(self, rows: slice) -> Droplets:
        """Return some of the droplets."""
        return Droplets(self.kind[rows], self.population[rows], self.partner[rows])


@dataclass(frozen=True)
class Part:
    """Droplets of one library with their truth.

    Attributes
    ----------
    positions
        Where in the library they are.
    droplets
        What is in them.
    counts
        What the sequencer sees, CSR of int32, `(n_droplets, n_genes)`.
    native
        The part of `counts` that is not ambient RNA.
    """

    positions: range
    droplets: Droplets
    counts: sparse.csr_matrix
    native: sparse.csr_matrix


class Subject:
    """What is a subject's own in all of its samples.

    Attributes
    ----------
    composition
        Position of each population in its distribution, 0 to 1, `(n_populations,)`.
    response
        Shift of each response, log2, `(n_populations, n_responses)`.
    expression
        Factor on each gene, `(n_populations, n_genes)`; the genes of the other sex are 0.
    producers
        Shift of the share of producers, logit, `(n_entries,)`.
    """

    def __init__(self, world: World, *, rng: np.random.Generator) -> None:
        profiles, noise = world.profiles, world.plan.noise
        n_populations, n_genes = profiles.rates.shape
        self.composition: NDArray[np.float64] = rng.random((n_populations,))
        self.response = noise.response_sd * rng.standard_normal(profiles.shift.shape[1:])
        own = noise.subject_sd * rng.standard_normal((n_populations, n_genes))
        is_female = rng.random() < 0.5
        other_sex = profiles.male if is_female else profiles.female
        self.expression = np.exp(own - noise.subject_sd**2 / 2) * ~other_sex
        self.producers = noise.producer_sd * rng.standard_normal(len(world.cohort.production))


def plan_droplets(
    share: NDArray[np.float64], world: World, *, rng: np.random.Generator
) -> Droplets:
    """Decide what is in each droplet, in random order.

    The number of droplets of each kind is the rate times the cells of the sample, rounded.
    `share` is that of each population among the cells of its species, `(n_populations,)`.
    """
    plan, analysed = world.plan, world.cohort.analysed
    n = plan.cells_per_sample
    own, other = share * analysed, share * ~analysed
    rates = (plan.doublet_rate, plan.cross_species_rate, plan.low_quality_rate)
    n_other = round(n * plan.other_species_fraction)
    if not other.any():
        rates, n_other = (plan.doublet_rate, 0.0, plan.low_quality_rate), 0
    kind = np.repeat([DOUBLET, CROSS_SPECIES, LOW_QUALITY], [round(n * rate) for rate in rates])
    kind = np.concatenate([kind, np.full(n - len(kind), SINGLET)])
    population = rng.choice(len(share), size=n, p=own)
    # The last droplets are singlets.
    if n_other:
        population[n - n_other :] = rng.choice(len(share), size=n_other, p=other)
    partner = np.full(n, -1)
    mixed = kind == CROSS_SPECIES
    if mixed.any():
        partner[mixed] = rng.choice(len(share), size=int(mixed.sum()), p=other)
    for first in np.unique(population[kind == DOUBLET]):
        rows = np.flatnonzero((kind == DOUBLET) & (population == first))
        others = np.where(np.arange(len(share)) == first, 0.0, own)
        # With one population there are only doublets of its own cells.
        others = others if others.any() else own
        partner[rows] = rng.choice(len(share), size=len(rows), p=others / others.sum())
    order = rng.permutation(n)
    return Droplets(kind[order], population[order], partner[order])


class Sample:
    """One library, drawn in parts; the same parts each time they are asked for.

    `seed` is of this sample alone.

    Attributes
    ----------
    contamination
        Expected share of ambient RNA in a droplet.
    droplets
        What is in each droplet.
    probability, umi
        Share of producers and mean UMI of a producer for each entry of the planted production,
        `(n_entries,)`.
    """

    def __init__(
        self, world: World, library: Library, subject: Subject, *, seed: np.random.SeedSequence
    ) -> None:
        plan, cohort = world.plan, world.cohort
        self._world, self.library = world, library
        own, self._empty_seed, parts = seed.spawn(3)
        rng = np.random.default_rng(own)
        self.contamination = float(rng.uniform(*plan.contamination))
        share = shares(cohort, library.arm, effect=library.effect.overall)
        self.droplets = plan_droplets(_composition(share, subject, world), world, rng=rng)
        repeat_sd = plan.noise.repeat_sd if plan.is_repeated else 0.0
        response = subject.response + repeat_sd * rng.standard_normal(subject.response.shape)
        self._rates = _sample_rates(response, subject, library, world)
        pairs = [
            producers_of(entry, library.arm, effect=library.effect.on(entry.gene))
            for entry in cohort.production
        ]
        shift = subject.producers + repeat_sd * rng.standard_normal(len(pairs))
        self.probability = np.array(
            [shifted_probability(p, s) for (p, _), s in zip(pairs, shift, strict=True)]
        )
        self.umi = np.array([umi for _, umi in pairs])
        self._rows = list(row_chunks(len(self.droplets.kind), size=PART_SIZE))
        self._seeds = [part.spawn(2) for part in parts.spawn(len(self._rows))]
        self._kept: _Cells | None = None

    @cached_property
    def ambient_umi(self) -> NDArray[np.float64]:
        """Share of each gene in ambient RNA, `(n_genes,)`."""
        plan, profiles = self._world.plan, self._world.profiles
        weights = self._world.cohort.lysis_weights(plan.lysis)
        lysed = np.zeros(len(profiles.genes))
        for part in range(len(self._rows)):
            cells = self._cells(part)
            lysed += weights[cells.population] @ cells.counts
        return ambient_profile_of(lysed, extra=plan.erythroid_soup * profiles.erythroid)

    def parts(self) -> Iterator[Part]:
        """Draw the droplets, some at a time."""
        ambient = self.ambient_umi
        for part, rows in enumerate(self._rows):
            droplets, cells = self.droplets[rows], self._cells(part)
            # Each droplet's first cell comes in the order of the droplets, then the second cells.
            n, second = len(droplets.kind), cells.droplet[len(droplets.kind) :]
            where = (second, np.arange(len(second)))
            ones = np.ones(len(second), dtype=np.int32)
            partners = sparse.csr_matrix((ones, where), (n, len(second))) @ cells.counts[n:]
            partners.sort_indices()
            native = sparse.csr_matrix(cells.counts[:n] + partners)
            rng = np.random.default_rng(self._seeds[part][1])
            native_umi = np.asarray(native.sum(axis=1)).ravel()
            n_ambient = ambient_umi_of(native_umi, contamination=self.contamination, rng=rng)
            counts = sparse.csr_matrix(native + ambient_counts(n_ambient, ambient, rng=rng))
            yield Part(range(rows.start, rows.stop), droplets, counts, native)

    def empty_droplets(self) -> sparse.csr_matrix:
        """Droplets with ambient RNA alone, CSR of int32."""
        rng = np.random.default_rng(self._empty_seed)
        n = self._world.plan.n_empty_droplets
        mean = EMPTY_UMI * rng.lognormal(-(EMPTY_SD**2) / 2, EMPTY_SD, size=n)
        return ambient_counts(rng.poisson(mean), self.ambient_umi, rng=rng)

    def _cells(self, part: int) -> _Cells:
        """Draw the cells of a part; a sample of one part is drawn once, a larger one each time."""
        if self._kept is not None:
            return self._kept
        noise, profiles = self._world.plan.noise, self._world.profiles
        rng = np.random.default_rng(self._seeds[part][0])
        droplets = self.droplets[self._rows[part]]
        has_partner = np.flatnonzero(droplets.partner >= 0)
        droplet = np.concatenate([np.arange(len(droplets.kind)), has_partner])
        population = np.concatenate([droplets.population, droplets.partner[has_partner]])
        low_quality = droplets.kind[droplet] == LOW_QUALITY
        dying = low_quality & (rng.random(len(droplet)) < 0.5)
        quality = np.where(dying, DYING_DEPTH, np.where(low_quality, DEBRIS_DEPTH, 1.0))
        depth = quality * rng.lognormal(-(noise.depth_sd**2) / 2, noise.depth_sd, len(droplet))
        dying_rates = self._rates * np.where(profiles.mitochondrial, DYING_MITOCHONDRIAL, 1.0)
        counts = draw_native(
            depth,
            population + len(self._rates) * dying,
            np.concatenate([self._rates, dying_rates]),
            dispersion=noise.dispersion,
            rng=rng,
        )
        counts = sparse.csr_matrix(counts + self._produced(population, depth, rng))
        cells = _Cells(counts, population, droplet)
        if len(self._rows) == 1:
            self._kept = cells
        return cells

    def _produced(
        self, population: NDArray[np.int64], depth: NDArray[np.float64], rng: np.random.Generator
    ) -> sparse.csr_matrix:
        """UMI of producers, `(n_cells, n_genes)`: a Bernoulli draw, then at least one."""
        columns = self._world.profiles.produced
        dispersion = self._world.plan.noise.dispersion
        rows, umi = [], []
        for k, position in enumerate(self._world.cohort.producing()):
            cells = np.flatnonzero(population == position)
            cells = cells[rng.random(len(cells)) < self.probability[k]]
            rows.append(cells)
            umi.append(producer_counts(self.umi[k] * depth[cells], dispersion=dispersion, rng=rng))
        genes = np.repeat(columns, [len(cells) for cells in rows])
        shape = (len(population), len(self._world.profiles.genes))
        if not rows:
            return sparse.csr_matrix(shape, dtype=np.int32)
        values = np.concatenate(umi).astype(np.int32)
        return sparse.coo_matrix((values, (np.concatenate(rows), genes)), shape).tocsr()


def _composition(share: NDArray[np.float64], subject: Subject, world: World) -> NDArray[np.float64]:
    """Composition of a sample: Dirichlet over subjects, the same quantiles in each of its samples.

    A Dirichlet draw is a set of gamma draws over their sum. The other species does not vary.
    """
    drawn = share.copy()
    own = np.flatnonzero(world.cohort.analysed & (share > 0))
    concentration = world.plan.noise.composition_concentration * share[own]
    gamma: NDArray[np.float64] = special.gammaincinv(concentration, subject.composition[own])
    drawn[own] = gamma / gamma.sum()
    return drawn


def _sample_rates(
    response: NDArray[np.float64], subject: Subject, library: Library, world: World
) -> NDArray[np.float64]:
    """Compute expected UMI by population: planted shift, the subject's own, the batch's."""
    profiles = world.profiles
    responds = response * world.cohort.analysed[:, None]
    effect = np.array([library.effect.on(name) for name in world.cohort.responses])
    shift = profiles.gene_shift(effect * profiles.shift[library.arm] + responds)
    rates = np.asarray(profiles.rates * np.exp2(shift) * subject.expression)
    return rates if library.batch < 0 else rates * np.exp(profiles.batch[library.batch])


def gamma_poisson(
    mean: NDArray[np.float64], *, dispersion: float, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Negative-binomial counts: variance `mean + dispersion * mean**2`; 0 is Poisson."""
    if dispersion == 0:
        return rng.poisson(mean)
    rate = rng.standard_gamma(1 / dispersion, size=mean.shape)
    return rng.poisson(rate * (mean * dispersion))


def producer_counts(
    mean: NDArray[np.float64], *, dispersion: float, rng: np.random.Generator
) -> NDArray[np.int64]:
    """UMI of producers: one and a negative-binomial rest, so never zero; a mean below 1 is 1."""
    return 1 + gamma_poisson(np.maximum(mean - 1, 0.0), dispersion=dispersion, rng=rng)


def draw_native(
    depth: NDArray[np.float64],
    profile: NDArray[np.integer],
    rates: NDArray[np.float64],
    *,
    dispersion: float,
    rng: np.random.Generator,
) -> sparse.csr_matrix:
    """Draw counts of cells from the expected UMI of their profile, CSR of int32, in row chunks.

    `depth` of each cell and `profile`, its row of `rates`, are `(n_cells,)`; `rates` are expected
    UMI at depth 1, `(n_profiles, n_genes)`.
    """
    blocks = [
        sparse.csr_matrix(
            gamma_poisson(
                depth[rows, None] * rates[profile[rows]], dispersion=dispersion, rng=rng
            ).astype(np.int32)
        )
        for rows in row_chunks(len(depth), size=1000)
    ]
    return sparse.csr_matrix(sparse.vstack(blocks, format="csr"))


def ambient_profile_of(
    lysed: NDArray[np.floating], extra: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Share of each gene in ambient RNA: lysed cells and a small share from elsewhere.

    `lysed`: counts of the cells without ambient RNA, each weighted by how easily it lyses and added
    up, `(n_genes,)`; `extra`: share of ambient RNA that other cells leave in each gene, whose sum
    is the share that does not come from `lysed`. The result sums to 1.
    """
    return np.asarray(lysed / lysed.sum() * (1 - extra.sum()) + extra)


def ambient_umi_of(
    native_umi: NDArray[np.integer], *, contamination: float, rng: np.random.Generator
) -> NDArray[np.int64]:
    """UMI of ambient RNA in each droplet.

    They are Poisson with mean `contamination / (1 - contamination)` times the native UMI, so that
    ambient RNA is expected to be a share `contamination`, in [0, 1), of the droplet.
    """
    return np.asarray(rng.poisson(contamination / (1 - contamination) * native_umi))


def ambient_counts(
    n_umi: NDArray[np.integer], profile: NDArray[np.float64], *, rng: np.random.Generator
) -> sparse.csr_matrix:
    """Draw the genes of ambient RNA: CSR of int32 with sorted indices, `(n_droplets, n_genes)`.

    `n_umi` is that of ambient RNA in each droplet, `profile` the share of each gene.
    """
    rows = np.repeat(np.arange(len(n_umi), dtype=np.int32), n_umi)
    cumulative = np.cumsum(profile)
    genes = np.searchsorted(cumulative, rng.random(len(rows)) * cumulative[-1], side="right")
    where = (rows, genes.astype(np.int32))
    shape = (len(n_umi), len(profile))
    counts = sparse.coo_matrix((np.ones(len(rows), dtype=np.int32), where), shape).tocsr()
    counts.sort_indices()
    return counts


def shifted_probability(probability: float, shift: float) -> float:
    """Move a probability on the logit scale; 0 and 1 stay where they are."""
    odds = float(np.exp(shift)) * probability
    return odds / (odds + (1 - probability))
