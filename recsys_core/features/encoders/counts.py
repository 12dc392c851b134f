"""How often ids are seen during a fit, in bounded memory."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from recsys_core.features.encoders import row_of

_PENDING_ROWS = 1 << 20
_MIN_COUNTED = 1 << 20


class Counts:
    """Up to `most` = k ids without a row are counted, and of more the rarest are forgotten.

    This is the summary of Misra and Gries (Finding Repeated Elements, 1982), merged as Agarwal et al. do (Mergeable
    Summaries, 2013, section 2). A count is never too high, and too low by at most `error` <= N / (k + 1), N being all
    occurrences. Ids that have a row are counted exactly, and so are all up to k distinct ids without one.
    """

    def __init__(self, most: int | None, num_rows: int, error: int = 0) -> None:
        """`most` is by default a million, or twice the table's `num_rows`; `error` is that of earlier fits."""
        self.most, self.error = most or max(_MIN_COUNTED, 2 * num_rows), error
        self._pending: list[pa.Table] = []

    def add(self, values: pa.Array, seen: pa.Table | None) -> None:
        """Count the ids of one chunk; `seen` has the id and the row (0: none) of those that are known already.

        Raises:
            ValueError: they are of another type than the ones before.
        """
        if not len(values):
            return
        known = [seen] if seen is not None and seen.num_rows else []
        for table in [*known, *self._pending][:1]:
            row_of.check_type(table["id"].type, values.type)
        self._pending.append(row_of.counted(values))
        # As many new ones as there are old ones, so that a long vocabulary is not summed up again for every chunk.
        first, *later = (table.num_rows for table in self._pending)
        if sum(later) > max(_PENDING_ROWS, first) or (not later and first > self.most):
            self._pending = [self._shortened(row_of.sum_counts(self._pending), known)]

    def take(self) -> list[pa.Table]:
        """Return what was counted, as tables of id, count, and count from 0 again."""
        pending, self._pending = self._pending, []
        return pending

    def cut(self, counted: pa.Table, own: np.ndarray) -> pa.Table:
        """Lower the counts of ids without a row of their `own`, until no more than `most` are above 0."""
        counts = counted["count"].to_numpy()
        others = counts[~own]
        if len(others) <= self.most:
            return counted
        place = len(others) - self.most - 1
        least = int(np.partition(others, place)[place])
        self.error += least
        lowered = np.where(own, counts, counts - least)
        at = counted.column_names.index("count")
        return counted.set_column(at, "count", pa.array(lowered)).filter(pa.array(own | (lowered > 0)))

    def _shortened(self, counted: pa.Table, known: list[pa.Table]) -> pa.Table:
        """Forget the rarest of the ids that have no row."""
        if counted.num_rows <= self.most:
            return counted
        own = np.zeros(counted.num_rows, dtype=bool)
        for table in known:
            ids = table["id"].filter(pa.array(table["row"].to_numpy() > 0))
            own = pc.is_in(counted["id"], value_set=ids).to_numpy()
        return self.cut(counted, own)
