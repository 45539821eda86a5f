"""`crs-sc attribute`: from disk in one pass, the tables of a run."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anndata as ad
import pandas as pd
import pytest
import yaml
from click.testing import CliRunner, Result

from crs_sc import keys
from crs_sc.cli import main
from crs_sc.errors import InputError
from crs_sc.io import read_table
from crs_sc.run.attribute import attribution_tables, open_labelled
from crs_sc.run.config import load_config

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import FinishedRun

TABLES = [
    "producers", "production", "receivers", "ledger", "ledger_by_condition", "decomposition",
    "shifts",
]  # fmt: skip


def _config(run: FinishedRun, folder: Path, *, file: Path, **settings: object) -> Path:
    content = yaml.safe_load(run.config.read_text(encoding="utf-8"))
    kept = {name: content[name] for name in ("contrasts", "genes", "seed") if name in content}
    columns = {name: name for name in ("sample", "subject", "condition")}
    kept |= {"input": str(file), "columns": columns | {"label": "population"}}
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(kept | settings), encoding="utf-8")
    return path


def _call(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_the_cohort_of_a_run_gives_its_tables_again(small_run: FinishedRun, tmp_path: Path) -> None:
    config = _config(small_run, tmp_path, file=small_run.out / "cohort.h5ad")
    result = _call("attribute", config, "-o", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert "went over the counts" in result.stderr
    assert "estimated first" not in result.stderr
    assert set(TABLES) <= {path.stem for path in (tmp_path / "out" / "tables").iterdir()}
    for name in TABLES:
        ours = read_table(tmp_path / "out" / "tables" / f"{name}.tsv")
        runs = read_table(small_run.out / "tables" / f"{name}.tsv")
        pd.testing.assert_frame_equal(ours, runs, rtol=1e-9)


@pytest.fixture
def plain(small_run: FinishedRun, tmp_path: Path) -> Path:
    """Write the cohort as a user has it: counts in X, no ambient profile, some unlabelled."""
    adata = ad.read_h5ad(small_run.out / "cohort.h5ad")
    obs = adata.obs[["sample", "subject", "condition", "population"]].copy()
    obs["population"] = obs["population"].astype(object)
    obs.iloc[:7, 3] = None
    user = ad.AnnData(adata.layers["counts"], obs=obs, var=pd.DataFrame(index=adata.var_names))
    user.write_h5ad(tmp_path / "user.h5ad")
    return tmp_path / "user.h5ad"


def test_without_soup_it_is_estimated_and_chunks_change_nothing(
    small_run: FinishedRun, plain: Path, tmp_path: Path
) -> None:
    config = load_config(_config(small_run, tmp_path, file=plain))
    tables = attribution_tables(open_labelled(config), config)
    assert keys.UNKNOWN in set(tables["ledger"]["population"])
    assert (tables["ledger"]["ambient_umi"] > 0).any()
    again = open_labelled(config)
    again.layers[keys.COUNTS].chunk_values = 4_000
    for name, table in attribution_tables(again, config).items():
        pd.testing.assert_frame_equal(table, tables[name], check_exact=True)


def test_what_it_cannot_do_is_said(small_run: FinishedRun, plain: Path, tmp_path: Path) -> None:
    config = _config(small_run, tmp_path, file=plain)
    result = _call("attribute", config, "-o", tmp_path / "out", "--memory", "0.1")
    assert result.exit_code == 1
    assert "Attribution needs about" in result.stderr
    assert not (tmp_path / "out" / "tables").exists()
    unlabelled = load_config(_config(small_run, tmp_path, file=plain, columns={"label": None}))
    with pytest.raises(InputError, match="columns: label"):
        open_labelled(unlabelled)
