"""Tables of what was planted, in expectation: shifts, courses and the order of onset."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd

from crs_sc import genesets, keys
from crs_sc.comparison import onset, shifts
from crs_sc.comparison.design import expand_contrasts
from crs_sc.core.stats import above_ambient
from crs_sc.datasets._cohort import producers_of, shares
from crs_sc.datasets._kernels import ambient_profile_of
from crs_sc.datasets._planted import ARMS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from crs_sc.comparison import Contrast
    from crs_sc.datasets._plan import Effect
    from crs_sc.datasets._sample import World

__all__ = ["courses_truth", "onset_truth", "shifts_truth"]

_SHIFT_TESTS = [
    name
    for name in keys.SHIFTS_TABLE.names
    if name not in {"contrast", "kind", "feature", "population", "estimate", "status", "n_genes"}
]
# Cells a sample for the planted order of onset: so many that nothing is left to chance.
_MANY_CELLS = 10_000_000


def shifts_truth(
    world: World, *, contrasts: Sequence[Contrast], samples: pd.DataFrame
) -> pd.DataFrame:
    """Shift of each signature and cytokine between the mean profiles of two arms.

    The mean profile of an arm, at a time point where there are several, is the expected native
    expression without subject effects, batches and noise. The shift is the mean of log2(CPM + 1)
    over genes of the signature, treated less reference: what the analysis estimates from
    pseudobulks, and over the genes that the analysis can count at this depth. A gene counts in a
    population that is expected to have `min_count` native UMI of it (the default of `shifts`) in a
    sample of one of the arms, and more than ambient RNA explains. That is a line through an
    expectation: of genes near to it, the analysis finds some and not others.

    The shift is not quite that of the planted genes, because genes that rise lower the CPM of all
    others, and because of the 1 that is added.

    Parameters
    ----------
    world
        What the cohort shares.
    contrasts
        What is compared.
    samples
        Design, indexed by sample.

    Returns
    -------
    DataFrame with the columns of `keys.SHIFTS_TABLE`; only `estimate`, `n_genes` and `status` are
    filled. Status: `ok`; `too_few_genes` (with an estimate) and `not_detected`, as `shifts` would
    say by default; `absent_in_reference`, `absent_in_treated`.
    """
    cohort, genes = world.cohort, world.profiles.genes
    own = (genes["species"] == cohort.species).to_numpy()
    position = {symbol: k for k, symbol in enumerate(genes["symbol"]) if own[k]}
    features = [
        ("signature", name, [position[gene] for gene in symbols])
        for name, symbols in sorted(genesets.signatures(organism=cohort.species).items())
    ] + [("gene", gene, [position[gene]]) for gene in cohort.targets]
    rows = []
    for comparison in expand_contrasts(contrasts, samples):
        effect = world.plan.effect(comparison.timepoint)
        arms = [ARMS.index(comparison.contrast.treated), ARMS.index(comparison.contrast.reference)]
        treated, reference = (_expect(world, arm, effect=effect) for arm in arms)
        counts = _countable(world, treated, reference)
        for kind, name, columns in features:
            difference = (treated.log_cpm - reference.log_cpm)[:, columns]
            n_genes = counts[:, columns].sum(axis=1)
            estimates = (difference * counts[:, columns]).sum(axis=1) / np.maximum(n_genes, 1)
            needed = min(_default("min_genes"), len(columns))
            for k in np.flatnonzero(cohort.analysed):
                status = keys.OK if n_genes[k] >= needed else keys.TOO_FEW_GENES
                status = status if n_genes[k] else keys.NOT_DETECTED
                status = status if reference.present[k] else keys.ABSENT_IN_REFERENCE
                status = status if treated.present[k] else keys.ABSENT_IN_TREATED
                has_estimate = status in (keys.OK, keys.TOO_FEW_GENES)
                estimate = estimates[k] if has_estimate else np.nan
                row = (comparison.name, kind, name, cohort.names[k], estimate, status, n_genes[k])
                rows.append(row)
    columns_of_rows = ["contrast", "kind", "feature", "population", "estimate", "status", "n_genes"]
    table = pd.DataFrame(rows, columns=columns_of_rows).astype({"n_genes": np.int64})
    table[_SHIFT_TESTS] = np.nan
    return table[keys.SHIFTS_TABLE.names]


class _Expected(NamedTuple):
    """A sample of an arm in expectation.

    `log_cpm`: log2(CPM + 1) of the mean profiles; `native` and `soup`: UMI, all of shape
    `(n_populations, n_genes)`; `present`: which populations the arm has, `(n_populations,)`.
    """

    log_cpm: NDArray[np.float64]
    native: NDArray[np.float64]
    ambient: NDArray[np.float64]
    present: NDArray[np.bool_]


def _expect(world: World, arm: int, *, effect: Effect) -> _Expected:
    """Compute the expected UMI of the good singlets of a sample, and ambient RNA among them."""
    plan, cohort, profiles = world.plan, world.cohort, world.profiles
    by_response = np.array([effect.on(name) for name in cohort.responses])
    mean = profiles.rates * np.exp2(profiles.gene_shift(by_response * profiles.shift[arm]))
    row = cohort.producing()
    for k, (entry, column) in enumerate(zip(cohort.production, profiles.produced, strict=True)):
        share, umi = producers_of(entry, arm, effect=effect.on(entry.gene))
        mean[row[k], column] += share * umi
    share_of_cells = shares(cohort, arm, effect=effect.overall)
    # As the droplets are planned: what needs cells of the other species falls away without them.
    has_other = share_of_cells[~cohort.analysed].any()
    other = plan.other_species_fraction if has_other else 0.0
    bad = plan.doublet_rate + plan.low_quality_rate + plan.cross_species_rate * has_other
    n_cells = plan.cells_per_sample * share_of_cells
    n_cells *= np.where(cohort.analysed, 1 - other - bad, other)
    native = n_cells[:, None] * mean
    lysed = cohort.lysis_weights(plan.lysis) @ native
    ambient = ambient_profile_of(lysed, extra=plan.erythroid_soup * profiles.erythroid)
    contamination = float(np.mean(plan.contamination))
    added = contamination / (1 - contamination) * native.sum(axis=1, keepdims=True) * ambient
    log_cpm = np.log2(1e6 * mean / mean.sum(axis=1, keepdims=True) + 1)
    return _Expected(np.asarray(log_cpm), native, added, share_of_cells > 0)


def _countable(world: World, treated: _Expected, reference: _Expected) -> NDArray[np.bool_]:
    """Genes that `shifts` would count in each population, `(n_populations, n_genes)`."""
    enough = np.maximum(treated.native, reference.native) >= _default("min_count")
    native = world.plan.n_subjects_per_arm * (treated.native + reference.native)
    ambient = world.plan.n_subjects_per_arm * (treated.ambient + reference.ambient)
    return np.asarray(enough & above_ambient(native + ambient, ambient))


def _default(name: str) -> int:
    """Default of `shifts`, which the truth goes by."""
    return int(inspect.signature(shifts).parameters[name].default)


def courses_truth(world: World) -> pd.DataFrame:
    """How much of what is planted shows at each time point.

    Parameters
    ----------
    world
        What the cohort shares.

    Returns
    -------
    DataFrame with the columns kind (composition, response or production), feature (empty for the
    composition), timepoint and effect (0 is like the first arm, 1 as planted).
    """
    cohort = world.cohort
    produced = dict.fromkeys(entry.gene for entry in cohort.production)
    features = [("composition", "")]
    features += [("response", name) for name in cohort.responses]
    features += [("production", gene) for gene in produced]
    rows = []
    for kind, name in features:
        for time in world.plan.timepoints:
            effect = world.plan.effect(time)
            rows.append((kind, name, time, effect.on(name) if name else effect.overall))
    return pd.DataFrame(rows, columns=["kind", "feature", "timepoint", "effect"])


def onset_truth(world: World, *, rates: pd.DataFrame, samples: pd.DataFrame) -> pd.DataFrame | None:
    """Which of IL-1 and IL-6 was planted to set in first in each subject.

    The answer of `onset`, with its defaults, to the expected output of ten million cells a sample
    without ambient RNA: the planted composition, and the production rates of the very sample.

    Parameters
    ----------
    world
        What the cohort shares.
    rates
        The table of production rates.
    samples
        Design, indexed by sample, with time points.

    Returns
    -------
    DataFrame with the columns of `keys.ONSET_TABLE`; None where one of the two is never produced.
    """
    cohort, default = world.cohort, inspect.signature(onset).parameters
    asked = {
        name: [gene for gene in cohort.targets if gene.upper() in default[name].default]
        for name in ("first", "second")
    }
    own = rates[rates["population"].isin(np.array(cohort.names)[cohort.analysed])]
    made = set(own["gene"])
    if not all(made.intersection(genes) for genes in asked.values()):
        return None
    share_of_cells = {
        (library.identity["sample"], name): share
        for library in world.plan.libraries()
        for name, share in zip(
            cohort.names, shares(cohort, library.arm, effect=library.effect.overall), strict=True
        )
    }
    cells = [share_of_cells[unit] for unit in zip(own["sample"], own["population"], strict=True)]
    output = own["probability"] * own["umi"] * cells
    umi = (_MANY_CELLS * output).groupby([own["gene"], own["sample"]]).sum().rename("umi")
    ledger = umi.reset_index().assign(
        population=keys.ALL_POPULATIONS, n_cells=_MANY_CELLS, ambient_umi=0.0
    )
    return onset(ledger, samples=samples, first=asked["first"], second=asked["second"])
