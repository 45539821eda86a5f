"""The settings of a simulated cohort: what was asked for, checked, and the libraries it makes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, NamedTuple, get_args

from crs_sc.comparison import Contrast
from crs_sc.core.checks import check_fraction
from crs_sc.datasets.profiles import ARMS, CONTRASTS
from crs_sc.errors import InputError, listing

__all__ = ["Batches", "Effect", "Leukaemia", "Library", "Noise", "Plan", "Species"]

Leukaemia = Literal["B-ALL", "monocytic", "none"]
Species = Literal["human", "mouse"]
_KINDS = ("doublet_rate", "cross_species_rate", "other_species_fraction", "low_quality_rate")


@dataclass(frozen=True)
class Noise:
    """How cells, subjects and samples of a simulated cohort differ without any effect.

    Attributes
    ----------
    dispersion
        Squared coefficient of variation of the expression of a gene between cells of one
        population and sample: the variance is `mean + dispersion * mean**2`.
    depth_sd
        Spread of the depth of cells, natural log.
    subject_sd
        Spread between subjects of each gene in each population, natural log.
    response_sd
        Spread between subjects of each response in each population, log2.
    producer_sd
        Spread between subjects of the share of producers, logit.
    repeat_sd
        Where a subject is sampled more than once: spread between its samples of each response
        (log2) and of the share of producers (logit).
    composition_concentration
        Concentration of the Dirichlet distribution of a subject's composition; larger is less
        spread.
    """

    dispersion: float = 0.2
    depth_sd: float = 0.3
    subject_sd: float = 0.1
    response_sd: float = 0.1
    producer_sd: float = 0.2
    repeat_sd: float = 0.05
    composition_concentration: float = 300.0


@dataclass(frozen=True)
class Batches:
    """Batches of a simulated cohort.

    Attributes
    ----------
    number
        How many.
    sd
        Spread of the effect of a batch on each gene, natural log; the same in all populations.
        Planted producers are not affected.
    aliased
        False: each arm is spread evenly over the batches. True: batch follows arm, so that no
        analysis can tell them apart.
    """

    number: int = 2
    sd: float = 0.2
    aliased: bool = False


@dataclass(frozen=True)
class Effect:
    """How much of what is planted shows at one time.

    Attributes
    ----------
    overall
        Share of the planted effect: 0 is like the first arm, 1 as planted.
    own
        The same of each cytokine and response that has a course of its own, by name.
    """

    overall: float
    own: dict[str, float]

    def on(self, name: str) -> float:
        """Share of the effect on a cytokine or response."""
        return self.own.get(name, self.overall)


class Library(NamedTuple):
    """One sample of the design: what it is, and which random streams draw it.

    Attributes
    ----------
    identity
        Columns sample, subject, condition and, where the cohort has them, timepoint and batch.
    arm
        Position in `ARMS`.
    effect
        How much of what is planted it shows.
    batch
        Position of its batch; -1 without batches.
    subject, repeat
        Position of its subject, and of the library among those of the subject.
    """

    identity: dict[str, str]
    arm: int
    effect: Effect
    batch: int
    subject: int
    repeat: int


@dataclass(frozen=True)
class Plan:
    """The parameters of `simulate_cohort`, which says what they mean, in one form."""

    arms: tuple[str, ...]
    n_subjects_per_arm: int
    timepoints: dict[str, float]
    courses: dict[str, dict[str, float]]
    paired: bool
    batches: Batches | None
    cells_per_sample: int
    n_empty_droplets: int
    n_background_genes: int
    contamination: tuple[float, float]
    lysis: dict[str, float]
    erythroid_soup: float
    doublet_rate: float
    cross_species_rate: float
    other_species_fraction: float
    low_quality_rate: float
    myeloid_species: Species
    leukaemia: Leukaemia
    populations: tuple[str, ...] | None
    production_scale: float | dict[str, float]
    effect_scale: float
    noise: Noise
    random_state: int

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Plan:
        """Bring the parameters of `simulate_cohort`, all of them, into one form and check them."""
        values = dict(values)
        low_high = values["contamination"]
        if isinstance(low_high, int | float):
            low_high = (low_high, low_high)
        scale, chosen = values["production_scale"], values["populations"]
        values |= {
            "arms": tuple(values["arms"]),
            "timepoints": _course(values["timepoints"]),
            "courses": {
                str(name): _course(course) for name, course in dict(values["courses"] or {}).items()
            },
            "contamination": tuple(low_high),
            "lysis": dict(values["lysis"] or {}),
            "production_scale": scale if isinstance(scale, int | float) else dict(scale),
            "populations": None if chosen is None else tuple(chosen),
            "noise": _group(Noise, values["noise"]),
        }
        if values["batches"] is not None:
            values["batches"] = _group(Batches, values["batches"])
        plan = cls(**values)
        _check(plan)
        return plan

    @property
    def is_repeated(self) -> bool:
        """Whether a subject has more than one library."""
        return len(self.timepoints) > 1 or (self.paired and len(self.arms) > 1)

    @property
    def n_subjects(self) -> int:
        """Subjects of the cohort."""
        return self.n_subjects_per_arm * (1 if self.paired else len(self.arms))

    @property
    def n_repeats(self) -> int:
        """Libraries of a subject."""
        return max(1, len(self.timepoints)) * (len(self.arms) if self.paired else 1)

    def libraries(self) -> list[Library]:
        """Return the design: one entry a library, by subject, arm and time."""
        found: list[Library] = []
        for subject in range(self.n_subjects):
            own = range(len(self.arms))
            if not self.paired:
                own = range(
                    subject // self.n_subjects_per_arm, subject // self.n_subjects_per_arm + 1
                )
            visits = [(k, time) for k in own for time in self.timepoints or {"": 1.0}]
            for repeat, (k, time) in enumerate(visits):
                batch = self._batch(subject, k)
                identity = {
                    "sample": f"lib{len(found) + 1:02d}",
                    "subject": f"mouse{subject + 1:02d}",
                    "condition": self.arms[k],
                }
                identity |= {"timepoint": time} if self.timepoints else {}
                identity |= {"batch": f"batch{batch + 1}"} if batch >= 0 else {}
                arm = ARMS.index(self.arms[k])
                found.append(Library(identity, arm, self.effect(time), batch, subject, repeat))
        return found

    def effect(self, timepoint: str | None) -> Effect:
        """How much of what is planted shows at a time point, or in a cohort without any."""
        time = timepoint or ""
        return Effect(
            self.effect_scale * self.timepoints.get(time, 1.0),
            {name: self.effect_scale * course[time] for name, course in self.courses.items()},
        )

    def _batch(self, subject: int, arm: int) -> int:
        if self.batches is None:
            return -1
        within = subject % self.n_subjects_per_arm
        return (arm if self.batches.aliased else within) % self.batches.number

    def contrasts(self) -> list[Contrast]:
        """Return the contrasts whose arms the cohort has."""
        within = "timepoint" if self.timepoints else None
        return [
            Contrast(name, treated, reference, self.paired, within, baseline)
            for name, treated, reference, baseline in CONTRASTS
            if {treated, reference, baseline or reference} <= set(self.arms)
        ]

    def parameters(self) -> dict[str, Any]:
        """Return the parameters as plain values; `simulate_cohort` takes them again."""
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in asdict(self).items()
        }


def _course(timepoints: Sequence[str] | Mapping[str, float]) -> dict[str, float]:
    """Share of the effect at each time point: none, all, then half of the one before."""
    if isinstance(timepoints, Mapping):
        return {str(name): float(share) for name, share in timepoints.items()}
    names = [str(name) for name in timepoints]
    if len(set(names)) < len(names):
        msg = f"timepoints must differ, got {listing(names)}."
        raise InputError(msg)
    if len(names) == 1:
        return {names[0]: 1.0}
    return {name: 0.0 if i == 0 else 0.5 ** (i - 1) for i, name in enumerate(names)}


def _group[Group: (Noise, Batches)](kind: type[Group], value: Group | Mapping[str, Any]) -> Group:
    """Return the settings of a group, which may come from a file as a mapping."""
    if isinstance(value, kind):
        return value
    known = [field.name for field in fields(kind)]
    name = kind.__name__.lower()
    if not isinstance(value, Mapping) or (unknown := [k for k in value if k not in known]):
        found = listing(unknown) if isinstance(value, Mapping) else repr(value)
        msg = f"{name} takes {listing(known)}; got {found}."
        raise InputError(msg)
    return kind(**value)


def _check(plan: Plan) -> None:
    """Raise unless the settings are in range; names of populations are checked with the cohort."""
    unknown = [arm for arm in plan.arms if arm not in ARMS]
    if unknown or not plan.arms or len(set(plan.arms)) < len(plan.arms):
        msg = f"arms must be some of {listing(ARMS)}, each once; got {listing(plan.arms)}."
        raise InputError(msg)
    for name, known in (
        ("leukaemia", get_args(Leukaemia)),
        ("myeloid_species", get_args(Species)),
    ):
        if getattr(plan, name) not in known:
            msg = f"{name} must be one of {listing(known)}, got {getattr(plan, name)!r}."
            raise InputError(msg)
    low, high = (*plan.contamination, math.nan, math.nan)[:2]
    if len(plan.contamination) != 2 or not 0 <= low <= high < 1:
        msg = (
            "contamination must be a number, or two with 0 <= low <= high < 1; "
            f"got {plan.contamination}."
        )
        raise InputError(msg)
    for name in (*_KINDS, "erythroid_soup"):
        check_fraction(name, getattr(plan, name))
    if sum(getattr(plan, name) for name in _KINDS) >= 1:
        msg = f"{', '.join(_KINDS)} must leave room for good cells: their sum is 1 or more."
        raise InputError(msg)
    for name, course in plan.courses.items():
        if course.keys() != plan.timepoints.keys():
            msg = (
                f"courses['{name}'] must give the share of the effect at each of the timepoints "
                f"({listing(plan.timepoints) or 'there are none'}); got {listing(course)}."
            )
            raise InputError(msg)
    _check_numbers(plan)


def _check_numbers(plan: Plan) -> None:
    """Raise unless counts and spreads are in range."""
    least = {"n_subjects_per_arm": 1, "cells_per_sample": 1, "n_empty_droplets": 0}
    for name, lowest in least.items():
        if getattr(plan, name) < lowest:
            msg = f"{name} must be at least {lowest}, got {getattr(plan, name)}."
            raise InputError(msg)
    if plan.batches is not None and (plan.batches.number < 1 or plan.batches.sd < 0):
        msg = f"batches must have a number of 1 or more and an sd of 0 or more, got {plan.batches}."
        raise InputError(msg)
    scale = plan.production_scale
    positive = {"effect_scale": plan.effect_scale}
    positive |= {f"noise.{name}": value for name, value in asdict(plan.noise).items()}
    positive |= {f"lysis['{name}']": value for name, value in plan.lysis.items()}
    positive |= {f"timepoints['{name}']": value for name, value in plan.timepoints.items()}
    positive |= {
        f"courses['{name}']['{time}']": value
        for name, course in plan.courses.items()
        for time, value in course.items()
    }
    positive |= (
        {f"production_scale['{name}']": value for name, value in scale.items()}
        if isinstance(scale, dict)
        else {"production_scale": scale}
    )
    for name, value in positive.items():
        if value < 0:
            msg = f"{name} must not be negative, got {value}."
            raise InputError(msg)
    if plan.noise.composition_concentration == 0:
        msg = "noise.composition_concentration must be positive, got 0."
        raise InputError(msg)
