"""What is planted in a simulated cohort whose monocytes are human.

The numbers are the simulator's own. They follow the order of the published findings (monocytes
make IL-1 and IL-6, anakinra and tocilizumab each take away their own axis) and no data set.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = [
    "ARMS",
    "CONTRASTS",
    "LEUKAEMIA",
    "NULL_POPULATION",
    "OTHERS",
    "POPULATIONS",
    "PRODUCTION",
    "RESPONSES",
    "TRANSGENE",
    "Arms",
    "Population",
    "Production",
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
    """One simulated cell type.

    Attributes
    ----------
    name, lineage, species
        As in the marker table; `species` is human or mouse.
    umi
        Mean UMI of a good cell, without ambient RNA.
    share
        Mean share among the cells of its species in a sample, by arm in the order of `ARMS`.
    roles
        Expression of the genes of a role, over the level of these genes. A role is a word of
        `genes.tsv` or the name of a marker panel.
    """

    name: str
    lineage: str
    species: str
    umi: float
    share: Arms
    roles: dict[str, float]


POPULATIONS: tuple[Population, ...] = (
    Population(
        "Classical monocyte",
        "Monocyte",
        "human",
        4700,
        (0.16, 0.24, 0.21, 0.235),
        {"Classical monocyte": 1, "myeloid": 1, "classical": 1, "dc": 0.3, "myeloid_response": 1},
    ),
    Population(
        "Non-classical monocyte",
        "Monocyte",
        "human",
        4400,
        (0.07, 0.07, 0.07, 0.07),
        {
            "Non-classical monocyte": 1,
            "myeloid": 1,
            "classical": 0.04,
            "dc": 0.5,
            "myeloid_response": 1,
        },
    ),
    Population(
        "cDC2",
        "DC",
        "human",
        4500,
        (0.05, 0.05, 0.05, 0.05),
        {"cDC2": 1.5, "myeloid": 0.5, "classical": 0.03, "dc": 1.5, "myeloid_response": 1},
    ),
    Population(
        "CD4 T",
        "T",
        "human",
        2300,
        (0.16, 0.12, 0.125, 0.12),
        {"CD4 T": 1.2, "t": 1},
    ),
    Population(
        "CD8 T",
        "T",
        "human",
        2300,
        (0.12, 0.10, 0.105, 0.10),
        {"CD8 T": 1.2, "t": 1, "cytotoxic": 0.6},
    ),
    Population(
        "CAR T",
        "T",
        "human",
        3300,
        (0.0, 0.12, 0.13, 0.12),
        {"CD8 T": 0.8, "CD4 T": 0.3, "t": 1, "cytotoxic": 1, "activation": 0.8}
        | {"proliferation": 0.8},
    ),
    Population(
        NULL_POPULATION,
        "NK",
        "human",
        2400,
        (0.11, 0.11, 0.11, 0.11),
        {"NK": 1.2, "nk": 1, "cytotoxic": 1.2},
    ),
    Population(
        "B",
        "B",
        "human",
        2300,
        (0.11, 0.07, 0.07, 0.07),
        {"B": 1.2, "b": 1, "immunoglobulin": 1},
    ),
)
# Of these, the cohort has one or none.
LEUKAEMIA: dict[str, Population] = {
    "B-ALL": Population(
        "B-ALL blast",
        "Blast",
        "human",
        3200,
        (0.22, 0.12, 0.13, 0.125),
        {"B-ALL blast": 1.2, "blast": 1, "proliferation": 1},
    ),
    # Like THP-1: granules and proliferation beside a part of the programme of monocytes.
    "monocytic": Population(
        "AML blast",
        "Blast",
        "human",
        4000,
        (0.22, 0.12, 0.13, 0.125),
        {"AML blast": 1.2, "proliferation": 1, "myeloid": 0.3, "classical": 0.04, "dc": 0.1},
    ),
}
# Cells of the species that is not analysed.
OTHERS: tuple[Population, ...] = (
    Population("Mouse myeloid", "Macrophage", "mouse", 3500, (1, 1, 1, 1), {"myeloid": 1}),
)


@dataclass(frozen=True)
class Production:
    """Planted production of one gene by one population, by arm in the order of `ARMS`.

    Attributes
    ----------
    gene, population
        Who makes what.
    share
        Probability that a cell is a producer.
    umi
        Mean UMI of a producer in a cell of mean depth; at least 1.
    """

    gene: str
    population: str
    share: Arms
    umi: Arms


PRODUCTION: tuple[Production, ...] = (
    Production("IL1B", "Classical monocyte", (0.05, 0.55, 0.45, 0.50), (3, 8, 6, 8)),
    Production("IL1B", "Non-classical monocyte", (0.02, 0.20, 0.16, 0.18), (3, 4, 4, 4)),
    Production("IL1B", "cDC2", (0.02, 0.15, 0.12, 0.14), (3, 3, 3, 3)),
    Production("IL6", "Classical monocyte", (0.005, 0.30, 0.15, 0.30), (2, 4, 3, 4)),
    Production("IL6", "Non-classical monocyte", (0.0, 0.02, 0.01, 0.02), (2, 2, 2, 2)),
    Production("IL6", "cDC2", (0.0, 0.04, 0.02, 0.04), (2, 2, 2, 2)),
    Production("IL1A", "Classical monocyte", (0.003, 0.06, 0.03, 0.05), (2, 2, 2, 2)),
    Production("TNF", "Classical monocyte", (0.04, 0.30, 0.20, 0.28), (3, 3, 3, 3)),
    Production("TNF", "Non-classical monocyte", (0.04, 0.35, 0.28, 0.33), (3, 3, 3, 3)),
    Production("TNF", "CAR T", (0.0, 0.08, 0.08, 0.08), (2, 2, 2, 2)),
    Production("CXCL8", "Classical monocyte", (0.15, 0.60, 0.45, 0.58), (5, 10, 7, 10)),
    Production("CXCL8", "Non-classical monocyte", (0.04, 0.15, 0.10, 0.15), (3, 5, 4, 5)),
    Production("CXCL8", "cDC2", (0.05, 0.20, 0.14, 0.20), (3, 5, 4, 5)),
    Production("CCL2", "Classical monocyte", (0.03, 0.40, 0.28, 0.38), (3, 6, 5, 6)),
    Production("CCL2", "Non-classical monocyte", (0.01, 0.10, 0.07, 0.10), (2, 3, 3, 3)),
    Production("IL1RN", "Classical monocyte", (0.05, 0.45, 0.40, 0.40), (3, 4, 4, 4)),
    Production("IL1RN", "Non-classical monocyte", (0.05, 0.30, 0.28, 0.28), (3, 4, 4, 4)),
    Production("IL18", "Classical monocyte", (0.05, 0.07, 0.07, 0.07), (2, 2, 2, 2)),
    Production("IL18", "cDC2", (0.04, 0.05, 0.05, 0.05), (2, 2, 2, 2)),
    Production("CSF2", "CAR T", (0.0, 0.30, 0.30, 0.30), (3, 3, 3, 3)),
    Production("CSF2", "CD4 T", (0.005, 0.02, 0.02, 0.02), (2, 2, 2, 2)),
    Production("IFNG", "CAR T", (0.0, 0.35, 0.35, 0.35), (4, 4, 4, 4)),
    Production("IFNG", "CD8 T", (0.02, 0.10, 0.10, 0.10), (2, 3, 3, 3)),
    # The transgene is read from its 3' end: a fifth of the CAR T cells show none of it.
    Production(TRANSGENE, "CAR T", (0.0, 0.8, 0.8, 0.8), (3, 3, 3, 3)),
    # Two genes of the other species, never to be added to IL1B and IL6.
    Production("Il1b", "Mouse myeloid", (0.05, 0.40, 0.35, 0.40), (2, 4, 4, 4)),
    Production("Il6", "Mouse myeloid", (0.01, 0.10, 0.08, 0.10), (2, 3, 3, 3)),
)

# Signature, then population: log2 shift of its genes against vehicle, by arm. A gene of several
# signatures follows the first of them.
RESPONSES: dict[str, dict[str, Arms]] = {
    "il6_stat3_response": {
        "Classical monocyte": (0, 1.3, 0.8, 0.15),
        "Non-classical monocyte": (0, 1.2, 0.8, 0.15),
        "cDC2": (0, 1.0, 0.6, 0.1),
        "CD4 T": (0, 0.9, 0.6, 0.1),
        "CD8 T": (0, 0.7, 0.5, 0.1),
        "B": (0, 0.5, 0.3, 0.05),
    },
    "il1_response": {
        "Classical monocyte": (0, 1.5, 0.3, 1.4),
        "Non-classical monocyte": (0, 1.2, 0.25, 1.1),
        "cDC2": (0, 1.0, 0.2, 0.9),
        "CD4 T": (0, 0.3, 0.05, 0.3),
    },
    "ifn_gamma_response": {
        "Classical monocyte": (0, 3.0, 2.9, 3.0),
        "Non-classical monocyte": (0, 2.8, 2.7, 2.8),
        "cDC2": (0, 2.5, 2.4, 2.5),
        "CD4 T": (0, 1.0, 1.0, 1.0),
        "CD8 T": (0, 1.0, 1.0, 1.0),
        "B": (0, 1.5, 1.5, 1.5),
        "B-ALL blast": (0, 1.2, 1.2, 1.2),
        "AML blast": (0, 1.2, 1.2, 1.2),
    },
    "type1_ifn_response": {
        "Classical monocyte": (0, 1.5, 1.5, 1.5),
        "Non-classical monocyte": (0, 1.5, 1.5, 1.5),
        "cDC2": (0, 1.2, 1.2, 1.2),
    },
    "nfkb_response": {
        "Classical monocyte": (0, 1.1, 0.6, 1.0),
        "Non-classical monocyte": (0, 0.9, 0.5, 0.8),
        "cDC2": (0, 0.8, 0.4, 0.7),
    },
}
