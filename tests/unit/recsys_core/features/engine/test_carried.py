"""Rows by id and features by meaning, from one engine to the next; every expected row is read off by hand."""

from typing import Any

import pyarrow as pa
import pytest

from recsys_core.features import Config, Engine, carried, differences

CITY = {"kind": "id", "name": "city", "num_embeddings": 6}


def engine(*query: dict[str, Any], base: Engine | None = None, fit: pa.Table | None = None, **keys: Any) -> Engine:
    made = Engine.build(Config.model_validate({"embedding_dim": 4, "query": query, "item": [], **keys}), base=base)
    if fit is not None:
        made.fit([fit], [])
    return made


def cities(*names: Any) -> pa.Table:
    return pa.table({"city": pa.array(names)})


def pairs(before: Engine, now: Engine, table: str = "city") -> list[tuple[int, int]]:
    rows = carried(before, now).tables[table]
    assert len(set(rows.now.tolist())) == len(rows.now)
    return sorted(zip(rows.before.tolist(), rows.now.tolist(), strict=True))


def test_a_vocabulary_fitted_anew_finds_its_rows_by_id() -> None:
    # By count, then by id: b, a, c; then c, d, a.
    before = engine(CITY, fit=cities("b", "b", "a", "c"))
    now = engine(CITY, fit=cities("c", "c", "d", "a"))
    assert pairs(before, now) == [(0, 0), (2, 2), (3, 1)] or pairs(before, now) == [(0, 0), (2, 2), (3, 1)]
    # One row for others and two of them do not stand for the same ids.
    assert pairs(before, engine(CITY | {"num_oov": 2}, fit=cities("c", "a"))) == [(2, 2), (3, 3)]


@pytest.mark.parametrize("changed", [{"num_embeddings": 9}, {"min_count": 2}, {"max_counted": 50}])
def test_a_vocabulary_that_is_continued_with_other_settings_moves_no_id(changed: dict[str, int]) -> None:
    before = engine(CITY, fit=cities("b", "b", "a", "c"))
    now = engine(CITY | changed, base=before, fit=cities("d", "d", "e"))
    assert pairs(before, now) == [(0, 0), (1, 1), (2, 2), (3, 3)]
    assert now.transform(cities("a", "d"), "query").sparse["city"].values.tolist() == [2, 4]


def test_ids_without_a_row_in_a_smaller_vocabulary_are_known_no_more() -> None:
    before = engine(CITY, fit=cities("b", "b", "a", "c"))
    now = engine(CITY | {"num_embeddings": 3}, base=before, fit=cities("c"))
    assert pairs(before, now) == [(0, 0), (1, 1), (2, 2)]
    # More rows for others push out ids that had theirs there: these get new ones, and bring what they had.
    now = engine(CITY | {"num_oov": 3}, base=before, fit=cities("x"))
    rows = dict(zip("abcx", now.transform(cities(*"abcx"), "query").sparse["city"].values.tolist(), strict=True))
    assert rows["c"] == 3
    assert pairs(before, now) == sorted({(3, 3), (1, rows["b"]), (2, rows["a"])})


def test_texts_and_numbers_that_are_written_alike_are_the_same_ids() -> None:
    before, now = engine(CITY, fit=cities(7, 7, 10)), engine(CITY, fit=cities("10", "7", "07", "7", "10", "10"))
    assert pairs(before, now) == [(0, 0), (1, 2), (2, 1)]
    assert pairs(now, before) == [(0, 0), (1, 2), (2, 1)]


def test_rows_of_an_identity_are_their_ids_as_far_as_both_go() -> None:
    small, large = (engine({"kind": "id", "name": "city", "encoding": "identity", "num_embeddings": n}) for n in (3, 5))
    assert pairs(small, large) == pairs(large, small) == [(0, 0), (1, 1), (2, 2)]
    # A vocabulary over such ids takes the rows of its own.
    fitted = engine(CITY, fit=cities(4, 4, 1, 9))
    assert pairs(large, fitted) == [(1, 2), (4, 1)]
    assert pairs(fitted, large) == [(1, 4), (2, 1)]


def test_a_hash_that_is_a_multiple_of_the_former_inherits_from_it() -> None:
    three, six, seven = (engine(CITY | {"encoding": "hash", "num_embeddings": n}) for n in (3, 6, 7))
    assert pairs(three, six) == [(row % 3, row) for row in sorted(range(6), key=lambda row: (row % 3, row))]
    assert pairs(three, seven) == pairs(six, three) == []
    assert pairs(three, engine(CITY | {"encoding": "hash", "num_embeddings": 3, "hash": "farm"})) == []
    # Every id that is in one bucket of six was in that bucket of three.
    ids = cities(*(f"city {number}" for number in range(50)))
    old, new = (one.transform(ids, "query").sparse["city"].values for one in (three, six))
    assert (new % 3 == old).all()
    fitted = engine(CITY, fit=cities("b", "b", "a"))
    own = three.transform(cities("b", "a"), "query").sparse["city"].values.tolist()
    assert pairs(three, fitted) == sorted(zip(own, [1, 2], strict=True))
    parts = (
        engine(CITY | {"encoding": "multi_hash", "num_buckets": n, "num_embeddings": None}) for n in ([2, 3], [4, 5, 3])
    )
    assert pairs(*parts) == [(0, 0), (0, 2), (1, 1), (1, 3)]


