"""What is planted in a cohort as asked for: populations, production, responses."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from crs_sc import genesets
from crs_sc.datasets import _planted, _planted_mouse
from crs_sc.datasets._planted import LEUKAEMIA, NULL_POPULATION, TRANSGENE, Population, Production
from crs_sc.errors import InputError, listing

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from crs_sc.datasets._plan import Plan, Species

__all__ = ["Cohort", "plant", "producers_of", "shares"]


@dataclass(frozen=True)
class Cohort:
    """Everything planted.

    Attributes
    ----------
    species
        The species that is analysed: human, or mouse where the host's macrophages are the source.
    populations
        Those of the analysed species, then those of the other.
    production
        Who makes what; scaled as asked for.
    responses
        Signature, then population: log2 shift against vehicle by arm. A gene of several
        signatures follows the first of them.
    targets
        Cytokines of the ledger, in the analysed species.
    """

    species: Species
    populations: tuple[Population, ...]
    production: tuple[Production, ...]
    responses: dict[str, dict[str, tuple[float, float, float, float]]]
    targets: tuple[str, ...]

    @property
    def names(self) -> list[str]:
        """Names of the populations."""
        return [population.name for population in self.populations]

    @property
    def analysed(self) -> NDArray[np.bool_]:
        """Which populations are of the analysed species."""
        return np.array([population.species == self.species for population in self.populations])

    @property
    def null_population(self) -> str | None:
        """A population without any effect, if the cohort has it."""
        return NULL_POPULATION if NULL_POPULATION in self.names else None

    def producing(self) -> NDArray[np.int64]:
        """Position of the population of each entry of `production`."""
        return np.array(
            [self.names.index(entry.population) for entry in self.production], dtype=int
        )

    def lysis_weights(self, lysis: dict[str, float]) -> NDArray[np.float64]:
        """Weight of each population in ambient RNA, by its name or else its lineage."""
        return np.array([lysis.get(p.name, lysis.get(p.lineage, 1.0)) for p in self.populations])


def plant(plan: Plan) -> Cohort:
    """Choose what is planted.

    Parameters
    ----------
    plan
        Settings.

    Raises
    ------
    InputError
        If a setting names a population, lineage or gene that is not there.
    """
    own, others, production, responses = (_human if plan.myeloid_species == "human" else _mouse)(
        plan
    )
    if plan.populations is not None:
        known = [population.name for population in own]
        _refuse_unknown("populations", plan.populations, known)
        if not plan.populations:
            msg = f"populations must name one or more of {listing(known)}."
            raise InputError(msg)
        own = tuple(population for population in own if population.name in plan.populations)
    populations = own + others
    names = {population.name for population in populations}
    lineages = {population.lineage for population in populations}
    production = tuple(entry for entry in production if entry.population in names)
    targets = tuple(genesets.target_cytokines(organism=plan.myeloid_species))
    _refuse_unknown("lysis", plan.lysis, sorted(names | lineages))
    _refuse_unknown("courses", plan.courses, [*targets, *responses])
    if isinstance(plan.production_scale, dict):
        genes = {*targets, *(entry.gene for entry in production)}
        _refuse_unknown("production_scale", plan.production_scale, sorted(genes | names | lineages))
    lineage_of = {population.name: population.lineage for population in populations}
    cohort = Cohort(
        plan.myeloid_species,
        populations,
        tuple(_scaled(entry, lineage_of[entry.population], plan) for entry in production),
        responses,
        targets,
    )
    _check_present(cohort, plan)
    return cohort


def shares(cohort: Cohort, arm: int, *, effect: float) -> NDArray[np.float64]:
    """Mean share of each population among the cells of its species.

    Parameters
    ----------
    cohort
        What is planted.
    arm
        Position in `ARMS`.
    effect
        How far to go from the first arm to this one.

    Returns
    -------
    Shape `(n_populations,)`; sums to 1 in each species, or is 0 in a species without cells.
    """
    planted = np.array([population.share for population in cohort.populations])
    mean = np.maximum(planted[:, 0] + effect * (planted[:, arm] - planted[:, 0]), 0.0)
    for species in (cohort.analysed, ~cohort.analysed):
        total = mean[species].sum()
        mean[species] /= total if total > 0 else 1.0
    return np.asarray(mean)


def producers_of(entry: Production, arm: int, *, effect: float) -> tuple[float, float]:
    """Share of producers and mean UMI of a producer.

    Parameters
    ----------
    entry
        What is planted.
    arm, effect
        As for :func:`shares`.
    """
    share = entry.share[0] + effect * (entry.share[arm] - entry.share[0])
    umi = entry.umi[0] + effect * (entry.umi[arm] - entry.umi[0])
    return min(max(share, 0.0), 1.0), max(umi, 1.0)


_Choice = tuple[
    tuple[Population, ...],
    tuple[Population, ...],
    tuple[Production, ...],
    dict[str, dict[str, tuple[float, float, float, float]]],
]


def _human(plan: Plan) -> _Choice:
    """Human monocytes, T cells and leukaemia in a mouse."""
    blast = () if plan.leukaemia == "none" else (LEUKAEMIA[plan.leukaemia],)
    own = _planted.POPULATIONS + blast
    return own, _planted.OTHERS, _planted.PRODUCTION, _planted.RESPONSES


def _mouse(plan: Plan) -> _Choice:
    """Macrophages of the mouse, human CAR T cells and tumour."""
    car_t = next(p for p in _planted.POPULATIONS if p.name == "CAR T")
    human = [replace(car_t, share=_planted_mouse.CAR_T_SHARE)]
    if plan.leukaemia != "none":
        human.append(replace(LEUKAEMIA[plan.leukaemia], share=_planted_mouse.TUMOUR_SHARE))
    own, production = _planted_mouse.POPULATIONS, _planted_mouse.PRODUCTION
    return own, tuple(human), production, _planted_mouse.RESPONSES


def _scaled(entry: Production, lineage: str, plan: Plan) -> Production:
    """Production with the share of producers scaled; the transgene is no cytokine."""
    scale = plan.production_scale
    if isinstance(scale, dict):
        factor = 1.0
        for name in {entry.gene, entry.population, lineage}:
            factor *= scale.get(name, 1.0)
    else:
        factor = scale
    if entry.gene == TRANSGENE:
        return entry
    low, cart, anakinra, tocilizumab = (min(factor * share, 1.0) for share in entry.share)
    return replace(entry, share=(low, cart, anakinra, tocilizumab))


def _refuse_unknown(setting: str, given: Iterable[str], known: list[str]) -> None:
    unknown = [name for name in given if name not in known]
    if unknown:
        msg = (
            f"{setting} names {listing(unknown)}, which the cohort does not have. "
            f"It has {', '.join(known)}."
        )
        raise InputError(msg)


def _check_present(cohort: Cohort, plan: Plan) -> None:
    """Raise unless every library has cells, and something that lyses."""
    weights = cohort.lysis_weights(plan.lysis)
    for library in plan.libraries():
        share = shares(cohort, library.arm, effect=library.effect.overall) * cohort.analysed
        where = f"in sample '{library.identity['sample']}' ({library.identity['condition']})"
        if not share.any():
            msg = f"populations: none of those asked for is present {where}."
            raise InputError(msg)
        if not (weights * share).any():
            msg = f"lysis: no population lyses {where}. Give one of them a weight above 0."
            raise InputError(msg)
