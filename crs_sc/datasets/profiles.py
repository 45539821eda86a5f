"""Genes of the simulated cohort and the expected expression of each population."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from crs_sc import genesets
from crs_sc.datasets._planted import (
    ARMS,
    POPULATIONS,
    PRODUCTION,
    RESPONSES,
    TARGETS,
    Population,
)
from crs_sc.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Profiles", "gene_universe", "make_profiles"]

HUMAN_PREFIX = "GRCh38_"
MOUSE_PREFIX = "mm10___"
# Share of a cell's UMI in genes that every cell expresses.
BUDGETS = {"mitochondrial": 0.05, "ribosomal": 0.22, "housekeeping": 0.23}
# Genes that no population of the cohort makes natively: haemoglobin comes with the soup alone.
ERYTHROID_SOUP = {"HBB": 0.5, "HBA1": 0.25, "HBA2": 0.25}
# Genes that are exactly zero outside their populations, as estimates of contamination assume:
# these, and every immunoglobulin and haemoglobin. Other markers leak.
EXCLUSIVE_ROLES = frozenset({"immunoglobulin", "classical", "haemoglobin"})
EXCLUSIVE_GENES = frozenset({"LYZ", "CD3D", "CD3E", "CD3G", "TRAC"})
LEAK = 0.01
# Where a gene of a signature is expressed if nothing else says so; other signatures everywhere.
SIGNATURE_ROLES = {
    "proliferation": ("activation", "blast"),
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
        Shape `(n_populations, n_genes)`, in the order of `POPULATIONS`; planted producer genes are
        zero, they are drawn by cell.
    programme
        Position in `RESPONSES` of the response that a gene follows, -1 for none, `(n_genes,)`.
    shift
        Planted log2 shift, shape `(n_arms, n_populations, n_responses)`, in the order of `ARMS`.
    produced
        Column of the gene of each entry of `PRODUCTION`, `(n_entries,)`.
    mitochondrial, female, male
        Masks over the genes; the latter two are expressed by one sex only.
    erythroid
        Composition of the erythroid part of the soup, shape `(n_genes,)`, sums to 1.
    """

    genes: pd.DataFrame
    rates: NDArray[np.float64]
    programme: NDArray[np.int64]
    shift: NDArray[np.float64]
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


def gene_universe(*, n_background_genes: int) -> pd.DataFrame:
    """All genes of the cohort: markers, signatures, cytokines, housekeeping and background.

    Parameters
    ----------
    n_background_genes
        How many human genes that mark nothing.

    Returns
    -------
    DataFrame indexed by the name in the file, columns symbol, species, roles (a tuple) and level
    (share of UMI where it is fixed, else missing). Sorted by species and symbol.

    Raises
    ------
    InputError
        If there are not so many.
    """
    roles: dict[tuple[str, str], list[str]] = {}
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
    for key in background[n_background_genes:]:
        del roles[key]
    for population, symbols in genesets.cell_type_panels().items():
        for symbol in symbols:
            roles.setdefault(("human", symbol), []).append(population)
    for name, symbols in genesets.signatures().items():
        for symbol in symbols:
            roles.setdefault(("human", symbol), list(SIGNATURE_ROLES.get(name, ())))
    species = {population.name: population.species for population in POPULATIONS}
    for plan in PRODUCTION:
        roles[species[plan.population], plan.gene] = ["produced"]
    for symbol in TARGETS:
        roles["human", symbol] = ["produced"]
    found = sorted(roles)
    prefix = {"human": HUMAN_PREFIX, "mouse": MOUSE_PREFIX}
    return pd.DataFrame(
        {
            "symbol": [symbol for _, symbol in found],
            "species": [name for name, _ in found],
            "roles": [tuple(roles[key]) for key in found],
            "level": [level.get(key, np.nan) for key in found],
        },
        index=pd.Index([prefix[name] + symbol for name, symbol in found], name="gene"),
    )


