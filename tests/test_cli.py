"""The command line: speed of help, exit codes, one clear line for an expected error."""

from __future__ import annotations

import io
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import anndata as ad
import loky
import numpy as np
import pandas as pd
import pytest
import yaml
from click.testing import CliRunner, Result
from scipy import sparse

from crs_sc import keys
from crs_sc.cli import main

if TYPE_CHECKING:
    from pathlib import Path

GENES = ["CD3D", "CD3E", "LYZ", "IL1B", "IL6", "MS4A1", "CD79A", "NKG7", "ACTB", "GAPDH"]


def call(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def tiny(*, n: int = 40, **obs: object) -> ad.AnnData:
    rng = np.random.default_rng(0)
    counts = rng.poisson(3.0, size=(n, len(GENES))).astype(np.float32)
    columns = {"sample": np.where(np.arange(n) < n // 2, "a", "b")} | obs
    return ad.AnnData(
        sparse.csr_matrix(counts),
        obs=pd.DataFrame(columns, index=[f"cell{i}" for i in range(n)]),
        var=pd.DataFrame(index=GENES),
    )


def assert_fails(result: Result, *words: str) -> None:
    assert result.exit_code == 1, result.output
    lines = [line for line in result.stderr.splitlines() if line.startswith("crs-sc: error:")]
    assert len(lines) == 1, result.output
    assert "Traceback" not in result.output
    for word in words:
        assert word in lines[0]


def config_for(folder: Path, adata: ad.AnnData | None = None, **settings: object) -> Path:
    if adata is not None:
        adata.write_h5ad(folder / "in.h5ad")
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump({"input": "in.h5ad"} | settings), encoding="utf-8")
    return path


def test_help_answers_in_half_a_second() -> None:
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        subprocess.run([sys.executable, "-m", "crs_sc", "--help"], check=True, capture_output=True)
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 0.5


def test_wrong_usage_is_exit_2() -> None:
    assert call("nonsense").exit_code == 2
    assert call("run").exit_code == 2
    assert call("demo").exit_code == 2


def test_keys_lists_every_table_and_slot() -> None:
    output = call("keys").stdout
    for spec in keys.ALL_KEYS:
        assert f"{spec.slot}['{spec.name}']" in output
    for name in keys.TABLES:
        assert f"tables/{name}.tsv" in output


def test_missing_config_and_unknown_setting(tmp_path: Path) -> None:
    assert_fails(
        call("run", tmp_path / "no.yaml", "-o", tmp_path / "out"), "no.yaml", "crs-sc init"
    )
    path = config_for(tmp_path, tiny(), quality_controll={"n_mads": 3})
    assert_fails(call("run", path, "-o", tmp_path / "out"), "quality_controll")
    path = config_for(tmp_path, tiny(), call_producers={"alpha": "much"})
    assert_fails(call("run", path, "-o", tmp_path / "out"), "call_producers.alpha", "much")


@pytest.mark.parametrize("command", ["run", "check"])
def test_bad_files(tmp_path: Path, command: str) -> None:
    def again(path: Path) -> Result:
        return call(command, path, *(("-o", tmp_path / "out") if command == "run" else ()))

    path = config_for(tmp_path)
    assert_fails(again(path), "in.h5ad")
    (tmp_path / "in.h5ad").write_text("this is no h5ad", encoding="utf-8")
    assert_fails(again(path), "in.h5ad")
    tiny().write_h5ad(tmp_path / "whole.h5ad")
    content = (tmp_path / "whole.h5ad").read_bytes()
    (tmp_path / "in.h5ad").write_bytes(content[: len(content) // 2])
    assert_fails(again(path), "in.h5ad")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda X: X + 0.5, ("counts",)),
        (lambda X: np.where(X.max() == X, -1.0, X), ("negative",)),
        (lambda X: np.where(X.max() == X, np.nan, X), ("NaN",)),
        (np.log1p, ("log",)),
    ],
    ids=["fractions", "negative", "nan", "log"],
)
def test_matrices_without_whole_counts(tmp_path: Path, change: object, words: tuple) -> None:
    adata = tiny()
    adata.X = sparse.csr_matrix(change(adata.X.toarray()).astype(np.float32))
    assert_fails(call("run", config_for(tmp_path, adata), "-o", tmp_path / "out"), *words)


def test_duplicate_cell_names(tmp_path: Path) -> None:
    adata = tiny()
    adata.obs_names = [f"cell{i % 30}" for i in range(40)]
    assert_fails(
        call("run", config_for(tmp_path, adata), "-o", tmp_path / "out"), "duplicate cell names"
    )


def test_missing_column(tmp_path: Path) -> None:
    path = config_for(tmp_path, tiny(), columns={"subject": "donor"})
    assert_fails(call("run", path, "-o", tmp_path / "out"), "no column 'donor'", "Columns: sample")


def test_unknown_condition_in_a_contrast(tmp_path: Path) -> None:
    adata = tiny(arm=np.where(np.arange(40) < 20, "x", "y"))
    path = config_for(tmp_path, adata, columns={"condition": "arm"},
                      contrasts=[{"name": "c", "treated": "z", "reference": "x"}])  # fmt: skip
    assert_fails(call("check", path), "'z'")


def test_treatment_aliased_with_batch(tmp_path: Path) -> None:
    sample = np.repeat(["a", "b", "c", "d"], 10)
    arm = np.repeat(["x", "x", "y", "y"], 10)
    adata = tiny(sample=sample, arm=arm, run=np.where(arm == "x", "r1", "r2"))
    path = config_for(tmp_path, adata, columns={"condition": "arm", "batch": "run"},
                      contrasts=[{"name": "c", "treated": "y", "reference": "x"}])  # fmt: skip
    assert_fails(call("run", path, "-o", tmp_path / "out"), "'c' cannot be answered", "batch")
    result = call("check", path)
    assert result.exit_code == 1
    assert "confounded" in result.stdout


def test_no_gene_of_any_signature(tmp_path: Path) -> None:
    adata = tiny(n=80)
    adata.var_names = [f"GENE{i}" for i in range(len(GENES))]
    adata.var_names = [*adata.var_names[:-1], "IL6"]
    result = call("run", config_for(tmp_path, adata), "-o", tmp_path / "out")
    assert_fails(result, "GENE0")


def test_output_folder_that_is_not_writable(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way", encoding="utf-8")
    path = config_for(tmp_path, tiny())
    assert_fails(call("run", path, "-o", tmp_path / "file" / "out"), "Cannot write")
    assert_fails(call("simulate", "-o", tmp_path / "file"), "file")


def test_a_run_never_writes_over_the_users_own_files(tmp_path: Path) -> None:
    tiny().write_h5ad(tmp_path / "cohort.h5ad")
    path = tmp_path / "my.yaml"
    path.write_text("input: cohort.h5ad\n", encoding="utf-8")
    before = (tmp_path / "cohort.h5ad").read_bytes()
    assert_fails(call("run", path, "-o", tmp_path), "would write over", "cohort.h5ad")
    assert (tmp_path / "cohort.h5ad").read_bytes() == before


def test_check_changes_nothing_and_says_who_is_replicate(tmp_path: Path) -> None:
    adata = tiny(donor=["d1"] * 20 + ["d2"] * 20, arm=["x"] * 20 + ["y"] * 20)
    path = config_for(tmp_path, adata, columns={"subject": "donor", "condition": "arm"},
                      contrasts=[{"name": "c", "treated": "y", "reference": "x"}])  # fmt: skip
    before = sorted(tmp_path.rglob("*"))
    result = call("check", path)
    assert result.exit_code == 0, result.output
    assert sorted(tmp_path.rglob("*")) == before
    assert "2 libraries of 2 subjects" in result.stdout
    assert "No p can be given" in result.stdout
    assert "1 against 1 subjects" in result.stdout
    assert "too few subjects" in result.stdout


def test_init_guesses_and_does_not_write_over(tmp_path: Path) -> None:
    adata = tiny(
        sample=np.repeat(["s1", "s2", "s3", "s4"], 10),
        mouse_id=np.repeat(["m1", "m2", "m3", "m4"], 10),
        treatment=np.repeat(["PBS", "CART", "PBS", "CART"], 10),
        cell_type="T",
    )
    adata.write_h5ad(tmp_path / "in.h5ad")
    out = tmp_path / "config.yaml"
    assert call("init", tmp_path / "in.h5ad", "-o", out).exit_code == 0
    settings = yaml.safe_load(out.read_text(encoding="utf-8"))
    assert settings["columns"] == {
        "sample": "sample", "subject": "mouse_id", "condition": "treatment"
    }  # fmt: skip
    assert settings["contrasts"] == [{"name": "CART", "treated": "CART", "reference": "PBS"}]
    assert settings["input"] == "in.h5ad"
    assert call("check", out).exit_code == 0
    assert_fails(call("init", tmp_path / "in.h5ad", "-o", out), "there already", "--force")


def test_genesets_are_listed_with_their_coverage_in_a_file(tmp_path: Path) -> None:
    plain = call("genesets")
    assert plain.exit_code == 0, plain.output
    table = pd.read_csv(io.StringIO(plain.stdout), sep="\t", keep_default_na=False)
    assert {"cell type", "signature"} == set(table["kind"])
    assert (table["n_genes"] > 0).all()
    assert (table["sources"] != "").all()
    assert (table["n_found"] == "").all()
    adata = tiny()
    # Two genomes: of the human CD3D only the human gene is to count.
    adata.var_names = [*(f"GRCh38_{g}" for g in GENES[:-2]), "mm10___Cd3g", "mm10___Lyz2"]
    adata.write_h5ad(tmp_path / "two.h5ad")
    (tmp_path / "own.gmt").write_text("mine\t\tCD3D\tCD3G\tLYZ\n", encoding="utf-8")
    result = call(
        "genesets", tmp_path / "two.h5ad", "--organism", "human+mouse",
        "--gene-sets", tmp_path / "own.gmt",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    found = pd.read_csv(io.StringIO(result.stdout), sep="\t").set_index("gene_set")
    assert found.loc["mine", ["kind", "n_genes", "n_found", "missing"]].tolist() == [
        "user", 3, 2, "CD3G"
    ]  # fmt: skip
    assert_fails(call("genesets", tmp_path / "no.h5ad"), "no.h5ad")
    assert_fails(call("genesets", "--gene-sets", tmp_path / "no.gmt"), "no.gmt")
    assert call("genesets", "--organism", "rat").exit_code == 2


def test_a_whole_run_takes_the_processors_that_it_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    from crs_sc.cli import demo, run

    monkeypatch.setattr(loky, "cpu_count", lambda **_: 3)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    for command in (demo, run):
        (jobs,) = (option for option in command.params if option.name == "jobs")
        context = command.make_context("x", ["--help"], resilient_parsing=True)
        assert jobs.get_default(context) == 3
