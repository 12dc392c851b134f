"""Starting from a training of other features, tables or layers: what still means the same is taken over.

Rows of tables are taken over by their ids, columns of a table as far as both are wide. Of a dense weight the rows and
columns are taken over whose meaning is the same (`models.blocks.layout`), with what the optimizers keep of them. All
else starts as it would without, but for this: where a row is taken over, its columns that are new start at 0. So a
model that only grew gives out at first what it gave out before, while what is new learns from the first step on (Chen
et al. 2016, Net2Net: widening and deepening that preserve the function). A hidden layer that is put in behind another
one starts by passing on what that gives out.

Each rank reads for itself the chunks that hold rows of its own shards, one at a time.
"""

import contextlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.distributed._shard.sharded_tensor.api import ShardedTensor

from recsys_core.artifacts import Frozen, write_text
from recsys_core.checkpoint import chunks, lineage
from recsys_core.checkpoint.lineage import Lineage
from recsys_core.features import Carried, Engine, Rows, carried, differences
from recsys_core.models.blocks.layout import Axis, Layout, Weight, units
from recsys_core.sections.checkpoint import locate

_TABLE = re.compile(r"(?:.*\.)?(?:embedding_bags|embeddings)\.([^.]+)\.weight")
REPORT = "carried"
_MODEL, _OPTIMIZER = "model.", "optimizer."
_SIDES = ("sparse", "dense")


class Part(Frozen):
    """How much of a table or a dense weight was taken over; `columns` is 1 where it has one dimension.

    `passes`: it is new, and of a layer that starts by passing on what it gets.
    """

    name: str
    carried_rows: int
    rows: int
    carried_columns: int
    columns: int
    passes: bool = False

    @property
    def is_new(self) -> bool:
        """Whether nothing was."""
        return not self.carried_rows or not self.carried_columns


class Report(Frozen):
    """What differs from the training to start from, in words, and what was taken over of each weight."""

    changes: tuple[str, ...]
    parts: tuple[Part, ...]

    def save(self, directory: Path) -> None:
        """Write it to the training's folder, for programs and for people."""
        write_text(directory / f"{REPORT}.json", self.model_dump_json(indent=1))
        write_text(directory / f"{REPORT}.txt", self.text + "\n")

    @property
    def text(self) -> str:
        """What differs, a line each, and a table of what was taken over."""
        names = ["name", *(part.name for part in self.parts)]
        rows = ["rows carried", *(f"{part.carried_rows:,} of {part.rows:,}" for part in self.parts)]
        columns = ["columns carried", *(f"{part.carried_columns:,} of {part.columns:,}" for part in self.parts)]
        states = ["", *(("identity" if part.passes else "new") if part.is_new else "" for part in self.parts)]
        widths = [max(map(len, column)) for column in (names, rows, columns)]
        lines = [
            f"{name:<{widths[0]}}  {row:>{widths[1]}}  {column:>{widths[2]}}  {state}".rstrip()
            for name, row, column, state in zip(names, rows, columns, states, strict=True)
        ]
        return "\n".join([*(f"changed: {change}" for change in self.changes), *lines])


class Places(NamedTuple):
    """Which indices of a stored axis (`before`) are which of the axis now, int64 [K] each."""

    before: torch.Tensor
    now: torch.Tensor


def table_of(name: str) -> str | None:
    """Return the table that a weight of this name is, None for a dense one."""
    found = _TABLE.fullmatch(name)
    return found[1] if found else None


