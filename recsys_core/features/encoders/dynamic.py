"""Tables whose rows come and go, without collisions of ids that have one.

An id that is seen often enough gets a row of its own, and one that is not seen again gives it back (admission and
eviction as in DynamicEmb and in TorchRec's managed collisions). Rows are given out between trainings, when the features
are fitted: each fit is a round. So every rank, batch prediction and the service map ids alike, by the saved engine
alone, and a training step looks nothing up but rows.
"""

import json
from typing import Literal, Self

import numpy as np
import pyarrow as pa
from pydantic import Field, PositiveInt, model_validator

from recsys_core.artifacts import Frozen
from recsys_core.features import base, hashing
from recsys_core.features.encoders import counts, row_of

_META = b"dynamic"


class Policy(Frozen):
    """Keys of `dynamic`.

    The table has up to `max_rows` rows, which may be raised (not lowered) from one training to the next, and no more at
    any time than its ids need, in blocks of `block_rows`. When more ids are admitted than there are rows, `eviction`
    says which keep one: `lru` those seen last, `lfu` those seen most often; with `ttl` and `none` new ids wait. An id
    that was not seen in the last `time_to_live` fits loses its row in any case. An id without its row is forgotten.
    """

    max_rows: PositiveInt
    eviction: Literal["lru", "lfu", "ttl", "none"] = "lru"
    time_to_live: PositiveInt | None = Field(
        default=None, description="fits, which a daily run has one of; null: no end"
    )
    block_rows: PositiveInt = 10_240

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if self.eviction == "ttl" and self.time_to_live is None:
            raise ValueError("eviction: ttl needs time_to_live, the number of fits that an unseen id keeps its row for")
        if self.eviction == "none" and self.time_to_live is not None:
            raise ValueError("eviction: none keeps every row for good; drop time_to_live, or use eviction: ttl")
        return self


class _Settled(Frozen):
    """What the last fit did; `num_values` were seen in it, `num_shared` of them of ids without a row of their own.

    `count_error` is by how much counts may be too low, of all fits together.
    """

    round: int = 0
    num_embeddings: int = 0
    admitted: int = 0
    evicted: int = 0
    expired: int = 0
    num_values: int = 0
    num_shared: int = 0
    count_error: int = 0


