"""Does the treatment shift it: subjects are the replicates, and the design says what it can see."""

from crs_sc.comparison.composition import composition
from crs_sc.comparison.design import Contrast, check_design
from crs_sc.comparison.pseudobulk import pseudobulk
from crs_sc.comparison.reversal import reversal
from crs_sc.comparison.shifts import shifts, signature_scores

__all__ = [
    "Contrast",
    "check_design",
    "composition",
    "pseudobulk",
    "reversal",
    "shifts",
    "signature_scores",
]
