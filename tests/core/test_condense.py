"""A cohort of a few genes gives the tables of the whole, from memory and from disk."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from crs_sc import keys, tl
from crs_sc.core import blocks
from crs_sc.errors import InputError
from crs_sc.io import open_h5ad, write_h5ad

if TYPE_CHECKING:
    from pathlib import Path

GENES = [f"G{i}" for i in range(40)] + ["IL1B", "IL6", "IL1R1", "IL6R", "IL1R2"]
CYTOKINES = ["IL6", "absent", "IL1B"]


def _cohort(seed: int = 0) -> ad.AnnData:
    rng = np.random.default_rng(seed)
    n, samples = 400, ["s1", "s2", "s3", "s4"]
    sample = rng.integers(0, 4, size=n)
    profile = rng.dirichlet(np.full(len(GENES), 0.5), size=4)
    rate = 300 * profile[sample]
    population = rng.integers(0, 3, size=n)
    rate[population == 0, GENES.index("IL1B")] += 4
    obs = pd.DataFrame(
        {
            keys.SAMPLE: pd.Categorical(np.array(samples)[sample]),
            keys.SUBJECT: np.array(["m1", "m1", "m2", "m3"])[sample],
            keys.CONDITION: np.array(["a", "a", "b", "b"])[sample],
            keys.POPULATION: pd.Categorical(np.array(["Mono", "T", "B"])[population]),
        },
        index=[f"c{i}" for i in range(n)],
    )
    adata = ad.AnnData(
        obs=obs,
        var=pd.DataFrame(index=GENES),
        layers={keys.COUNTS: sparse.csr_matrix(rng.poisson(rate).astype(np.float32))},
    )
    adata.varm[keys.AMBIENT_PROFILE] = pd.DataFrame(profile.T, index=GENES, columns=samples)
    table = pd.DataFrame(
        {"ambient_fraction": [0.1, 0.2, 0.0, 0.05], "ambient_upper": [0.2, 0.3, 0.05, 0.1]},
        index=samples,
    )
    adata.uns[keys.UNS] = {keys.CONTAMINATION: table}
    return adata


def _tables(adata: ad.AnnData) -> list[pd.DataFrame]:
    tl.call_producers(adata, genes=CYTOKINES)
    ledger = tl.ledger(adata, genes=CYTOKINES)
    return [
        adata.obsm[keys.PRODUCER_STATE].astype(str),
        tl.producers(adata),
        ledger,
        tl.ledger_by_condition(ledger),
        tl.receivers(adata, min_cells=2),
    ]


@pytest.mark.parametrize("values", [1 << 20, 700, 10_000])
def test_tables_are_those_of_all_genes(
    values: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    adata = _cohort()
    write_h5ad(adata, tmp_path / "a.h5ad")
    expected = _tables(_cohort())
    opened = open_h5ad(tmp_path / "a.h5ad")
    monkeypatch.setattr(blocks, "VALUES", values)
    small = tl.condense(opened, genes=[*CYTOKINES, "IL1R1", "IL6R", "IL1R2"])
    assert list(small.var_names) == ["IL6", "IL1B", "IL1R1", "IL6R", "IL1R2", keys.OTHER_GENES]
    np.testing.assert_array_equal(
        small.layers[keys.COUNTS].sum(axis=1), adata.layers[keys.COUNTS].sum(axis=1)
    )
    np.testing.assert_allclose(small.varm[keys.AMBIENT_PROFILE].sum(), 1, rtol=1e-12)
    for where in (small, opened, tl.condense(_cohort(), genes=GENES)):
        for one, two in zip(_tables(where), expected, strict=True):
            pd.testing.assert_frame_equal(one, two, check_exact=True)
    # What was called on the small cohort is not written into the large one.
    assert keys.PRODUCER_CALLS not in adata.uns[keys.UNS]


def test_no_gene_in_the_data() -> None:
    with pytest.raises(InputError, match="None of the genes nothing"):
        tl.condense(_cohort(), genes=["nothing"])
