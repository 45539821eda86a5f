"""Who can hear it: one plain sentence a cytokine, from the table of receivers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from crs_sc import genesets, keys
from crs_sc.plotting import population_order
from crs_sc.report._format import cells_named

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import pandas as pd

__all__ = ["hearing_sentences"]

# Below this part of the level in the highest population a transcript says little.
_LEAST = 0.1
_CAVEAT = (
    "A receptor's transcript is not the receptor on the surface, and receptors have few "
    "transcripts: a population that is not named here may still hear."
)


def hearing_sentences(receivers: pd.DataFrame, cytokines: Sequence[str]) -> list[str]:
    """Say of each cytokine which populations have what it takes to hear it.

    A population counts if in most arms (of those with enough of its cells) one receptor and every
    co-receptor are above ambient RNA, at a tenth of the highest population's level or more.

    Parameters
    ----------
    receivers
        The table `receivers`.
    cytokines
        Which of them, in order; those without a row are passed over.
    """
    said = []
    for cytokine in cytokines:
        rows = receivers.loc[receivers["cytokine"] == cytokine]
        if not rows.empty:
            said.append(_sentence(cytokine, rows))
    return [*said, _CAVEAT] if said else []


def _sentence(cytokine: str, rows: pd.DataFrame) -> str:
    genes = {
        role: list(dict.fromkeys(rows.loc[rows["role"] == role, "gene"]))
        for role in genesets.RECEPTOR_ROLES
    }
    either, every = genes["receptor"], genes["co-receptor"]
    missing = _missing(cytokine, either, every)
    if missing:
        return (
            f"{cytokine}: without {_joined(missing)} among the genes of the data, who can hear it "
            "cannot be said."
        )
    chain = " and ".join([" or ".join(either), *every])
    able = _holders(rows, either=either, every=every)
    verb = "is" if chain == either[0] or " or " in chain else "are"
    if able:
        text = f"{cytokine} can be heard by {_named(able)}: {chain} {verb} above ambient RNA there"
    else:
        text = f"No population has {chain} above ambient RNA, so none is seen to hear {cytokine}"
    for role in ("decoy", "antagonist"):
        for gene in genes[role]:
            holders = _holders(rows, every=[gene])
            article = "an" if role[0] == "a" else "a"
            text += f"; {gene}, {article} {role}, is in {_named(holders) or 'none'}"
    if cytokine.upper() == "IL6":
        more = [n for n in _holders(rows, every=every) if n not in able]
        if more:
            text += (
                f"; {_joined(every)} alone, enough for IL-6 that comes with its soluble receptor, "
                f"is in {_named(more)}"
            )
    return f"{text}."


def _missing(cytokine: str, either: Sequence[str], every: Sequence[str]) -> list[str]:
    """List the genes without which nothing can be said: all receptors, or any co-receptor."""
    both = [genesets.load_receptors(), genesets.load_receptors(organism="mouse")]
    table = next(one for one in both if cytokine in set(one["cytokine"]))
    table = table.loc[table["cytokine"] == cytokine]
    lost = [] if either else table.loc[table["role"] == "receptor", "gene"].tolist()
    partners = table.loc[table["role"] == "co-receptor", "gene"]
    return [*lost, *partners[~partners.isin(every)]]


def _holders(
    rows: pd.DataFrame, *, either: Sequence[str] = (), every: Sequence[str] = ()
) -> list[str]:
    """List the populations that hold one of `either` and all of `every` in most arms."""
    measured = rows.loc[rows["n_subjects"] > 0]
    highest = measured.groupby(["gene", "condition"], observed=True)["cpm"].transform("max")
    held = (measured["state"] == keys.ABOVE_AMBIENT) & (measured["cpm"] >= _LEAST * highest)
    measured = measured.assign(held=held)
    chosen = []
    for population, part in measured.groupby("population", observed=True):
        arms = []
        for _, arm in part.groupby("condition", observed=True):
            found = set(arm.loc[arm["held"], "gene"].astype(str))
            arms.append((not either or bool(found & set(either))) and set(every) <= found)
        if sum(arms) > len(arms) / 2:
            chosen.append(str(population))
    return population_order(chosen)


def _named(populations: Iterable[str]) -> str:
    return _joined([cells_named(name) for name in populations])


def _joined(names: Sequence[str]) -> str:
    return f"{', '.join(names[:-1])} and {names[-1]}" if len(names) > 1 else "".join(names)
