"""Feature kind `overlap`: how much of a query's terms is in a title."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import pyarrow as pa

from recsys_core.features import _derived
from recsys_core.features.columns import flat, lists, pairs


class Config(_derived.Config):
    """Keys of an overlap feature; `query` and `title` are columns of lists of terms, or texts split at `separator`.

    `query_common_ratio`: the share of the query's different terms that the title has; `title_common_ratio`: the other
    way round. `is_contain`: whether the query's terms stand in the title one after another; `index_of`: where they
    begin, -1 for nowhere. `is_equal`: whether both are the same terms in the same order. Without a query or a title the
    value is null.
    """

    kind: Literal["overlap"] = "overlap"
    query: str
    title: str
    separator: str | None = " "
    method: Literal["query_common_ratio", "title_common_ratio", "is_contain", "is_equal", "index_of"]


class Feature(_derived.Feature):
    """One number per row."""

    def __init__(self, config: Config) -> None:
        """Read `query` and `title`."""
        super().__init__(config, (config.query, config.title))
        self._config = config

    def make(self, columns: Sequence[pa.Array]) -> pa.Array:
        """float64."""
        query, title = (lists.Lists(flat.split(column, self._config.separator)) for column in columns)
        codes = pairs.codes(lists.texts(query.values), lists.texts(title.values))
        known = (query.lengths > 0) & (title.lengths > 0)
        match self._config.method:
            case "query_common_ratio":
                numbers = _share(query, codes[0], title, codes[1])
            case "title_common_ratio":
                numbers = _share(title, codes[1], query, codes[0])
            case method:
                places = _first_place(query, codes[0], title, codes[1])
                equal = (places == 0) & (query.lengths == title.lengths)
                numbers = {"index_of": places, "is_contain": places >= 0, "is_equal": equal}[method].astype(np.float64)
        return lists.numbers(np.where(known, numbers, np.nan))


def _share(of: lists.Lists, of_codes: np.ndarray, among: lists.Lists, among_codes: np.ndarray) -> np.ndarray:
    """float64 [B]: how many of the row's different terms are among the other's."""
    span = max(int(of_codes.max(initial=0)), int(among_codes.max(initial=0))) + 1
    distinct = np.unique(of.owners * span + of_codes)
    common = distinct[np.isin(distinct, among.owners * span + among_codes)]
    num_rows = len(of.lengths)
    counts = np.bincount(distinct // span, minlength=num_rows)
    return np.bincount(common // span, minlength=num_rows) / np.maximum(counts, 1)


def _first_place(
    query: lists.Lists, query_codes: np.ndarray, title: lists.Lists, title_codes: np.ndarray
) -> np.ndarray:
    """int64 [B]: at which of the title's terms the query first begins, -1 for nowhere."""
    owners = title.owners
    place = np.arange(len(title_codes)) - title.offsets[:-1][owners]
    # Whether a query may begin at a title's term: enough terms follow, and the first, second, … are the same.
    possible = np.flatnonzero((title.lengths[owners] - place >= query.lengths[owners]) & (query.lengths[owners] > 0))
    for step in range(int(query.lengths.max(initial=0))):
        row = owners[possible]
        inside = step < query.lengths[row]
        wanted = query_codes[np.where(inside, query.offsets[:-1][row] + step, 0)]
        same = title_codes[np.where(inside, possible + step, 0)] == wanted
        possible = possible[~inside | same]
    found = np.full(len(query.lengths), -1, np.int64)
    # Written backwards, so that the first place of a row is what stays.
    found[owners[possible][::-1]] = place[possible][::-1]
    return found
