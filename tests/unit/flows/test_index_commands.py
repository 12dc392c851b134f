"""`dayline index` and `dayline hit-rate`: what they print and leave, and that a refusal is one line and no file."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import faiss
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner, Result

from flows.cli import app
from recsys_core.artifacts import Index

RUNNER = CliRunner()


def run(*arguments: object) -> Result:
    return RUNNER.invoke(app, list(map(str, arguments)), catch_exceptions=False)


@pytest.fixture
def tables(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    items = rng.normal(size=(50, 4)).astype(np.float32)
    pq.write_table(pa.table({"id": [f"i{item}" for item in range(50)], "emb": list(items)}), tmp_path / "items.parquet")
    # Each request is an item's own vector, and wants that item.
    columns = {"user": [f"u{item}" for item in range(50)], "want": [f"i{item},i99" for item in range(50)]}
    pq.write_table(pa.table(columns | {"emb": list(items)}), tmp_path / "requests.parquet")
    return tmp_path


def of_items(tables: Path) -> list[object]:
    return ["--items", tables / "items.parquet", "--item-id", "id", "--item-vector", "emb"]


def of_requests(tables: Path) -> list[object]:
    columns = ["--request-id", "user", "--ground-truth", "want", "--query-vector", "emb"]
    return ["--queries", tables / "requests.parquet", *columns, *of_items(tables), "--metric", "l2"]


def test_an_index_is_built_and_searched(tables: Path):
    out = tables / "index"
    kind = ["--kind", "ivf_flat", "--nlist", "5", "--set", "nprobe=5", "--metric", "l2"]
    built = run("index", *of_items(tables), "--out", out, *kind)
    assert built.stdout == f"{out}: IVF5,Flat by l2 of 50 items, 4 dimensions, nprobe 5, ANN recall 1.0000\n"
    assert "plan: IVF5,Flat, as nlist says, 10 items in a cell" in built.stderr
    assert faiss.read_index(str(out / "index.faiss")).nprobe == 5
    assert pq.read_table(out / "id_map.parquet")["item_id"][7].as_py() == "i7"
    queries = ["--queries", tables / "requests.parquet", "--query-id", "user", "--query-vector", "emb"]
    drawn = ["--recall-k", "7,2", "--plot", tables / "recall.png"]
    again = run("index", *of_items(tables), "--out", out, *kind, *queries, *drawn, "--json")
    assert json.loads((out / "recall.json").read_text())["ks"] == [2, 7]
    assert (tables / "recall.png").stat().st_size > 10_000
    assert json.loads(again.stdout)["num_items"] == 50
    found = run("hit-rate", *of_requests(tables), "--index", out, "--top-k", "2,1", "--json")
    assert json.loads(found.stdout) == {
        "num_queries": 50,
        "num_ground_truth": 100,
        "hit_rate": {"1": 0.5, "2": 0.5},
        "recall": {"1": 0.5, "2": 0.5},
        "ndcg": {"1": 1.0, "2": pytest.approx(1 / (1 + 1 / np.log2(3)))},
    }
    assert "note: 50 of the 100 wanted items are not among the items" in found.stderr


def test_an_index_gets_and_loses_items(tables: Path):
    out, updated = tables / "index", tables / "updated"
    run("index", *of_items(tables), "--out", out, "--kind", "flat")
    changed = ["--update", out, *of_items(tables), "--remove", tables / "items.parquet", "--out", updated]
    made = run("index", *changed)
    assert made.stdout == f"{updated}: Flat by ip of 50 items, 4 dimensions\n"
    assert "plan: 0 items added, 50 changed, 50 removed" in made.stderr
    # An index may take its own place.
    assert run("index", *changed[:-1], out).exit_code == 0
    for options, message in (
        (["--update", out, "--out", "x"], "--update: name --items that it gets, or items to --remove"),
        (["--update", out, "--out", "x", "--nlist", 3], "--nlist: is of an index that is built"),
        (["--remove", "y", "--out", "x", *of_items(tables)], "--remove: goes with --update"),
        (["--out", "x"], "--items: missing"),
        (["--out", "x", *of_items(tables), "--plot", "p.txt"], "--plot: p.txt ends in no kind of picture"),
        (["--out", "x", *of_items(tables), "--plot", tables / "no" / "p.png"], f"--plot: {tables / 'no'} is no folder"),
    ):
        refused = run("index", *options)
        assert refused.exit_code == 2
        assert message in refused.stderr


def test_a_line_says_what_was_found_and_tables_hold_it(tables: Path):
    total, details = tables / "total", tables / "details"
    outputs = ["--output", total, "--details", details]
    found = run("hit-rate", *of_requests(tables), "--top-k", "60", *outputs)
    assert found.stdout == "hit rate @60 0.5000 of 50 requests for 100 items among 50, by Flat\n"
    assert "note: lists of 60 hold all 50 items" in found.stderr
    assert pq.read_table(total).to_pylist()[0]["num_ground_truth"] == 100
    assert len(pq.read_table(details)["topk_ids"][0]) == 50
    # What a command of ours wrote is replaced, and nothing else.
    assert run("hit-rate", *of_requests(tables), "--top-k", "2", *outputs).exit_code == 0
    assert len(pq.read_table(details)["topk_ids"][0]) == 2
    (tables / "notes").mkdir()
    (tables / "notes" / "kept.txt").write_text("mine")
    for option in ("--output", "--details"):
        refused = run("hit-rate", *of_requests(tables), option, tables / "notes")
        assert refused.exit_code == 2
        assert refused.stderr.startswith(f"error: {option}: {tables / 'notes'}: exists, and no command of Dayline")
    refused = run("index", *of_items(tables), "--out", tables / "notes")
    assert refused.exit_code == 2
    assert refused.stderr.startswith(f"error: {tables / 'notes'}: exists, and is no Index")
    assert (tables / "notes" / "kept.txt").read_text() == "mine"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--index", "hsnw"], "indexes: unknown kind 'hsnw' (known: "),
        (["--nlist", "3"], "dayline hit-rate: nlist: has no effect with kind flat, only with ivf_flat or ivf_pq"),
        (["--set", "nlists=3", "--index", "ivf_flat"], "nlists=3: nlists: unknown key; did you mean nlist?"),
        (
            ["--index", "ivf_flat", "--nprobe", "3", "--target-recall", "0.5"],
            "target_recall: 0.5 is what nprobe",
        ),
        (["--metric", "dot"], "--metric: 'dot' is none of ip, l2, cosine"),
        (["--top-k", "5,0"], "--top-k: '5,0'; give whole numbers from 1 on with commas between"),
        (
            ["--num-interests", "2", "--num-interests-column", "n"],
            "--num-interests and --num-interests-column both say",
        ),
        (["--output", "same", "--details", "same"], "--output and --details are both same; name two tables"),
        (["--index", "./there", "--nprobe", "3"], "--index: there is built already, so that no option of a kind"),
    ],
)
def test_an_option_that_is_none_is_one_line(tables: Path, options: list[str], message: str):
    refused = run("hit-rate", *of_requests(tables), *options)
    assert refused.exit_code == 2
    assert not refused.stdout
    (line,) = refused.stderr.splitlines()
    assert line.startswith("error: ")
    assert message in line


# Ends the process as soon as the build says something with these words in it.
_KILLED_AT = """
import contextlib, os, signal, sys
from flows import console
words = sys.argv.pop(1)
@contextlib.contextmanager
def progress():
    yield lambda event: os.kill(os.getpid(), signal.SIGKILL) if words in (event.message or "") else None