def make_profiles(
    *, n_background_genes: int, effect_scale: float, rng: np.random.Generator
) -> Profiles:
    """Draw the expression profile of each population.

    Parameters
    ----------
    n_background_genes
        How many human genes that mark nothing.
    effect_scale
        Multiplies the planted log2 shifts.
    rng
        Source of the draws.
    """
    genes = gene_universe(n_background_genes=n_background_genes)
    level = _levels(genes, rng)
    spread = _spread(len(genes), rng)
    rates = np.array(
        [
            _rates(genes, level * own, population)
            for own, population in zip(spread, POPULATIONS, strict=True)
        ]
    )
    symbols = genes["symbol"].where(genes["species"] == "human", "")
    erythroid = np.array([ERYTHROID_SOUP.get(symbol, 0.0) for symbol in symbols])
    # Symbols of the two species differ in case.
    position = {symbol: column for column, symbol in enumerate(genes["symbol"])}
    return Profiles(
        genes=genes[["symbol", "species"]],
        rates=rates,
        programme=_programmes(symbols),
        shift=effect_scale * _shifts(),
        produced=np.array([position[plan.gene] for plan in PRODUCTION]),
        mitochondrial=_has_role(genes, "mitochondrial"),
        female=(symbols == "XIST").to_numpy(),
        male=(symbols == "RPS4Y1").to_numpy(),
        erythroid=erythroid,
    )


def _has_role(genes: pd.DataFrame, role: str) -> NDArray[np.bool_]:
    return np.array([role in own for own in genes["roles"]])


def _levels(genes: pd.DataFrame, rng: np.random.Generator) -> NDArray[np.float64]:
    """Draw the share of UMI of each gene where it is fully on, before the budgets are applied."""
    broad = ("mitochondrial", "ribosomal", "housekeeping", "filler", "receptor")
    is_broad = np.any([_has_role(genes, role) for role in broad], axis=0)
    is_marker = np.array([not {"myeloid_response"}.issuperset(own) for own in genes["roles"]])
    median = np.where(is_broad, 1.2e-4, np.where(is_marker, 1.1e-3, 2.5e-4))
    spread = np.where(is_broad, 0.9, 0.4)
    return np.asarray(median * np.exp(spread * rng.standard_normal(len(genes))))


def _spread(
    n_genes: int, rng: np.random.Generator, *, lineage_sd: float = 0.3, own_sd: float = 0.12
) -> NDArray[np.float64]:
    """How populations differ in genes that mark nothing, those of one lineage less than others."""
    lineages = {
        population.lineage: lineage_sd * rng.standard_normal(n_genes) for population in POPULATIONS
    }
    shared = np.array([lineages[population.lineage] for population in POPULATIONS])
    return np.asarray(np.exp(shared + own_sd * rng.standard_normal(shared.shape)))


def _rates(
    genes: pd.DataFrame, level: NDArray[np.float64], population: Population
) -> NDArray[np.float64]:
    """Compute expected UMI of one population: its roles, the leak of the others, the budgets."""
    fixed = genes["level"].to_numpy(dtype=np.float64)
    level = np.where(np.isnan(fixed), level, fixed)
    own = np.array([_factor(roles, population) for roles in genes["roles"]])
    leaks = (own > 0) | ~_exclusive(genes)
    rate = level * np.where(leaks & ~_has_role(genes, "produced"), np.maximum(own, LEAK), 0.0)
    rate *= (genes["species"] == population.species).to_numpy()
    free = np.ones(len(genes), dtype=bool)
    for role, budget in BUDGETS.items():
        mine = _has_role(genes, role)
        rate[mine] *= budget / rate[mine].sum()
        free &= ~mine
    rate[free] *= (1 - sum(BUDGETS.values())) / rate[free].sum()
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


def _programmes(symbols: pd.Series) -> NDArray[np.int64]:
    """Response that each gene follows: the first signature of `RESPONSES` that has it."""
    signatures = genesets.signatures()
    programme = np.full(len(symbols), -1)
    for position, name in reversed(list(enumerate(RESPONSES))):
        programme[symbols.isin(signatures[name]).to_numpy()] = position
    return programme


def _shifts() -> NDArray[np.float64]:
    """Planted log2 shifts, arms x populations x responses."""
    shift = np.zeros((len(ARMS), len(POPULATIONS), len(RESPONSES)))
    for j, by_population in enumerate(RESPONSES.values()):
        for k, population in enumerate(POPULATIONS):
            shift[:, k, j] = by_population.get(population.name, (0.0,) * len(ARMS))
    return shift
