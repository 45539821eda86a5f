"""Where version 0.1.0 had the run; it is in `crs_sc.run.runner`."""

from crs_sc.run.runner import STAGES, Run

__all__ = ["STAGES", "Run"]
