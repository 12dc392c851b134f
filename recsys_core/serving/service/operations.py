"""How requests of one kind are answered together: columns of all of them in, one answer each out.

What a request gets depends on itself alone. Values are as `shapes` has let them through.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from recsys_core.features import Engine
from recsys_core.features.columns import types
from recsys_core.serving import Recommender, Scorer, asked, tables
from recsys_core.serving.search import Found
from recsys_core.serving.service import shapes

Request = Mapping[str, Any]
Answer = dict[str, Any]
Operation = Callable[[Sequence[Request]], list[Answer]]


def recommend(retrieval: Recommender) -> Operation:
    """Return what answers with the best items of each user: `item_ids` and `scores`."""
    users = _users(retrieval)

    def answer(requests: Sequence[Request]) -> list[Answer]:
        found, counts = _found(retrieval, users(requests), requests, [_k(retrieval, one) for one in requests])
        ids = _plain(retrieval.search.ids.take(pa.array(found.rows)))
        parts = [slice(start, end) for start, end in zip(found.offsets, found.offsets[1:], strict=False)]
        answers = [{"item_ids": ids[part], "scores": found.scores[part]} for part in parts]
        return _with_counts(answers, counts)

    return answer


def embed(retrieval: Recommender) -> Operation:
    """Return what answers with each user's vector."""
    users = _users(retrieval)

    def answer(requests: Sequence[Request]) -> list[Answer]:
        vectors_BD = retrieval.embed(users(requests))
        tables.refuse_infinite(vectors_BD, "vector")
        return [{"embedding": vector} for vector in vectors_BD]

    return answer


def rank(ranking: Scorer) -> Operation:
    """Return what answers with the scores of the items that each request gives, in their order, by the scores' name."""
    user_columns, item_columns = _typed(shapes.user_kinds(ranking.engine)), _typed(shapes.item_kinds(ranking.engine))

    def answer(requests: Sequence[Request]) -> list[Answer]:
        columns: dict[str, list[Any]] = {
            name: [one["user"].get(name) for one in requests for _ in one["items"]] for name in user_columns
        }
        columns |= {name: [item.get(name) for one in requests for item in one["items"]] for name in item_columns}
        scores = ranking.score(tables.table(ranking.engine, ("query", "item"), columns))
        return _split(scores, [len(one["items"]) for one in requests])

    return answer


def recommend_and_rank(retrieval: Recommender, ranking: Scorer) -> Operation:
    """Return what answers with each user's best candidates, in the order of the ranking model's first probability.

    Raises:
        ValueError: the ranking model reads of items what the retrieval release does not have; names the column.
    """
    held = _ranked_fields(retrieval, ranking.engine)
    schema, users = ranking.engine.schema("query"), _users(retrieval)

    def answer(requests: Sequence[Request]) -> list[Answer]:
        wanted = [one.get("candidates") or min(200, retrieval.search.num_items) for one in requests]
        ks = [_k(retrieval, one) for one in requests]
        wanted = [max(k, number) for k, number in zip(ks, wanted, strict=True)]
        found, counts = _found(retrieval, users(requests), requests, wanted)
        owners = pa.array(np.repeat(np.arange(len(requests)), np.diff(found.offsets)))
        rows = held.take(pa.array(found.rows))
        for name, field in schema.items():
            values = [one["user"].get(name) for one in requests]
            rows = rows.append_column(
                name, tables.typed(values, name, types.parse(field["type"]), field["type"]).take(owners)
            )
        for name in ranking.engine.columns("query"):
            if name not in rows.column_names:
                rows = rows.append_column(name, pa.nulls(rows.num_rows))
        scored = ranking.score(rows)
        probability = scored[ranking.columns[0][1]].to_numpy()
        ids, answers = _plain(retrieval.search.ids.take(pa.array(found.rows))), []
        for place, k in enumerate(ks):
            part = slice(found.offsets[place], found.offsets[place + 1])
            # Of equals the one that was retrieved before.
            best = found.offsets[place] + np.argsort(-probability[part], kind="stable")[:k]
            one = {"item_ids": ids[best], "scores": probability[best], "retrieval_scores": found.scores[best]}
            answers.append(one)
        return _with_counts(answers, counts)

    return answer


def _found(
    retrieval: Recommender, users: pa.Table, requests: Sequence[Request], ks: Sequence[int]
) -> tuple[Found, dict[str, np.ndarray]]:
    exclude = [one.get("exclude") or [] for one in requests]
    filters = [one.get("filter") for one in requests]
    only = []
    if any(filters):
        assert retrieval.fields is not None, "the request has no filter otherwise"
        only = [retrieval.fields.allowed(_given(one)) if one else None for one in filters]
    found, encoded = retrieval.find(
        users,
        ks,
        exclude=[retrieval.excluded(exclude)] if any(exclude) else [],
        mask_seen=[one.get("mask_seen") for one in requests],
        only=only,
    )
    return found, tables.left_out(retrieval.engine, {"query": encoded})


def _k(retrieval: Recommender, request: Request) -> int:
    return min(request.get("k", asked.DEFAULT_K), retrieval.search.num_items)


def _given(wanted: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in wanted.items() if value is not None}


def _users(retrieval: Recommender) -> Callable[[Sequence[Request]], pa.Table]:
    """Return what makes the query's typed table of requests."""
    names = _typed(shapes.user_kinds(retrieval.engine))
    return lambda requests: retrieval.table({name: [one["user"].get(name) for one in requests] for name in names})


def _typed(kinds: Mapping[str, str | None]) -> list[str]:
    return [name for name, kind in kinds.items() if kind is not None]


def _ranked_fields(retrieval: Recommender, engine: Engine) -> pa.Table:
    """Return what the ranking model reads of each item, in the types that it was fitted on."""
    if retrieval.fields is None:
        raise ValueError("the retrieval release has no fields of its items: publish it again to rank what it finds")
    table, columns = retrieval.fields.table, {}
    for name, kind in shapes.item_kinds(engine).items():
        if kind is None:
            columns[name] = pa.nulls(table.num_rows)
            continue
        if name not in table.column_names:
            raise ValueError(
                f"the ranking release reads column {name!r} of items, and the items of the retrieval release have "
                f"{', '.join(table.column_names)}"
            )
        try:
            columns[name] = table[name].combine_chunks().cast(types.parse(kind))
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise ValueError(
                f"column {name!r} of the items is {table[name].type}, and is ranked as {kind}: {error}"
            ) from None
    return pa.table(columns)


def _split(scores: pa.Table, lengths: Iterable[int]) -> list[Answer]:
    answers, start = [], 0
    columns = {name: _plain(scores[name].combine_chunks()) for name in scores.column_names}
    for length in lengths:
        answers.append({name: values[start : start + length] for name, values in columns.items()})
        start += length
    return answers


def _plain(values: pa.Array) -> Any:
    """Return values as orjson writes them: numbers as an array of numpy's, all else as a list."""
    if pa.types.is_integer(values.type) or pa.types.is_floating(values.type):
        return values.to_numpy(zero_copy_only=False)
    return np.array(values.to_pylist(), object)


def _with_counts(answers: list[Answer], counts: Mapping[str, np.ndarray]) -> list[Answer]:
    if counts:
        for place, answer in enumerate(answers):
            answer["out_of_range"] = {name: int(count[place]) for name, count in counts.items()}
    return answers
