"""Other opinions in a run: asked, reported, and refused early if they cannot be had."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import anndata as ad
import pandas as pd
import pytest
import yaml
from click.testing import CliRunner

from crs_sc import Run, annotation, keys, load_config
from crs_sc.cli import main
from crs_sc.io import read_table
from crs_sc.report.populations import opinion_sentences
from crs_sc.run.config import RunConfig
from crs_sc.run.stages import check_other_labels

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def asked(small_run, tmp_path: Path) -> Path:
    """Config of the small simulated cohort that asks a reference: the cohort itself, labelled."""
    content = yaml.safe_load(small_run.config.read_text(encoding="utf-8"))
    content["input"] = str(small_run.config.parent / content["input"])
    content.pop("truth", None)
    shutil.copy(small_run.out / "cohort.h5ad", tmp_path / "labelled.h5ad")
    content["label_reference"] = "labelled.h5ad"
    content["transfer_labels"] = {"reference_key": "population"}
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return path


def test_opinions_of_a_run(small_run, asked: Path, tmp_path: Path) -> None:
    assert read_table(small_run.out / "tables" / "opinions.tsv").empty
    out = tmp_path / "out"
    shutil.copytree(small_run.out, out)
    before = (out / "work" / "cluster.h5ad").stat().st_mtime_ns
    run = Run(load_config(asked), out)
    for stage in ("qc", "cluster", "annotate"):
        run.stage(stage)
    assert (out / "work" / "cluster.h5ad").stat().st_mtime_ns == before
    table = read_table(out / "tables" / "opinions.tsv")
    assert list(table.columns) == keys.OPINIONS_TABLE.names
    assert set(table["opinion"]) == {"reference"}
    everyone = table.set_index("population").loc["All"]
    assert everyone["lineage_agreement"] > 0.97
    assert everyone["verdict"] == "agrees"
    # Another reference is another result.
    key = run._key("annotate")
    assert Run(load_config(asked), out)._key("annotate") == key
    with (tmp_path / "labelled.h5ad").open("ab") as file:
        file.write(b"\0")
    assert Run(load_config(asked), out)._key("annotate") != key
    assert Run(load_config(asked), out)._key("cluster") == run._key("cluster")


def test_labels_of_the_user_are_held_against_the_markers(small_run) -> None:
    adata = ad.read_h5ad(small_run.out / "cohort.h5ad")
    label = adata.obs["population"].astype(str).replace({"NK": "Neutrophils"})
    adata.obs["label"] = adata.obs["population"] = label.to_numpy()
    config = RunConfig(input=["x.h5ad"], columns={"label": "label"}, organism="human+mouse")
    annotation.add_marker_opinion(adata)
    table = check_other_labels(adata, config).set_index("population")
    assert set(table["opinion"]) == {"markers"}
    assert table.loc["Neutrophils", ["verdict", "other_label"]].tolist() == ["disagrees", "NK"]
    assert table.loc["Classical monocyte", "verdict"] == "agrees"
    assert (adata.obs["population"] == label).all()
    config = RunConfig(input=["x.h5ad"])
    del adata.obsm["opinions"]
    assert check_other_labels(adata, config).empty


def test_what_cannot_be_asked_is_refused_early(asked: Path, tmp_path: Path) -> None:
    content = yaml.safe_load(asked.read_text(encoding="utf-8"))
    result = CliRunner().invoke(main, ["check", str(asked)])
    assert "Labels of a reference" in result.stdout, result.output

    def check(**settings: object) -> str:
        path = tmp_path / "other.yaml"
        path.write_text(yaml.safe_dump(content | settings), encoding="utf-8")
        result = CliRunner().invoke(main, ["check", str(path)])
        assert result.exit_code == 1
        return result.stderr

    for name in ("label_reference", "celltypist_model", "label_names"):
        assert f"{name} names" in check(**{name: "nowhere"})
    assert "'nothing'" in check(transfer_labels={"reference_key": "nothing"})


def test_the_report_says_who_disagrees() -> None:
    columns = keys.OPINIONS_TABLE.names
    rows = [
        ["markers", "All", 100, 90, 0.5, 0.8, "NK", 0.1, 0.4, "agrees", 0.5, 0.7],
        ["markers", "T cells", 60, 50, None, 0.9, "CD4 T", 0.8, 0.0, "lineage_agrees", None, None],
        ["markers", "B", 40, 40, 0.1, 0.1, "NK", 0.9, -0.8, "disagrees", None, None],
        ["mine", "All", 100, 0, None, None, "x", 1.0, -1.0, "cannot_tell", None, None],
    ]
    said = opinion_sentences(pd.DataFrame(rows, columns=columns))
    assert said[0] == (
        "The markers, held against your labels: the same lineage in 80 % and the same type in 50 % "
        "of the 90 cells that can be compared. It disagrees about B (90 % NK)."
    )
    assert said[1].startswith("mine: no cell can be compared")
    assert opinion_sentences(pd.DataFrame(columns=columns)) == []
