"""The genes of a file under the names that `read` would give them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from crs_sc import keys
from crs_sc.errors import InputError
from crs_sc.io._formats import open_file
from crs_sc.io._genes import Remarks, label_genes
from crs_sc.io._sheet import is_sheet

if TYPE_CHECKING:
    import os

__all__ = ["gene_symbols"]


def gene_symbols(path: str | os.PathLike[str], *, organism: str = "human") -> list[str]:
    """Symbols of the genes of one file, without reading the counts into memory.

    Parameters
    ----------
    path
        An h5ad, a 10x `.h5` or a 10x matrix folder.
    organism
        `human`, `mouse`, `human+mouse` or `mouse+human`; of two genomes, the genes of the first.

    Returns
    -------
    Current symbols without genome prefix, each once.

    Raises
    ------
    InputError
        If the file cannot be read, or its genes are of another organism.
    """
    path = Path(path).expanduser()
    if is_sheet(path):
        msg = f"'{path}' is a sample sheet. Name one of the files in it."
        raise InputError(msg)
    raw = open_file(path, keep=False)
    var = label_genes(raw.var, organism=organism, path=path.name, remarks=Remarks()).var
    if keys.GENOME not in var:
        return [str(name) for name in var.index]
    own = var[keys.GENOME].astype(str) == organism.split("+", maxsplit=1)[0]
    return [str(symbol) for symbol in var.loc[own, keys.SYMBOL]]
