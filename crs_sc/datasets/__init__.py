"""Simulated cohorts with planted truth."""

from crs_sc.datasets.plan import Batches, Noise
from crs_sc.datasets.simulate import (
    SimulatedCohort,
    SimulatedSample,
    iter_samples,
    simulate_cohort,
    toy_cohort,
)
from crs_sc.datasets.write import read_settings, simulate_to_disk, write_cohort

__all__ = [
    "Batches",
    "Noise",
    "SimulatedCohort",
    "SimulatedSample",
    "iter_samples",
    "read_settings",
    "simulate_cohort",
    "simulate_to_disk",
    "toy_cohort",
    "write_cohort",
]
