"""One builder of cohorts whose counts and ambient RNA are known."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from crs_sc import keys

if TYPE_CHECKING:
    from collections.abc import Callable


def made_cohort(
    counts: np.ndarray,
    genes: list[str],
    obs: pd.DataFrame | dict[str, Any],
    *,
    fraction: float = 0.0,
    upper: float | None = None,
    profile: np.ndarray | None = None,
) -> ad.AnnData:
    """AnnData with known ambient RNA, the same in every sample: that of its cells, unless given.

    A sample is a subject, and its arm is its first letter, unless `obs` says otherwise.
    """
    obs = pd.DataFrame(obs)
    obs["sample"] = obs.get("sample", obs.get("subject"))
    obs["subject"] = obs.get("subject", obs["sample"])
    obs["condition"] = obs.get("condition", obs["sample"].str[:1])
    obs.index = [f"cell{i}" for i in range(len(obs))]
    adata = ad.AnnData(obs=obs, var=pd.DataFrame(index=genes))
    adata.layers[keys.COUNTS] = sparse.csr_matrix(np.asarray(counts, dtype=np.float32))
    samples = sorted(set(obs["sample"]))
    profile = counts.sum(axis=0) / counts.sum() if profile is None else profile
    adata.varm[keys.AMBIENT_PROFILE] = pd.DataFrame(
        dict.fromkeys(samples, np.asarray(profile)), index=genes
    )
    known = {
        "ambient_fraction": fraction,
        "ambient_upper": fraction if upper is None else upper,
        "ambient_source": "test",
    }
    adata.uns[keys.UNS] = {keys.CONTAMINATION: pd.DataFrame(known, index=samples)}
    return adata


@pytest.fixture(scope="session")
def cohort() -> Callable[..., ad.AnnData]:
    """The builder, as what tests and their helpers ask for."""
    return made_cohort
