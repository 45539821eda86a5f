"""From settings to samples, and the truth that is kept on the way."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from crs_sc.datasets._cohort import plant
from crs_sc.datasets._expected import courses_truth, onset_truth, shifts_truth
from crs_sc.datasets._planted import ARMS, TRANSGENE
from crs_sc.datasets._receptors import receptor_umi
from crs_sc.datasets._sample import Sample, Subject, World
from crs_sc.datasets.profiles import make_profiles
from crs_sc.datasets.truth import (
    cells_table,
    decomposition_truth,
    ledger_truth,
    producer_cells_table,
    producers_truth,
    rates_table,
    sample_sums,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from crs_sc.datasets._plan import Plan
    from crs_sc.datasets._sample import Part

__all__ = ["Book", "describe", "draw_samples", "make_world"]

_DESIGN = ("sample", "subject", "condition", "timepoint", "batch")


def make_world(plan: Plan) -> World:
    """Choose what is planted and draw the expression profiles.

    Parameters
    ----------
    plan
        Settings.

    Raises
    ------
    InputError
        If a setting names what is not there.
    """
    cohort = plant(plan)
    seed, _ = np.random.SeedSequence(plan.random_state).spawn(2)
    return World(plan, cohort, make_profiles(cohort, plan, rng=np.random.default_rng(seed)))


def draw_samples(world: World) -> Iterator[Sample]:
    """Draw the libraries, one at a time; each has its own stream and depends on no other.

    Parameters
    ----------
    world
        What the cohort shares.
    """
    plan = world.plan
    _, root = np.random.SeedSequence(plan.random_state).spawn(2)
    seeds = [seed.spawn(1 + plan.n_repeats) for seed in root.spawn(plan.n_subjects)]
    for library in plan.libraries():
        own, *repeats = seeds[library.subject]
        # Drawn anew for each of its samples, which gives the same subject and keeps none.
        subject = Subject(world, rng=np.random.default_rng(own))
        yield Sample(world, library, subject, seed=repeats[library.repeat])


class Book:
    """Keeps the truth of a cohort while its samples are drawn.

    The tables that grow with the cells are handed back part by part; only sums are kept.

    Parameters
    ----------
    world
        What the cohort shares.
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
        self._rates.append(rates_table(sample, cohort=cohort))
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
        self._sums[-1] = self._sums[-1] + sample_sums(part, cohort=cohort, columns=self._targets)
        cells = cells_table(part, sample=sample, cohort=cohort)
        made = producer_cells_table(part, cells, genes=cohort.targets, columns=self._targets)
        return {"cells": cells, "producer_cells": made}

    def tables(self) -> dict[str, pd.DataFrame]:
        """Truth of all samples that were added."""
        samples = pd.DataFrame(self._samples)
        design = samples[[name for name in _DESIGN if name in samples.columns]]
        unit = ["sample", "subject", "condition"]
        sums = pd.concat(
            [
                table.reset_index().assign(**{name: row[name] for name in unit})
                for table, row in zip(self._sums, self._samples, strict=True)
            ],
            ignore_index=True,
        )
        contrasts = self._world.plan.contrasts()
        design = design.set_index("sample").sort_index()
        ledger, producers = ledger_truth(sums), producers_truth(sums)
        tables = {
            "ledger": ledger,
            "producers": producers,
            "decomposition": decomposition_truth(
                ledger, producers, contrasts=contrasts, samples=design
            ),
            "shifts": shifts_truth(self._world, contrasts=contrasts, samples=design),
            "samples": samples,
            "production_rates": pd.concat(self._rates, ignore_index=True),
        }
        if self._world.plan.timepoints:
            tables["courses"] = courses_truth(self._world)
            onset = onset_truth(self._world, rates=tables["production_rates"], samples=design)
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
    """Everything that was asked for and planted, as plain values.

    Parameters
    ----------
    world
        What the cohort shares.
    """
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
            {
                "name": contrast.name,
                "treated": contrast.treated,
                "reference": contrast.reference,
                "paired": contrast.paired,
                "within": contrast.within,
                "baseline": contrast.baseline,
            }
            for contrast in plan.contrasts()
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
