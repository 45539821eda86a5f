"""What is planted, and the expected expression of each population: `planted.yaml`, `genes.tsv`."""

from __future__ import annotations

import csv
from dataclasses import dataclass, replace
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import yaml

from crs_sc import genesets
from crs_sc.errors import InputError, listing

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from crs_sc.datasets.plan import Batches, Plan, Species

__all__ = [
    "ARMS",
    "CONTRASTS",
    "HUMAN_PREFIX",
    "TRANSGENE",
    "Cohort",
    "Population",
    "Production",
    "Profiles",
    "gene_universe",
    "make_profiles",
    "plant",
    "planted",
    "producers_of",
    "receptor_umi",
    "shares",
]

ARMS = ("vehicle", "CART", "CART_anakinra", "CART_tocilizumab")
# name, treated, reference, baseline
CONTRASTS: tuple[tuple[str, str, str, str | None], ...] = (
    ("cart", "CART", "vehicle", None),
    ("anakinra", "CART_anakinra", "CART", "vehicle"),
    ("tocilizumab", "CART_tocilizumab", "CART", "vehicle"),
)
# Nothing is planted here: no production, no response, the same share of the cells in every arm.
NULL_POPULATION = "NK"
TRANSGENE = "CAR"

Arms = tuple[float, float, float, float]


@dataclass(frozen=True)
class Population:
    """One simulated cell type; `planted.yaml` says what the fields are."""

    name: str
    lineage: str
    species: str
    umi: float
    share: Arms
    roles: dict[str, float]


@dataclass(frozen=True)
class Production:
    """Planted production of one gene by one population, by arm in the order of `ARMS`."""

    gene: str
    population: str
    share: Arms
    umi: Arms


HUMAN_PREFIX = "GRCh38_"
MOUSE_PREFIX = "mm10___"
# Share of a cell's UMI in genes that every cell expresses.
BUDGETS = {"mitochondrial": 0.05, "ribosomal": 0.22, "housekeeping": 0.23}
# Genes that no population of the cohort makes natively: haemoglobin comes with ambient RNA alone.
ERYTHROID_AMBIENT = {
    "human": {"HBB": 0.5, "HBA1": 0.25, "HBA2": 0.25},
    "mouse": {"Hbb-bs": 0.5, "Hba-a1": 0.25, "Hba-a2": 0.25},
}
# Genes that are exactly zero outside their populations, as estimates of contamination assume:
# these, and every immunoglobulin and haemoglobin. Other markers leak.
EXCLUSIVE_ROLES = frozenset({"immunoglobulin", "classical", "haemoglobin"})
EXCLUSIVE_GENES = frozenset(
    {"LYZ", "CD3D", "CD3E", "CD3G", "TRAC", "Lyz2", "S100a8", "S100a9", "Cd3d", "Cd3e", "Cd3g"}
)
LEAK = 0.01
# Responses are near zero in resting cells. Median share of a cell's UMI of a signature's genes at
# rest, in cells that express them at all; a gene of several signatures follows the first of them.
# The order of size is that of healthy blood mononuclear cells.
REST = {
    "il6_stat3_response": 8e-5,
    "il1_response": 5e-5,
    "ifn_gamma_response": 3e-5,
    "type1_ifn_response": 2e-5,
    "nfkb_response": 6e-5,
    "gmcsf_response": 3e-5,
    "inflammatory_monocyte": 4e-5,
    "inflammasome": 1e-4,
    "anti_inflammatory": 1e-4,
}
REST_SD = 0.4
# Signatures that share genes with the marker panels, in which they are not at rest.
ALSO_MARKERS = frozenset({"gmcsf_response", "inflammatory_monocyte", "inflammasome"}) | {
    "anti_inflammatory"
}
# Markers of one mouse population that all myeloid cells have.
PAN_MYELOID = frozenset({"Lyz2"})
# Where a gene of a signature is expressed if nothing else says so; other signatures everywhere.
SIGNATURE_ROLES = {
    "proliferation": ("proliferation",),
    "cytotoxicity": ("cytotoxic",),
    "hla_dr": ("dc", "b", "blast"),
    "s100a_high": ("classical",),
    "inflammatory_monocyte": ("myeloid_response",),
    "inflammasome": ("myeloid",),
    "anti_inflammatory": ("myeloid",),
}


