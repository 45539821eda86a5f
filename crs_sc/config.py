"""Where version 0.1.0 had the settings of a run; they are in `crs_sc.run.config`."""

from crs_sc.run.config import Columns, RunConfig, load_config

__all__ = ["Columns", "RunConfig", "load_config"]
