"""States of monocytes and macrophages from their signature scores."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from crs_sc import keys
from crs_sc._checks import check_obs
from crs_sc.errors import MissingKeyError

if TYPE_CHECKING:
    from anndata import AnnData

__all__ = ["MYELOID_STATES", "call_myeloid_states"]

# State, the signature that speaks for it and the one that speaks against it.
MYELOID_STATES = (
    ("interferon_stimulated", "type1_ifn_response", None),
    ("inflammatory", "inflammatory_monocyte", None),
    ("hla_dr_low", "s100a_high", "hla_dr"),
)
RESTING = "resting"


def call_myeloid_states(adata: AnnData, *, min_excess: float = 0.25) -> None:
    """Name the state of each monocyte and macrophage.

    The state is the one with the highest score of its signature beyond chance (less that of the
    signature that speaks against it), `resting` if none reaches `min_excess`. Target cytokines
    are in no signature, so the state does not restate who makes them.

    Parameters
    ----------
    adata
        Cells x genes with `obs["lineage"]`, `obsm["signature_scores"]` and `obs["chance_score"]`.
    min_excess
        Smallest score of a called state beyond that of a set without meaning in the same cell.

    Returns
    -------
    None. Writes `obs["myeloid_state"]`: category, missing outside monocytes and macrophages.

    Raises
    ------
    MissingKeyError
        If the scores are absent.
    """
    check_obs(adata, lineage_key=keys.LINEAGE)
    if keys.SIGNATURE_SCORES not in adata.obsm:
        msg = f"`obsm` has no '{keys.SIGNATURE_SCORES}'. Run crs_sc.tl.score_signatures first."
        raise MissingKeyError(msg)
    scores = adata.obsm[keys.SIGNATURE_SCORES]
    chance = adata.obs[keys.CHANCE_SCORE]
    states = pd.DataFrame(
        {
            state: scores[up] - scores.get(down, chance)
            for state, up, down in MYELOID_STATES
            if up in scores
        },
        index=adata.obs_names,
    )
    names = np.array([*states.columns, RESTING])
    best = np.full(adata.n_obs, len(names) - 1)
    if states.shape[1]:
        values = states.to_numpy()
        best = np.where(values.max(axis=1) >= min_excess, values.argmax(axis=1), best)
    state = pd.Series(names[best], index=adata.obs_names)
    state[~adata.obs[keys.LINEAGE].isin(["Monocyte", "Macrophage"])] = None
    adata.obs[keys.MYELOID_STATE] = pd.Categorical(state, categories=names)
