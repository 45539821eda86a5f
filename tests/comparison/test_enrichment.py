"""Enrichment: the classic running sum, planted sets, odd rankings, and no network."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from crs_sc import keys
from crs_sc.comparison import enrichment
from crs_sc.errors import InputError, MissingKeyError


@pytest.fixture(autouse=True)
def _no_network(monkeypatch):
    def refuse(*args, **kwargs):
        msg = "enrichment must not use the network"
        raise AssertionError(msg)

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def table_of(statistic, *, contrast="cart", population="Mono", genes=None, status=keys.OK):
    genes = [f"GENE{i}" for i in range(len(statistic))] if genes is None else genes
    return pd.DataFrame(
        {
            "contrast": contrast,
            "population": population,
            "gene": genes,
            "statistic": np.asarray(statistic, dtype=float),
            "status": status,
        }
    )


def running_sum(statistic, genes, members):
    """Enrichment score of Subramanian 2005, weight 1: the largest deviation of the walk."""
    order = np.argsort(-statistic, kind="stable")
    hit = np.isin(np.array(genes)[order], list(members))
    weight = np.abs(statistic[order]) * hit
    walk = np.cumsum(weight / weight.sum() - ~hit / (~hit).sum())
    return walk[np.argmax(np.abs(walk))]


def sets_of(rng, n_genes, n_sets=12, size=15):
    names = [f"GENE{i}" for i in range(n_genes)]
    return {f"set{k}": list(rng.choice(names, size, replace=False)) for k in range(n_sets)}


def test_score_is_the_classic_running_sum():
    rng = np.random.default_rng(0)
    statistic = rng.normal(size=400)
    table = table_of(statistic)
    sets = sets_of(rng, 400)
    result = enrichment(table, gene_sets=sets, n_permutations=50)
    assert list(result.columns) == keys.ENRICHMENT_TABLE.names
    assert list(result["gene_set"]) == list(sets)
    expected = [running_sum(statistic, table["gene"], members) for members in sets.values()]
    np.testing.assert_allclose(result["es"], expected, atol=1e-6)


def test_a_panic_of_gseapy_is_an_error_like_any_other(monkeypatch):
    import gseapy

    class PanicException(BaseException):
        pass

    def panic(**kwargs):
        msg = "index out of bounds"
        raise PanicException(msg)

    monkeypatch.setattr(gseapy, "prerank", panic)
    with pytest.raises(InputError, match="gseapy failed on a ranking of 30 genes: index out"):
        enrichment(table_of(np.arange(30.0)), gene_sets={"a": [f"GENE{i}" for i in range(9)]})


def test_planted_sets_are_on_top_with_the_right_sign():
    rng = np.random.default_rng(1)
    statistic = rng.normal(size=500)
    statistic[:20] += 3
    statistic[20:40] -= 3
    sets = {
        "up": [f"GENE{i}" for i in range(20)],
        **sets_of(rng, 500),
        "down": [f"GENE{i}" for i in range(20, 40)],
    }
    result = enrichment(table_of(statistic), gene_sets=sets).set_index("gene_set")
    assert result["nes"].idxmax() == "up"
    assert result["nes"].idxmin() == "down"
    assert (result.loc[["up", "down"], "pvalue"] == 1 / 1000).all()
    assert (result.loc[["up", "down"], "padj"] < 0.02).all()
    assert (result.drop(["up", "down"])["padj"] > 0.02).all()
    for name, best in (("up", np.argmax(statistic)), ("down", np.argmin(statistic))):
        edge = result.loc[name, "leading_edge"].split(",")
        assert set(edge) <= set(sets[name])
        assert edge[0] == f"GENE{best}"


def test_p_of_random_sets_is_near_uniform():
    rng = np.random.default_rng(2)
    sets = sets_of(rng, 600, n_sets=150)
    result = enrichment(table_of(rng.normal(size=600)), gene_sets=sets, n_permutations=300)
    assert 0.4 < result["pvalue"].mean() < 0.6
    assert (result["pvalue"] < 0.05).mean() < 0.11


def test_order_of_genes_and_case_of_symbols_do_not_matter():
    rng = np.random.default_rng(3)
    statistic = np.round(rng.normal(size=300), 1)  # many ties
    mouse = [f"Gene{i}" for i in range(300)]
    table = table_of(statistic, genes=mouse)
    sets = {"own": mouse[5:25], "human": [g.upper() for g in mouse[5:25]]}
    first = enrichment(table, gene_sets=sets, n_permutations=100)
    shuffled = enrichment(table.sample(frac=1, random_state=0), gene_sets=sets, n_permutations=100)
    pd.testing.assert_frame_equal(first, shuffled)
    assert list(first["status"]) == [keys.OK, keys.NOT_MEASURED]
    assert list(first["n_genes"]) == [20, 0]


@pytest.mark.filterwarnings("error")
def test_odd_rankings_have_a_status_and_no_noise(capfd):
    rng = np.random.default_rng(4)
    half = np.where(np.arange(60) < 50, 0.0, rng.normal(size=60))
    gap = rng.normal(size=60)
    gap[3] = np.nan
    tables = [
        table_of(np.zeros(60), population="all zero"),
        table_of(np.ones(60), population="all equal"),
        table_of(half, population="mostly zero"),
        table_of(gap, population="one missing"),
        table_of([1.0], population="one gene"),
        table_of([np.nan], population="absent", genes=[""], status=keys.ABSENT_IN_TREATED),
    ]
    sets = {
        "zeros": [f"GENE{i}" for i in range(10)],
        "ends": [f"GENE{i}" for i in range(45, 60)],
        "few": ["GENE50", "GENE51"],
        "all": [f"GENE{i}" for i in range(60)],
        "none": ["ABC", "DEF"],
        "empty": [],
    }
    result = enrichment(pd.concat(tables), gene_sets=sets, n_permutations=20)
    assert len(result) == 6 * 6
    status = result.pivot_table(
        index="population", columns="gene_set", values="status", aggfunc="first", sort=False
    )
    ok = {("mostly zero", "ends"), ("one missing", "zeros"), ("one missing", "ends")}
    for population, row in status.iterrows():
        for name, value in row.items():
            expected = keys.ABSENT_IN_TREATED if population == "absent" else keys.NOT_MEASURED
            assert value == (keys.OK if (population, name) in ok else expected)
    tested = result["status"] == keys.OK
    assert result.loc[tested, ["es", "pvalue", "padj"]].notna().all().all()
    assert result.loc[~tested, ["es", "nes", "pvalue", "padj"]].isna().all().all()
    assert (result.loc[~tested, "leading_edge"] == "").all()
    one = result[(result["population"] == "one missing") & (result["gene_set"] == "zeros")]
    assert one["n_genes"].iloc[0] == 9
    out = capfd.readouterr()
    assert out.out == ""
    assert out.err == ""


def test_a_table_read_back_from_disk_gives_the_same(tmp_path):
    rng = np.random.default_rng(5)
    untested = table_of([np.nan], population="T", genes=[""], status=keys.TOO_FEW_CELLS)
    table = pd.concat([table_of(rng.normal(size=80)), untested])
    table.to_csv(tmp_path / "expression.tsv", sep="\t", index=False)
    back = pd.read_csv(tmp_path / "expression.tsv", sep="\t")
    sets = sets_of(rng, 80, n_sets=3)
    results = [enrichment(t, gene_sets=sets, n_permutations=30) for t in (table, back)]
    pd.testing.assert_frame_equal(*results)


SCRIPT = """
import numpy as np, pandas as pd
from crs_sc.comparison import enrichment
rng = np.random.default_rng(6)
names = [f"GENE{i}" for i in range(300)]
table = pd.DataFrame({"contrast": "c", "population": "p", "gene": names,
                      "statistic": rng.normal(size=300), "status": "ok"})
