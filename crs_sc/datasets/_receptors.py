"""Who can hear a cytokine in the simulated cohort: planted expression of the receptors.

UMI per million of a cell's UMI, by population or else by its lineage; nothing elsewhere. The order
of size is general knowledge of blood: IL1R1 is low in all of it (the cells that have much of it,
endothelium and stroma, are not in the cohort), neutrophils and monocytes shed the decoy IL1R2, NK
and T cells hear IL-18, and CXCL8 is for neutrophils and a few NK cells. Cells of the mouse have
the same of the orthologues. IL1RN is among the planted production.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from crs_sc import genesets

if TYPE_CHECKING:
    from crs_sc.datasets._planted import Population

__all__ = ["RECEPTORS", "receptor_umi"]

RECEPTORS: dict[str, dict[str, int]] = {
    "IL1R1": {"Monocyte": 5, "Macrophage": 8, "Neutrophil": 5, "DC": 5, "CD4 T": 5},
    "IL1RAP": {"Monocyte": 80, "Macrophage": 80, "Neutrophil": 100, "DC": 50, "AML blast": 150}
    | {"T": 15, "NK": 10},
    "IL1R2": {"Classical monocyte": 80, "Non-classical monocyte": 5, "Neutrophil": 500, "DC": 60}
    | {"Macrophage": 40},
    "IL6R": {"Monocyte": 80, "Macrophage": 80, "Neutrophil": 100, "DC": 30, "CD4 T": 50}
    | {"CD8 T": 15, "CAR T": 15, "AML blast": 40},
    "IL6ST": {"Monocyte": 60, "Macrophage": 60, "DC": 60, "CD4 T": 120, "CD8 T": 60, "CAR T": 60}
    | {"NK": 15, "B": 40, "Neutrophil": 10, "Blast": 30},
    "TNFRSF1A": {"Monocyte": 80, "Macrophage": 100, "Neutrophil": 120, "DC": 60, "T": 15, "NK": 10}
    | {"Blast": 20},
    "TNFRSF1B": {"Classical monocyte": 250, "Non-classical monocyte": 500, "Macrophage": 250}
    | {"Neutrophil": 250, "DC": 120, "T": 80, "NK": 100, "B": 15, "Blast": 20},
    "CXCR1": {"Neutrophil": 500, "NK": 40},
    "CXCR2": {"Neutrophil": 800, "NK": 15, "Classical monocyte": 10},
    "CCR2": {"Classical monocyte": 600, "Non-classical monocyte": 10, "Macrophage": 40, "DC": 80}
    | {"CD4 T": 20, "CAR T": 20, "NK": 5},
    "IL18R1": {"NK": 100, "CD4 T": 30, "CD8 T": 50, "CAR T": 80},
    "IL18RAP": {"NK": 250, "CD4 T": 15, "CD8 T": 80, "CAR T": 80, "Classical monocyte": 10}
    | {"Neutrophil": 40},
    "CSF2RA": {"Monocyte": 150, "Macrophage": 150, "Neutrophil": 150, "DC": 200, "AML blast": 150},
    "CSF2RB": {"Monocyte": 80, "Macrophage": 100, "Neutrophil": 200, "DC": 100, "AML blast": 80},
    "IFNGR1": {"Monocyte": 250, "Macrophage": 250, "Neutrophil": 150, "DC": 200, "T": 80, "NK": 80}
    | {"B": 80, "Blast": 80},
    "IFNGR2": {"Monocyte": 150, "Macrophage": 150, "Neutrophil": 150, "DC": 100, "T": 30, "NK": 30}
    | {"B": 50, "Blast": 50},
    "CD40": {"B": 100, "DC": 60, "Monocyte": 20, "Macrophage": 40, "B-ALL blast": 20},
}


def receptor_umi(population: Population) -> dict[str, float]:
    """UMI per million of each receptor, by the symbol in the species of the population.

    Parameters
    ----------
    population
        Whose cells.
    """
    symbols = {gene: [gene] for gene in RECEPTORS}
    if population.species == "mouse":
        pairs = genesets.orthologs()
        pairs = pairs[pairs["mouse"] != ""]
        symbols = {gene: pairs.loc[pairs["human"] == gene, "mouse"].tolist() for gene in RECEPTORS}
    return {
        symbol: float(by_name.get(population.name, by_name.get(population.lineage, 0)))
        for gene, by_name in RECEPTORS.items()
        for symbol in symbols[gene]
    }
