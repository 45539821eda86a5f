"""A simulated cohort in which the truth is known, and a small one for examples and tests."""

from __future__ import annotations

import inspect
from collections import defaultdict
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
from scipy import sparse

from crs_sc import genesets, keys, preprocessing
from crs_sc.datasets.plan import Batches, Leukaemia, Noise, Plan, Species
from crs_sc.datasets.profiles import ARMS, HUMAN_PREFIX
from crs_sc.datasets.sampling import draw_samples, make_world
from crs_sc.datasets.truth import Book, describe
from crs_sc.errors import InputError, listing

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from anndata import AnnData

    from crs_sc.datasets.sampling import World

__all__ = [
    "DESCRIPTION",
    "LAB_NAMES",
    "SimulatedCohort",
    "SimulatedSample",
    "iter_samples",
    "plan_of",
    "simulate_cohort",
    "toy_cohort",
]

DESCRIPTION = "Simulated by crs_sc.datasets."
# What a lab calls the columns of the design.
LAB_NAMES = {
    "sample": "lib",
    "subject": "mouse",
    "condition": "arm",
    "timepoint": "day",
    "batch": "batch",
}

# Of the small cohort.
_TOY = {
    "arms": ("vehicle", "CART"),
    "n_subjects_per_arm": 3,
    "cells_per_sample": 130,
    "n_background_genes": 0,
    "cross_species_rate": 0.0,
    "other_species_fraction": 0.0,
}


@dataclass(frozen=True, eq=False)
class SimulatedCohort:
    """A simulated cohort and its truth.

    Attributes
    ----------
    adata
        As a lab would have it: raw counts in `X`, genes of two genomes under their prefixes, `obs`
        with the columns lib, mouse and arm (day, batch where there are several), and no truth.
    empty_droplets
        By sample, counts of the droplets without a cell, CSR of float32; empty where none were
        asked for.
    truth
        Tables ledger, producers, decomposition and shifts (columns of `keys.TABLES`); cells (one
        row a droplet), producer_cells (one row a droplet and cytokine with native UMI), samples
        (contamination: expected share of ambient RNA in a droplet; contamination_analysed: the
        same among the UMI of the analysed species), soup (share of each gene in ambient RNA, by
        sample), production_rates (probability that a cell is a producer and its mean UMI, by
        sample) and, where there are any, batches. With time points also courses (share of the
        planted effect of each cytokine and response, and on the composition) and onset (order of
        IL-1 and IL-6 in each subject, columns of `keys.TABLES`).
    settings
        Every parameter and everything planted, as plain values.
    """

    adata: AnnData
    empty_droplets: dict[str, sparse.csr_matrix]
    truth: dict[str, pd.DataFrame]
    settings: dict[str, Any]


@dataclass(frozen=True, eq=False)
class SimulatedSample:
    """One library of a simulated cohort.

    Attributes
    ----------
    identity
        sample, subject, condition and, where the cohort has them, timepoint and batch.
    genes
        Names in the file.
    counts
        CSR of float32, `(n_droplets, n_genes)`.
    empty_droplets
        The same of droplets without a cell.
    contamination
        Expected share of ambient RNA in a droplet.
    ambient
        Share of each gene in ambient RNA, `(n_genes,)`, sums to 1.
    cells, producer_cells
        As in the truth of :class:`SimulatedCohort`.
    """

    identity: dict[str, str]
    genes: pd.Index
    counts: sparse.csr_matrix
    empty_droplets: sparse.csr_matrix
    contamination: float
    ambient: np.ndarray[tuple[int], np.dtype[np.float64]]
    cells: pd.DataFrame
    producer_cells: pd.DataFrame

    @property
    def soup(self) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        """Earlier name of `ambient`."""
        return self.ambient


