"""Taobao's display-ad clicks as labelled rows: each click, and for each click negatives that the user did not click.

The last day's clicks are `test`. Of the earlier ones, those of a share of the users are `valid`, the rest `train`. The
sequences of a row are the user's clicks on earlier days *other than the click that the row was made for*, and a click's
negatives get the same ones as the click: neither a sequence's elements nor its length give the label away, and no row
sees a click of the test day. Negatives are drawn by how often an ad was clicked before the last day, to the power 3/4.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import Field

from recsys_core.datasets import daily, taobao_ad
from recsys_core.datasets.labelled import base
from recsys_core.progress import Event, Sink

_ROWS_PER_PART = 1 << 16
_SEQUENCES = {"item_id": "clicked_item_id", "cate_id": "clicked_cate_id", "brand": "clicked_brand"}
_REDRAWS = 8


class Config(base.Config):
    """`source`: what the kind taobao_ad of daily logs takes: the published archive, or the clicks as Parquet."""

    kind: Literal["taobao_ad"] = "taobao_ad"
    source: str
    checksum: str | None = None
    num_negatives: int = Field(default=4, ge=1, description="rows with label 0 for each click")
    max_length: int = Field(default=50, ge=1, description="clicks of a sequence that are kept, the last ones")
    valid_share: float = Field(default=0.05, gt=0, lt=1, description="share of the users whose clicks are `valid`")
    seed: int = Field(default=0, ge=0, description="of the negatives and of the users for `valid`")


def write(config: Config, root: Path, sink: Sink) -> dict[str, int]:
    """Import the log aside, then make labelled rows of it below `root`.

    Raises:
        ValueError: the source is not as `taobao_ad` wants it, or has clicks on one day only.
    """
    log = root / ".log"
    source = taobao_ad.Config(source=config.source, checksum=config.checksum)
    taobao_ad.write(source, log, sink)
    days = daily.partitions(log, "interactions")
    if len(days) < 2:
        raise ValueError(
            f"{config.source}: clicks on {len(days)} day(s); the last one is for testing, so two are needed"
        )
    *_, last = days
    columns = ["user_id", "item_id", "timestamp"]
    before = _read([path for day, paths in days.items() if day < last for path in paths], columns)
    after = _read(days[last], columns)
    users, items = (_read([p for v in daily.partitions(log, t).values() for p in v], None) for t in ("users", "items"))
    made = _Rows(config, before, after, users, items)
    valid = np.isin(made.user[: before.num_rows], made.valid_users)
    clicks = {
        "train": np.flatnonzero(~valid),
        "valid": np.flatnonzero(valid),
        "test": np.arange(before.num_rows, before.num_rows + after.num_rows),
    }
    counts: dict[str, int] = {}
    for split, numbers in clicks.items():
        counts[split] = base.write_split(root, split, made.parts(numbers))
        sink(Event(stage="prepare", done=sum(counts.values()), message=f"making rows for {split}"))
    for path in sorted(log.rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    log.rmdir()
    return counts


class _Rows:
    """Clicks by number, those before the last day first; users and items are row numbers of their tables."""

    def __init__(self, config: Config, before: pa.Table, after: pa.Table, users: pa.Table, items: pa.Table) -> None:
        self._config, self._users, self._items = config, users, items
        self._rng = np.random.default_rng(config.seed)
        clicks = pa.concat_tables([before, after])
        self.user = pc.index_in(clicks["user_id"], value_set=users["user_id"]).to_numpy()
        self._item = pc.index_in(clicks["item_id"], value_set=items["item_id"]).to_numpy()
        drawn = self._rng.random(users.num_rows) < config.valid_share
        self.valid_users = np.flatnonzero(drawn)
        early = np.arange(before.num_rows)
        # By user, then in the order of time: a user's clicks before the last day are [starts[user], starts[user + 1]).
        order = np.lexsort((early, clicks["timestamp"].to_numpy()[early], self.user[early]))
        self._sorted_items = self._item[order]
        self._place = np.full(clicks.num_rows, -1)
        self._place[order] = early
        self._starts = np.searchsorted(self.user[order], np.arange(users.num_rows + 1))
        # Ads that no user has clicked before the last day are no negatives: no positive row of train has them either.
        weights = np.bincount(self._item[early], minlength=items.num_rows) ** 0.75
        self._cumulated = np.cumsum(weights) / weights.sum()
        self._clicked = np.unique(self.user * items.num_rows + self._item)

    def parts(self, clicks: np.ndarray) -> Iterator[pa.Table]:
        """Yield the labelled rows of `clicks`, each followed by its negatives."""
        each = max(1, _ROWS_PER_PART // (1 + self._config.num_negatives))
        for start in range(0, len(clicks), each):
            yield self._part(clicks[start : start + each])

    def _part(self, clicks: np.ndarray) -> pa.Table:
        copies = 1 + self._config.num_negatives
        items = np.column_stack([self._item[clicks], self._drawn(clicks)]).ravel()
        user_rows = np.repeat(self.user[clicks], copies)
        labels = np.tile(np.arange(copies) == 0, len(clicks)).astype(np.int8)
        fields = self._users.take(pa.array(user_rows))
        known = self._items.take(pa.array(items))
        table = pa.table({"label": labels})
        for name in fields.column_names:
            table = table.append_column(name, fields[name])
        for name in known.column_names:
            table = table.append_column(name, known[name])
        values, offsets = self._sequences(np.repeat(clicks, copies))
        for column, name in _SEQUENCES.items():
            elements = self._items[column].combine_chunks().take(pa.array(values))
            table = table.append_column(name, pa.ListArray.from_arrays(pa.array(offsets), elements))
        return table

    def _drawn(self, clicks: np.ndarray) -> np.ndarray:
        """Return [clicks, num_negatives] ads that the click's user never clicked, as far as a few draws find some."""
        user = np.repeat(self.user[clicks], self._config.num_negatives)
        drawn = np.searchsorted(self._cumulated, self._rng.random(len(user)), side="right")
        for _ in range(_REDRAWS):
            hits = np.flatnonzero(np.isin(user * self._items.num_rows + drawn, self._clicked))
            if not len(hits):
                break
            drawn[hits] = np.searchsorted(self._cumulated, self._rng.random(len(hits)), side="right")
        return np.minimum(drawn, self._items.num_rows - 1).reshape(len(clicks), -1)

    def _sequences(self, clicks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the flat items and int32 offsets of each click's sequence: its user's earlier days without it.

        user's clicks   a b c d        of the click at place c, at most 2 are kept: b d
        """
        starts, stops = self._starts[self.user[clicks]], self._starts[self.user[clicks] + 1]
        place = self._place[clicks]
        inside = place >= 0
        lengths = np.minimum(stops - starts - inside, self._config.max_length)
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        # Places counted back from the user's last click; from the own click on, one further back.
        back = np.repeat(offsets[1:], lengths) - np.arange(offsets[-1])
        places = np.repeat(stops, lengths) - back
        own = np.repeat(np.where(inside, place, -1), lengths)
        places -= places <= own
        # Earlier clicks of the same ad go too: no negative is ever an ad of its own sequence.
        values = self._sorted_items[places]
        others = values != np.repeat(self._item[clicks], lengths)
        kept = np.concatenate([[0], np.cumsum(others)])[offsets]
        return values[others], kept.astype(np.int32)


def _read(paths: list[Path], columns: list[str] | None) -> pa.Table:
    return pa.concat_tables([pq.read_table(path, columns=columns) for path in paths], promote_options="default")