@dataclass(frozen=True)
class Cohort:
    """Everything planted.

    Attributes
    ----------
    species
        The species that is analysed: human, or mouse where the host's macrophages are the source.
    populations
        Those of the analysed species, then those of the other.
    production
        Who makes what; scaled as asked for.
    responses
        Signature, then population: log2 shift against vehicle by arm. A gene of several
        signatures follows the first of them.
    targets
        Cytokines of the ledger, in the analysed species.
    """

    species: Species
    populations: tuple[Population, ...]
    production: tuple[Production, ...]
    responses: dict[str, dict[str, Arms]]
    targets: tuple[str, ...]

    @property
    def names(self) -> list[str]:
        """Names of the populations."""
        return [population.name for population in self.populations]

    @property
    def analysed(self) -> NDArray[np.bool_]:
        """Which populations are of the analysed species."""
        return np.array([population.species == self.species for population in self.populations])

    @property
    def null_population(self) -> str | None:
        """A population without any effect, if the cohort has it."""
        return NULL_POPULATION if NULL_POPULATION in self.names else None

    def producing(self) -> NDArray[np.int64]:
        """Position of the population of each entry of `production`."""
        return np.array(
            [self.names.index(entry.population) for entry in self.production], dtype=int
        )

    def lysis_weights(self, lysis: dict[str, float]) -> NDArray[np.float64]:
        """Weight of each population in ambient RNA, by its name or else its lineage."""
        return np.array([lysis.get(p.name, lysis.get(p.lineage, 1.0)) for p in self.populations])


def plant(plan: Plan) -> Cohort:
    """Choose what is planted; an error names a population, lineage or gene that is not there."""
    own, others, production = _choose(plan)
    responses = {
        signature: {name: tuple(shift) for name, shift in shifts.items()}
        for signature, shifts in planted()[plan.myeloid_species]["responses"].items()
    }
    if plan.populations is not None:
        known = [population.name for population in own]
        _refuse_unknown("populations", plan.populations, known)
        if not plan.populations:
            msg = f"populations must name one or more of {listing(known)}."
            raise InputError(msg)
        own = tuple(population for population in own if population.name in plan.populations)
    populations = own + others
    names = {population.name for population in populations}
    lineages = {population.lineage for population in populations}
    production = tuple(entry for entry in production if entry.population in names)
    targets = tuple(genesets.target_cytokines(organism=plan.myeloid_species))
    _refuse_unknown("lysis", plan.lysis, sorted(names | lineages))
    _refuse_unknown("courses", plan.courses, [*targets, *responses])
    if isinstance(plan.production_scale, dict):
        genes = {*targets, *(entry.gene for entry in production)}
        _refuse_unknown("production_scale", plan.production_scale, sorted(genes | names | lineages))
    lineage_of = {population.name: population.lineage for population in populations}
    cohort = Cohort(
        plan.myeloid_species,
        populations,
        tuple(_scaled(entry, lineage_of[entry.population], plan) for entry in production),
        responses,
        targets,
    )
    _check_present(cohort, plan)
    return cohort


def shares(cohort: Cohort, arm: int, *, effect: float) -> NDArray[np.float64]:
    """Mean share of each population among the cells of its species.

    `arm` is a position in `ARMS`, `effect` how far to go from the first arm to this one. Shape
    `(n_populations,)`; sums to 1 in each species, or is 0 in a species without cells.
    """
    planted = np.array([population.share for population in cohort.populations])
    mean = np.maximum(planted[:, 0] + effect * (planted[:, arm] - planted[:, 0]), 0.0)
    for species in (cohort.analysed, ~cohort.analysed):
        total = mean[species].sum()
        mean[species] /= total if total > 0 else 1.0
    return np.asarray(mean)


