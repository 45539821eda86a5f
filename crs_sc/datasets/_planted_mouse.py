"""What is planted in a simulated cohort whose macrophages are the host's: mouse, not human.

As in mice without human monocytes: the CAR T cells and the tumour are human, and the recipient's
macrophages make Il1b and Il6. Human IFN-gamma does not reach mouse cells, and tocilizumab does not
block the mouse receptor of IL-6: neither moves them here.
"""

from __future__ import annotations

from crs_sc.datasets._planted import (
    NULL_POPULATION,
    TRANSGENE,
    Arms,
    Population,
    Production,
)

__all__ = ["CAR_T_SHARE", "POPULATIONS", "PRODUCTION", "RESPONSES", "TUMOUR_SHARE"]

POPULATIONS: tuple[Population, ...] = (
    Population(
        "Macrophage",
        "Macrophage",
        "mouse",
        4500,
        (0.43, 0.46, 0.45, 0.46),
        {"Macrophage": 1, "myeloid": 1, "Classical monocyte": 0.05, "myeloid_response": 1},
    ),
    Population(
        "Classical monocyte",
        "Monocyte",
        "mouse",
        3800,
        (0.14, 0.21, 0.18, 0.21),
        {"Classical monocyte": 1.2, "myeloid": 1, "Macrophage": 0.03, "myeloid_response": 1},
    ),
    Population(
        "Neutrophil",
        "Neutrophil",
        "mouse",
        1800,
        (0.22, 0.14, 0.18, 0.14),
        {"Neutrophil": 1.2, "myeloid": 0.4, "myeloid_response": 0.5},
    ),
    Population(
        "cDC2",
        "DC",
        "mouse",
        4200,
        (0.08, 0.06, 0.06, 0.06),
        {"cDC2": 1.5, "myeloid": 0.4, "myeloid_response": 1},
    ),
    Population(
        NULL_POPULATION,
        "NK",
        "mouse",
        2300,
        (0.13, 0.13, 0.13, 0.13),
        {"NK": 1.2, "cytotoxic": 1.2},
    ),
)
# Among the human cells.
CAR_T_SHARE: Arms = (0.0, 0.5, 0.55, 0.5)
TUMOUR_SHARE: Arms = (1.0, 0.5, 0.45, 0.5)

PRODUCTION: tuple[Production, ...] = (
    Production("Il1b", "Macrophage", (0.06, 0.50, 0.40, 0.50), (3, 7, 5, 7)),
    Production("Il1b", "Classical monocyte", (0.05, 0.40, 0.32, 0.40), (3, 5, 4, 5)),
    Production("Il1b", "Neutrophil", (0.05, 0.15, 0.12, 0.15), (2, 3, 3, 3)),
    Production("Il1b", "cDC2", (0.02, 0.12, 0.10, 0.12), (2, 3, 3, 3)),
    Production("Il6", "Macrophage", (0.01, 0.28, 0.15, 0.28), (2, 4, 3, 4)),
    Production("Il6", "Classical monocyte", (0.003, 0.06, 0.03, 0.06), (2, 3, 2, 3)),
    Production("Il1a", "Macrophage", (0.01, 0.12, 0.08, 0.12), (2, 3, 2, 3)),
    Production("Tnf", "Macrophage", (0.05, 0.35, 0.28, 0.35), (3, 4, 3, 4)),
    Production("Tnf", "Classical monocyte", (0.04, 0.25, 0.20, 0.25), (2, 3, 3, 3)),
    Production("Ccl2", "Macrophage", (0.05, 0.40, 0.28, 0.40), (3, 6, 5, 6)),
    Production("Ccl2", "Classical monocyte", (0.03, 0.20, 0.14, 0.20), (2, 4, 3, 4)),
    Production("Il1rn", "Macrophage", (0.05, 0.40, 0.38, 0.40), (3, 4, 4, 4)),
    Production("Il1rn", "Neutrophil", (0.03, 0.12, 0.10, 0.12), (2, 2, 2, 2)),
    Production("Il18", "Macrophage", (0.05, 0.07, 0.07, 0.07), (2, 2, 2, 2)),
    Production("CSF2", "CAR T", (0.0, 0.30, 0.30, 0.30), (3, 3, 3, 3)),
    Production("IFNG", "CAR T", (0.0, 0.35, 0.35, 0.35), (4, 4, 4, 4)),
    Production("TNF", "CAR T", (0.0, 0.08, 0.08, 0.08), (2, 2, 2, 2)),
    Production(TRANSGENE, "CAR T", (0.0, 0.8, 0.8, 0.8), (3, 3, 3, 3)),
)

RESPONSES: dict[str, dict[str, Arms]] = {
    "il6_stat3_response": {
        "Macrophage": (0, 1.2, 0.7, 1.2),
        "Classical monocyte": (0, 1.1, 0.7, 1.1),
        "cDC2": (0, 0.8, 0.5, 0.8),
    },
    "il1_response": {
        "Macrophage": (0, 1.4, 0.3, 1.4),
        "Classical monocyte": (0, 1.2, 0.25, 1.2),
        "Neutrophil": (0, 0.8, 0.2, 0.8),
        "cDC2": (0, 0.8, 0.2, 0.8),
    },
    "type1_ifn_response": {
        "Macrophage": (0, 1.5, 1.5, 1.5),
        "Classical monocyte": (0, 1.5, 1.5, 1.5),
    },
    "nfkb_response": {
        "Macrophage": (0, 1.1, 0.6, 1.1),
        "Classical monocyte": (0, 0.9, 0.5, 0.9),
        "cDC2": (0, 0.7, 0.4, 0.7),
    },
}
