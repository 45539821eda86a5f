"""Genes of a file: genome, current symbol, Ensembl id; what is done with doubles and damage."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd

from crs_sc import keys
from crs_sc.errors import InputError, listing

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = [
    "Remarks",
    "check_organism_name",
    "check_orientation",
    "find_genomes",
    "guess_organism",
    "label_genes",
]

HUMAN: Literal["human"] = "human"
MOUSE: Literal["mouse"] = "mouse"
GENOMES = (HUMAN, MOUSE)
_PREFIX = re.compile(
    r"^(?:(?P<human>GRCh3[78]|hg19|hg38|human)|(?P<mouse>GRCm3[89]|mm9|mm10|mm39|mouse))"
    r"(?:\.p\d+)?[_-]+(?=.)",
    re.IGNORECASE,
)
_ENSEMBL = re.compile(r"^ENS(?P<species>[A-Z]{0,4})G\d{11}")
_BARCODE = re.compile(r"[ACGT]{12,}")
_EXCEL = re.compile(
    r"^(?:(?P<day>\d{1,2})-(?P<month>Mar|Sep|Sept|Dec|Oct|Nov|Feb|Apr)"
    r"|(?P<month2>Mar|Sep|Sept|Dec|Oct|Nov|Feb|Apr)-(?P<day2>\d{1,2})"
    r"|\d{4}-\d{2}-\d{2}(?: 00:00:00)?)$",
    re.IGNORECASE,
)
_OF_MONTH = {
    "mar": ("MARCHF", range(3, 12)), "sep": ("SEPTIN", range(1, 15)), "dec": ("DELEC", range(1, 2)),
}  # fmt: skip
_SYMBOL_COLUMNS = (
    "gene_symbols", "gene_symbol", "gene_names", "gene_name", "gene_short_name", "feature_name",
    "symbol", "symbols", "hgnc_symbol", "hgnc", "mgi_symbol", "external_gene_name", "gene",
    "genes", "name", "names",
)  # fmt: skip
_ID_COLUMNS = (
    "gene_ids", "gene_id", "ensembl_id", "ensembl_ids", "ensembl_gene_id", "ensembl",
    "feature_id", "id", "ids", "accession",
)  # fmt: skip
_EVERYWHERE = frozenset(
    name
    for human in ("ACTB", "GAPDH", "B2M", "MALAT1", "EEF1A1", "RPLP0", "TMSB4X", "CD14", "CD3D")
    for name in (human, human.capitalize())
)


def check_organism_name(organism: str) -> None:
    """Raise unless it is one genome or two."""
    known = ("human", "mouse", "human+mouse", "mouse+human")
    if organism not in known:
        msg = f"organism must be one of {', '.join(known)}, got {organism!r}."
        raise InputError(msg)


@dataclass
class Remarks:
    """What the user is told: `notes` go to the report, `warned` are raised as warnings too."""

    notes: list[str] = field(default_factory=list)
    warned: list[str] = field(default_factory=list)

    def warn(self, text: str) -> None:
        """Add a note that is also a warning."""
        self.notes.append(text)
        self.warned.append(text)


# No annotation has as many.
_MOST_GENES = 300_000


def check_orientation(obs_names: pd.Index, var_names: pd.Index, *, path: object) -> None:
    """Raise if genes are where cells must be."""
    if len(obs_names) > _MOST_GENES:
        return
    genes = set(obs_names) & _EVERYWHERE
    ids = obs_names.str.match(_ENSEMBL.pattern).sum()
    barcodes = var_names.str.contains(_BARCODE.pattern).sum()
    if len(genes) >= 2 or 2 * ids > len(obs_names) or 2 * barcodes > len(var_names):
        msg = (
            f"'{path}' is transposed: its rows are genes ({listing(obs_names[:3])}) and its "
            f"columns cells ({listing(var_names[:3])}). Write it as cells x genes (adata.T)."
        )
        raise InputError(msg)


def _column(var: pd.DataFrame, names: tuple[str, ...], *, ensembl: bool) -> pd.Series | None:
    """First column of that name that mostly holds (or mostly does not hold) Ensembl ids."""
    by_lower = {str(column).lower(): column for column in reversed(var.columns)}
    for name in names:
        if name not in by_lower:
            continue
        column = var[by_lower[name]]
        values = column.astype(object).where(column.notna(), "").astype(str)
        filled = (values != "") & (values != "nan")
        ids = values.str.replace(_PREFIX, "", regex=True).str.match(_ENSEMBL.pattern)
        share = ids.mean() if ensembl else (filled & ~ids).mean()
        if share > 0.5:
            return values.where(filled, "")
    return None


def _are_ids(names: pd.Series) -> bool:
    return bool(names.str.match(_ENSEMBL.pattern).mean() > 0.5)


def find_genomes(var: pd.DataFrame) -> pd.Series:
    """Genome of each gene: by prefix, else by the column `genome`, else by Ensembl id.

    Empty where neither human nor mouse can be told.
    """
    names = var.index.to_series().reset_index(drop=True)
    prefixes = names.str.extract(_PREFIX)
    found = pd.Series("", index=names.index, dtype="str")
    if prefixes.notna().any(axis=1).mean() > 0.5:
        for genome in GENOMES:
            found[prefixes[genome].notna()] = genome
        return found
    if "genome" in var.columns:
        named = var["genome"].astype(str).reset_index(drop=True) + "_"
        hits = (named + "x").str.extract(_PREFIX)
        for genome in GENOMES:
            found[hits[genome].notna() & (found == "")] = genome
    ids = _column(var, _ID_COLUMNS, ensembl=True)
    for values in ([] if ids is None else [ids.reset_index(drop=True)]) + [names]:
        species = values.str.replace(_PREFIX, "", regex=True).str.extract(_ENSEMBL)["species"]
        found[(species == "") & (found == "")] = HUMAN
        found[(species == "MUS") & (found == "")] = MOUSE
    return found


def has_two_genomes(genomes: pd.Series) -> bool:
    """Whether both human and mouse genes are there, each at least one in a hundred."""
    return all((genomes == genome).mean() >= 0.01 for genome in GENOMES)


def guess_organism(var: pd.DataFrame) -> str | None:
    """Guess `human`, `mouse` or `human+mouse` from genome, ids or the case of the symbols.

    None where the names say nothing.
    """
    genomes = find_genomes(var)
    if has_two_genomes(genomes):
        return f"{HUMAN}+{MOUSE}"
    known = genomes[genomes != ""]
    if len(known) > 0.5 * len(genomes):
        return str(known.mode().iloc[0])
    names = var.index[var.index.str.contains("[A-Za-z].*[A-Za-z]")]
    if len(names) == 0:
        return None
    if (names == names.str.upper()).mean() > 0.7:
        return HUMAN
    mouse_like = names.str.match(r"^(?:[A-Z][a-z0-9]*[a-z][a-z0-9]*|mt-[A-Z][a-z0-9]+)(?:-\w+)?$")
    return MOUSE if mouse_like.mean() > 0.5 else None


def _check_organism(var: pd.DataFrame, organism: str, *, path: object, remarks: Remarks) -> None:
    found = guess_organism(var)
    if found is None or found == organism or "+" in found:
        return
    if "+" in organism:
        remarks.warn(
            f"{path}: organism is {organism}, but only {found} genes were found; cells cannot be "
            "split by species."
        )
        return
    msg = (
        f"The genes of '{path}' are {found} ({listing(var.index[:4])}), but organism is "
        f"'{organism}'. Set organism: {found}."
    )
    raise InputError(msg)


def _from_date(date: re.Match[str], organism: str) -> str | None:
    """Give the symbol that a spreadsheet turned into this date, if only one can be meant."""
    month = (date["month"] or date["month2"] or "")[:3].lower()
    # MARCH1/MARC1 and MARCH2/MARC2 became the same dates; SEP15 and SEPT15 too.
    stem, days = _OF_MONTH.get(month, ("", range(0)))
    day = int(date["day"] or date["day2"] or 0)
    if day not in days:
        return None
    symbol = f"{stem}{day}"
    return symbol.capitalize() if organism == MOUSE else symbol


def _restore_dates(symbols: pd.Series, organism: str, *, path: object, remarks: Remarks) -> None:
    """Undo what spreadsheets did to gene names, in place, where only one gene can be meant."""
    dates = {i: date for i, name in enumerate(symbols) if (date := _EXCEL.match(name))}
    if not dates:
        return
    present, restored, lost = set(symbols), [], []
    for position, date in dates.items():
        symbol = _from_date(date, organism)
        if symbol is None or symbol in present:
            lost.append(date[0])
            continue
        symbols[position] = symbol
        restored.append(f"{date[0]} is {symbol}")
        present.add(symbol)
    text = f"{path}: a spreadsheet turned {len(dates)} gene names into dates."
    if restored:
        text += f" Restored: {listing(restored)}."
    if lost:
        text += f" Left as they are, because two genes can be meant: {listing(lost)}."
    remarks.warn(text)


def _symbols(
    var: pd.DataFrame,
    names: pd.Series,
    genomes: pd.Series,
    *,
    path: object,
    remarks: Remarks,
) -> pd.Series:
    """Symbol of each gene before aliases: the name, or what stands for an Ensembl id."""
    from crs_sc.genesets import resolve_symbols

    if not _are_ids(names):
        return names.copy()
    column = _column(var, _SYMBOL_COLUMNS, ensembl=False)
    if column is not None:
        column = column.reset_index(drop=True).str.replace(_PREFIX, "", regex=True)
        return column.where(column != "", names).astype("str")
    symbols = names.copy()
    for genome in GENOMES:
        of_genome = names[genomes == genome]
        symbols[of_genome.index] = resolve_symbols(of_genome.tolist(), organism=genome)
    known = int((symbols != names).sum())
    remarks.warn(
        f"{path}: genes are Ensembl ids and the file has no column with symbols; {known} of "
        f"{len(names)} were named from the packaged table, the others keep their id."
    )
    return symbols


def _current(symbols: pd.Series, genomes: pd.Series) -> list[str]:
    """Replace old symbols by current ones, in place, where only one gene can be meant."""
    from crs_sc.genesets import resolve_symbols

    changed = []
    for genome in GENOMES:
        of_genome = symbols[genomes == genome]
        old = [name for name in dict.fromkeys(of_genome) if not _EXCEL.match(name)]
        new = dict(zip(old, resolve_symbols(old, organism=genome), strict=True))
        new = {name: symbol for name, symbol in new.items() if symbol != name}
        # Two old names of one gene, or the current name beside an old one, stay apart.
        n_old, present = Counter(new.values()), set(of_genome)
        taken = {
            name: symbol
            for name, symbol in new.items()
            if n_old[symbol] == 1 and symbol not in present
        }
        symbols.update(of_genome.map(taken).dropna())
        changed += [f"{name} is {symbol}" for name, symbol in taken.items()]
    return changed


def label_genes(
    var: pd.DataFrame, *, organism: str, path: object, remarks: Remarks
) -> tuple[pd.DataFrame, NDArray[np.intp]]:
    """Give each gene its genome, current symbol and Ensembl id.

    One genome: the gene names become current symbols without prefix. Two genomes: the names stay
    as in the file, because IL6 and Il6 are two genes, and `var["symbol"]` has the symbols. Genes
    with the same symbol in the same genome become one gene (their counts are to be added up). Of
    two organisms the first is the genome of genes without one.

    Returns the genes as the cohort has them, indexed by unique gene name, with `original_name` and,
    where known, `gene_id`, for two genomes also `genome` and `symbol`; and the row of that table
    for each gene of the file.
    """
    empty = int((var.index == "").sum())
    if empty:
        msg = f"'{path}' has {empty} genes without a name. Name them or leave them out."
        raise InputError(msg)
    _check_organism(var, organism, path=path, remarks=remarks)
    original = var.index.to_series().reset_index(drop=True).astype("str")
    genomes = find_genomes(var)
    two = has_two_genomes(genomes)
    home = organism.split("+", maxsplit=1)[0]
    genomes = genomes.where(genomes != "", home) if two else pd.Series(home, index=original.index)
    names = original.str.replace(_PREFIX, "", regex=True)
    ids = _column(var, _ID_COLUMNS, ensembl=True)
    ids = names if ids is None and _are_ids(names) else ids
    if ids is not None:
        ids = ids.reset_index(drop=True).str.replace(_PREFIX, "", regex=True)
        ids = ids.str.replace(r"\.\d+(?:_PAR_Y)?$", "", regex=True).astype("str")
    symbols = _symbols(var, names, genomes, path=path, remarks=remarks)
    _restore_dates(symbols, home, path=path, remarks=remarks)
    changed = _current(symbols, genomes)
    if changed:
        remarks.notes.append(f"{path}: {len(changed)} old gene symbols: {listing(changed)}.")
    return _merge(original, symbols, genomes if two else None, ids, path=path, remarks=remarks)


def _merge(
    original: pd.Series,
    symbols: pd.Series,
    genomes: pd.Series | None,
    ids: pd.Series | None,
    *,
    path: object,
    remarks: Remarks,
) -> tuple[pd.DataFrame, NDArray[np.intp]]:
    """One row a gene, in the order of first appearance."""
    key = symbols if genomes is None else genomes + "\t" + symbols
    codes, _ = pd.factorize(key)
    first = np.unique(codes, return_index=True)[1]
    columns = {keys.ORIGINAL_NAME: original} | ({} if ids is None else {keys.GENE_ID: ids})
    var = pd.DataFrame({name: values.iloc[first].to_numpy() for name, values in columns.items()})
    index = symbols.iloc[first].reset_index(drop=True)
    if genomes is not None:
        var[keys.GENOME] = pd.Categorical(genomes.iloc[first], categories=list(GENOMES))
        var[keys.SYMBOL] = index.to_numpy()
        its_name = original.iloc[first].reset_index(drop=True)
        shared = its_name.duplicated(keep=False)
        index = its_name.where(~shared, var[keys.GENOME].astype(str) + "_" + index)
    var.index = pd.Index(index.to_numpy(), dtype="str")
    twice = pd.unique(symbols[key.duplicated()])
    if len(twice):
        remarks.notes.append(
            f"{path}: {len(twice)} symbols stood for more than one gene of the file; their counts "
            f"were added up: {listing(twice)}."
        )
    return var, codes
