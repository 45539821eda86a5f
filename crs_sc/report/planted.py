"""What was planted in a simulated cohort beside what was found, as text for the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from crs_sc import keys
from crs_sc.errors import InputError
from crs_sc.io import read_table

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd

_ROW = ["gene", "population", "sample"]
_PARTS = ("composition", "producer_fraction", "intensity")
_SHOWN = ("total", *_PARTS)
_FDR = 0.05


def read_truth(folder: Path) -> dict[str, pd.DataFrame]:
    """Read the planted tables of a simulated cohort.

    Parameters
    ----------
    folder
        With tables in the columns of the contract, those that there are.

    Returns
    -------
    Tables by name.

    Raises
    ------
    InputError
        If there is none.

    Examples
    --------
    >>> from pathlib import Path
    >>> import crs_sc as crs
    >>> ledger = crs.tl.ledger(crs.datasets.toy_cohort(), genes=["IL1B"])
    >>> table = crs.io.write_table(ledger, Path("truth/ledger.tsv"))
    >>> list(crs.report.read_truth(Path("truth")))
    ['ledger']
    """
    names = [name for name in keys.TABLES if (folder / f"{name}.tsv").is_file()]
    if not names:
        msg = f"'{folder}' (truth) holds no planted table such as ledger.tsv."
        raise InputError(msg)
    return {name: read_table(folder / f"{name}.tsv") for name in names}


def share_errors(truth: pd.DataFrame, found: pd.DataFrame) -> pd.DataFrame:
    """Planted and found source shares, row by row.

    A population that only one of the two tables has counts with a share of 0 in the other;
    samples in which nothing was planted have no shares to compare and are left out.

    Parameters
    ----------
    truth, found
        Ledgers with columns gene, population, sample, condition, share.

    Returns
    -------
    Columns gene, population, sample, condition, planted, found, for the genes of `found`.

    Examples
    --------
    >>> import crs_sc as crs
    >>> ledger = crs.tl.ledger(crs.datasets.toy_cohort(), genes=["IL1B"])
    >>> errors = crs.report.share_errors(ledger, ledger)
    >>> bool((errors["planted"] == errors["found"]).all())
    True
    """
    truth = truth[truth["gene"].isin(found["gene"])]
    both = truth[[*_ROW, "share"]].merge(
        found[[*_ROW, "share"]], on=_ROW, how="outer", suffixes=("_planted", "_found")
    )
    both = both.rename(columns={"share_planted": "planted", "share_found": "found"})
    made = truth.groupby(["gene", "sample"])["share"].sum()
    some = both.set_index(["gene", "sample"]).index.isin(made.index[made > 0])
    both = both[some].fillna({"planted": 0.0, "found": 0.0})
    both["condition"] = both["sample"].map(truth.groupby("sample")["condition"].first())
    return both.reset_index(drop=True)


def planted_beside_found(tables: Path, truth: Path) -> str:
    """Compare the headlines of a run with the truth of its simulated cohort.

    Parameters
    ----------
    tables
        Folder with the tables of the run.
    truth
        Folder with the planted tables.

    Returns
    -------
    Text: sources, decomposition and shifts, planted beside found.

    Examples
    --------
    >>> from pathlib import Path
    >>> import crs_sc as crs
    >>> adata = crs.datasets.toy_cohort()
    >>> contrast = crs.Contrast("cart", treated="CART", reference="vehicle")
    >>> crs.tl.call_producers(adata, genes=["IL1B"])
    >>> ledger, made = crs.tl.ledger(adata, genes=["IL1B"]), crs.tl.producers(adata)
    >>> samples = adata.obs.groupby("sample", observed=True)[["subject", "condition"]].first()
    >>> parts = crs.tl.decompose(ledger, made, contrasts=[contrast], samples=samples)
    >>> sets = crs.genesets.signatures(names=["nfkb_response"])
    >>> bulk = crs.tl.pseudobulk(adata)
    >>> tables = {
    ...     "ledger": ledger,
    ...     "decomposition": parts,
    ...     "shifts": crs.tl.shifts(bulk, contrasts=[contrast], signatures=sets),
    ... }
    >>> for name, table in tables.items():
    ...     _ = crs.io.write_table(table, Path(f"out/{name}.tsv"))
    >>> print(crs.report.planted_beside_found(Path("out"), Path("out")).splitlines()[0])
    SIMULATED cohort: planted beside found
    """
    lines = ["SIMULATED cohort: planted beside found", ""]
    lines += _source_lines(read_table(truth / "ledger.tsv"), read_table(tables / "ledger.tsv"))
    lines += _decomposition_lines(
        read_table(truth / "decomposition.tsv"), read_table(tables / "decomposition.tsv")
    )
    lines += _shift_lines(read_table(truth / "shifts.tsv"), read_table(tables / "shifts.tsv"))
    return "\n".join(lines)


def _source_lines(truth: pd.DataFrame, found: pd.DataFrame) -> list[str]:
    errors = share_errors(truth, found)
    lines = ["Largest source and its share (mean over samples)"]
    for (gene, condition), part in errors.groupby(["gene", "condition"], sort=True):
        planted = part.pivot_table(index="population", columns="sample", values="planted")
        called = part.pivot_table(index="population", columns="sample", values="found")
        agree = int((planted.idxmax() == called.idxmax()).sum())
        planted_mean, found_mean = planted.mean(axis=1), called.mean(axis=1)
        lines.append(
            f"  {gene} {condition:<18} planted: {planted_mean.idxmax()} {planted_mean.max():.1%}   "
            f"found: {found_mean.idxmax()} {found_mean.max():.1%}   "
            f"same in {agree} of {planted.shape[1]} samples"
        )
    gap = (errors["planted"] - errors["found"]).abs().groupby(errors["gene"]).mean()
    lines += [f"  {gene}: mean absolute error of all shares {gap[gene]:.4f}" for gene in gap.index]
    return lines


def _decomposition_lines(truth: pd.DataFrame, found: pd.DataFrame) -> list[str]:
    row = ["contrast", "gene", "population"]
    both = truth.merge(found, on=row, suffixes=("_planted", "_found"))
    lines = ["", "Change of output per sampled cell, main population (planted / found)"]
    by_population = both[both["population"] != keys.ALL_POPULATIONS]
    size = by_population["total_planted"].abs()
    largest = size.groupby([both["contrast"], both["gene"]], sort=False).idxmax()
    for main in both.loc[largest].to_dict("records"):
        pairs = [(name, main[f"{name}_planted"], main[f"{name}_found"]) for name in _SHOWN]
        parts = "   ".join(
            f"{name.replace('_', ' ')} {planted:+.3f} / {called:+.3f}"
            for name, planted, called in pairs
        )
        lines.append(f"  {main['contrast']}, {main['gene']}, {main['population']}: {parts}")
    gap = (found["total"] - found[list(_PARTS)].sum(axis=1)).abs().max()
    lines.append(f"  The parts add up to the change within {gap:.1e}.")
    return lines


def _shift_lines(truth: pd.DataFrame, found: pd.DataFrame) -> list[str]:
    row = ["contrast", "kind", "feature", "population"]
    both = truth[[*row, "estimate"]].merge(found, on=row, suffixes=("_planted", "_found"))
    both = both[both["kind"] == "signature"]
    called = both["padj"] <= _FDR
    size = both["estimate_planted"].abs().groupby(both["contrast"], sort=False)
    largest = both.loc[size.nlargest(2).index.get_level_values(1)]
    lines = ["", "Shifts of signatures (log2; planted / found; permutation p, its floor)"]
    lines += [
        f"  {item['contrast']}, {item['feature']}, {item['population']}: "
        f"{item['estimate_planted']:+.2f} / {item['estimate_found']:+.2f}   "
        f"p {item['pvalue_permutation']:.3f} (floor {item['pvalue_floor']:.3f})"
        for item in largest.to_dict("records")
    ]
    silent = both.groupby("population")["estimate_planted"].agg(lambda x: x.abs().max()) == 0
    for population in silent.index[silent]:
        mine = both["population"] == population
        lines.append(
            f"  {population}, in which nothing was planted: {int((mine & called).sum())} of "
            f"{int(mine.sum())} shifts called at FDR {_FDR}"
        )
    return lines
