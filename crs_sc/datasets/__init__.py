"""A simulated cohort with planted truth."""

from crs_sc.datasets.simulate import SimulatedCohort, simulate_cohort
from crs_sc.datasets.write import write_cohort

__all__ = ["SimulatedCohort", "simulate_cohort", "write_cohort"]
