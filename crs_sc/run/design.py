"""The design of a run: its samples, and whether its contrasts can be answered."""

from __future__ import annotations

from typing import TYPE_CHECKING

from crs_sc import comparison, keys
from crs_sc.core.checks import sample_table
from crs_sc.errors import DesignError

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

    from crs_sc.run.config import RunConfig

__all__ = ["covariate_names", "design_samples", "refuse_unanswerable", "unanswerable"]


def covariate_names(config: RunConfig) -> list[str]:
    """Covariates of all contrasts, each once."""
    return list(dict.fromkeys(name for one in config.contrasts for name in one.covariates))


def design_samples(adata: AnnData, config: RunConfig) -> pd.DataFrame:
    """Table of the samples with the covariates of the contrasts."""
    return sample_table(adata, covariates=covariate_names(config))


def unanswerable(design: pd.DataFrame, config: RunConfig) -> dict[str, str]:
    """Say of each contrast that gives no number at all why it does not.

    Parameters
    ----------
    design
        From `check_design`.
    config
        Settings.

    Returns
    -------
    Reason by name: confounded, or an arm without a subject (at every time point).
    """
    found = {}
    for contrast in config.contrasts:
        names = design["contrast"]
        own = design[(names == contrast.name) | names.str.startswith(f"{contrast.name}@")]
        bad = own[own["status"] == keys.CONFOUNDED]
        if bad.empty and (own[["n_reference", "n_treated"]].min(axis=1) == 0).all():
            bad = own
        if len(bad):
            found[str(bad["contrast"].iloc[0])] = str(bad["note"].iloc[0])
    return found


def refuse_unanswerable(samples: pd.DataFrame, config: RunConfig) -> None:
    """Raise if a contrast names what is not there, or cannot be answered at all.

    Raises
    ------
    DesignError
        Naming the contrast and how to mend it.
    """
    if not config.contrasts:
        return
    design = comparison.check_design(samples, contrasts=list(config.contrasts))
    for name, why in unanswerable(design, config).items():
        mend = "Leave out the contrast, or its `paired` or `covariates` if they are the reason."
        if "told apart" in why:
            mend = "Leave out `columns: batch`, if it is not a batch, a covariate, or the contrast."
        msg = f"Contrast '{name}' cannot be answered: {why}. {mend}"
        raise DesignError(msg)