def simulate_cohort(
    *,
    arms: Sequence[str] = ARMS,
    n_subjects_per_arm: int = 4,
    timepoints: Sequence[str] | Mapping[str, float] = (),
    courses: Mapping[str, Mapping[str, float]] | None = None,
    paired: bool = False,
    batches: Batches | Mapping[str, Any] | None = None,
    cells_per_sample: int = 380,
    n_empty_droplets: int = 0,
    n_background_genes: int = 1000,
    contamination: float | tuple[float, float] = (0.04, 0.12),
    lysis: Mapping[str, float] | None = None,
    erythroid_soup: float = 0.01,
    doublet_rate: float = 0.05,
    cross_species_rate: float = 0.01,
    other_species_fraction: float = 0.05,
    low_quality_rate: float = 0.04,
    myeloid_species: Species = "human",
    leukaemia: Leukaemia = "B-ALL",
    populations: Sequence[str] | None = None,
    production_scale: float | Mapping[str, float] = 1.0,
    effect_scale: float = 1.0,
    noise: Noise | Mapping[str, float] = Noise(),  # noqa: B008
    random_state: int = 0,
) -> SimulatedCohort:
    """Simulate a CRS cohort of humanised mice: vehicle, CAR T, CAR T and anakinra or tocilizumab.

    Counts are negative binomial around a profile by population, arm and subject, on real gene
    symbols. Cytokines and the transgene are different: a cell is a producer or not (Bernoulli by
    population, arm and subject), a producer has at least one UMI and every other cell exactly none
    of its own. Ambient RNA is a mixture of the sample's own cells. Monocytes are planted as the
    main source of IL1B and IL6; anakinra undoes the response to IL-1, tocilizumab the response to
    IL-6 and none of the production; nothing is planted in NK cells.

    Parameters
    ----------
    arms
        Arms to simulate, of vehicle, CART, CART_anakinra and CART_tocilizumab.
    n_subjects_per_arm
        Mice an arm; one library each, or one at each time point.
    timepoints
        Days on which each mouse is sampled. A mapping gives the share of the planted effect that is
        there on that day; a sequence has none on the first (before the infusion), all on the
        second, and then half of the day before. Contrasts are then within days.
    courses
        Share of the planted effect at each of the `timepoints`, by cytokine or response, for those
        that do not follow the common course: `{"IL6": {"d0": 0, "d1": 0.1, "d2": 1}}` makes IL-6
        late. A cytokine's course is that of its producers and of what they make; a response's, such
        as `il6_stat3_response`, that of its genes. Cells follow the common course.
    paired
        Each subject is sampled in every arm, as in a crossover.
    batches
        Batches and their effect (:class:`Batches`, or a mapping of its fields); None: one batch.
    cells_per_sample
        Droplets a library that hold a cell, good or bad, human or mouse.
    n_empty_droplets
        Droplets a library with ambient RNA alone, of about 40 UMI each.
    n_background_genes
        Human genes beside markers, signatures, cytokines and housekeeping genes; at most 1,080.
        With mouse macrophages also as many mouse genes, of the 1,000 or so there are.
    contamination
        Share of ambient RNA in a droplet, or the smallest and the largest of it, uniform over the
        samples.
    lysis
        How easily the cells of a population or lineage lyse into ambient RNA, relative to 1 for
        those that are not named. None: all alike.
    erythroid_soup
        Share of ambient RNA that is haemoglobin of red cells.
    doublet_rate, cross_species_rate
        Share of the droplets with two cells of different populations of the analysed species, and
        with a cell of each species.
    other_species_fraction
        Share of the droplets with a cell of the species that is not analysed, alone: mouse cells
        beside human monocytes; CAR T cells and leukaemia beside mouse macrophages.
    low_quality_rate
        Share of the droplets with debris or a dying cell (half each).
    myeloid_species
        Species of the cells that make IL-1 and IL-6, and that are analysed: `human` monocytes of a
        humanised mouse, or the `mouse` host's macrophages, which then make Il1b and Il6 while CAR T
        cells and leukaemia are human.
    leukaemia
        `B-ALL`; `monocytic` (AML blasts with part of the monocytes' programme, like THP-1, which
        make no IL1B and IL6); or `none`.
    populations
        Populations of the analysed species to keep, as in a sorted specimen; None: all.
    production_scale
        Factor on the shares of producers, at most all cells: one for all, or by cytokine,
        population or lineage (factors of all that apply are multiplied). `{"IL6": 0.1}` makes
        producers of IL6 rare, `{"Monocyte": 0}` silences monocytes, 0 silences all. The transgene
        is not scaled.
    effect_scale
        0: all arms are like vehicle; 1: as planted; linear in shares of cells, shares of producers,
        UMI per producer and log2 shifts.
    noise
        Spread between cells, subjects and samples (:class:`Noise`, or a mapping of its fields).
    random_state
        Seed.

    Returns
    -------
    SimulatedCohort. The truth of the ledger, of the producers and of the decomposition is what
    happened in the good singlets of the analysed species of this very cohort; the truth of the
    shifts and of the onset is what was planted.

    Raises
    ------
    InputError
        If a setting is out of range.

    Examples
    --------
    >>> import crs_sc as crs
    >>> cohort = crs.datasets.simulate_cohort(n_subjects_per_arm=1, cells_per_sample=50)
    >>> cohort.adata.obs.columns.to_list()
    ['lib', 'mouse', 'arm']
    >>> cohort.truth["ledger"].columns[:3].to_list()
    ['gene', 'population', 'sample']
    """
    return _collect(Plan.of(locals()))


