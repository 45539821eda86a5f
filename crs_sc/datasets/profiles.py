"""Genes of the simulated cohort and the expected expression of each population."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from crs_sc import genesets
from crs_sc.datasets._planted import ARMS, TRANSGENE, Population
from crs_sc.datasets._receptors import receptor_umi
from crs_sc.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from crs_sc.datasets._cohort import Cohort
    from crs_sc.datasets._plan import Batches, Plan, Species

__all__ = ["Profiles", "gene_universe", "make_profiles"]

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
        """Spread shifts of the responses over their genes.

        Parameters
        ----------
        response_shift
            Shape `(..., n_responses)`.

        Returns
        -------
        Shape `(..., n_genes)`, zero for genes of no response.
        """
        none = np.zeros((*response_shift.shape[:-1], 1))
        return np.concatenate([response_shift, none], axis=-1)[..., self.programme]


def gene_universe(cohort: Cohort, *, n_background_genes: int) -> pd.DataFrame:
    """All genes of the cohort: markers, signatures, cytokines, housekeeping and background.

    Parameters
    ----------
    cohort
        What is planted.
    n_background_genes
        How many human genes that mark nothing, and as many mouse genes where the mouse is analysed.

    Returns
    -------
    DataFrame indexed by the name in the file, columns symbol, species, roles (a tuple), level
    (share of UMI where it is fixed, else missing) and rest (the same at rest, for genes of a
    response). Sorted by species and symbol.

    Raises
    ------
    InputError
        If there are not so many.
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
    """Draw the expression profile of each population.

    Parameters
    ----------
    cohort
        What is planted.
    plan
        Settings.
    rng
        Source of the draws.
    """
    genes = gene_universe(cohort, n_background_genes=plan.n_background_genes)
    level = _levels(genes, rng)
    spread = _spread(len(genes), cohort, rng)
    rates = np.array(
        [
            _rates(genes, level * own, population)
            for own, population in zip(spread, cohort.populations, strict=True)
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
    spread = np.where(is_broad, 0.9, 0.4)
    rest = genes["rest"].to_numpy(dtype=np.float64)
    median = np.where(np.isnan(rest), median, rest)
    spread = np.where(np.isnan(rest), spread, REST_SD)
    return np.asarray(median * np.exp(spread * rng.standard_normal(len(genes))))


def _spread(
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
    heard = genes["symbol"].map(receptor_umi(population)).to_numpy(dtype=np.float64)
    own_genome = (genes["species"] == population.species).to_numpy()
    rate = np.where(own_genome & ~np.isnan(heard), heard / 1e6, rate)
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