sets = {f"s{k}": set(map(str, rng.choice(names, 20, replace=False))) for k in range(20)}
print(enrichment(table, gene_sets=sets, n_permutations=100).to_csv())
"""


def test_same_bytes_in_every_process():
    answers = set()
    for seed in ("1", "2"):
        run = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", SCRIPT],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        )
        answers.add(run.stdout)
    assert len(answers) == 1


def test_processes_do_not_change_the_table():
    rng = np.random.default_rng(8)
    table = pd.concat([table_of(rng.normal(size=90), population=p) for p in "abc"])
    sets = sets_of(rng, 90, n_sets=3)
    one, two = (enrichment(table, gene_sets=sets, n_permutations=50, n_jobs=n) for n in (1, 2))
    pd.testing.assert_frame_equal(one, two)


def test_bad_input_is_refused():
    table = table_of(np.arange(10.0))
    with pytest.raises(MissingKeyError, match="statistic"):
        enrichment(table.drop(columns="statistic"), gene_sets={"a": ["GENE1"]})
    with pytest.raises(InputError, match="gene_sets is empty"):
        enrichment(table, gene_sets={})
    with pytest.raises(InputError, match="'a' is a single string"):
        enrichment(table, gene_sets={"a": "GENE1"})
    with pytest.raises(InputError, match="more than one row for cart, Mono, GENE0"):
        enrichment(pd.concat([table, table]), gene_sets={"a": ["GENE1"]})
    with pytest.raises(InputError, match="n_permutations"):
        enrichment(table, gene_sets={"a": ["GENE1"]}, n_permutations=0)