console.progress = progress
from flows.cli import main
main()
"""


@pytest.mark.parametrize(
    ("words", "options"),
    [
        ("training", []),
        ("returns", []),
        ("filling shard 1", ["--memory-gb", 2]),
        ("merging", ["--memory-gb", 2]),
        ("is the least", ["--memory-gb", 2]),
    ],
)
def test_a_build_that_is_killed_leaves_the_index_that_was_there(tables: Path, words: str, options: list[object]):
    out = tables / "index"
    run("index", *of_items(tables), "--out", out, "--kind", "flat")
    before = Index.load(out)
    again = ["index", *of_items(tables), "--out", out, "--nlist", 5, *options]
    script = [sys.executable, "-c", _KILLED_AT, words, *map(str, again)]
    assert subprocess.run(script, capture_output=True, check=False).returncode == -signal.SIGKILL
    assert Index.load(out) == before
    before.verify_here()
    assert run(*again).exit_code == 0
    assert Index.load(out).factory == "IVF5,Flat"
    assert sorted(path.name for path in tables.iterdir()) == ["index", "items.parquet", "requests.parquet"]


@pytest.mark.parametrize("option", ["--output", "--details"])
def test_a_hit_rate_that_is_killed_leaves_the_tables_that_were_there(tables: Path, option: str):
    there = tables / "there"
    run("hit-rate", *of_requests(tables), "--top-k", "3", option, there)
    before = {file.name: file.read_bytes() for file in there.iterdir()}
    again = ["hit-rate", *of_requests(tables), "--top-k", "4", option, there]
    script = [sys.executable, "-c", _KILLED_AT, "flat", *map(str, again)]
    assert subprocess.run(script, capture_output=True, check=False).returncode == -signal.SIGKILL
    assert {file.name: file.read_bytes() for file in there.iterdir()} == before
    assert run(*again).exit_code == 0
    assert {file.name for file in there.iterdir()} == {"_manifest.json", "part-00000.parquet"}
    assert sorted(path.name for path in tables.iterdir()) == ["items.parquet", "requests.parquet", "there"]


def test_processes_that_share_the_items_find_what_one_finds(tables: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tables / "cache"))
    vectors = np.random.default_rng(1).normal(size=(1_100, 4)).astype(np.float32)
    few = pq.read_table(tables / "items.parquet")
    ids = pa.array([f"other{item}" for item in range(1_100)])
    many = pa.table([ids, pa.array(list(vectors), few.schema.field("emb").type)], names=["id", "emb"])
    pq.write_table(pa.concat_tables([many, few]), tables / "items.parquet")
    alone = run("hit-rate", *of_requests(tables), "--top-k", "1,7", "--json")
    for asked, plan in (
        (["--num-ranks", "2"], "plan: 2 process(es), each with 1,024 of 1,150 items in memory, at most 0."),
        (["--memory-gb", "2"], "plan: 1 process(es), each with 1,150 of 1,150 items in memory, at most 0."),
    ):
        found = run("hit-rate", *of_requests(tables), "--top-k", "1,7", "--json", *asked)
        assert found.stdout == alone.stdout, found.stderr
        assert plan in found.stderr
        assert not list((tables / "cache").rglob("hit-rate-*"))
    refused = run("hit-rate", *of_requests(tables), "--memory-gb", "0.1")
    assert refused.exit_code == 2
    assert "error: to search 1,150 items of 4 dimensions takes a process at least 0." in refused.stderr
    assert not list((tables / "cache").rglob("hit-rate-*"))
    of_graphs = run("hit-rate", *of_requests(tables), "--num-ranks", "2", "--index", "hnsw")
    assert of_graphs.exit_code == 2
    assert "--num-ranks and --memory-gb are of an exact search, and --index is hnsw" in of_graphs.stderr
