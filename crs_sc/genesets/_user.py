"""Gene sets that a user brings: GMT, TSV or a mapping."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from crs_sc.errors import InputError, listing

if TYPE_CHECKING:
    from collections.abc import Sequence


def read_gmt(path: str | Path) -> dict[str, list[str]]:
    r"""Read a GMT file: one set a line, its name, a description and its genes, tab-separated.

    Parameters
    ----------
    path
        File to read.

    Returns
    -------
    Genes by name of the set, in the order of the file.

    Raises
    ------
    InputError
        If the file is absent, empty, or has a line without genes or a name twice.

    Examples
    --------
    >>> import crs_sc as crs
    >>> from pathlib import Path
    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     path = Path(folder) / "sets.gmt"
    ...     _ = path.write_text("mine\tna\tIL6\tSOCS3")
    ...     crs.genesets.read_gmt(path)
    {'mine': ['IL6', 'SOCS3']}
    """
    sets: dict[str, list[str]] = {}
    lines = [(n, line) for n, line in enumerate(_lines(path), start=1) if line.strip()]
    for number, line in lines:
        name, *rest = line.split("\t")
        name = name.strip()
        if len(rest) < 2:
            msg = (
                f"{path}, line {number}: a GMT line is a name, a description and genes, separated "
                f"by tabs; found {len(rest) + 1} field(s)."
            )
            raise InputError(msg)
        if name in sets:
            msg = f"{path}, line {number}: the gene set '{name}' is there twice. Rename one."
            raise InputError(msg)
        sets[name] = rest[1:]
    return _checked_sets(sets, where=str(path))


def read_gene_sets(source: str | Path | Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """Read gene sets from a GMT file, a TSV file or a mapping.

    Parameters
    ----------
    source
        A file that ends in `.gmt`; or in `.tsv` or `.txt`, with columns `set` and `symbol` (and
        perhaps `role`, of which `marker` rows are taken); or a mapping of name to genes.

    Returns
    -------
    Genes of each set, as they are written in the source.

    Raises
    ------
    InputError
        If there are no sets, a set has no genes or a gene twice, or the file cannot be read.

    Examples
    --------
    >>> import crs_sc as crs
    >>> crs.genesets.read_gene_sets({"mine": ("IL6", "SOCS3 ")})
    {'mine': ['IL6', 'SOCS3']}
    """
    if isinstance(source, Mapping):
        for name, genes in source.items():
            if isinstance(genes, str):
                msg = f"Gene set '{name}' is one string, {genes!r}. Give a list of symbols."
                raise InputError(msg)
        sets = {str(name): list(genes) for name, genes in source.items()}
        return _checked_sets(sets, where="The gene sets")
    suffix = Path(source).suffix.lower()
    if suffix == ".gmt":
        return read_gmt(source)
    if suffix not in (".tsv", ".txt"):
        msg = f"{source}: gene sets are read from .gmt, .tsv or .txt files, got '{suffix}'."
        raise InputError(msg)
    rows = read_rows(source, ["set", "symbol"])
    is_marker = rows.get("role", pd.Series("marker", index=rows.index)) == "marker"
    groups = rows["symbol"].where(is_marker, "").groupby(rows["set"], sort=False)
    return _checked_sets({name: list(genes) for name, genes in groups}, where=str(source))


def read_markers(source: str | Path | Mapping[str, Sequence[str]]) -> pd.DataFrame:
    """Read markers of cell types from a GMT file, a TSV file or a mapping.

    Parameters
    ----------
    source
        As for :func:`read_gene_sets`; a TSV file may also have the columns `role` (`marker` or
        `negative`), `lineage` and `weight` (above 0, at most 1).

    Returns
    -------
    DataFrame with columns symbol, set, role, lineage (empty where not given) and weight.

    Raises
    ------
    InputError
        If the sets are at fault (see :func:`read_gene_sets`), or a role or weight is.

    Examples
    --------
    >>> import crs_sc as crs
    >>> crs.genesets.read_markers({"ILC": ["KIT"]})["role"].to_list()
    ['marker']
    """
    is_table = not isinstance(source, Mapping) and Path(source).suffix.lower() != ".gmt"
    sets = read_gene_sets(source)
    if is_table:
        table = read_rows(str(source), ["set", "symbol"])
    else:
        pairs = [(gene, name) for name, genes in sets.items() for gene in genes]
        table = pd.DataFrame(pairs, columns=["symbol", "set"], dtype=str)
    for column, default in (("role", "marker"), ("lineage", ""), ("weight", "1")):
        if column not in table:
            table[column] = default
    unknown = set(table["role"]) - {"marker", "negative"}
    weight = pd.to_numeric(table["weight"], errors="coerce")
    if unknown or not weight.between(0, 1, inclusive="right").all():
        msg = (
            f"{source}: a role is 'marker' or 'negative' and a weight above 0 and at most 1; found "
            f"roles {listing(sorted(table['role'].unique()))} and weights "
            f"{listing(table['weight'].unique())}."
        )
        raise InputError(msg)
    table["symbol"] = table["symbol"].str.strip()
    table["weight"] = weight
    return table[["symbol", "set", "role", "lineage", "weight"]]


def read_rows(path: str | Path, columns: list[str], *, what: str = "gene sets") -> pd.DataFrame:
    """Rows of a TSV file that has these columns; every value is a string."""
    header, *lines = [line.split("\t") for line in _lines(path, what) if line.strip()] or [[]]
    missing = [column for column in columns if column not in header]
    if missing:
        msg = f"{path} has no column {' and '.join(missing)}. Columns: {listing(header)}."
        raise InputError(msg)
    ragged = [fields for fields in lines if len(fields) != len(header)]
    if ragged:
        msg = f"{path}: a row has {len(ragged[0])} fields, the header {len(header)}: {ragged[0]}."
        raise InputError(msg)
    return pd.DataFrame(lines, columns=header, dtype=str)


def _lines(path: str | Path, what: str = "gene sets") -> list[str]:
    """Lines of a text file, or one clear error."""
    try:
        return Path(path).read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        msg = f"Cannot read the {what} in {path}: {error.strerror or error}."
        raise InputError(msg) from error
    except UnicodeDecodeError as error:
        msg = f"{path} is not a text file in UTF-8; {what} are read from text files."
        raise InputError(msg) from error


def _checked_sets(sets: dict[str, list[str]], *, where: str) -> dict[str, list[str]]:
    """Strip blanks around symbols; raise an error that names the set at fault."""
    if not sets:
        msg = f"{where}: no gene sets found."
        raise InputError(msg)
    checked = {}
    for name, genes in sets.items():
        clean = [str(gene).strip() for gene in genes]
        clean = [gene for gene in clean if gene]
        if not name.strip() or not clean:
            msg = f"{where}: gene set '{name}' has no {'genes' if name.strip() else 'name'}."
            raise InputError(msg)
        if "/" in name:
            msg = f"{where}: gene set '{name}' has a '/' in its name, which an h5ad cannot hold."
            raise InputError(msg)
        counts = pd.Series(clean).value_counts()
        twice = counts.index[counts > 1]
        if len(twice):
            msg = f"{where}: gene set '{name}' has genes twice: {listing(twice)}."
            raise InputError(msg)
        checked[name] = clean
    return checked
