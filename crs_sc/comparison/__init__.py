"""Does the treatment shift it: subjects are the replicates, and the design says what it can see."""

from crs_sc.comparison.composition import composition
from crs_sc.comparison.decomposition import decompose
from crs_sc.comparison.design import Contrast, check_design
from crs_sc.comparison.enrichment import enrichment
from crs_sc.comparison.expression import expression
from crs_sc.comparison.pseudobulk import pseudobulk
from crs_sc.comparison.reversal import reversal
from crs_sc.comparison.shifts import shifts, signature_scores

__all__ = [
    "Contrast",
    "check_design",
    "composition",
    "decompose",
    "enrichment",
    "expression",
    "pseudobulk",
    "reversal",
    "shifts",
    "signature_scores",
]
