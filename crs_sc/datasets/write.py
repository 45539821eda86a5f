"""Leave a simulated cohort on disk as a lab would, with the truth beside it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from crs_sc import io

if TYPE_CHECKING:
    from os import PathLike

    from crs_sc.datasets.simulate import SimulatedCohort

__all__ = ["write_cohort"]

_CONFIG = """\
# A simulated humanised-mouse CRS cohort: no animal and no patient is in it.
# crs-sc run config.yaml -o OUT

input: cohort.h5ad                  # relative to this file
columns:                            # your names of the columns of obs
  sample: lib                       # one library
  subject: mouse                    # the animal: the unit of replication
  condition: arm                    # the arm of the study

{contrasts}
genes: [IL1B, IL6]                  # the cytokines of the ledger
organism: human+mouse               # two genomes; the first is analysed
transgene: [{transgene}]                    # features of the CAR construct
seed: 0

truth: truth                        # what was planted; only a simulated cohort has it
"""


def write_cohort(cohort: SimulatedCohort, out_dir: str | PathLike[str]) -> Path:
    """Write a simulated cohort, a config that is ready to run, and the truth.

    Parameters
    ----------
    cohort
        Result of :func:`simulate_cohort`.
    out_dir
        Folder; made if it is not there. Files of the same names are replaced.

    Returns
    -------
    Path of the config. Writes `cohort.h5ad`, `config.yaml`, `truth/settings.yaml` and
    `truth/{ledger,producers,decomposition,shifts,cells}.tsv`.
    """
    out = Path(out_dir)
    truth = out / "truth"
    truth.mkdir(parents=True, exist_ok=True)
    for name, table in cohort.truth.items():
        io.write_table(table, truth / f"{name}.tsv")
    io.write_text(yaml.safe_dump(cohort.settings, sort_keys=False), truth / "settings.yaml")
    io.write_h5ad(cohort.adata, out / "cohort.h5ad")
    io.write_text(_config_text(cohort), out / "config.yaml")
    return out / "config.yaml"


def _config_text(cohort: SimulatedCohort) -> str:
    lines = ["contrasts:                          # estimates are treated less reference"]
    for contrast in cohort.settings["contrasts"]:
        fields = {name: contrast[name] for name in ("name", "treated", "reference", "baseline")}
        given = ", ".join(f"{name}: {value}" for name, value in fields.items() if value)
        lines.append(f"  - {{{given}}}")
    contrasts = "\n".join(lines) + "\n" if len(lines) > 1 else ""
    return _CONFIG.format(contrasts=contrasts, transgene=cohort.settings["transgene"])
