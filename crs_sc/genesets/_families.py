"""Families of genes that preprocessing treats apart."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np

from crs_sc.genesets._symbols import current_names, match_genes, unversioned
from crs_sc.genesets._tables import TARGET_CYTOKINES, target_cytokines

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import pandas as pd
    from numpy.typing import NDArray

__all__ = [
    "haemoglobin_genes",
    "immune_receptor_genes",
    "immunoglobulin_genes",
    "kept_out",
    "mitochondrial_genes",
    "sex_genes",
]

_CONSTANT = r"(?:IGH(?:[ADEM]|[AG]\d[A-C]?|EP\d|GP)|IGKC|IGLC\d)$"
_IMMUNOGLOBULIN = re.compile(rf"^(?:IG[HKL][VDJ][\dI(]|{_CONSTANT})", re.IGNORECASE)
# mm10 still calls the mouse gamma chain Tcrg.
_IMMUNE_RECEPTOR = re.compile(
    rf"^(?:(?:TR[ABDG]|IG[HKL])[VDJ][\dI(]|TCRG-[VJ]|{_CONSTANT})", re.IGNORECASE
)
_MITOCHONDRIAL = re.compile(r"^(?:MT|mt)-")
_HAEMOGLOBIN = re.compile(r"^(?:HB(?:A1|A2|B|D|E1|G1|G2|M|Q1|Z)|Hb(?:[ab]-.+|q1[ab]))$")
_HUMAN_SEX = (
    "DDX3Y", "EIF1AY", "KDM5D", "NLGN4Y", "PRKY", "RPS4Y1", "RPS4Y2", "TMSB4Y", "TSIX", "TTTY14",
    "TTTY15", "TXLNGY", "USP9Y", "UTY", "XIST", "ZFY",
)  # fmt: skip
_MOUSE_SEX = ("Ddx3y", "Eif2s3y", "Kdm5d", "Tsix", "Usp9y", "Uty", "Xist", "Zfy1", "Zfy2")
_SEX = frozenset((*_HUMAN_SEX, *_MOUSE_SEX))


def _symbols(var_names: Iterable[str]) -> list[str]:
    """Names with the known Ensembl ids of either organism brought to symbols."""
    ids = current_names("human") | current_names("mouse")
    bare = ((str(name), unversioned(str(name))) for name in var_names)
    return [ids.get(key, name) if key.startswith("ENS") else name for name, key in bare]


def _mask(pattern: re.Pattern[str], var_names: Iterable[str]) -> NDArray[np.bool_]:
    """Which names match the pattern."""
    return np.array([pattern.match(name) is not None for name in _symbols(var_names)], dtype=bool)


def mitochondrial_genes(var_names: Iterable[str]) -> NDArray[np.bool_]:
    """Which genes lie on the mitochondrial genome (`MT-` human, `mt-` mouse, or Ensembl id).

    Parameters
    ----------
    var_names
        Names of the genes.

    Returns
    -------
    Boolean array, one value a gene. By Ensembl id only the 13 protein-coding genes are known.
    """
    return _mask(_MITOCHONDRIAL, var_names)


def immune_receptor_genes(var_names: Iterable[str]) -> NDArray[np.bool_]:
    """Which genes differ between clones: V, D and J segments, and immunoglobulin constants.

    Parameters
    ----------
    var_names
        Names of the genes. Constant regions of T-cell receptors (TRAC) are not included.

    Returns
    -------
    Boolean array, one value a gene.
    """
    return _mask(_IMMUNE_RECEPTOR, var_names)


def immunoglobulin_genes(var_names: Iterable[str]) -> NDArray[np.bool_]:
    """Which genes are segments or constant regions of immunoglobulins.

    Parameters
    ----------
    var_names
        Names of the genes. JCHAIN, which pDC express too, is not included.

    Returns
    -------
    Boolean array, one value a gene.
    """
    return _mask(_IMMUNOGLOBULIN, var_names)


def haemoglobin_genes(var_names: Iterable[str]) -> NDArray[np.bool_]:
    """Which genes are haemoglobin chains.

    Parameters
    ----------
    var_names
        Names of the genes.

    Returns
    -------
    Boolean array, one value a gene.
    """
    return _mask(_HAEMOGLOBIN, var_names)


def sex_genes(var_names: Iterable[str]) -> NDArray[np.bool_]:
    """Which genes tell the sexes apart: XIST, TSIX and expressed genes of the Y chromosome.

    Parameters
    ----------
    var_names
        Names of the genes.

    Returns
    -------
    Boolean array, one value a gene.
    """
    return np.array([name in _SEX for name in _symbols(var_names)], dtype=bool)


def kept_out(names: pd.Index, *, exclude: Sequence[str] = ()) -> dict[str, NDArray[np.bool_]]:
    """Mark the genes that no embedding is to follow, by reason.

    Parameters
    ----------
    names
        Of the genes of the data.
    exclude
        More genes to keep out.

    Returns
    -------
    For each reason a mask of shape `(n_genes,)`: target cytokines (they are measured later),
    immune-receptor, sex and mitochondrial genes, and those named by the user.

    Examples
    --------
    >>> import pandas as pd
    >>> import crs_sc as crs
    >>> masks = crs.genesets.kept_out(pd.Index(["IL6", "LYZ", "XIST"]))
    >>> masks["target cytokines"].tolist(), masks["sex genes"].tolist()
    ([True, False, False], [False, False, True])
    """
    cytokines = [*TARGET_CYTOKINES, *target_cytokines(organism="mouse")]
    return {
        "target cytokines": names.isin(match_genes(cytokines, names).values()),
        "immune-receptor genes": immune_receptor_genes(names),
        "sex genes": sex_genes(names),
        "mitochondrial genes": mitochondrial_genes(names),
        "genes named by the user": names.isin(match_genes(exclude, names).values()),
    }
