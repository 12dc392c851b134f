"""Encoding `vocabulary`: rows that are given out by how often an id is seen."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from recsys_core.features import base
from recsys_core.features.encoders import counts as _counts
from recsys_core.features.encoders import dynamic, row_of

_COUNT_ERROR = b"count_error"
# `pa.array` would import pandas, for which no config has to wait.
_NOTHING = pa.table({name: pa.nulls(0, pa.int64()) for name in ("id", "count", "row")})


class Vocabulary(base.Encoder):
    """Every id that was seen often enough has a row of its own, for good; the first `num_oov` rows are for all others.

    The first fit gives out the rows behind them by (count, falling; id, rising); each later one continues in the same
    manner with the ids that are new, or whose count, summed over all fits, reached `min_count` only now.

    Memory is bounded: up to `max_counted` ids without a row are counted, and of more the rarest are forgotten; see
    `_counts`. So an id with a row was seen `min_count` times indeed, and one that was seen `count_error` times more
    often has a row, unless all are given out. Up to `max_counted` distinct ids counts are exact, and the order of
    reading is of no consequence.
    """

    def __init__(self, num_embeddings: int, min_count: int, num_oov: int = 1, max_counted: int | None = None) -> None:
        """Rows `num_oov`..`num_embeddings` - 1 are there to be given out."""
        self.num_embeddings = num_embeddings
        # How many ids are counted changes what no row stands for.
        self.spec = {"encoding": "vocabulary", "num_embeddings": num_embeddings, "min_count": min_count}
        if num_oov > 1:
            self.spec["num_oov"] = num_oov
        self._num_oov = self.first_id_row = num_oov
        self._min_count = min_count
        self._counts = _counts.Counts(max_counted, num_embeddings)
        self._seen: pa.Table | None = None
        self._row_of: row_of.RowOf

    def observe(self, values: pa.Array) -> None:
        """Count the ids of one chunk."""
        self._counts.add(values, self._seen)

    def settle(self) -> None:
        """Give rows to the ids that earned one."""
        known = self._known()
        counted = [table.select(["id", "count"]) for table in known] + self._counts.take()
        if not counted:
            self.restore(_NOTHING if self._seen is None else self._seen)
            return
        merged = row_of.sum_counts(counted)
        rows = np.zeros(merged.num_rows, dtype=np.int64)
        for table in known:
            rows[pc.index_in(table["id"], merged["id"]).to_numpy()] = table["row"].to_numpy()
        counts = merged["count"].to_numpy()
        new = np.flatnonzero((rows == 0) & (counts >= self._min_count))
        # The ids are in rising order, which a stable sort by the count keeps among equals.
        new = new[np.argsort(-counts[new], kind="stable")]
        first = max(int(rows.max(initial=0)) + 1, self._num_oov)
        new = new[: max(self.num_embeddings - first, 0)]
        rows[new] = np.arange(first, first + len(new))
        state = self._counts.cut(merged.append_column("row", pa.array(rows)), rows > 0)
        metadata = {_COUNT_ERROR: str(self._counts.error)} if self._counts.error else None
        self.restore(state.replace_schema_metadata(metadata))

    def encode(self, values: pa.Array) -> np.ndarray:
        """Return the rows; one of the first `num_oov` for ids without one of their own."""
        if self._seen is None:
            raise ValueError("the vocabulary is not fitted yet; fit or load the feature engine first")
        return row_of.with_out_of_vocabulary(self._row_of.find(values), values, self._num_oov)

    @property
    def fitted(self) -> bool:
        """Whether ids have been given rows."""
        return self._seen is not None

    def state(self) -> pa.Table | None:
        """id, count, row (0: none) of every id ever seen, by rising id."""
        return self._seen

    def restore(self, state: pa.Table) -> None:
        """Take over what `state` returned, and prepare the look-up."""
        self._seen = state
        self._counts.take()
        self._counts.error = int((state.schema.metadata or {}).get(_COUNT_ERROR, 0))
        rows = state["row"].to_numpy()
        self._row_of = row_of.RowOf(state["id"].filter(pa.array(rows > 0)), rows[rows > 0])

    def figures(self) -> dict[str, float]:
        """Share of the rows that are taken, and share of all values seen whose ids share one."""
        if self._seen is None or not self._seen.num_rows:
            return {}
        report, counts = self.report(), self._seen["count"].to_numpy()
        shared = counts[self._seen["row"].to_numpy() == 0].sum()
        return {"occupancy": report["known"] / report["capacity"], "collision_rate": float(shared / counts.sum())}

    def report(self) -> dict[str, int]:
        """Ids with a row, ids that were seen but have none, how many rows there are to give out, and `count_error`."""
        seen = 0 if self._seen is None else self._seen.num_rows
        known = 0 if self._seen is None else len(self._row_of.rows)
        report = {"known": known, "out_of_vocabulary": seen - known, "capacity": self.num_embeddings - self._num_oov}
        return report | ({"count_error": self._counts.error} if self._counts.error else {})

    def inherit(self, before: base.Encoder) -> None:
        """Take over the ids of a vocabulary of other settings or of a dynamic table; an id with a row here keeps it."""
        if self.spec == before.spec or not isinstance(before, Vocabulary | dynamic.Dynamic):
            super().inherit(before)
        elif (state := before.state()) is not None:
            metadata = state.schema.metadata if isinstance(before, Vocabulary) else None
            self.restore(row_of.within(state, self._num_oov, self.num_embeddings).replace_schema_metadata(metadata))

    def known(self) -> pa.Table:
        """The ids that have been given rows."""
        return row_of.given_out(_NOTHING if self._seen is None else self._seen)

    def own_rows(self, ids: pa.Array) -> np.ndarray:
        """int64 [N]: the rows that have been given out, -1 for other ids."""
        return np.full(len(ids), -1) if self._seen is None else self._row_of.of_any(ids)

    def _known(self) -> list[pa.Table]:
        return [] if self._seen is None or not self._seen.num_rows else [self._seen]