def producers_of(entry: Production, arm: int, *, effect: float) -> tuple[float, float]:
    """Share of producers and mean UMI of a producer; `arm` and `effect` as for :func:`shares`."""
    share = entry.share[0] + effect * (entry.share[arm] - entry.share[0])
    umi = entry.umi[0] + effect * (entry.umi[arm] - entry.umi[0])
    return min(max(share, 0.0), 1.0), max(umi, 1.0)


def _choose(
    plan: Plan,
) -> tuple[tuple[Population, ...], tuple[Population, ...], tuple[Production, ...]]:
    """Choose populations of the analysed species, those of the other, and who makes what."""
    data = planted()
    blasts = {name: _population(entry, "human") for name, entry in data["leukaemia"].items()}
    blast = () if plan.leukaemia == "none" else (blasts[plan.leukaemia],)
    chosen = data[plan.myeloid_species]
    own = tuple(_population(entry, plan.myeloid_species) for entry in chosen["populations"])
    production = tuple(
        Production(gene, population, tuple(share), tuple(umi))
        for gene, population, share, umi in chosen["production"]
    )
    if plan.myeloid_species == "human":
        return own + blast, (_population(chosen["others"][0], "mouse"),), production
    human = next(p for p in data["human"]["populations"] if p["name"] == "CAR T")
    others = [_population(human | {"share": chosen["car_t_share"]}, "human")]
    others += [replace(p, share=tuple(chosen["tumour_share"])) for p in blast]
    return own, tuple(others), production


@cache
def planted() -> dict[str, Any]:
    """Return what `planted.yaml` says."""
    with resources.files("crs_sc.datasets").joinpath("planted.yaml").open(encoding="utf-8") as file:
        return dict(yaml.safe_load(file))


def _population(entry: dict[str, Any], species: str) -> Population:
    return Population(**{**entry, "share": tuple(entry["share"]), "species": species})


def _scaled(entry: Production, lineage: str, plan: Plan) -> Production:
    """Production with the share of producers scaled; the transgene is no cytokine."""
    scale = plan.production_scale
    if isinstance(scale, dict):
        factor = 1.0
        for name in {entry.gene, entry.population, lineage}:
            factor *= scale.get(name, 1.0)
    else:
        factor = scale
    if entry.gene == TRANSGENE:
        return entry
    low, cart, anakinra, tocilizumab = (min(factor * share, 1.0) for share in entry.share)
    return replace(entry, share=(low, cart, anakinra, tocilizumab))


def _refuse_unknown(setting: str, given: Iterable[str], known: list[str]) -> None:
    unknown = [name for name in given if name not in known]
    if unknown:
        msg = (
            f"{setting} names {listing(unknown)}, which the cohort does not have. "
            f"It has {', '.join(known)}."
        )
        raise InputError(msg)


def _check_present(cohort: Cohort, plan: Plan) -> None:
    """Raise unless every library has cells, and something that lyses."""
    weights = cohort.lysis_weights(plan.lysis)
    for library in plan.libraries():
        share = shares(cohort, library.arm, effect=library.effect.overall) * cohort.analysed
        where = f"in sample '{library.identity['sample']}' ({library.identity['condition']})"
        if not share.any():
            msg = f"populations: none of those asked for is present {where}."
            raise InputError(msg)
        if not (weights * share).any():
            msg = f"lysis: no population lyses {where}. Give one of them a weight above 0."
            raise InputError(msg)


def receptor_umi(population: Population) -> dict[str, float]:
    """UMI per million of each receptor, by the symbol in the species of the population."""
    receptors = planted()["receptors"]
    symbols = {gene: [gene] for gene in receptors}
    if population.species == "mouse":
        pairs = genesets.orthologs()
        pairs = pairs[pairs["mouse"] != ""]
        symbols = {gene: pairs.loc[pairs["human"] == gene, "mouse"].tolist() for gene in receptors}
    return {
        symbol: float(by_name.get(population.name, by_name.get(population.lineage, 0)))
        for gene, by_name in receptors.items()
        for symbol in symbols[gene]
    }