class Dynamic(base.Encoder):
    """The first `num_oov` rows are for ids without one of their own, the others are given out and taken back.

    Its state has a row for every id that is remembered: id, count, last (the round it was seen in), row (0: none).
    Besides those with a row these are ids that wait for one, `max_rows` of them at most.

    Of a fit's ids without a row up to `max_counted` are counted; see `_counts`. So an id that is admitted was seen
    `min_count` times indeed; one that was seen up to `count_error` times more often may wait for longer.
    """

    def __init__(self, policy: Policy, min_count: int, num_oov: int = 1, max_counted: int | None = None) -> None:
        """Ids are admitted once they were seen `min_count` times."""
        self.spec = {"encoding": "dynamic", "num_oov": num_oov}
        self.max_rows = policy.max_rows
        self._policy, self._min_count, self._num_oov = policy, min_count, num_oov
        self.first_id_row = num_oov
        self._settled = _Settled(num_embeddings=self._blocks(num_oov))
        self._seen: pa.Table | None = None
        self._counts, self._num_values = counts.Counts(max_counted, policy.max_rows), 0
        self._row_of: row_of.RowOf | None = None

    @property
    def num_embeddings(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride] - it grows
        """The rows that the table has at present."""
        return self._settled.num_embeddings

    def observe(self, values: pa.Array) -> None:
        """Count the ids of one chunk."""
        self._counts.add(values, self._seen)
        self._num_values += len(values)

    def settle(self) -> None:
        """End a round: take rows back from ids that no longer deserve them, and give them to those that do.

        Of equals an id that has a row keeps it; then the one seen more often comes first, then the smaller.
        """
        turn = self._settled.round + 1
        merged = self._merged(turn)
        error = self._counts.error
        if merged is None:
            self._settled = _Settled(round=turn, num_embeddings=self._settled.num_embeddings, count_error=error)
            return
        count, last, row = (merged[name].to_numpy() for name in ("count", "last", "row"))
        expired = np.zeros(len(count), bool)
        if self._policy.time_to_live is not None:
            expired = turn - last >= self._policy.time_to_live
        kept = self._best(count, last, row, ~expired & ((row > 0) | (count >= self._min_count)))
        evicted = (row > 0) & ~kept & ~expired
        new = np.flatnonzero(kept & (row == 0))
        new = new[np.argsort(-count[new], kind="stable")]
        rows = np.where(kept, row, 0)
        rows[new] = self._free(rows[rows > 0], len(new))
        waiting = np.flatnonzero(~kept & ~expired & ~evicted)
        waiting = waiting[np.lexsort((-count[waiting], -last[waiting]))][: self._policy.max_rows]
        remembered = kept.copy()
        remembered[waiting] = True
        num_values, self._num_values = self._num_values, 0
        now = merged["seen"].to_numpy()
        self._settled = _Settled(
            round=turn,
            num_embeddings=max(self._settled.num_embeddings, self._blocks(int(rows.max(initial=0)) + 1)),
            admitted=len(new),
            evicted=int(evicted.sum()),
            expired=int((expired & (row > 0)).sum()),
            num_values=num_values,
            # Those that were forgotten have no row.
            num_shared=num_values - int(now[rows > 0].sum()),
            count_error=error,
        )
        merged = merged.drop_columns(["row", "seen"]).append_column("row", pa.array(rows))
        self._learn(merged.filter(pa.array(remembered)).combine_chunks())

    def encode(self, values: pa.Array) -> np.ndarray:
        """Return the rows; one of the first `num_oov` for ids without one of their own."""
        if self._seen is None:
            raise ValueError("the vocabulary is not fitted yet; fit or load the feature engine first")
        rows = np.zeros(len(values), np.int64) if self._row_of is None else self._row_of.find(values)
        return row_of.with_out_of_vocabulary(rows, values, self._num_oov)

    @property
    def fitted(self) -> bool:
        """Whether ids have been given rows."""
        return self._seen is not None

    def state(self) -> pa.Table | None:
        """id, count, last, row of every id that is remembered, by rising id; what the last fit did, as its metadata."""
        if self._seen is None:
            return None
        return self._seen.replace_schema_metadata({_META: self._settled.model_dump_json().encode()})

    def restore(self, state: pa.Table) -> None:
        """Take over what `state` returned.

        Raises:
            ValueError: it has more rows than `max_rows`.
        """
        settled = _Settled.model_validate(json.loads((state.schema.metadata or {})[_META]))
        if settled.num_embeddings > self._policy.max_rows:
            raise ValueError(
                f"dynamic.max_rows {self._policy.max_rows}: the table has {settled.num_embeddings} rows by now, and "
                "tables do not shrink; raise max_rows, or start cold (train.on_change: cold)"
            )
        self._settled, self._num_values = settled, 0
        self._counts.take()
        self._counts.error = settled.count_error
        self._learn(state.replace_schema_metadata(None))

    def inherit(self, before: base.Encoder) -> None:
        """Take over the ids of another dynamic table, or of a vocabulary, whose ids count as seen long ago.

        Raises:
            ValueError: the table has more rows than `max_rows`.
        """
        state = before.state()
        if self.spec == before.spec or state is None or "row" not in state.schema.names:
            super().inherit(before)
            return
        settled, last = _Settled(), pa.array(np.zeros(state.num_rows, np.int64))
        if isinstance(before, Dynamic):
            settled, last = _Settled.model_validate_json(state.schema.metadata[_META]), state["last"]
        high = max(settled.num_embeddings, int(state["row"].to_numpy().max(initial=0)) + 1)
        settled = settled.model_copy(update={"num_embeddings": high})
        seen = row_of.within(state, self._num_oov, high).add_column(2, "last", last)
        self.restore(seen.replace_schema_metadata({_META: settled.model_dump_json().encode()}))
        self._settled = settled.model_copy(update={"num_embeddings": self._blocks(high)})

    def known(self) -> pa.Table:
        """The ids that have a row at present."""
        nothing = pa.table({"id": pa.array([], pa.int64()), "row": pa.array([], pa.int64())})
        return nothing if self._seen is None else row_of.given_out(self._seen)

    def own_rows(self, ids: pa.Array) -> np.ndarray:
        """int64 [N]: the rows that are given out, -1 for other ids."""
        return np.full(len(ids), -1) if self._row_of is None else self._row_of.of_any(ids)

    def report(self) -> dict[str, int]:
        """Ids with a row, ids that wait for one, how many rows there may be to give out, and what the last fit did."""
        known = 0 if self._row_of is None else len(self._row_of.rows)
        seen = 0 if self._seen is None else self._seen.num_rows
        settled = self._settled
        report = {
            "known": known,
            "out_of_vocabulary": seen - known,
            "capacity": self._policy.max_rows - self._num_oov,
            "admitted": settled.admitted,
            "evicted": settled.evicted,
            "expired": settled.expired,
        }
        return report | ({"count_error": settled.count_error} if settled.count_error else {})

    def figures(self) -> dict[str, float]:
        """Share of the rows that are taken, what the last fit did, and the share of its values that share a row."""
        report, settled = self.report(), self._settled
        return {
            "occupancy": report["known"] / max(report["capacity"], 1),
            "admitted": float(settled.admitted),
            "evicted": float(settled.evicted + settled.expired),
            "collision_rate": settled.num_shared / max(settled.num_values, 1),
        }

    def owners(self) -> np.ndarray:
        """int64 [K, 2]: the rows that are given out, rising, and the id that each belongs to (of texts, their hash)."""
        if self._seen is None or self._row_of is None:
            return np.zeros((0, 2), np.int64)
        ids = self._seen["id"].filter(pa.array(self._seen["row"].to_numpy() > 0)).combine_chunks()
        texts = pa.types.is_string(ids.type)
        numbers = hashing.hashed(ids, "xxh3").view(np.int64) if texts else ids.to_numpy()
        order = np.argsort(self._row_of.rows)
        return np.stack([self._row_of.rows[order], numbers[order]], axis=1)

    def _merged(self, turn: int) -> pa.Table | None:
        """Return id, count, last, row of all ids that are known or were seen, by rising id; `seen`: how often now."""
        parts: list[pa.Table] = []
        if self._seen is not None and self._seen.num_rows:
            parts.append(self._seen.append_column("seen", pa.array(np.zeros(self._seen.num_rows, np.int64))))
        if pending := self._counts.take():
            new = row_of.sum_counts(pending)
            nothing = np.zeros(new.num_rows, np.int64)
            columns = {"last": nothing + turn, "row": nothing, "seen": new["count"].to_numpy()}
            parts.append(pa.table({"id": new["id"], "count": new["count"]} | columns))
        if not parts:
            self._seen = pa.table({name: pa.array([], pa.int64()) for name in ("id", "count", "last", "row")})
            return None
        summed = pa.concat_tables(parts, promote_options="none").group_by("id")
        summed = summed.aggregate([("count", "sum"), ("last", "max"), ("row", "max"), ("seen", "sum")])
        names = {"count_sum": "count", "last_max": "last", "row_max": "row", "seen_sum": "seen"}
        return summed.rename_columns(names).select(["id", "count", "last", "row", "seen"]).sort_by("id")

    def _best(self, count: np.ndarray, last: np.ndarray, row: np.ndarray, eligible: np.ndarray) -> np.ndarray:
        """Bool [N]: which of the eligible ids have or get a row."""
        chosen = np.flatnonzero(eligible)
        resident = row[chosen] > 0
        by: dict[str, tuple[np.ndarray, ...]] = {
            "lru": (-count[chosen], ~resident, -last[chosen]),
            "lfu": (-last[chosen], ~resident, -count[chosen]),
        }
        # The last key counts most; ids rise, which lexsort keeps among equals.
        order = np.lexsort(by.get(self._policy.eviction, (-count[chosen], ~resident)))
        best = np.zeros(len(count), bool)
        best[chosen[order[: self._policy.max_rows - self._num_oov]]] = True
        return best

    def _free(self, taken: np.ndarray, num: int) -> np.ndarray:
        """Return the lowest `num` rows that no id has."""
        high = int(taken.max(initial=self._num_oov - 1)) + 1
        free = np.ones(high + num, bool)
        free[: self._num_oov] = False
        free[taken] = False
        return np.flatnonzero(free)[:num]

    def _blocks(self, rows: int) -> int:
        """Return how large the table is to hold `rows` rows."""
        return min(-(-rows // self._policy.block_rows) * self._policy.block_rows, self._policy.max_rows)

    def _learn(self, seen: pa.Table) -> None:
        self._seen = seen
        rows = seen["row"].to_numpy()
        self._row_of = row_of.RowOf(seen["id"].filter(pa.array(rows > 0)), rows[rows > 0])
