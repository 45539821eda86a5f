"""What others call the populations: labels of classifiers and atlases under our names."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pandas as pd

from crs_sc.errors import InputError, listing
from crs_sc.genesets._tables import lineages, packaged_table

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

__all__ = ["load_label_names", "name_labels"]

_CELL = re.compile(r"\bcells?\b")
# "CD16- NK" is without CD16, "CD14-positive" and "CAR-T" are not.
_WITHOUT = re.compile(r"(?<=\d)(-|neg\b)(?=[\s_]|cd|$)|(?<=\d)neg\b")


def load_label_names(*, user: str | Path | None = None) -> pd.DataFrame:
    """Labels that others use and the population, or only lineage, that each one means.

    Parameters
    ----------
    user
        TSV file with the columns `label` and `population`; its rows come before the packaged ones.

    Returns
    -------
    DataFrame with columns label, population (a population or a lineage) and source. Upper and
    lower case, spaces, signs, a plural and the word "cells" make no difference to a label.

    Raises
    ------
    InputError
        If the user's file cannot be read, or lacks a column or a value.
    """
    packaged = packaged_table("label_names").copy()
    if user is None:
        return packaged
    try:
        added = pd.read_csv(user, sep="\t", dtype=str, keep_default_na=False)
    except (OSError, ValueError) as error:
        msg = f"Cannot read the names of labels in '{user}': {error}."
        raise InputError(msg) from error
    missing = [name for name in ("label", "population") if name not in added]
    if missing:
        msg = f"'{user}' has no column {' and '.join(missing)}. Columns: {listing(added.columns)}."
        raise InputError(msg)
    if (added[["label", "population"]] == "").any(axis=None):
        msg = f"'{user}': a label or its population is empty. Take that row out."
        raise InputError(msg)
    added = added[["label", "population"]].assign(source="user")
    return pd.concat([added, packaged], ignore_index=True)


def name_labels(labels: Iterable[str], *, user: str | Path | None = None) -> dict[str, str]:
    """Give each label the name of its population or lineage.

    Parameters
    ----------
    labels
        Labels as a classifier or a colleague wrote them.
    user
        More names (see :func:`load_label_names`).

    Returns
    -------
    Label -> population, or lineage where the label says no more; labels that no table knows are
    left out.

    Raises
    ------
    InputError
        If the user's file cannot be used.
    """
    table = load_label_names(user=user)
    is_user = table["source"] == "user"
    own = lineages()
    names = [
        *zip(table.loc[is_user, "label"], table.loc[is_user, "population"], strict=True),
        *((name, name) for name in (*own, *own.values())),
        *zip(table["label"], table["population"], strict=True),
    ]
    known: dict[str, str] = {}
    for label, name in names:
        known.setdefault(_plain(label), name)
    return {
        label: known[_plain(label)]
        for label in dict.fromkeys(map(str, labels))
        if _plain(label) in known
    }


def _plain(label: str) -> str:
    """Label without what is only spelling."""
    text = _WITHOUT.sub(" without ", label.casefold())
    text = _CELL.sub(" ", text)
    words = re.split(r"[^0-9a-z]+", text)
    return "".join(word.removesuffix("s") if len(word) > 3 else word for word in words)