@dataclass(frozen=True)
class Profiles:
    """Expected native UMI of a cell of mean depth, and how the arms move it.

    Attributes
    ----------
    genes
        Indexed by the name in the file, columns symbol, species.
    rates
        Shape `(n_populations, n_genes)`, in the order of the cohort; planted producer genes are
        zero, they are drawn by cell.
    programme
        Position of the response that a gene follows, -1 for none, `(n_genes,)`.
    shift
        Planted log2 shift, shape `(n_arms, n_populations, n_responses)`, in the order of `ARMS`.
    batch
        Effect of each batch on each gene, natural log, `(n_batches, n_genes)`.
    produced
        Column of the gene of each entry of the planted production, `(n_entries,)`.
    mitochondrial, female, male
        Masks over the genes; the latter two are expressed by one sex only.
    erythroid
        Composition of the erythroid part of ambient RNA, shape `(n_genes,)`, sums to 1.
    """

    genes: pd.DataFrame
    rates: NDArray[np.float64]
    programme: NDArray[np.int64]
    shift: NDArray[np.float64]
    batch: NDArray[np.float64]
    produced: NDArray[np.int64]
    mitochondrial: NDArray[np.bool_]
    female: NDArray[np.bool_]
    male: NDArray[np.bool_]
    erythroid: NDArray[np.float64]

    def gene_shift(self, response_shift: NDArray[np.float64]) -> NDArray[np.float64]:
        """Give each gene, `(..., n_genes)`, the shift of its response, or 0 if it has none."""
        none = np.zeros((*response_shift.shape[:-1], 1))
        return np.concatenate([response_shift, none], axis=-1)[..., self.programme]


def gene_universe(cohort: Cohort, *, n_background_genes: int) -> pd.DataFrame:
    """All genes of the cohort: markers, signatures, cytokines, housekeeping and background.

    `n_background_genes` human genes mark nothing, and as many mouse genes where the mouse is
    analysed. Indexed by the name in the file, columns symbol, species, roles (a tuple), level
    (share of UMI where it is fixed, else missing) and rest (the same at rest, for genes of a
    response). Sorted by species and symbol.
    """
    roles, level = _read_genes(cohort.species, n_background_genes)
    rest: dict[tuple[str, str], float] = {}
    for population in cohort.populations:
        for symbol in receptor_umi(population):
            roles.setdefault((population.species, symbol), ["receptor"])
    _add_sets(roles, rest, "human")
    if cohort.species == "mouse":
        _add_sets(roles, rest, "mouse")
    species = {population.name: population.species for population in cohort.populations}
    produced = {(species[entry.population], entry.gene) for entry in cohort.production}
    targets = {(cohort.species, symbol) for symbol in cohort.targets}
    human = {("human", symbol) for symbol in (*genesets.TARGET_CYTOKINES, TRANSGENE)}
    for key in sorted(produced | targets | human):
        roles[key] = ["produced"]
    found = sorted(roles)
    prefix = {"human": HUMAN_PREFIX, "mouse": MOUSE_PREFIX}
    return pd.DataFrame(
        {
            "symbol": [symbol for _, symbol in found],
            "species": [name for name, _ in found],
            "roles": [tuple(roles[key]) for key in found],
            "level": [level.get(key, np.nan) for key in found],
            "rest": [rest.get(key, np.nan) for key in found],
        },
        index=pd.Index([prefix[name] + symbol for name, symbol in found], name="gene"),
    )


_Roles = dict[tuple[str, str], list[str]]


def _read_genes(
    species: Species, n_background_genes: int
) -> tuple[_Roles, dict[tuple[str, str], float]]:
    """Genes of the packaged list: their roles, and their level where it is fixed."""
    roles: _Roles = {}
    level: dict[tuple[str, str], float] = {}
    with resources.files("crs_sc.datasets").joinpath("genes.tsv").open(encoding="utf-8") as handle:
        for row in csv.DictReader(handle, delimiter="\t"):
            roles[row["species"], row["symbol"]] = row["roles"].split(",")
            if row["level"]:
                level[row["species"], row["symbol"]] = float(row["level"])
    background = [key for key, own in roles.items() if own == ["filler"] and key[0] == "human"]
    if not 0 <= n_background_genes <= len(background):
        msg = (
            f"n_background_genes must be between 0 and {len(background)}, "
            f"got {n_background_genes!r}."
        )
        raise InputError(msg)
    host = [key for key, own in roles.items() if own == ["host"]]
    kept = host[:n_background_genes] if species == "mouse" else []
    for key in background[n_background_genes:] + host:
        del roles[key]
    roles |= {key: ["filler"] for key in kept}
    return roles, level