class Source:
    """A training to start from, as seen by another one."""

    def __init__(
        self,
        directory: Path,
        said: Lineage | None = None,
        engines: tuple[Engine, Engine] | None = None,
        layouts: tuple[Layout, Layout] = ({}, {}),
    ) -> None:
        """`directory` holds its checkpoint; `engines` and `layouts` are those of then and of now, if they are known."""
        self.stored = chunks.Stored(directory)
        self.engines = engines
        self._said = said
        self._before, self._now = layouts
        self._by_place = {weight.place: name for name, weight in self._before.items()}
        self._common: Carried | None = None

    @property
    def common(self) -> Carried:
        """What both have, of features and rows; the features of now have to be fitted."""
        if self._common is None:
            assert self.engines is not None
            self._common = carried(*self.engines)
        return self._common

    def source_of(self, name: str) -> str | None:
        """Return the name that a weight had then, None if there was none."""
        if (table := table_of(name)) is not None:
            names = (key.removeprefix(_MODEL) for key in self.stored.sizes if key.startswith(_MODEL))
            return next((known for known in names if table_of(known) == table), None)
        weight = self._now.get(name)
        named = self._by_place.get(weight.place) if weight else None
        return named or (name if _MODEL + name in self.stored.sizes and weight is None else None)

    def places(self, name: str, source: str, size: Sequence[int]) -> list[Places] | None:
        """Return, for each axis of a dense weight, what is to be taken over; None if that is nothing."""
        stored = self.stored.sizes.get(_MODEL + source)
        if stored is None or len(stored) != len(size):
            return None
        if name not in self._now or source not in self._before or self._before[source].shape != tuple(stored):
            return [_all(length) for length in size] if tuple(stored) == tuple(size) else None
        was, now = self._before[source], self._now[name]
        rows, *columns = now.axes
        if now.after is not None:
            stands_for = self._stands_for(now.after)
            if stands_for is None or stands_for.place != was.after:
                return None
            columns = [units(was.axes[1][0].label, now.shape[1])]
        found = [_matched(*axes, self.common.features) for axes in zip(was.axes, (rows, *columns), strict=True)]
        if now.of is not None and (was.of is None or self.places(now.of, was.of, self._now[now.of].shape) is None):
            return None
        return found if all(len(axis.now) for axis in found) else None

    def _stands_for(self, place: str) -> Weight | None:
        """Return the weight whose layer had then the outputs that the layer at `place` has now, at first.

        That is its own, or, where a layer has been put in, that of the layer before it.
        """
        name = next(name for name, weight in self._now.items() if weight.place == place)
        if (source := self._by_place.get(place)) is not None:
            return self._before[source] if self.places(name, source, self._now[name].shape) else None
        after = self._now[name].after
        return None if after is None else self._stands_for(after)

    def _start_as_identity(self, name: str, weight: torch.Tensor) -> bool:
        """Let a hidden layer that has been put in behind another one pass on what that gives out; its bias too.

        What comes out of a ReLU is not below 0, so it is the same behind another ReLU.
        """
        now = self._now.get(name)
        linear = self._now.get(now.of, now) if now and now.of else now
        if linear is None or not linear.is_hidden or linear.after is None or linear.place in self._by_place:
            return False
        stands_for = self._stands_for(linear.after)
        if stands_for is None:
            return False
        passed = min(stands_for.shape[0], *linear.shape)
        weight[:passed] = 0
        if weight.dim() > 1:
            weight[range(passed), range(passed)] = 1
        return True

    def changes(self, weights: Mapping[str, Any], optimizers: tuple[str, str] | None) -> list[str]:
        """Return in words what differs: features, tables, dense weights and, if they are given, optimizers' kinds.

        `weights` are those of now by name, of which the sizes count.
        """
        assert self.engines is not None
        found = differences(*self.engines)
        sizes = {name: tuple(weight.size()) for name, weight in weights.items() if table_of(name) is None}
        before = {key.removeprefix(_MODEL): tuple(size) for key, size in self.stored.sizes.items()}
        for name, size in sizes.items():
            source = self.source_of(name)
            if source is None:
                found.append(f"weight {name}: new, {list(size)}")
            elif before[source] != size:
                found.append(f"weight {name}: {list(before[source])} → {list(size)}")
            elif name in self._now and source in self._before and self._now[name] != self._before[source]:
                found.append(f"weight {name}: its rows or columns stand for others")
        taken = {self.source_of(name) for name in sizes}
        dense = [key.removeprefix(_MODEL) for key in self.stored.sizes if key.startswith(_MODEL)]
        found += [f"weight {name}: gone" for name in dense if table_of(name) is None and name not in taken]
        if self._said is not None and optimizers is not None:
            for side, kind in zip(_SIDES, optimizers, strict=True):
                if not self.keeps(side, kind):
                    found.append(f"train.{side}_optimizer: {getattr(self._said, side + '_optimizer')} → {kind}")
        return found

    def has_any(self, weights: Mapping[str, Any]) -> bool:
        """Whether there may be something to take over of at least one of these weights."""
        return any(self.source_of(name) for name in weights)

    def keeps(self, side: str, kind: str) -> bool:
        """Whether the state of that side's optimizer, which is of `kind` now, means the same."""
        return self._said is None or getattr(self._said, f"{side}_optimizer") == kind

    def take_table(self, name: str, key: str, tensor: Any, rows: Rows | None) -> Part:
        """Fill these rows of a table, or of what an optimizer keeps of it, from what is stored under `key`.

        `tensor` is sharded or not, [rows, dim] or [rows].
        """
        size, stored = tensor.size(), self.stored.sizes.get(key)
        columns = size[1] if len(size) > 1 else 1
        if rows is None or stored is None or len(stored) != len(size):
            return Part(name=name, carried_rows=0, rows=size[0], carried_columns=0, columns=columns)
        there = (rows.before < stored[0]) & (rows.now < size[0])
        rows = Rows(rows.before[there], rows.now[there])
        for local, offsets in _shards(tensor):
            take_rows(self.stored, key, rows, local, offsets)
        width = min(size[1], stored[1]) if len(size) > 1 else 1
        return Part(name=name, carried_rows=len(rows.now), rows=size[0], carried_columns=width, columns=columns)

    def take_dense(self, name: str, source: str | None, weight: torch.Tensor, kept: Mapping[str, torch.Tensor]) -> Part:
        """Fill what is to be taken over of a dense weight, and of what its optimizer has `kept`, by stored key."""
        size = weight.size()
        rows, columns = (*size, 1, 1)[:2]
        places = None if source is None else self.places(name, source, size)
        if source is None or places is None:
            passes = self._start_as_identity(name, weight)
            return Part(name=name, carried_rows=0, rows=rows, carried_columns=0, columns=columns, passes=passes)
        if len(places) > 1:
            new = torch.ones(size[1], dtype=torch.bool)
            new[places[1].now] = False
            weight[places[0].now[:, None], torch.nonzero(new).flatten()] = 0
        _take(self.stored.read(_MODEL + source), weight, places)
        for key, held in kept.items():
            if (stored := self.stored.sizes.get(key)) is None:
                continue
            if held.size() == size and len(stored) == len(size):
                _take(self.stored.read(key), held, places)
            elif held.size() == stored:
                held.copy_(self.stored.read(key))
        counts = [len(axis.now) for axis in (*places, _all(1), _all(1))[:2]]
        return Part(name=name, carried_rows=counts[0], rows=rows, carried_columns=counts[1], columns=columns)


