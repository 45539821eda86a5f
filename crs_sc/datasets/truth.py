"""The truth of a simulated cohort: what happened, and what was planted in expectation."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
from scipy import sparse

from crs_sc import genesets, keys
from crs_sc.comparison import onset, shifts
from crs_sc.comparison.decomposition import decompose
from crs_sc.comparison.design import expand_contrasts
from crs_sc.core.arrays import group_sums
from crs_sc.core.stats import above_ambient, wilson_interval
from crs_sc.datasets.profiles import ARMS, TRANSGENE, producers_of, receptor_umi, shares
from crs_sc.datasets.sampling import DROPLETS, SINGLET, ambient_profile_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from crs_sc.comparison import Contrast
    from crs_sc.datasets.plan import Effect
    from crs_sc.datasets.profiles import Cohort
    from crs_sc.datasets.sampling import Part, Sample, World

__all__ = ["Book", "describe", "shifts_truth"]

_UNIT = ["sample", "subject", "condition"]
_CONTRAST = ["name", "treated", "reference", "paired", "within", "baseline"]
_DESIGN = [*_UNIT, "timepoint", "batch"]
_SHIFT_TESTS = [
    name
    for name in keys.SHIFTS_TABLE.names
    if name not in {"contrast", "kind", "feature", "population", "estimate", "status", "n_genes"}
]
# Cells a sample for the planted order of onset: so many that nothing is left to chance.
_MANY_CELLS = 10_000_000


class Book:
    """Keeps the truth of a cohort while its samples are drawn.

    The tables that grow with the cells are handed back part by part; only sums are kept.
    """

    def __init__(self, world: World) -> None:
        self._world = world
        symbols = pd.Index(world.profiles.genes["symbol"])
        self._targets = symbols.get_indexer(pd.Index(list(world.cohort.targets)))
        self._sums: list[pd.DataFrame] = []
        self._rates: list[pd.DataFrame] = []
        self._samples: list[dict[str, Any]] = []

    def open(self, sample: Sample) -> dict[str, pd.DataFrame]:
        """Take note of a sample, and return its rows of the table `soup`."""
        plan, cohort, genes = self._world.plan, self._world.cohort, self._world.profiles.genes
        identity = sample.library.identity
        self._samples.append(
            identity
            | {"effect": sample.library.effect.overall, "contamination": sample.contamination}
            | {"contamination_analysed": self._analysed(sample)}
            | {"n_droplets": plan.cells_per_sample, "n_empty_droplets": plan.n_empty_droplets}
        )
        self._rates.append(_rates_table(sample, cohort=cohort))
        index = pd.MultiIndex.from_product(
            [
                list(cohort.targets),
                [p.name for p in cohort.populations if p.species == cohort.species],
            ],
            names=["gene", "population"],
        )
        names = ["n_cells", "umi", "native_umi", "n_producers", "n_ambient_only"]
        self._sums.append(pd.DataFrame(0, index=index, columns=names))
        ambient = genes.reset_index()[["gene", "symbol", "species"]]
        ambient.insert(0, "sample", identity["sample"])
        return {"soup": ambient.assign(share=sample.ambient_umi)}

    def add(self, part: Part, sample: Sample) -> dict[str, pd.DataFrame]:
        """Add up a part of the sample opened last; return its rows of the tables of cells."""
        cohort = self._world.cohort
        self._sums[-1] = self._sums[-1] + _sample_sums(part, cohort=cohort, columns=self._targets)
        cells = _cells_table(part, sample=sample, cohort=cohort)
        made = _producer_cells_table(part, cells, genes=cohort.targets, columns=self._targets)
        return {"cells": cells, "producer_cells": made}

    def tables(self) -> dict[str, pd.DataFrame]:
        """Truth of all samples that were added."""
        samples = pd.DataFrame(self._samples)
        design = samples[[name for name in _DESIGN if name in samples.columns]]
        sums = pd.concat(
            [
                table.reset_index().assign(**{name: row[name] for name in _UNIT})
                for table, row in zip(self._sums, self._samples, strict=True)
            ],
            ignore_index=True,
        )
        contrasts = self._world.plan.contrasts()
        design = design.set_index("sample").sort_index()
        ledger, producers = _ledger_truth(sums), _producers_truth(sums)
        tables = {
            "ledger": ledger,
            "producers": producers,
            "decomposition": _decomposition_truth(
                ledger, producers, contrasts=contrasts, samples=design
            ),
            "shifts": shifts_truth(self._world, contrasts=contrasts, samples=design),
            "samples": samples,
            "production_rates": pd.concat(self._rates, ignore_index=True),
        }
        if self._world.plan.timepoints:
            tables["courses"] = _courses_truth(self._world)
            onset = _onset_truth(self._world, rates=tables["production_rates"], samples=design)
            tables |= {} if onset is None else {"onset": onset}
        if self._world.plan.batches is not None:
            tables["batches"] = self._batches()
        return tables

    def _analysed(self, sample: Sample) -> float:
        """Share of ambient RNA among the UMI of the analysed species in a cell of that species."""
        species = self._world.profiles.genes["species"].to_numpy()
        ambient = (
            sample.contamination * sample.ambient_umi[species == self._world.cohort.species].sum()
        )
        return float(ambient / (1 - sample.contamination + ambient))

    def _batches(self) -> pd.DataFrame:
        """Effect of each batch on each gene, natural log."""
        effects, genes = self._world.profiles.batch, self._world.profiles.genes.index
        return pd.DataFrame(
            {
                "batch": np.repeat([f"batch{k + 1}" for k in range(len(effects))], len(genes)),
                "gene": np.tile(genes.to_numpy(dtype=str), len(effects)),
                "log_effect": effects.ravel(),
            }
        )


def describe(world: World) -> dict[str, Any]:
    """Everything that was asked for and planted, as plain values."""
    plan, cohort = world.plan, world.cohort
    other = "mouse" if cohort.species == "human" else "human"
    return {
        "simulated": True,
        "parameters": plan.parameters(),
        "organism": f"{cohort.species}+{other}",
        "null_population": cohort.null_population,
        "transgene": TRANSGENE,
        "genes": list(cohort.targets),
        "contrasts": [
            {name: getattr(contrast, name) for name in _CONTRAST} for contrast in plan.contrasts()
        ],
        "arm_order": list(ARMS),
        "populations": [
            {"population": p.name, "lineage": p.lineage, "species": p.species, "umi": p.umi}
            | {"share_by_arm": list(p.share)}
            for p in cohort.populations
        ],
        "production": [
            {"gene": entry.gene, "population": entry.population}
            | {"producer_share_by_arm": list(entry.share), "umi_by_arm": list(entry.umi)}
            for entry in cohort.production
        ],
        "receptor_umi_per_million": {p.name: receptor_umi(p) for p in cohort.populations},
        "log2_shift_by_arm": {
            signature: {
                population: list(shift)
                for population, shift in planted.items()
                if population in cohort.names
            }
            for signature, planted in cohort.responses.items()
        },
    }


def _cells_table(part: Part, *, sample: Sample, cohort: Cohort) -> pd.DataFrame:
    """Say what is in each droplet.

    Columns cell, sample, subject, condition (timepoint, batch), population, lineage, species
    (human, mouse or mixed), droplet (singlet, doublet, cross_species or low_quality), partner
    (population of the second cell, empty if there is none), contamination (expected share of
    ambient RNA), n_umi and n_soup_umi (UMI of ambient RNA).
    """
    droplets = part.droplets
    names, identity = np.array(cohort.names), sample.library.identity
    species = np.array([population.species for population in cohort.populations])
    lineage = np.array([population.lineage for population in cohort.populations])
    is_mixed = droplets.kind == DROPLETS.index("cross_species")
    n_umi = np.asarray(part.counts.sum(axis=1)).ravel()
    return pd.DataFrame(
        {
            "cell": [f"{identity['sample']}_{cell + 1:06d}" for cell in part.positions],
            **identity,
            "population": names[droplets.population],
            "lineage": lineage[droplets.population],
            "species": np.where(is_mixed, "mixed", species[droplets.population]),
            "droplet": np.array(DROPLETS)[droplets.kind],
            "partner": np.array([*cohort.names, ""])[droplets.partner],
            "contamination": sample.contamination,
            "n_umi": n_umi,
            "n_soup_umi": n_umi - np.asarray(part.native.sum(axis=1)).ravel(),
        }
    )


def _producer_cells_table(
    part: Part, cells: pd.DataFrame, *, genes: Sequence[str], columns: NDArray[np.int64]
) -> pd.DataFrame:
    """List the droplets in which a cell made a cytokine: one row each with native UMI.

    `genes` are the cytokines and `columns` the column of each, `cells` the table of the part.
    """
    native = sparse.coo_matrix(part.native[:, columns])
    order = np.lexsort((native.col, native.row))
    row, column = native.row[order], native.col[order]
    table = cells[["cell", "sample", "population", "droplet"]].iloc[row].reset_index(drop=True)
    table["gene"] = np.array(list(genes))[column]
    table["native_umi"] = native.data[order].astype(np.int64)
    counts = part.counts[:, columns].toarray()
    table["umi"] = np.asarray(counts[row, column], dtype=np.int64)
    return pd.DataFrame(table)


def _rates_table(sample: Sample, *, cohort: Cohort) -> pd.DataFrame:
    """Say how many cells of a sample were to be producers, and how much they make.

    `probability` is that a cell is a producer, `umi` its mean in a cell of mean depth.
    """
    return pd.DataFrame(
        {
            **{name: sample.library.identity[name] for name in _UNIT},
            "gene": [entry.gene for entry in cohort.production],
            "population": [entry.population for entry in cohort.production],
            "probability": sample.probability,
            "umi": sample.umi,
        }
    )


def _sample_sums(part: Part, *, cohort: Cohort, columns: NDArray[np.int64]) -> pd.DataFrame:
    """Sum the good singlets of the analysed species by population and cytokine.

    Indexed by gene and population, every one of them; n_producers are cells with at least one
    native UMI, n_ambient_only those whose UMI are all ambient RNA.
    """
    droplets, analysed = part.droplets, cohort.analysed
    good = (droplets.kind == SINGLET) & analysed[droplets.population]
    codes = np.where(good, droplets.population, -1)
    counts, native = part.counts[:, columns].tocsr(), part.native[:, columns].tocsr()
    n = len(analysed)
    n_producers = group_sums((native > 0).astype(np.int64), codes, n)
    sums = {
        "umi": group_sums(counts, codes, n),
        "native_umi": group_sums(native, codes, n),
        "n_producers": n_producers,
        "n_ambient_only": group_sums((counts > 0).astype(np.int64), codes, n) - n_producers,
    }
    n_cells = np.bincount(codes[good], minlength=n)
    own = np.flatnonzero(analysed)
    index = pd.MultiIndex.from_product(
        [list(cohort.targets), [cohort.names[k] for k in own]], names=["gene", "population"]
    )
    frame = pd.DataFrame({"n_cells": np.tile(n_cells[own], len(columns))}, index=index)
    for name, value in sums.items():
        frame[name] = value[own].T.ravel().astype(np.int64)
    return frame


def _ledger_truth(sums: pd.DataFrame) -> pd.DataFrame:
    """Ledger of the native UMI.

    `ambient_umi` is ambient RNA that was added and `corrected_umi` the UMI that the cells made.
    """
    table = sums.copy()
    table["corrected_umi"] = table["native_umi"].astype(float)
    table["ambient_umi"] = (table["umi"] - table["native_umi"]).astype(float)
    by_sample = table.groupby(["gene", "sample"])
    total = by_sample["corrected_umi"].transform("sum")
    table["share"] = (table["corrected_umi"] / total).where(total > 0)
    table["cell_share"] = table["n_cells"] / by_sample["n_cells"].transform("sum")
    table["enrichment"] = (table["share"] / table["cell_share"]).where(table["cell_share"] > 0)
    return _in_order(table, keys.LEDGER_TABLE)


def _producers_truth(sums: pd.DataFrame) -> pd.DataFrame:
    """Cells that made a cytokine; nothing is undetermined.

    `expected_ambient_umi` is the ambient RNA that was added.
    """
    table = sums.copy()
    table["n_ambient_compatible"] = table["n_ambient_only"]
    table["n_undetermined"] = 0
    table["producer_fraction"] = (table["n_producers"] / table["n_cells"]).where(
        table["n_cells"] > 0
    )
    table["ci_low"], table["ci_high"] = wilson_interval(table["n_producers"], table["n_cells"])
    table["expected_ambient_umi"] = (table["umi"] - table["native_umi"]).astype(float)
    return _in_order(table, keys.PRODUCERS_TABLE)


def _decomposition_truth(
    ledger: pd.DataFrame,
    producers: pd.DataFrame,
    *,
    contrasts: Sequence[Contrast],
    samples: pd.DataFrame,
) -> pd.DataFrame:
    """Decomposition of the true change; its intervals are empty."""
    table = decompose(ledger, producers, contrasts=contrasts, samples=samples, n_bootstrap=1)
    intervals = [name for name in table.columns if name.endswith(("_ci_low", "_ci_high"))]
    table[intervals] = np.nan
    return table


def _in_order(table: pd.DataFrame, spec: keys.TableSpec) -> pd.DataFrame:
    """Columns and rows of a table in the order of the contract; the genes keep theirs."""
    order = {gene: i for i, gene in enumerate(table["gene"].unique())}
    table = table.assign(order=table["gene"].map(order))
    table = table.sort_values(["order", "population", "sample"], ignore_index=True)
    # What only an analysis can say, such as an interval, is empty.
    return table.reindex(columns=spec.names)


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

    Only `estimate`, `n_genes` and `status` are filled. Status: `ok`; `too_few_genes` (with an
    estimate) and `not_detected`, as `shifts` would say by default; `absent_in_reference`,
    `absent_in_treated`.
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

    `log_cpm`: log2(CPM + 1) of the mean profiles; `native` and `ambient`: UMI, all of shape
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


def _courses_truth(world: World) -> pd.DataFrame:
    """How much of what is planted shows at each time point.

    Columns kind (composition, response or production), feature (empty for the composition),
    timepoint and effect (0 is like the first arm, 1 as planted).
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


def _onset_truth(
    world: World, *, rates: pd.DataFrame, samples: pd.DataFrame
) -> pd.DataFrame | None:
    """Which of IL-1 and IL-6 was planted to set in first in each subject.

    The answer of `onset`, with its defaults, to the expected output of ten million cells a sample
    without ambient RNA: the planted composition, and the production rates of the very sample.
    None where one of the two is never produced.
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
