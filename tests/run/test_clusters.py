"""What a run says of its clusters, on the small simulated cohort with batches added."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from crs_sc import keys, load_config
from crs_sc.errors import CrsWarning
from crs_sc.run.inputs import input_files
from crs_sc.run.stages import annotate_cohort, cluster_cohort, qc_sample

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def cohort(small_cohort: Path) -> tuple[Any, Any]:
    """Human cells that passed QC, and config."""
    config = load_config(small_cohort)
    return qc_sample(input_files(config).read(), config), config


def test_a_declared_batch_is_integrated_and_measured(cohort: tuple[Any, Any]) -> None:
    adata, config = cohort[0].copy(), cohort[1]
    # Each subject is in one of two batches, and each batch has both arms.
    subject = adata.obs[keys.SUBJECT].astype("category").cat.codes.to_numpy()
    adata.obs[keys.BATCH] = np.where(subject % 2 == 0, "one", "two")
    tables = cluster_cohort(adata, config)
    assert keys.HARMONY in adata.obsm
    integration = tables["integration"].set_index("batch")
    assert integration.index.tolist() == ["one", "two", "All"]
    assert integration.notna().all(axis=None)
    # These batches are none but for what the subjects are.
    assert 0.5 < integration["mixing_before"]["All"] < integration["mixing_after"]["All"]
    assert integration["conservation_after"]["All"] > 0.9

    settings = {"genes": ("IL1B", "IL6"), "transgene": ()}
    found = annotate_cohort(adata, config.model_copy(update=settings))
    for name, table in {**tables, **found}.items():
        assert list(table.columns) == keys.TABLES[name].names
        assert len(table) or name == "opinions"
    own = adata.obs[keys.LINEAGE].isin(keys.MYELOID_LINEAGES)
    assert (adata.obs[keys.SUBCLUSTER].notna() == own).all()
    assert found["subclusters"]["n_cells"].sum() == own.sum()
    assert found["clusters"]["n_cells"].sum() == adata.n_obs
    # The planted cytokines are made by cells that differ in much else.
    circular = found["circularity"].set_index("population")
    assert circular["ari"]["All"] > 0.9
    overlap = found["gene_overlap"]
    assert not overlap.loc[overlap["is_target"], "is_selected"].any()


def test_a_batch_that_is_the_arm_is_not_integrated(cohort: tuple[Any, Any]) -> None:
    adata, config = cohort[0].copy(), cohort[1]
    adata.obs[keys.BATCH] = adata.obs[keys.CONDITION]
    with pytest.warns(CrsWarning, match="cannot be told from what the condition does"):
        tables = cluster_cohort(adata, config)
    assert keys.HARMONY not in adata.obsm
    assert set(tables["integration"]["status"]) == {keys.CONFOUNDED}
    assert tables["integration"]["mixing_after"].isna().all()
