"""What one fitted engine has in common with an earlier one: rows of tables by id, and features that mean the same.

Legend: K rows that are carried over.
"""

import json
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa

from recsys_core.features.base import Encoder, Feature, FeatureConfig

if TYPE_CHECKING:
    from recsys_core.features import Engine

_MAX_SHOWN = 40


class Rows(NamedTuple):
    """int64 [K] each: which rows of the earlier table (`before`) are which of the later one (`now`, each once)."""

    before: np.ndarray
    now: np.ndarray


class Carried(NamedTuple):
    """The tables that both engines have, and the names of the features whose outputs still mean the same."""

    tables: dict[str, Rows]
    features: frozenset[str]


class _Space(NamedTuple):
    """What distinguishes ids of a table from other ids that are spelled alike."""

    mod: int | None
    are_rows: bool
    sources: str


def carried(before: "Engine", now: "Engine") -> Carried:
    """Return what `now`, which is fitted, can take over of a model that was trained with `before`."""
    found = {name: rows_of(before, name, now, name) for name in now.encoders if name in before.encoders}
    tables = {name: rows for name, rows in found.items() if rows is not None}
    old, new = before.meanings(), now.meanings()
    kept = (
        feature.config.name
        for feature in _features(now)
        if old.get(feature.config.name, "") == new.get(feature.config.name)
        and (feature.table is None or (feature.table in tables and len(tables[feature.table].now)))
    )
    return Carried(tables, frozenset(kept))


def rows_of(before: "Engine", was: str, now: "Engine", table: str) -> Rows | None:
    """Return which rows of the table `was` are which of `table` now; None where their ids are not of one kind."""
    if not same_ids(before, was, now, table):
        return None
    if any(space.are_rows for space in _spaces(now, table)):
        # An upstream job gives rows of the table: their numbers are all there is to go by.
        rows = np.arange(min(before.encoders[was].num_embeddings, now.encoders[table].num_embeddings))
        return Rows(rows, rows)
    return _rows(before.encoders[was], now.encoders[table])


def same_ids(before: "Engine", was: str, now: "Engine", table: str) -> bool:
    """Whether ids of the table `was` that are spelled like ids of `table` now are the same ids."""
    return _spaces(before, was) == _spaces(now, table)


def _rows(before: Encoder, now: Encoder) -> Rows:
    """Return which rows stand for the same ids, or for some of those that they stood for."""
    if (known := now.known()) is not None:
        mine, own = known["row"].to_numpy(), before.own_rows(_ids(known))
        own = np.full(len(mine), -1) if own is None else own
        if before.known() is not None and before.first_id_row == now.first_id_row:
            # The rows of ids without one of their own.
            shared = np.arange(now.first_id_row or 0)
            mine, own = np.concatenate([shared, mine]), np.concatenate([shared, own])
        return Rows(own[own >= 0], mine[own >= 0])
    if (known := before.known()) is not None:
        own, mine = known["row"].to_numpy(), now.own_rows(_ids(known))
        mine = np.full(len(own), -1) if mine is None else mine
        # Of ids that share a row now the one that had its row first, which is the one that was seen most.
        order = np.argsort(own)
        rows, places = np.unique(mine[order], return_index=True)
        return Rows(own[order][places][rows >= 0], rows[rows >= 0])
    own = now.inside(before)
    mine = np.flatnonzero(own >= 0)
    return Rows(own[mine], mine)


def _ids(known: pa.Table) -> pa.Array:
    return known["id"].combine_chunks()


def _spaces(engine: "Engine", table: str) -> set[_Space]:
    found: set[_Space] = set()
    for feature in _features(engine):
        config: Any = getattr(feature.config, "output", None) or feature.config
        if feature.table == table and config.kind == "id":
            found.add(_Space(config.mod, config.input == "encoded", ""))
        elif feature.table == table == feature.config.name:
            # Buckets of the numbers of another column are other buckets.
            found.add(_Space(None, are_rows=False, sources=engine.sources()[table]))
    return found


def _features(engine: "Engine") -> Iterable[Feature]:
    return (feature for features in engine.features.values() for feature in features)


def differences(before: "Engine", now: "Engine") -> list[str]:
    """Return, in words, in which features and tables the configs of two engines differ."""
    old, new = (
        {f.name: (side, f) for side in ("query", "item") for f in getattr(engine.portable_config(), side)}
        for engine in (before, now)
    )
    found = [f"feature {name}: gone" for name in old if name not in new]
    found += [f"feature {name}: new" for name in new if name not in old]
    for name, (side, feature) in new.items():
        if name in old and (changed := _changed(*old[name], side, feature)):
            found.append(f"feature {name}: {', '.join(changed)}")
    tables = {table.name: table for table in before.tables}
    for table in now.tables:
        if (was := tables.get(table.name)) is not None:
            fields = ("embedding_dim", "dtype", "trainable")
            pairs = {field: (getattr(was, field), getattr(table, field)) for field in fields}
            found += [f"table {table.name}: {field} {a} → {b}" for field, (a, b) in pairs.items() if a != b]
    return found


def _changed(old_side: str, before: FeatureConfig, side: str, now: FeatureConfig) -> list[str]:
    old, new = _settings(before) | {"side": old_side}, _settings(now) | {"side": side}
    # The width of a table is reported with the table.
    keys = [key for key in {**old, **new} if key != "embedding_dim" and old.get(key) != new.get(key)]
    return [f"{key} {_short(old.get(key))} → {_short(new.get(key))}" for key in keys]


def _settings(config: FeatureConfig) -> dict[str, Any]:
    return config.model_dump(mode="json")


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}…"
