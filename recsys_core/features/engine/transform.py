"""What a side's features make of a table, each operation once: passed on, encoded together, or in threads."""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa

from recsys_core.features.base import Encoder, Feature, Jagged, RowError
from recsys_core.features.columns.flat import ones
from recsys_core.features.engine.graph import Values, applied

_MIN_THREAD_ROWS = 4_096


def results(
    todo: dict[str, Feature], values: Values, num_rows: int, num_threads: int
) -> dict[str, np.ndarray | Jagged]:
    """Make of each feature, by key, what it makes of its columns, the costly ones in threads."""
    passed = _passed(todo, values)
    return passed | _made({key: f for key, f in todo.items() if key not in passed}, values, num_rows, num_threads)


def _passed(todo: dict[str, Feature], values: Values) -> dict[str, np.ndarray | Jagged]:
    """Pass on the columns that need no work, after one look at all of them; what that finds wrong is left out."""
    numbers: dict[str, np.ndarray] = {}
    rows: dict[str, np.ndarray] = {}
    for key, feature in todo.items():
        if feature.is_plain and (plain := feature.plain(values.of(feature))) is not None:
            (rows if feature.table else numbers)[key] = plain
    passed: dict[str, np.ndarray | Jagged] = {}
    if numbers:
        joined = np.concatenate(list(numbers.values())).reshape(len(numbers), -1)
        finite = np.asarray(np.isfinite(joined).all(axis=1))
        passed |= {key: own[:, None] for key, own, good in zip(numbers, joined, finite, strict=True) if good}
    if rows:
        joined = np.concatenate(list(rows.values())).reshape(len(rows), -1)
        sizes = [todo[key].encoder.num_embeddings for key in rows]  # pyright: ignore[reportOptionalMemberAccess]
        # Seen as unsigned, negative numbers are the largest.
        inside = joined.view(np.uint64).max(axis=1, initial=0) < np.array(sizes, np.uint64)
        lengths = ones(joined.shape[1])
        passed |= {key: Jagged(own, lengths) for key, own, good in zip(rows, joined, inside, strict=True) if good}
    return passed


def _made(todo: dict[str, Feature], values: Values, num_rows: int, num_threads: int) -> dict[str, np.ndarray | Jagged]:
    costly = [key for key, feature in todo.items() if not feature.is_cheap]
    if num_rows < _MIN_THREAD_ROWS:
        together = _encoded_together(todo, values)
        rest = {key: feature for key, feature in todo.items() if key not in together}
        return together | {key: applied(feature, values, feature.transform) for key, feature in rest.items()}
    if len(costly) < 2 or num_threads < 2:
        return {key: applied(feature, values, feature.transform) for key, feature in todo.items()}
    for key in costly:
        values.of(todo[key])
    with ThreadPoolExecutor(num_threads) as threads:
        # Numpy and Arrow work without the interpreter's lock.
        made = threads.map(lambda key: applied(todo[key], values, todo[key].transform), costly)
        rest = {key: applied(f, values, f.transform) for key, f in todo.items() if key not in costly}
        return rest | dict(zip(costly, made, strict=True))


def _encoded_together(todo: dict[str, Feature], values: Values) -> dict[str, np.ndarray | Jagged]:
    """Encode the features whose encoders are of one family in one call per family."""
    families: dict[str, list[tuple[str, Encoder, pa.Array, np.ndarray]]] = {}
    for key, feature in todo.items():
        encoder = feature.encoder
        if encoder is not None and encoder.family is not None:
            given = applied(feature, values, feature.to_encode)
            if given is not None:
                families.setdefault(encoder.family, []).append((key, encoder, *given))
    made: dict[str, np.ndarray | Jagged] = {}
    for members in families.values():
        encoders, columns = [encoder for _, encoder, _, _ in members], [column for _, _, column, _ in members]
        rows = type(encoders[0]).encode_each(encoders, columns)
        made |= {key: Jagged(row, lengths) for (key, _, _, lengths), row in zip(members, rows, strict=True)}
    return made


def refuse_uneven(
    features: Sequence[Feature], results: Mapping[str, np.ndarray | Jagged], keys: Mapping[str, str]
) -> None:
    """Check that the features of a group have as many entries as each other in every row."""
    first: dict[str, Feature] = {}
    for feature in features:
        group, result = feature.config.group, results.get(keys[feature.config.name])
        if group is None or not isinstance(result, Jagged):
            continue
        other = first.setdefault(group, feature)
        held = results[keys[other.config.name]]
        assert isinstance(held, Jagged)
        if (uneven := np.flatnonzero(held.lengths != result.lengths)).size:
            row = uneven[0]
            raise RowError(
                int(row),
                f"group {group!r}: feature {other.config.name!r} has {held.lengths[row]} entries and "
                f"{feature.config.name!r} {result.lengths[row]}; give every entry an id in both (a null is none), "
                "or no group",
            )
