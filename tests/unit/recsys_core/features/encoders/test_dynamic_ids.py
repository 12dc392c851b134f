"""Dynamic ids: rows that are given out and taken back, against a dict in plain Python."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from recsys_core import features
from recsys_core.features.encoders.dynamic import Dynamic, Policy
from recsys_core.features.id import Config as IdConfig


def encoder(min_count: int = 1, num_oov: int = 1, **keys: Any) -> Dynamic:
    return Dynamic(Policy.model_validate({"block_rows": 1} | keys), min_count, num_oov)


def fit(table: Dynamic, *chunks: list[Any]) -> dict[str, int]:
    for chunk in chunks:
        table.observe(pa.array(chunk))
    table.settle()
    return table.report()


def rows(table: Dynamic, ids: list[Any]) -> list[int]:
    return table.encode(pa.array(ids)).tolist()


class Simulated:
    """The same, one id at a time."""

    def __init__(self, min_count: int, num_oov: int, max_rows: int, eviction: str, time_to_live: int | None) -> None:
        self.min_count, self.num_oov, self.max_rows = min_count, num_oov, max_rows
        self.eviction, self.time_to_live, self.round = eviction, time_to_live, 0
        self.count: dict[Any, int] = {}
        self.last: dict[Any, int] = {}
        self.row: dict[Any, int] = {}

    def forget(self, one: Any) -> None:
        for held in (self.count, self.last, self.row):
            held.pop(one, None)

    def _score(self, one: Any) -> tuple[Any, ...]:
        """The smallest comes first."""
        newcomer = one not in self.row
        if self.eviction == "lru":
            return (-self.last[one], newcomer, -self.count[one], one)
        if self.eviction == "lfu":
            return (-self.count[one], newcomer, -self.last[one], one)
        return (newcomer, -self.count[one], one)

    def fit(self, ids: list[Any]) -> dict[str, int]:
        self.round += 1
        for one in ids:
            self.count[one] = self.count.get(one, 0) + 1
            self.last[one] = self.round
        expired = 0
        for one in list(self.count):
            if self.time_to_live is not None and self.round - self.last[one] >= self.time_to_live:
                expired += one in self.row
                self.forget(one)
        able = [one for one in self.count if one in self.row or self.count[one] >= self.min_count]
        kept = sorted(able, key=self._score)[: self.max_rows - self.num_oov]
        evicted = [one for one in self.row if one not in kept]
        for one in evicted:
            self.forget(one)
        new = sorted((one for one in kept if one not in self.row), key=lambda one: (-self.count[one], one))
        for one in new:
            taken = set(self.row.values())
            self.row[one] = next(row for row in range(self.num_oov, self.max_rows) if row not in taken)
        waiting = sorted(
            (one for one in self.count if one not in self.row), key=lambda one: (-self.last[one], -self.count[one], one)
        )
        for one in waiting[self.max_rows :]:
            self.forget(one)
        return {"admitted": len(new), "evicted": len(evicted), "expired": expired}

    def encode(self, ids: list[Any]) -> list[int]:
        return [self.row[one] if one in self.row else self._oov(one) for one in ids]

    def _oov(self, one: Any) -> int:
        if self.num_oov == 1:
            return 0
        return xxhash.xxh3_64_intdigest(str(one).encode()) % self.num_oov


IDS = st.integers(-(2**63), 2**63 - 1) | st.integers(0, 12)
ROUNDS = st.lists(st.lists(IDS, max_size=30), max_size=8)


@given(
    rounds=ROUNDS,
    min_count=st.integers(1, 3),
    num_oov=st.integers(1, 2),
    room=st.integers(1, 6),
    eviction=st.sampled_from(["lru", "lfu", "ttl", "none"]),
    time_to_live=st.integers(1, 4),
    texts=st.booleans(),
    saves=st.booleans(),
)
def test_equals_a_dict(rounds, min_count, num_oov, room, eviction, time_to_live, texts, saves) -> None:
    ttl = None if eviction == "none" or (eviction != "ttl" and time_to_live == 4) else time_to_live
    keys = {"max_rows": room + num_oov, "eviction": eviction, "time_to_live": ttl}
    table, simulated = encoder(min_count, num_oov, **keys), Simulated(min_count, num_oov, room + num_oov, eviction, ttl)
    every = sorted({one for ids in rounds for one in ids})
    for ids in rounds:
        named = [str(one) for one in ids] if texts else ids
        report, expected = fit(table, named[:7], named[7:]), simulated.fit(named)
        assert {name: report[name] for name in expected} == expected
        assert report["known"] == len(simulated.row)
        assert report["out_of_vocabulary"] == len(simulated.count) - len(simulated.row)
        looked_up = [str(one) for one in every] if texts else every
        if looked_up:
            assert rows(table, looked_up) == simulated.encode(looked_up)
        shared = sum(one not in simulated.row for one in named)
        if named:
            assert table.figures()["collision_rate"] == shared / len(named)
        if not texts:
            assert table.owners().tolist() == sorted([row, one] for one, row in simulated.row.items())
        if saves:
            state = table.state()
            table = encoder(min_count, num_oov, **keys)
            table.restore(state)


def test_lru_by_hand() -> None:
    table = encoder(max_rows=3, eviction="lru")
    fit(table, [7, 8])
    assert rows(table, [7, 8, 9]) == [1, 2, 0]
    assert fit(table, [8, 9]) | {"capacity": 2} == {
        "known": 2,
        "out_of_vocabulary": 0,
        "capacity": 2,
        "admitted": 1,
        "evicted": 1,
        "expired": 0,
    }
    # 7 was seen last in the first round; 9 has its row now.
    assert rows(table, [7, 8, 9]) == [0, 2, 1]
    assert table.figures() == {"occupancy": 1.0, "admitted": 1.0, "evicted": 1.0, "collision_rate": 0.0}


def test_the_rarest_newcomers_are_forgotten_by_hand() -> None:
    table = Dynamic(Policy(max_rows=4, block_rows=1), 2, 1, max_counted=2)
    assert fit(table, ["a"] * 5 + ["b"] * 4 + ["c"] * 2 + ["d"], ["c", "b", "e"])["count_error"] == 2
    # Of a 5, b 4, c 2, d 1 the third largest is taken off all: a 3, b 2; then c and e come, seen once each.
    state = table.state()
    assert state is not None
    assert state.to_pydict() | {"last": [1] * 4} == {
        "id": ["a", "b", "c", "e"],
        "count": [3, 3, 1, 1],
        "last": [1] * 4,
        "row": [1, 2, 0, 0],
    }
    # Nine of the fifteen values are counted of ids with a row; six of them were seen since they were last cut.
    assert table.figures()["collision_rate"] == 9 / 15
    again = Dynamic(Policy(max_rows=4, block_rows=1), 2, 1, max_counted=2)
    again.restore(state)
    # Ids with a row are counted exactly, whichever other ids come: c gets the last row, f and g are one too many.
    assert fit(again, ["a", "b", "c", "c", "f", "g"])["count_error"] == 3
    later = again.state()
    assert later is not None
    assert dict(zip(later["id"].to_pylist(), later["count"].to_pylist(), strict=True)) == {
        "a": 4,
        "b": 4,
        "c": 2,
        "e": 1,
    }
    assert rows(again, ["a", "b", "c", "f"]) == [1, 2, 3, 0]


@given(
    rounds=ROUNDS, min_count=st.integers(1, 3), room=st.integers(1, 4), more=st.integers(0, 3), size=st.integers(1, 9)
)
def test_counts_in_bounded_memory_are_off_by_no_more_than_they_say(rounds, min_count, room, more, size) -> None:
    policy, most = Policy(max_rows=room + 1, eviction="none", block_rows=1), room + 1 + more
    table = Dynamic(policy, min_count, 1, max_counted=most)
    truth: Counter[int] = Counter()
    for number, ids in enumerate(rounds):
        truth.update(ids)
        report = fit(table, *(ids[start : start + size] for start in range(0, len(ids), size)))
        state = table.state()
        assert state is not None
        found = dict(zip(state["id"].to_pylist(), state["count"].to_pylist(), strict=True))
        given_rows = {one for one, row in zip(state["id"].to_pylist(), state["row"].to_pylist(), strict=True) if row}
        error = report.get("count_error", 0)
        assert error * (most + 1) <= truth.total()
        assert all(count <= truth[one] for one, count in found.items())
        assert all(truth[one] >= min_count for one in given_rows)
        # Later on ids that waited in vain are forgotten too.
        assert number or all(truth[one] - error <= found[one] for one in given_rows)
        assert (
            number
            or len(given_rows) == room
            or all(truth[one] < min_count + error or one in given_rows for one in truth)
        )
        assert len(given_rows) <= room
        table = Dynamic(policy, min_count, 1, max_counted=most)
        table.restore(state)
        assert table.report() == report


def test_lfu_keeps_what_was_seen_most_often() -> None:
    table = encoder(max_rows=3, eviction="lfu")
    fit(table, [7, 7, 7, 8])
    fit(table, [8, 9, 9, 9])
    assert rows(table, [7, 8, 9]) == [1, 0, 2]
    # 8 is forgotten, and counted anew.
    fit(table, [8, 8])
    assert rows(table, [8]) == [0]


def test_admission_counts_over_fits() -> None:
    table = encoder(min_count=2, max_rows=9)
    assert fit(table, [5, 6, 6])["admitted"] == 1
    assert rows(table, [5, 6]) == [0, 1]
    assert table.figures()["collision_rate"] == 1 / 3
    assert fit(table, [5])["admitted"] == 1
    assert rows(table, [5, 6]) == [2, 1]


def test_an_unseen_id_expires() -> None:
    table = encoder(max_rows=9, eviction="ttl", time_to_live=2)
    fit(table, [5, 6])
    assert fit(table, [6])["expired"] == 0
    assert fit(table, [6])["expired"] == 1
    assert rows(table, [5, 6]) == [0, 2]


def test_the_table_grows_in_blocks_and_never_shrinks() -> None:
    table = encoder(max_rows=100, block_rows=10, eviction="ttl", time_to_live=1)
    assert (table.num_embeddings, table.max_rows) == (10, 100)
    fit(table, list(range(10)))
    assert table.num_embeddings == 20
    fit(table, [99])
    assert table.num_embeddings == 20
    fit(table, list(range(200)))
    assert table.num_embeddings == 100


def section(**dynamic: Any) -> features.Config:
    one = {"kind": "id", "name": "user", "dynamic": {"max_rows": 4, "block_rows": 1} | dynamic}
    two = {"kind": "sequence", "name": "friends", "table": "user"}
    return features.Config.model_validate({"embedding_dim": 4, "query": [one, two], "item": []})


LOG = [pa.table({"user": ["a", "b"], "friends": pa.array([["b", "c"], []], pa.list_(pa.string()))})]


def test_an_engine_keeps_the_map_over_days_and_growth(tmp_path: Path) -> None:
    first = features.Engine.build(section())
    assert first.features["query"][0].config.encoding == "dynamic"
    first.fit(LOG, [])
    first.save(tmp_path)
    loaded = features.Engine.load(tmp_path)
    assert loaded.digest == first.digest
    assert loaded.tables == first.tables
    assert (loaded.tables[0].num_embeddings, loaded.tables[0].max_rows) == (3, 4)
    friends = loaded.transform(LOG[0], "query").sparse["friends"]
    assert friends.values.tolist() == [2, 0]
    second = features.Engine.build(section(max_rows=9), base=loaded)
    second.fit([pa.table({"user": ["c", "d", "e"], "friends": pa.array([[]] * 3, pa.list_(pa.string()))})], [])
    assert second.tables[0].num_embeddings == 6
    known = second.transform(pa.table({"user": list("abcdef"), "friends": [["a"]] * 6}), "query").sparse["user"]
    assert known.values.tolist() == [1, 2, 3, 4, 5, 0]
    assert second.figures == {
        "tables/user/occupancy": 5 / 8,
        "tables/user/admitted": 3.0,
        "tables/user/evicted": 0.0,
        "tables/user/collision_rate": 0.0,
    }
    # Of texts the owners are hashes.
    assert second.owners()["user"][0].tolist() == [1, np.uint64(xxhash.xxh3_64_intdigest(b"a")).astype(np.int64)]
    with pytest.raises(ValueError, match=r"table 'user': dynamic\.max_rows 4: the table has 6 rows by now, and tables"):
        features.Engine.build(section(), base=second)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"dynamic": {"max_rows": 4, "eviction": "ttl"}}, "eviction: ttl needs time_to_live"),
        ({"dynamic": {"max_rows": 4, "eviction": "none", "time_to_live": 2}}, "eviction: none keeps every row"),
        ({"dynamic": {"max_rows": 4}, "num_embeddings": 4}, "encoding: dynamic has its size from its own keys"),
        ({"dynamic": {"max_rows": 4}, "encoding": "hash", "num_embeddings": 4}, "encoding: dynamic goes with dynamic"),
        ({"encoding": "dynamic"}, "encoding: dynamic goes with dynamic"),
        ({"dynamic": {"max_rows": 4}, "num_oov": 4}, "num_oov 4 leaves no row of 4 for a known id"),
        ({"dynamic": {"max_rows": 4}, "input": "encoded"}, "input: encoded has rows of the table already"),
    ],
)
def test_keys_that_do_not_go_together_are_refused(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        IdConfig(name="user", **keys)


def test_ids_of_another_type_and_a_table_that_was_not_fitted_are_refused() -> None:
    table = encoder(max_rows=9)
    with pytest.raises(ValueError, match="not fitted yet"):
        table.encode(pa.array([1]))
    fit(table)
    assert rows(table, [1]) == [0]
    fit(table, [1])
    with pytest.raises(ValueError, match="holds string where the vocabulary was fitted on int64"):
        table.observe(pa.array(["a"]))