def iter_samples(settings: Mapping[str, Any] | None = None) -> Iterator[SimulatedSample]:
    """Simulate a cohort sample by sample, so that only one is in memory.

    Parameters
    ----------
    settings
        Parameters of :func:`simulate_cohort` by name; those left out take its defaults.

    Yields
    ------
    SimulatedSample
        The samples of `simulate_cohort` with the same settings, in its order.

    Raises
    ------
    InputError
        If a setting is unknown or out of range.

    Examples
    --------
    >>> import crs_sc as crs
    >>> settings = {"arms": ["vehicle", "CART"], "n_subjects_per_arm": 1, "cells_per_sample": 50}
    >>> [sample.identity["condition"] for sample in crs.datasets.iter_samples(settings)]
    ['vehicle', 'CART']
    """
    world = make_world(plan_of(settings))
    genes = _names(world)
    book = Book(world)
    for sample in draw_samples(world):
        book.open(sample)
        counts, tables = [], []
        for part in sample.parts():
            counts.append(part.counts.astype(np.float32))
            tables.append(book.add(part, sample))
        yield SimulatedSample(
            identity=dict(sample.library.identity),
            genes=genes,
            counts=sparse.csr_matrix(sparse.vstack(counts, format="csr")),
            empty_droplets=sample.empty_droplets().astype(np.float32),
            contamination=sample.contamination,
            ambient=sample.ambient_umi,
            cells=pd.concat([t["cells"] for t in tables], ignore_index=True),
            producer_cells=pd.concat([t["producer_cells"] for t in tables], ignore_index=True),
        )


def plan_of(settings: Mapping[str, Any] | None) -> Plan:
    """Bring settings by name, such as from a file, into one form.

    The signature of `simulate_cohort` says which there are, and the defaults of the rest.
    """
    known = inspect.signature(simulate_cohort).parameters
    given = dict(settings or {})
    unknown = [name for name in given if name not in known]
    if unknown:
        msg = f"Unknown setting {listing(unknown)}. A simulated cohort has {', '.join(known)}."
        raise InputError(msg)
    try:
        return Plan.of({name: parameter.default for name, parameter in known.items()} | given)
    except (TypeError, ValueError) as error:
        msg = f"The settings of the simulated cohort cannot be used: {error}."
        raise InputError(msg) from error


def _names(world: World) -> pd.Index:
    names: pd.Index = pd.Index(world.profiles.genes.index.to_numpy(dtype=str))
    return names


def _collect(plan: Plan) -> SimulatedCohort:
    """Draw the cohort of a plan and sum up its truth."""
    from anndata import AnnData

    world = make_world(plan)
    book = Book(world)
    counts, rows, empty = [], defaultdict(list), {}
    for sample in draw_samples(world):
        added = [book.open(sample)]
        for part in sample.parts():
            counts.append(part.counts.astype(np.float32))
            added.append(book.add(part, sample))
        for tables in added:
            for name, table in tables.items():
                rows[name].append(table)
        if plan.n_empty_droplets:
            name = sample.library.identity["sample"]
            empty[name] = sparse.csr_matrix(sample.empty_droplets().astype(np.float32))
    truth = book.tables()
    truth |= {name: pd.concat(parts, ignore_index=True) for name, parts in rows.items()}
    cells = truth["cells"]
    names = {name: lab for name, lab in LAB_NAMES.items() if name in cells.columns}
    obs = cells[list(names)].rename(columns=names).astype("category")
    obs.index = pd.Index(cells["cell"].to_numpy(dtype=str))
    adata = AnnData(
        X=sparse.csr_matrix(sparse.vstack(counts, format="csr")),
        obs=obs,
        var=pd.DataFrame(index=_names(world)),
        uns={"description": DESCRIPTION},
    )
    return SimulatedCohort(adata, empty, truth, describe(world))