def _add_sets(roles: _Roles, rest: dict[tuple[str, str], float], organism: Species) -> None:
    """Add the marker panels and signatures of an organism, and the rest of the responses."""
    panels = genesets.cell_type_panels(organism=organism)
    for population, symbols in panels.items():
        for symbol in symbols:
            own = roles.setdefault((organism, symbol), [])
            # The packaged list has one kind of mouse cell; here a marker marks its own.
            if organism == "mouse" and "myeloid" in own and symbol not in PAN_MYELOID:
                own.remove("myeloid")
            own.append(population)
    markers = {symbol for symbols in panels.values() for symbol in symbols}
    signatures = genesets.signatures(organism=organism)
    for name, symbols in signatures.items():
        for symbol in symbols:
            roles.setdefault((organism, symbol), list(SIGNATURE_ROLES.get(name, ())))
    for name, share in REST.items():
        for symbol in set(signatures[name]) - (markers if name in ALSO_MARKERS else set()):
            rest.setdefault((organism, symbol), share)
    for key, own in roles.items():
        if key[0] == organism and "myeloid_response" in own:
            rest.setdefault(key, REST["inflammatory_monocyte"])


def make_profiles(cohort: Cohort, plan: Plan, *, rng: np.random.Generator) -> Profiles:
    """Draw the expression profile of each population."""
    genes = gene_universe(cohort, n_background_genes=plan.n_background_genes)
    level = _levels(genes, rng)
    differs = _lineage_factors(len(genes), cohort, rng)
    rates = np.array(
        [
            _rates(genes, level * own, population)
            for own, population in zip(differs, cohort.populations, strict=True)
        ]
    )
    symbols = genes["symbol"].where(genes["species"] == cohort.species, "")
    ambient = ERYTHROID_AMBIENT[cohort.species]
    # Symbols of the two species differ in case.
    position = {symbol: column for column, symbol in enumerate(genes["symbol"])}
    return Profiles(
        genes=genes[["symbol", "species"]],
        rates=rates,
        programme=_programmes(symbols, cohort),
        shift=_shifts(cohort),
        batch=_batches(len(genes), plan.batches, rng),
        produced=np.array([position[entry.gene] for entry in cohort.production], dtype=int),
        mitochondrial=_has_role(genes, "mitochondrial"),
        female=(genes["symbol"] == "XIST").to_numpy(),
        male=(genes["symbol"] == "RPS4Y1").to_numpy(),
        erythroid=np.array([ambient.get(symbol, 0.0) for symbol in symbols]),
    )


def _batches(
    n_genes: int, batches: Batches | None, rng: np.random.Generator
) -> NDArray[np.float64]:
    """Effect of each batch on each gene, natural log; the last draw, so that it moves no other."""
    if batches is None:
        return np.zeros((0, n_genes))
    return batches.sd * rng.standard_normal((batches.number, n_genes))


def _has_role(genes: pd.DataFrame, role: str) -> NDArray[np.bool_]:
    return np.array([role in own for own in genes["roles"]])


def _levels(genes: pd.DataFrame, rng: np.random.Generator) -> NDArray[np.float64]:
    """Draw the share of UMI of each gene where it is fully on, before the budgets are applied."""
    broad = ("mitochondrial", "ribosomal", "housekeeping", "filler", "receptor")
    is_broad = np.any([_has_role(genes, role) for role in broad], axis=0)
    is_marker = np.array([not {"myeloid_response"}.issuperset(own) for own in genes["roles"]])
    median = np.where(is_broad, 1.2e-4, np.where(is_marker, 1.1e-3, 2.5e-4))
    sd = np.where(is_broad, 0.9, 0.4)
    rest = genes["rest"].to_numpy(dtype=np.float64)
    median = np.where(np.isnan(rest), median, rest)
    sd = np.where(np.isnan(rest), sd, REST_SD)
    return np.asarray(median * np.exp(sd * rng.standard_normal(len(genes))))


