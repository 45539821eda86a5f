"""The Python of the README runs as it stands, and its tables are those of the contract."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import anndata as ad
import yaml

from crs_sc import keys
from crs_sc.run.config import parse_config

if TYPE_CHECKING:
    import pytest

README = (Path(__file__).resolve().parents[1] / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_python_runs(small_cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    adata = ad.read_h5ad(small_cohort.parent / "cohort.h5ad")
    human = adata[:, adata.var_names.str.startswith("GRCh38_")].copy()
    human[human.X.sum(axis=1).A1 > 400].copy().write_h5ad(tmp_path / "cohort.h5ad")
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    (code,) = blocks("python")
    exec(code, names)
    assert list(names["ledger"].columns) == keys.LEDGER_TABLE.names
    assert list(names["shifts"].columns) == keys.SHIFTS_TABLE.names
    top = names["ledger"].query("gene == 'IL1B' and condition == 'CART'").groupby("population")
    assert top["share"].mean().idxmax() == "Classical monocyte"


def test_configs_are_valid_and_every_table_is_named(tmp_path: Path) -> None:
    (tmp_path / "counts.tsv").touch()
    first, more = (
        parse_config(yaml.safe_load(text), folder=tmp_path, name="README")
        for text in blocks("yaml")
    )
    assert first.genes == ("IL1B", "IL6")
    assert more.contrasts[0].covariates == ("age", "sex")
    assert more.shifts.margin == type(more.shifts)().margin
    for name in keys.TABLES:
        assert f"`{name}`" in README
