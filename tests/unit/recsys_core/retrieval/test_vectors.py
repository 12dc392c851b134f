"""Vectors of an Embeddings artifact: what is refused at the door, by name, and masked search against an oracle."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recsys_core.metrics.retrieval import Lists
from recsys_core.retrieval import vectors
from recsys_core.retrieval.hit_rate.contenders import Held, exact
from recsys_core.retrieval.vectors import masked_lists, positions, read_items, read_queries

ITEMS = pa.array(["a", "b", "c"])


def embedding(rows: list[list[float | None]]) -> pa.Array:
    return pa.array(rows, pa.list_(pa.float32(), 2))


def write(folder: Path, *parts: dict[str, Any]) -> Path:
    folder.mkdir()
    for number, columns in enumerate(parts):
        pq.write_table(pa.table(columns), folder / f"part-{number:05}.parquet")
    return folder


def queries(folder: Path, **changed: Any) -> Path:
    columns = {
        "user_id": [1, 2],
        "gt_items": [["a"], ["c", "z"]],
        "seen_items": [[], ["b"]],
        "embedding": embedding([[1, 0], [0, 2]]),
    }
    return write(folder, columns | changed)


def test_items_are_read_part_after_part(tmp_path: Path):
    folder = write(
        tmp_path / "items",
        {"item_id": [7, 5], "embedding": embedding([[1, 2], [3, 4]])},
        {"item_id": [6], "embedding": embedding([[5, 6]])},
    )
    items = read_items(folder)
    assert items.ids.to_pylist() == [7, 5, 6]
    assert items.vectors.tolist() == [[1, 2], [3, 4], [5, 6]]
    assert items.vectors.dtype == np.float32


def test_queries_come_with_positions_and_items_outside_the_table_are_minus_one(tmp_path: Path):
    read = read_queries(queries(tmp_path / "q"), ITEMS)
    assert read.users.to_pylist() == [1, 2]
    assert (read.truth.values.tolist(), read.truth.offsets.tolist()) == ([0, 2, -1], [0, 1, 3])
    assert (read.seen.values.tolist(), read.seen.offsets.tolist()) == ([1], [0, 0, 1])


def test_a_user_without_a_list_of_seen_items_has_seen_nothing(tmp_path: Path):
    seen = pa.array([None, ["b"]], pa.list_(pa.string()))
    assert read_queries(queries(tmp_path / "q", seen_items=seen), ITEMS).seen.lengths.tolist() == [0, 1]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"embedding": embedding([[1, 0], [0, float("nan")]])}, r"2 has a vector with NaN or infinity \(1 of 2"),
        ({"embedding": embedding([[0, 0], [0, float("inf")]])}, "2 has a vector with NaN or infinity"),
        ({"embedding": embedding([[0, 0], [0, 1]])}, "1 has a zero vector"),
        ({"embedding": embedding([[1, 0], [None, 2]])}, "user_id or embedding is null between rows 0 and 2"),
        ({"user_id": [1, None]}, "user_id or embedding is null"),
        ({"gt_items": [["a"], []]}, "2 has no ground-truth items"),
        ({"gt_items": pa.array([["a"], None], pa.list_(pa.string()))}, "2 has no ground-truth items"),
        ({"gt_items": [["a"], ["z", "c", "z"]]}, "2 has the same ground-truth item twice"),
        ({"gt_items": [[1], [2]]}, "ids of type int64 where those to match are string"),
        ({"embedding": pa.array([[1.0, 0.0], [0.0, 1.0]])}, "embedding is list<.*double> where fixed_size_list<float>"),
    ],
)
def test_queries_that_cannot_be_ranked_are_refused_by_name(tmp_path: Path, changed: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        read_queries(queries(tmp_path / "q", **changed), ITEMS)


def test_item_tables_that_cannot_be_searched_are_refused(tmp_path: Path):
    with pytest.raises(ValueError, match="item_id 'b' stands there more than once"):
        read_items(write(tmp_path / "1", {"item_id": ["b", "a", "b"], "embedding": embedding([[1, 1]] * 3)}))
    with pytest.raises(ValueError, match="'a' has a vector with NaN or infinity"):
        read_items(write(tmp_path / "2", {"item_id": ["a"], "embedding": embedding([[float("inf"), 1]])}))
    with pytest.raises(ValueError, match="no column 'embedding'; there are item_id"):
        read_items(write(tmp_path / "3", {"item_id": ["a"]}))
    with pytest.raises(ValueError, match="no rows"):
        read_items(write(tmp_path / "4", {"item_id": pa.array([], pa.string()), "embedding": embedding([])}))


def test_ids_of_any_width_match():
    assert positions(pa.array([9, 4], pa.int32()), pa.array([4, 5], pa.int64()), "x").tolist() == [-1, 0]
    assert positions(pa.array(["b"], pa.large_string()), pa.array(["a", "b"]), "x").tolist() == [1]


def test_masked_search_finds_what_a_full_sort_finds_in_blocks_of_any_size(monkeypatch: pytest.MonkeyPatch):
    rng = np.random.default_rng(0)
    num_items, num_queries, keep = 50, 40, 6
    items, asked = (rng.normal(size=(n, 5)).astype(np.float32) for n in (num_items, num_queries))
    # From a user who has seen nothing to one who has seen all but two items.
    seen = [rng.choice(num_items, rng.integers(0, 9), replace=False) for _ in range(num_queries)]
    seen[7], seen[9] = np.arange(48), np.arange(0)
    lists = Lists(np.concatenate(seen).astype(np.int64), np.cumsum([0, *map(len, seen)]))
    scores = asked @ items.T
    for query, mask in enumerate(seen):
        scores[query, mask] = -np.inf
    order = np.argsort(-scores, axis=1)[:, :keep]
    expected = np.where(np.isfinite(np.take_along_axis(scores, order, 1)), order, -1)
    for cells, num_threads in ((1, 1), (100, 1), (1 << 21, 1), (1, 2), (100, 3), (1 << 21, 8)):
        monkeypatch.setattr(vectors, "_BLOCK_CELLS", cells)
        found = np.full((num_queries, keep), -2)
        search = exact(Held.of(items), asked)._replace(num_threads=num_threads)
        for rows, ids, _ in masked_lists(search, lists, num_items, keep):
            assert (found[rows] == -2).all()
            found[rows] = ids
        assert (found == expected).all()


def test_what_fails_in_a_thread_fails_the_search():
    def find(rows: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray]:
        raise ValueError(f"no vector of {rows[0]}")

    nothing = Lists(np.empty(0, np.int64), np.zeros(6, np.int64))
    with pytest.raises(ValueError, match="no vector of 0"):
        list(masked_lists(vectors.Search(find, np.zeros(5), num_threads=2), nothing, 3, 2))