def take_rows(stored: chunks.Stored, key: str, rows: Rows, local: torch.Tensor, offsets: Sequence[int]) -> None:
    """Fill the rows of `local`, which stands at `offsets` of a tensor, from those of the one stored under `key`."""
    mine = (rows.now >= offsets[0]) & (rows.now < offsets[0] + len(local))
    order = np.argsort(rows.before[mine], kind="stable")
    before, now = rows.before[mine][order], rows.now[mine][order] - offsets[0]
    for piece in stored.chunks(key):
        first, last = np.searchsorted(before, [piece.offsets[0], piece.offsets[0] + piece.sizes[0]])
        # Columns; what has one dimension has one.
        spans = [*zip(piece.offsets[1:], piece.sizes[1:], strict=True), *zip(offsets[1:], local.shape[1:], strict=True)]
        low = max((start for start, _ in spans), default=0)
        high = min((start + length for start, length in spans), default=1)
        if first == last or low >= high:
            continue
        held = stored.read(key, piece)[torch.from_numpy(before[first:last] - piece.offsets[0])]
        there = torch.from_numpy(now[first:last]).to(local.device)
        if local.dim() > 1:
            held = held[:, low - piece.offsets[1] : high - piece.offsets[1]]
            local[there, low - offsets[1] : high - offsets[1]] = held.to(local.device, local.dtype)
        else:
            local[there] = held.to(local.device, local.dtype)


