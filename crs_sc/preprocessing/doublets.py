"""Doublets by scrublet, sample by sample, with bounds on what the automatic threshold may do."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from crs_sc import keys
from crs_sc.core.blocks import counts_matrix
from crs_sc.core.checks import check_obs
from crs_sc.errors import InputError
from crs_sc.preprocessing._scrublet import automatic_threshold, scrublet_scores
from crs_sc.preprocessing._table import join_notes, refresh_table, stored_table

if TYPE_CHECKING:
    from anndata import AnnData
    from numpy.typing import NDArray
    from scipy import sparse

__all__ = ["call_doublets"]


def call_doublets(
    adata: AnnData,
    *,
    sample_key: str = keys.SAMPLE,
    min_cells: int = 100,
    expected_rate: float = 0.05,
    max_excess: float = 3.0,
    n_comps: int = 30,
    random_state: int = 0,
) -> None:
    """Call doublets among the cells that passed, by scrublet within each sample.

    Scrublet looks for the valley between the two modes of the scores of simulated doublets, and
    finds a wrong one where the modes are not clear. Its threshold is used only if it calls at
    most `max_excess * expected_rate` of the cells; else the `1 - expected_rate` quantile of the
    scores is, and the note of the sample says so.

    Parameters
    ----------
    adata
        Cells x genes with raw counts, after `quality_control`.
    sample_key
        Column of `obs`; doublets form within one sample.
    min_cells
        Samples with fewer passing cells are skipped, and their note says so.
    expected_rate
        Expected share of doublets (10x: about 0.008 per 1,000 cells recovered).
    max_excess
        Largest accepted share of calls, in units of `expected_rate`.
    n_comps
        Principal components.
    random_state
        Seed of the simulated doublets.

    Raises
    ------
    InputError
        If `expected_rate` is not inside (0, 0.5).
    MissingKeyError
        If quality control has not run.

    Notes
    -----
    Sets `obs['doublet_score']` (missing where not scored), changes `obs['qc_status']` of doublets
    from `pass` to `doublet`, and completes `uns['crs_sc']['qc']`. The steps are those of
    `scanpy.pp.scrublet` on sparse arrays, with the same simulated doublets for the same seed; the
    neighbours are exact in samples of up to 10,000 cells.

    References
    ----------
    Wolock et al. 2019, Cell Systems 8:281.
    """
    if not 0 < expected_rate < 0.5:
        msg = f"expected_rate must be between 0 and 0.5, got {expected_rate!r}."
        raise InputError(msg)
    check_obs(adata, sample_key=sample_key, status=keys.QC_STATUS)
    table = stored_table(adata)
    counts = counts_matrix(adata)
    sample = adata.obs[sample_key].astype(str).to_numpy()
    status = adata.obs[keys.QC_STATUS].astype(str).to_numpy()
    # A second call starts from the same cells as the first.
    candidate = (status == keys.PASS) | (status == keys.DOUBLET)
    status = np.where(candidate, keys.PASS, status).astype(object)
    scores = np.full(adata.n_obs, np.nan)
    table["max_doublet_score"] = np.nan
    for name in table.index:
        rows = np.flatnonzero((sample == name) & candidate)
        if len(rows) < min_cells:
            note = f"doublets not called: {len(rows)} cells, fewer than {min_cells}"
        else:
            found, automatic, note = _scrublet(
                counts[rows],
                expected_rate=expected_rate,
                n_comps=n_comps,
                random_state=random_state,
            )
            if found is not None:
                scores[rows] = found
                limit, note = bounded_threshold(
                    found, automatic, expected_rate=expected_rate, max_excess=max_excess
                )
                status[rows[found > limit]] = keys.DOUBLET
                table.loc[name, "max_doublet_score"] = limit
        table.loc[name, "note"] = _with_note(str(table.loc[name, "note"]), note)
    adata.obs[keys.DOUBLET_SCORE] = scores
    adata.obs[keys.QC_STATUS] = adata.obs[keys.QC_STATUS].cat.set_categories(list(keys.QC_REASONS))
    adata.obs[keys.QC_STATUS] = adata.obs[keys.QC_STATUS].where(~candidate, keys.PASS)
    adata.obs.loc[status == keys.DOUBLET, keys.QC_STATUS] = keys.DOUBLET
    refresh_table(adata, table, sample_key=sample_key)


def bounded_threshold(
    scores: NDArray[np.float64],
    automatic: float | None,
    *,
    expected_rate: float,
    max_excess: float,
) -> tuple[float, str]:
    """Scrublet's threshold, or a quantile of the scores where it cannot be trusted.

    Parameters
    ----------
    scores
        Shape `(n_cells,)`, NaN where not scored.
    automatic
        Scrublet's own threshold; None where it found none.
    expected_rate, max_excess
        See `call_doublets`.

    Returns
    -------
    Threshold (a cell above it is a doublet) and a note, empty if scrublet's own was used.
    """
    finite = scores[np.isfinite(scores)]
    if automatic is not None and np.mean(finite > automatic) <= max_excess * expected_rate:
        return float(automatic), ""
    reason = (
        "scrublet found no threshold"
        if automatic is None
        else f"scrublet's threshold would call {np.mean(finite > automatic):.0%} of the cells"
    )
    limit = float(np.quantile(finite, 1 - expected_rate))
    return limit, f"{reason}: the highest {expected_rate:.0%} of the scores are doublets instead"


def _scrublet(
    counts: sparse.csr_matrix, *, expected_rate: float, n_comps: int, random_state: int
) -> tuple[NDArray[np.float64] | None, float | None, str]:
    """Scores, threshold and note of one sample; no scores where scrublet cannot run on it."""
    components = min(n_comps, counts.shape[0] - 1, counts.shape[1] - 1)
    found = scrublet_scores(
        counts, expected_rate=expected_rate, n_comps=components, random_state=random_state
    )
    if isinstance(found, str):
        return None, None, f"doublets not called: {found}"
    scores, simulated = found
    return scores, automatic_threshold(simulated), ""


def _with_note(before: str, note: str) -> str:
    """Put the doublet note of a sample in the place of an earlier one."""
    kept = [part for part in before.split("; ") if "doublets" not in part]
    return join_notes(*kept, note)