def _lineage_factors(
    n_genes: int,
    cohort: Cohort,
    rng: np.random.Generator,
    *,
    lineage_sd: float = 0.3,
    own_sd: float = 0.12,
) -> NDArray[np.float64]:
    """How populations differ in genes that mark nothing, those of one lineage less than others."""
    lineages = {
        population.lineage: lineage_sd * rng.standard_normal(n_genes)
        for population in cohort.populations
    }
    shared = np.array([lineages[population.lineage] for population in cohort.populations])
    return np.asarray(np.exp(shared + own_sd * rng.standard_normal(shared.shape)))


def _rates(
    genes: pd.DataFrame, level: NDArray[np.float64], population: Population
) -> NDArray[np.float64]:
    """Compute expected UMI of one population: its roles, the leak of the others, the budgets."""
    fixed = genes["level"].to_numpy(dtype=np.float64)
    at_rest = genes["rest"].notna().to_numpy()
    level = np.where(np.isnan(fixed) | at_rest, level, fixed)
    own = np.array([_factor(roles, population) for roles in genes["roles"]])
    leaks = (own > 0) | ~_exclusive(genes)
    rate = level * np.where(leaks & ~_has_role(genes, "produced"), np.maximum(own, LEAK), 0.0)
    rate *= (genes["species"] == population.species).to_numpy()
    free = ~at_rest
    for role, budget in BUDGETS.items():
        mine = _has_role(genes, role) & ~at_rest
        rate[mine] *= budget / rate[mine].sum()
        free &= ~mine
    rate[free] *= (1 - sum(BUDGETS.values()) - rate[at_rest].sum()) / rate[free].sum()
    receptors = genes["symbol"].map(receptor_umi(population)).to_numpy(dtype=np.float64)
    is_own_genome = (genes["species"] == population.species).to_numpy()
    rate = np.where(is_own_genome & ~np.isnan(receptors), receptors / 1e6, rate)
    return np.asarray(population.umi * rate)


def _factor(roles: tuple[str, ...], population: Population) -> float:
    """Expression of a gene in a population over the gene's level; 1 if the gene marks nothing."""
    marking = [role for role in roles if role not in {*BUDGETS, "filler", "receptor", "sex"}]
    return max((population.roles.get(role, 0.0) for role in marking), default=1.0)


def _exclusive(genes: pd.DataFrame) -> NDArray[np.bool_]:
    """Which genes are exactly zero outside their populations."""
    by_role = [not EXCLUSIVE_ROLES.isdisjoint(roles) for roles in genes["roles"]]
    symbols = genes["symbol"].to_list()
    family = genesets.immunoglobulin_genes(symbols) | genesets.haemoglobin_genes(symbols)
    return np.asarray(by_role | family | genes["symbol"].isin(EXCLUSIVE_GENES).to_numpy())


def _programmes(symbols: pd.Series, cohort: Cohort) -> NDArray[np.int64]:
    """Response that each gene follows: the first signature of the responses that has it."""
    signatures = genesets.signatures(organism=cohort.species)
    programme = np.full(len(symbols), -1)
    for position, name in reversed(list(enumerate(cohort.responses))):
        programme[symbols.isin(signatures[name]).to_numpy()] = position
    return programme


def _shifts(cohort: Cohort) -> NDArray[np.float64]:
    """Planted log2 shifts, arms x populations x responses."""
    shift = np.zeros((len(ARMS), len(cohort.populations), len(cohort.responses)))
    for j, by_population in enumerate(cohort.responses.values()):
        for k, population in enumerate(cohort.populations):
            shift[:, k, j] = by_population.get(population.name, (0.0,) * len(ARMS))
    return shift * cohort.analysed[:, None]
