"""The models of requests, made of a release: its columns and their types, its items' fields, its limits.

They only check: what is given is passed on as it came, to `serving.tables`, which is the same for all doors.
"""

from typing import Annotated, Any, NamedTuple

import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field, create_model

from recsys_core.features import Engine, Side
from recsys_core.serving import Recommender, Scorer, asked
from recsys_core.serving.service.limits import Limits

_INT64 = 1 << 63
_Integer = Annotated[int, Field(ge=-_INT64, lt=_INT64)]
_Number = Annotated[float, Field(allow_inf_nan=False)]
_SCALARS: dict[str, Any] = {
    "int64": _Integer,
    "float32": _Number,
    "float64": _Number,
    "string": str,
    "bool": bool,
    "date32": Annotated[str, Field(description="an ISO date")],
}
_FORBID = ConfigDict(extra="forbid", strict=True)


class Range(BaseModel):
    """Numbers from `min` to `max`, both included."""

    model_config = _FORBID
    min: _Number | None = None
    max: _Number | None = None


class Shape(NamedTuple):
    """One operation: the request's model, one that is filled in, and the schemas of what answers have."""

    model: type[BaseModel]
    example: dict[str, Any]
    answer: dict[str, Any]


def user_kinds(engine: Engine) -> dict[str, str | None]:
    """Return what a request says of a user: the columns of the query's features and their types, None if not known."""
    return _kinds(engine, "query")


def item_kinds(engine: Engine) -> dict[str, str | None]:
    """Return what a request says of an item that is ranked: columns of the items' features that are not the user's."""
    user = engine.columns("query")
    return {name: kind for name, kind in _kinds(engine, "item").items() if name not in user}


def recommend(
    retrieval: Recommender, limits: Limits, kinds: dict[str, str | None], user: dict[str, Any], *, ranks: bool = False
) -> Shape:
    """Return the request for the best items of a user; with `ranks`, of candidates that are ranked."""
    most = min(limits.max_k, retrieval.search.num_items)
    item_id = _Integer if pa.types.is_integer(retrieval.search.ids.type) else str
    fields: dict[str, Any] = {
        "user": (_record("RankedUser" if ranks else "User", kinds), Field(description="the user's columns")),
        "k": (int, Field(default=min(asked.DEFAULT_K, most), ge=1, le=most, description="how many items, at most")),
        "exclude": (list[item_id], Field(default=[], max_length=10_000, description="items that are not wanted")),
        "mask_seen": (
            bool | None,
            Field(default=None, description="whether items of the history are left out; null: as it was measured"),
        ),
    }
    example = {"user": user, "k": min(3, most)}
    if ranks:
        fields["candidates"] = (
            int,
            Field(default=min(200, most), ge=1, le=most, description="how many are retrieved to be ranked"),
        )
    if retrieval.fields is not None:
        described = "fields that items must have: a value, one of a list, or of numbers an object of min and max"
        model = _filter(retrieval.fields.kinds)
        fields["filter"] = (model | None, Field(default=None, description=described))
    name = "RecommendAndRank" if ranks else "Recommend"
    answer = {"item_ids": _array("integer" if item_id is _Integer else "string"), "scores": _array("number")}
    answer |= {"retrieval_scores": _array("number")} if ranks else {}
    left_out = _left_out(retrieval.engine, "query")
    answer |= {"out_of_range": left_out} if left_out else {}
    return Shape(create_model(name, __config__=_FORBID, **fields), example, answer)


def embed(retrieval: Recommender, user: dict[str, Any]) -> Shape:
    """Return the request for a user's vector."""
    model = _record("User", user_kinds(retrieval.engine))
    answer = {"embedding": _array("number")}
    return Shape(create_model("Embed", __config__=_FORBID, user=(model, ...)), {"user": user}, answer)


def rank(ranking: Scorer, limits: Limits, user: dict[str, Any], item: dict[str, Any]) -> Shape:
    """Return the request for the scores of given items."""
    of_user = _record("RankUser", user_kinds(ranking.engine))
    of_item = _record("Item", item_kinds(ranking.engine))
    items = (list[of_item], Field(min_length=1, max_length=limits.max_k, description="the items to score"))
    answer = {name: _array("number") for names in ranking.columns for name in names}
    left_out = _left_out(ranking.engine, "query", "item")
    answer |= {"out_of_range": {"type": "array", "items": left_out}} if left_out else {}
    model = create_model("Rank", __config__=_FORBID, user=(of_user, ...), items=items)
    return Shape(model, {"user": user, "items": [item]}, answer)


def _array(kind: str) -> dict[str, Any]:
    return {"type": "array", "items": {"type": kind}}


def _left_out(engine: Engine, *sides: Side) -> dict[str, Any] | None:
    names = [name for side in sides for name in engine.dropping(side)]
    if not names:
        return None
    counts = {name: {"type": "integer", "description": "ids that were left out"} for name in names}
    return {"type": "object", "properties": counts, "required": names}


def _kinds(engine: Engine, side: Any) -> dict[str, str | None]:
    schema = engine.schema(side)
    return {name: schema[name]["type"] if name in schema else None for name in engine.columns(side)}


def _record(name: str, kinds: dict[str, str | None]) -> type[BaseModel]:
    """Return a model of columns; a column may have any name, so the fields have numbers and the columns' as aliases."""
    fields: dict[str, Any] = {}
    for number, (column, kind) in enumerate(kinds.items()):
        if kind is None:
            fields[f"column_{number}"] = (Any, Field(default=None, alias=column, description="never held anything"))
        else:
            fields[f"column_{number}"] = (_type(kind) | None, Field(alias=column, description=f"{kind}; null: unknown"))
    return create_model(name, __config__=_FORBID, **fields)


def _type(kind: str) -> Any:
    if kind.startswith("list<"):
        return list[_type(kind[5:-1]) | None]
    if kind.startswith("map<"):
        return dict[str, _type(kind[4:-1].partition(",")[2]) | None]
    if kind.startswith("timestamp["):
        return Annotated[str, Field(description="an ISO time")]
    return _SCALARS[kind]


def _filter(kinds: dict[str, pa.DataType]) -> type[BaseModel]:
    fields: dict[str, Any] = {}
    for number, (name, kind) in enumerate(kinds.items()):
        leaf = kind.value_type if pa.types.is_list(kind) else kind
        one: Any = str
        if pa.types.is_boolean(leaf):
            one = bool
        elif pa.types.is_integer(leaf):
            one = _Integer
        elif pa.types.is_floating(leaf):
            one = _Number
        values = one | list[one]
        if one in (_Integer, _Number) and not pa.types.is_list(kind):
            values |= Range
        fields[f"field_{number}"] = (values, Field(default=None, alias=name))
    return create_model("Filter", __config__=_FORBID, **fields)
