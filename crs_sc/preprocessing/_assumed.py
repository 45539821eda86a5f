"""Contamination of samples that the panels say nothing of, and of counts that were corrected."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

CONTAMINATION_COLUMNS = ("ambient_fraction", "ambient_upper", "ambient_source", "ambient_lower")
CORRECTED = "declared_corrected"
ASSUMED = "assumed"
# Fewer measured samples say too little of the others.
_MIN_MEASURED = 3
_QUARTILE = 0.75
# Cells of the other species that give a share, and the error of that share (two standard errors).
_MIN_CELLS = 10
_SPECIES_ERROR = 0.15
# Share of a cell's reads that map to the wrong genome, 0.8 % on average (BMC Bioinformatics 2022,
# 23:157): it looks like ambient RNA.
_MISMAPPED = 0.008
# Ambient RNA in corrected counts from which a note is worth it.
_RESIDUAL = 0.02


def from_species(
    *,
    own_in_other: float,
    other_in_own: float,
    n_other: int,
    umi_own: float,
    umi_other: float,
    scaling: float,
    scaling_error: float,
) -> tuple[float, float, float] | None:
    """Contamination of one species' cells from what ambient RNA brings into those of the other.

    Ambient RNA of a droplet is somewhere between the same in all of them and in proportion to the
    cell. How it grows with the cells of the sample carries it over to cells of another size.

    Parameters
    ----------
    own_in_other, other_in_own
        Share of the UMI of a cell of one species that is ambient RNA of the other genome.
    n_other
        Cells of the other species.
    umi_own, umi_other
        Mean UMI of the cells of each species, over both genomes.
    scaling, scaling_error
        Power of a cell's UMI with which its ambient RNA grows, and its standard error.

    Returns
    -------
    Estimate, lower and upper bound, as share of the own genome's UMI in a cell of its species;
    None with fewer than ten cells of the other species.
    """
    if n_other < _MIN_CELLS or not umi_own > 0:
        return None

    def at(power: float) -> float:
        same_size = own_in_other / (1 - other_in_own)
        larger = (umi_own / umi_other) ** (min(max(power, 0.0), 1.0) - 1)
        return float(min(same_size * larger, 1.0))

    low, high = sorted([at(scaling - 2 * scaling_error), at(scaling + 2 * scaling_error)])
    low = max(0.0, (1 - _SPECIES_ERROR) * low - _MISMAPPED)
    return at(scaling), low, min(1.0, (1 + _SPECIES_ERROR) * high)


def from_cohort(table: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """Give samples without evidence the upper quartile of those that were measured.

    A fixed assumption would be taken off one arm and not off the other where arms differ in how
    many samples could be measured.

    Parameters
    ----------
    table
        Indexed by sample, with `CONTAMINATION_COLUMNS`.

    Returns
    -------
    The table, as it was with fewer than three measured samples, and notes.
    """
    source = table["ambient_source"].astype(str)
    assumed = source.str.endswith(ASSUMED).to_numpy()
    known = table.loc[~assumed & (source != CORRECTED).to_numpy()]
    if len(known) < _MIN_MEASURED or not assumed.any():
        return table, []
    fraction = float(known["ambient_fraction"].quantile(_QUARTILE))
    upper = float(known["ambient_upper"].max())
    changed = table.copy()
    changed.loc[assumed, ["ambient_fraction", "ambient_upper", "ambient_lower"]] = [
        fraction,
        upper,
        0.0,
    ]
    why = f"upper quartile of {len(known)} samples, {ASSUMED}"
    changed.loc[assumed, "ambient_source"] = [
        f"{text.split(';')[0]}; {why}" for text in source[assumed]
    ]
    note = (
        f"{int(assumed.sum())} samples had too few cells or genes to measure their contamination: "
        f"{fraction:.3f} was assumed, the upper quartile of the {len(known)} measured ones."
    )
    return changed, [note]


def declared_corrected(table: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """Set the fraction of corrected counts to 0; what the panels still show is the upper bound.

    Parameters
    ----------
    table
        Indexed by sample, with `CONTAMINATION_COLUMNS`, as measured on the corrected counts.

    Returns
    -------
    The table, and a note on each sample in which ambient RNA is left beyond doubt.
    """
    assumed = table["ambient_source"].astype(str).str.endswith(ASSUMED)
    left = table.loc[~assumed & (table["ambient_lower"] > _RESIDUAL), "ambient_fraction"]
    notes = [
        f"Sample '{name}': the counts were declared corrected for ambient RNA, yet genes that the "
        f"cells cannot express still make up a contamination of {value:.3f}. It was left in."
        for name, value in left.items()
    ]
    changed = table.assign(ambient_fraction=0.0, ambient_lower=0.0, ambient_source=CORRECTED)
    changed["ambient_upper"] = np.asarray(table["ambient_upper"], dtype=np.float64)
    return changed, notes