def toy_cohort(*, state: Literal["raw", "annotated"] = "annotated") -> AnnData:
    """Make a small **simulated** cohort: vehicle and CAR T cells, three mice each, human genes.

    Parameters
    ----------
    state
        `raw`: as `crs_sc.read` gives it, with doublets and debris. `annotated`: the good cells,
        with what producer calls, ledger, pseudobulks, shifts and figures need: ambient RNA and
        contamination as `pp.estimate_ambient` finds them, log-normalised `X`, and the planted
        truth as `population`, `lineage` and `cluster`. `X_umap` is drawn from the truth: each
        population has its place on a circle.

    Returns
    -------
    AnnData of some 700 cells and 700 genes; the same at every call, and the caller's own.

    Raises
    ------
    InputError
        If `state` is another.

    Examples
    --------
    >>> import crs_sc as crs
    >>> adata = crs.datasets.toy_cohort()
    >>> adata.obs["condition"].cat.categories.to_list()
    ['CART', 'vehicle']
    """
    if state not in ("raw", "annotated"):
        msg = f"state must be 'raw' or 'annotated', got {state!r}."
        raise InputError(msg)
    return _simulated()[0].copy() if state == "raw" else _annotated().copy()


@lru_cache(maxsize=1)
def _simulated() -> tuple[AnnData, pd.DataFrame]:
    """Simulate the raw cohort: the cohort, and the truth of its droplets."""
    from anndata import AnnData

    samples = list(iter_samples(_TOY))
    genes = samples[0].genes
    human = np.asarray(genes.str.startswith(HUMAN_PREFIX))
    cells = pd.concat([sample.cells for sample in samples], ignore_index=True).set_index("cell")
    symbols = genes[human].str.removeprefix(HUMAN_PREFIX)
    adata = AnnData(
        obs=cells[[keys.SAMPLE, keys.SUBJECT, keys.CONDITION]].astype("category"),
        var=pd.DataFrame({keys.ORIGINAL_NAME: symbols}, index=symbols),
        uns={
            "description": DESCRIPTION,
            keys.UNS: {keys.MATRIX: "X", keys.ORGANISM: "human", keys.NOTES: []},
        },
    )
    counts = sparse.vstack([sample.counts for sample in samples], format="csr")
    adata.layers[keys.COUNTS] = sparse.csr_matrix(counts[:, human])
    adata.obs_names.name = adata.var_names.name = None
    return adata, cells


@lru_cache(maxsize=1)
def _annotated() -> AnnData:
    """Prepare the good cells of the raw cohort, with the planted truth as their types."""
    import scanpy as sc

    raw, cells = _simulated()
    adata = raw.copy()
    preprocessing.quality_control(adata)
    preprocessing.estimate_ambient(adata)
    singlet = (cells["droplet"] == "singlet").to_numpy()
    passed = (adata.obs[keys.QC_STATUS] == keys.PASS).to_numpy()
    adata = adata[singlet & passed].copy()
    preprocessing.normalize(adata)
    preprocessing.select_genes(adata)
    sc.pp.pca(adata, n_comps=20, mask_var=keys.HIGHLY_VARIABLE, random_state=0)
    population = cells.loc[adata.obs_names, keys.POPULATION]
    names = population.value_counts().index
    adata.obs[keys.POPULATION] = population.astype("category")
    adata.obs[keys.LINEAGE] = population.map(genesets.lineages()).astype("category")
    code = names.get_indexer(population)
    adata.obs[keys.CLUSTER] = pd.Categorical(code.astype(str), [str(k) for k in range(len(names))])
    angle = 2 * np.pi * code / len(names)
    centre = 10 * np.column_stack([np.cos(angle), np.sin(angle)])
    within = np.random.default_rng(0).standard_normal(centre.shape)
    adata.obsm[keys.UMAP] = (centre + within).astype(np.float32)
    return adata
