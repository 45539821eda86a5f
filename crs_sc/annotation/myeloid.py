"""States of monocytes and macrophages from their signature scores."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from crs_sc import keys
from crs_sc.core.checks import add_note, check_obs
from crs_sc.errors import MissingKeyError, listing

if TYPE_CHECKING:
    from anndata import AnnData

__all__ = ["MYELOID_STATES", "call_myeloid_states"]

# State, the signatures that speak for it (their mean) and the one that speaks against it.
MYELOID_STATES = (
    ("interferon_stimulated", ("type1_ifn_response",), None),
    ("inflammatory", ("inflammatory_monocyte", "il1_response", "nfkb_response"), None),
    ("hla_dr_low", ("s100a_high",), "hla_dr"),
)
RESTING = "resting"
# With fewer genes in the data the ranks are those of a chosen panel, not of the cell.
_WHOLE_CELL = 5000


def call_myeloid_states(
    adata: AnnData,
    *,
    min_interferon: float = 0.25,
    min_inflammatory: float = 0.15,
    min_hla_dr_low: float = 0.25,
) -> None:
    """Name the state of each monocyte and macrophage.

    The evidence of a state is the mean score of its signatures, less that of the signature that
    speaks against it: type I interferon response; inflammatory programme of monocytes with the
    responses to IL-1 and NF-kB; S100A-high less HLA-DR. The state is the one whose evidence is
    the largest multiple of its threshold, `resting` if none reaches its own. The scores are of
    each cell alone and the thresholds are fixed, so the state does not depend on what else is in
    the file. Target cytokines are in no signature, so the state does not restate who makes them.

    The subset of the monocyte (classical, intermediate, non-classical) is its population.

    Parameters
    ----------
    adata
        Cells x genes with `obs["lineage"]` and `obsm["signature_scores"]`.
    min_interferon
        Score of the type I interferon response from which a cell is `interferon_stimulated`. In
        blood monocytes six hours after interferon beta nine of ten are above 0.48, in their
        controls below 0.17 (Kang 2018, doi:10.1038/nbt.4042).
    min_inflammatory
        Mean of the three inflammatory scores from which a cell is `inflammatory`.
    min_hla_dr_low
        S100A-high score less that of HLA-DR from which a cell is `hla_dr_low`.

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
    thresholds = dict(
        zip(
            (state for state, _, _ in MYELOID_STATES),
            (min_interferon, min_inflammatory, min_hla_dr_low),
            strict=True,
        )
    )
    evidence = _evidence(adata)
    names = np.array([*evidence.columns, RESTING])
    best = np.full(adata.n_obs, len(names) - 1)
    if evidence.shape[1]:
        multiple = (evidence / pd.Series(thresholds)[evidence.columns]).to_numpy()
        best = np.where(multiple.max(axis=1) >= 1, multiple.argmax(axis=1), best)
    state = pd.Series(names[best], index=adata.obs_names)
    state[~adata.obs[keys.LINEAGE].isin(["Monocyte", "Macrophage"])] = None
    adata.obs[keys.MYELOID_STATE] = pd.Categorical(state, categories=names)


def _evidence(adata: AnnData) -> pd.DataFrame:
    """Evidence of each state that the data can show, cells x states; notes on the rest."""
    scores = adata.obsm[keys.SIGNATURE_SCORES]
    found, absent = {}, []
    for state, up, down in MYELOID_STATES:
        if any(name not in scores for name in (*up, *([down] if down else []))):
            absent.append(state)
            continue
        found[state] = scores[list(up)].mean(axis=1) - (scores[down] if down else 0.0)
    if absent:
        add_note(adata, f"Signatures of these myeloid states were not scored: {listing(absent)}.")
    if adata.n_vars < _WHOLE_CELL:
        add_note(
            adata,
            f"With {adata.n_vars} genes in the data, scores rank a cell's genes within a chosen "
            "panel: myeloid states are comparable between these cells only.",
        )
    return pd.DataFrame(found, index=adata.obs_names)
