"""Does the treatment shift it: subjects are the replicates, and the design says what it can see."""

from crs_sc.comparison.composition import composition
from crs_sc.comparison.decomposition import decompose
from crs_sc.comparison.design import Contrast
from crs_sc.comparison.enrichment import enrichment
from crs_sc.comparison.expression import expression
from crs_sc.comparison.onset import onset, trajectories
from crs_sc.comparison.power import (
    check_design,
    detectable_effect,
    smallest_effect,
    subjects_per_arm,
)
from crs_sc.comparison.pseudobulk import PseudobulkPass, export_counts, pseudobulk
from crs_sc.comparison.reversal import reversal
from crs_sc.comparison.shifts import arm_by_time, shifts, signature_scores, subject_scores
from crs_sc.comparison.units import exclusions

__all__ = [
    "Contrast",
    "PseudobulkPass",
    "arm_by_time",
    "check_design",
    "composition",
    "decompose",
    "detectable_effect",
    "enrichment",
    "exclusions",
    "export_counts",
    "expression",
    "onset",
    "pseudobulk",
    "reversal",
    "shifts",
    "signature_scores",
    "smallest_effect",
    "subject_scores",
    "subjects_per_arm",
    "trajectories",
]