def source(
    checkpoint: Path, engines: tuple[Engine, Engine], layout: Layout, layout_of: Callable[[Engine], Layout]
) -> Source:
    """Return the training whose checkpoint lies at `checkpoint`, as seen by one of now.

    `engines` are those of then and of now, `layout` is that of the model of now; `layout_of` makes what it would be of
    other features.
    """
    said = lineage.of(checkpoint)
    before: Layout = {}
    if said is not None:
        before = said.layout
    else:
        # The model of now may not be able to read the features of a training of before layouts were recorded.
        with contextlib.suppress(ValueError):
            before = layout_of(engines[0])
    return Source(locate(checkpoint), said, engines, (before, layout))


def nothing(changes: Sequence[str]) -> str:
    """Say that none of the model to continue can be taken over."""
    return f"nothing of the model to continue means the same here ({'; '.join(changes)})"


def inherit(source: Source, state: dict[str, Any], optimizers: tuple[str, str] | None) -> list[Part]:
    """Fill `state`'s sections `model` and `optimizer` in place; return a part for each weight.

    `optimizers` are the kinds of now, of the tables and of the rest: what those of another kind kept starts anew, as
    does all of it where they are None.
    """
    kept = chunks.flat({"optimizer": state["optimizer"]}) if optimizers else {}
    sparse, dense = (source.keeps(side, kind) for side, kind in zip(_SIDES, optimizers or _SIDES, strict=True))
    found: list[Part] = []
    with torch.no_grad():
        for name, weight in state["model"].items():
            before, table = source.source_of(name), table_of(name)
            own = _states(kept, name, before)
            if table is None:
                found.append(source.take_dense(name, before, weight, dict(own) if dense else {}))
                continue
            rows = source.common.tables.get(table)
            found.append(source.take_table(name, f"{_MODEL}{before}", weight, rows))
            for key, held in own if sparse else ():
                source.take_table(name, key, held, rows)
        count = "optimizer.num_batches"
        if sparse and count in kept and count in source.stored.sizes:
            kept[count].copy_(source.stored.read(count))
    return found


def _states(kept: Mapping[str, Any], name: str, before: str | None) -> list[tuple[str, Any]]:
    """Return what the optimizer keeps of a weight, with the key that it is stored under."""
    prefix = f"{_OPTIMIZER}state.{name}."
    own = ((key.removeprefix(prefix), held) for key, held in kept.items() if key.startswith(prefix))
    return [(f"{_OPTIMIZER}state.{before}.{rest}", held) for rest, held in own if isinstance(held, torch.Tensor)]


def _shards(tensor: Any) -> Iterator[tuple[torch.Tensor, Sequence[int]]]:
    if isinstance(tensor, ShardedTensor):
        yield from ((shard.tensor, shard.metadata.shard_offsets) for shard in tensor.local_shards())
    else:
        yield tensor, [0] * tensor.dim()


def _take(stored: torch.Tensor, now: torch.Tensor, places: Sequence[Places]) -> None:
    if not places:
        now.copy_(stored)
        return
    grid = [torch.meshgrid(*(getattr(axis, side) for axis in places), indexing="ij") for side in ("before", "now")]
    now[grid[1]] = stored[grid[0]].to(now.device, now.dtype)


def _matched(before: Axis, now: Axis, features: frozenset[str]) -> Places:
    """Return the indices of the blocks that both axes have and that mean the same."""
    starts: dict[str, int] = {}
    start = 0
    for block in before:
        starts[block.label] = start
        start += block.width * block.repeats
    known = {block.label: block for block in before}
    old: list[int] = []
    new: list[int] = []
    start = 0
    for block in now:
        was = known.get(block.label)
        if was is not None and was.features == block.features and features.issuperset(block.features):
            for repeat in range(min(was.repeats, block.repeats)):
                width = min(was.width, block.width)
                old += range(first := starts[block.label] + repeat * was.width, first + width)
                new += range(first := start + repeat * block.width, first + width)
        start += block.width * block.repeats
    return Places(torch.tensor(old, dtype=torch.int64), torch.tensor(new, dtype=torch.int64))


def _all(length: int) -> Places:
    return Places(torch.arange(length), torch.arange(length))
