"""A bundle on the disk recommends what its towers and its index say."""

import datetime
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import faiss
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from mlflow.exceptions import MlflowException
from mlflow.pyfunc.model import PythonModelContext

from recsys_core.registry import bundle
from recsys_core.serving import Bundle, __main__
from recsys_core.serving.pyfunc import Recommender

DAY = datetime.date(2024, 3, 1)


@pytest.fixture(scope="module")
def made(made_day, tmp_path_factory):
    return made_day(tmp_path_factory.mktemp("run"), DAY, 6)


@pytest.fixture
def directory(made, tmp_path):
    queries = bundle.queries(made["model"], made["data"], made["embeddings"], 12)
    bundle.fill(tmp_path / "bundle", made["model"], made["index"], queries)
    return tmp_path / "bundle"


def _vectors(table: pa.Table) -> np.ndarray:
    return np.stack(table["embedding"].to_numpy(zero_copy_only=False))


def test_recommends_the_items_of_the_highest_product(made, directory):
    users = pq.read_table(made["data"].ground_truth)
    queries, items = pq.read_table(made["embeddings"].queries), pq.read_table(made["embeddings"].items)
    found = Bundle.load(directory).recommend(users, 5)
    scores = _vectors(queries) @ _vectors(items).T
    for row in range(users.num_rows):
        best = np.argsort(-scores[row])[:5]
        assert found["item_ids"][row].as_py() == [items["item_id"][int(item)].as_py() for item in best]
        np.testing.assert_allclose(found["scores"][row].as_py(), scores[row][best], rtol=1e-5)


def test_fewer_items_than_wanted_are_not_filled_up(directory, made):
    users = pq.read_table(made["data"].ground_truth).slice(0, 3)
    flat = faiss.IndexFlatIP(8)
    flat.add(_vectors(pq.read_table(made["embeddings"].items)))
    faiss.write_index(flat, str(directory / "index" / "index.faiss"))
    assert pc.list_value_length(Bundle.load(directory).recommend(users, 1_000)["item_ids"]).to_pylist() == [60] * 3
    index = faiss.IndexIVFFlat(faiss.IndexFlatIP(8), 8, 4, faiss.METRIC_INNER_PRODUCT)
    index.train(np.eye(8, dtype=np.float32)[:4])
    index.add(np.eye(8, dtype=np.float32)[:1])
    faiss.write_index(index, str(directory / "index" / "index.faiss"))
    lengths = pc.list_value_length(Bundle.load(directory).recommend(users, 2)["item_ids"]).to_pylist()
    assert set(lengths) <= {0, 1}


def test_no_rows_no_answers(directory, made):
    users = pq.read_table(made["data"].ground_truth).slice(0, 0)
    assert Bundle.load(directory).recommend(users, 5).num_rows == 0


def test_k_must_be_positive(directory, made):
    with pytest.raises(ValueError, match="k is 0"):
        Bundle.load(directory).recommend(pq.read_table(made["data"].ground_truth), 0)


def test_threads_share_a_bundle(directory, made):
    loaded, users = Bundle.load(directory), pq.read_table(made["data"].ground_truth)
    expected = loaded.recommend(users, 10)["item_ids"].to_pylist()
    with ThreadPoolExecutor(4) as threads:
        answers = list(threads.map(lambda _: loaded.recommend(users, 10)["item_ids"].to_pylist(), range(24)))
    assert all(answer == expected for answer in answers)


def test_loose_values_become_a_typed_table(directory):
    loaded = Bundle.load(directory)
    table = loaded.table(
        {"segment": [None, "s1"], "age": [30.0, float("nan")], "history__item_id": [[7], None], "x": [1, 2]}
    )
    assert table.to_pydict() == {"segment": [None, "s1"], "age": [30, None], "history__item_id": [[7], None]}
    assert loaded.recommend(table, 3).num_rows == 2
    with pytest.raises(ValueError, match=r"'age' is missing .*found segment"):
        loaded.table({"segment": ["s1"], "history__item_id": [[]]})
    with pytest.raises(ValueError, match="'age' takes int64"):
        loaded.table({"segment": ["s1"], "age": ["old"], "history__item_id": [[]]})


@pytest.mark.parametrize("piece", ["query/model.pt", "index/index.faiss", "index/id_map.parquet"])
def test_a_missing_piece_is_named(directory, piece):
    (directory / piece).unlink()
    with pytest.raises(ValueError, match=rf"{piece}: missing"):
        Bundle.load(directory)


@pytest.mark.parametrize("piece", ["query/model.pt", "index/index.faiss", "index/id_map.parquet"])
def test_a_damaged_piece_is_named(directory, piece):
    (directory / piece).write_bytes(b"not what it was")
    with pytest.raises(ValueError, match=rf"{piece}: damaged"):
        Bundle.load(directory)


def test_check_passes_what_was_measured(directory):
    report = Bundle.load(directory).check(pq.read_table(directory / bundle.QUERIES), 10)
    assert (report.num_queries, report.overlap) == (12, 1.0)


def test_check_finds_another_tower(directory):
    queries = pq.read_table(directory / bundle.QUERIES)
    others = pa.FixedSizeListArray.from_arrays(pa.array(-_vectors(queries).ravel()), 8)
    with pytest.raises(ValueError, match="other vectors"):
        Bundle.load(directory).check(queries.set_column(3, "embedding", others), 10)


def test_check_finds_a_damaged_index(directory, made):
    vectors = _vectors(pq.read_table(made["embeddings"].items)).copy()
    vectors[:] = np.nan
    index = faiss.IndexFlatIP(8)
    index.add(vectors)
    faiss.write_index(index, str(directory / "index" / "index.faiss"))
    with pytest.raises(ValueError, match=r"scores that are no numbers|of the recommended items"):
        Bundle.load(directory).check(pq.read_table(directory / bundle.QUERIES), 10)


def test_the_command_says_what_it_saw(directory, capsys):
    assert __main__.main([str(directory)]) == 0
    assert "12 queries served" in capsys.readouterr().out
    (directory / "query" / "model.pt").unlink()
    assert __main__.main([str(directory)]) == 1
    assert "query/model.pt: missing" in capsys.readouterr().err
    assert __main__.main([]) == 2
    assert "usage" in capsys.readouterr().err


def test_the_command_ends_with_whoever_started_it(directory):
    command = [sys.executable, "-m", "recsys_core.serving", str(directory), "--watch-stdin"]
    assert subprocess.run(command, stdin=subprocess.DEVNULL, check=False).returncode == 143


def test_reading_the_module_loads_neither_torch_nor_faiss():
    script = "import sys, recsys_core.serving; print(sorted({'torch', 'faiss', 'mlflow'} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_the_mlflow_model_answers_and_refuses(directory):
    model = Recommender()
    model.load_context(PythonModelContext({"query": str(directory / "query")}, {}))
    rows = pd.DataFrame({"segment": ["s1", None], "age": [None, 40], "history__item_id": [[], [7, 17]]})
    assert [len(items) for items in model.predict(rows, {"k": 4})["item_ids"]] == [4, 4]
    assert [len(items) for items in model.predict(rows)["item_ids"]] == [20, 20]
    with pytest.raises(MlflowException, match="'age' is missing") as caught:
        model.predict(rows.drop(columns="age"))
    assert caught.value.get_http_status_code() == 400