def test_a_given_list_and_a_dynamic_table_are_found_by_id_too() -> None:
    given = {"kind": "id", "name": "city", "vocabulary": ["c", "a", "z"]}
    before = engine(CITY, fit=cities("b", "b", "a", "c"))
    assert pairs(before, engine(given)) == [(0, 0), (2, 2), (3, 1)]
    dynamic = {"kind": "id", "name": "city", "dynamic": {"max_rows": 8, "block_rows": 2}}
    now = engine(dynamic, base=before, fit=cities("e", "c"))
    assert pairs(before, now) == [(0, 0), (1, 1), (2, 2), (3, 3)]
    assert now.tables[0].num_embeddings == 6
    back = engine(CITY, base=now, fit=cities("f"))
    assert pairs(now, back) == [(0, 0), (1, 1), (2, 2), (3, 3), (4, 4)]


def test_a_bucket_inherits_from_the_one_that_it_lies_in() -> None:
    age = {"kind": "raw", "name": "age"}
    before = engine(age | {"boundaries": [18, 25, 35]})
    # 20..25 and 35..60 and beyond lie in one each, 16..20 and 25..35 do not change or lie across 18.
    now = engine(age | {"boundaries": [16, 20, 25, 35, 60]})
    assert pairs(before, now, "age") == [(0, 0), (1, 2), (2, 3), (3, 4), (3, 5)]
    fitted = engine(age | {"num_buckets": 2}, fit=pa.table({"age": [10.0, 18.0]}))
    assert pairs(before, fitted, "age") == [(0, 0)]
    # Buckets of another column's numbers are others.
    assert "age" not in carried(before, engine(age | {"boundaries": [18, 25, 35], "column": "income"})).tables


def test_what_a_feature_reads_decides_whether_it_means_the_same() -> None:
    price = {"kind": "raw", "name": "price", "normalizer": "log1p"}
    history = {"kind": "sequence", "name": "seen", "table": "city", "max_length": 5}
    before = engine(
        CITY, price, history, fit=cities("a").append_column("price", [[1.0]]).append_column("seen", [[["a"]]])
    )

    def kept(*query: dict[str, Any]) -> set[str]:
        table = cities("a").append_column("price", [[1.0]]).append_column("seen", [[["a"]]])
        table = table.append_column("cost", [[1.0]]).append_column("liked", [[["a"]]]).append_column("number", [[5]])
        return set(carried(before, engine(*query, base=before, fit=table)).features)

    assert kept(CITY, price, history) == {"city", "price", "seen"}
    assert kept(
        CITY | {"num_embeddings": 9, "embedding_dim": 8}, price, history | {"max_length": 9, "embedding_dim": 8}
    ) == {
        "city",
        "price",
        "seen",
    }
    assert kept(CITY, price | {"normalizer": "zscore"}, history | {"column": "liked"}) == {"city"}
    assert kept(CITY, price | {"column": "cost"}, history | {"pooling": "sum"}) == {"city"}
    # Of ids modulo 3 neither the rows nor what reads them mean the same.
    assert kept(CITY | {"mod": 3, "column": "number"}, history) == set()


def test_rows_that_an_upstream_job_gives_are_found_by_number() -> None:
    encoded = CITY | {"input": "encoded"}
    before, now = engine(encoded), engine(encoded | {"num_embeddings": 8})
    assert pairs(before, now) == [(row, row) for row in range(6)]
    assert "city" not in carried(before, engine(CITY, fit=cities("a"))).tables


def test_differences_are_reported_by_feature_and_table() -> None:
    before = engine(CITY, {"kind": "raw", "name": "age"})
    now = engine(
        CITY | {"num_embeddings": 9, "max_length": 3},
        {"kind": "raw", "name": "price"},
        tables=[{"name": "city", "dtype": "bfloat16"}],
        embedding_dim=8,
    )
    assert differences(before, before) == []
    assert differences(before, now) == [
        "feature age: gone",
        "feature price: new",
        "feature city: max_length null → 3, num_embeddings 6 → 9",
        "table city: embedding_dim 4 → 8",
        "table city: dtype float32 → bfloat16",
    ]


def test_statistics_of_a_changed_normaliser_start_anew() -> None:
    numbers = {"kind": "raw", "name": "age", "normalizer": "minmax"}
    before = engine(numbers, fit=pa.table({"age": [0.0, 10.0]}))
    table = pa.table({"age": [4.0, 6.0]})
    kept = engine(numbers, base=before, fit=table).transform(table, "query").dense
    assert kept[:, 0].tolist() == pytest.approx([0.4, 0.6])
    anew = engine(numbers | {"fill": 1.0}, base=before, fit=table).transform(table, "query").dense
    assert anew[:, 0].tolist() == [0.0, 1.0]
