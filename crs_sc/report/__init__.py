"""The self-contained HTML report, and the key figures that it shows."""

from crs_sc.report._answers import Answer, source_answers
from crs_sc.report._changes import shift_answers
from crs_sc.report._figures import key_figures, write_figures
from crs_sc.report._page import write_report
from crs_sc.report._planted import planted_beside_found, read_truth, share_errors
from crs_sc.report._scores import subject_scores

__all__ = [
    "Answer",
    "key_figures",
    "planted_beside_found",
    "read_truth",
    "share_errors",
    "shift_answers",
    "source_answers",
    "subject_scores",
    "write_figures",
    "write_report",
]
