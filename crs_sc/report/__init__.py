"""The self-contained HTML report, and the key figures that it shows."""

from crs_sc.report.answers import Answer, shift_answers, source_answers
from crs_sc.report.figures import key_figures, write_figures
from crs_sc.report.page import write_report
from crs_sc.report.planted import planted_beside_found, read_truth, share_errors

__all__ = [
    "Answer",
    "key_figures",
    "planted_beside_found",
    "read_truth",
    "share_errors",
    "shift_answers",
    "source_answers",
    "write_figures",
    "write_report",
]
