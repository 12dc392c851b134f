"""What is served: a release loaded whole, and replaced whole while requests are answered.

A request takes what is live once, when it arrives, and is checked and answered by that: no answer mixes two releases.
"""

import contextlib
import gc
import threading
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ValidationError

from recsys_core import serving
from recsys_core.artifacts.release import EXAMPLES, QUERIES
from recsys_core.serving import Recommender, Scorer, Service
from recsys_core.serving.service import operations, shapes
from recsys_core.serving.service.batching import Answers
from recsys_core.serving.service.limits import Limits
from recsys_core.serving.service.sources import Fetched

RECOMMEND, EMBED, RANK, BOTH = "/recommend", "/embed", "/rank", "/recommend_and_rank"
RELEASE, RANK_RELEASE = "release", "rank_release"
_WARM_UP_REQUESTS = (1, 2, 8)
_NUMBERS = {"int64": 0, "float32": 1, "float64": 2}

Kinds = dict[str, str | None]


class Loaded(NamedTuple):
    """A release in memory, and a row of its own to show and to warm up with."""

    release: Fetched
    service: Service
    row: dict[str, Any]


class Endpoint(NamedTuple):
    """What one path does: what its requests are, what answers them, and the release that each answer names."""

    shape: shapes.Shape
    answers: Answers
    tag: str

    def fits(self, request: Any) -> bool:
        """Whether a request is of the shape."""
        try:
            self.shape.model.__pydantic_validator__.validate_python(request)
        except ValidationError:
            return False
        return True


class Served(NamedTuple):
    """What is live; it never changes. `tag` names all of its releases."""

    retrieval: Loaded | None
    ranking: Loaded | None
    endpoints: Mapping[str, Endpoint]
    tag: str


class Live:
    """Holds what is served. `current` is replaced by one assignment."""

    def __init__(self, limits: Limits, wanted: Sequence[str], warm_up: Sequence[Mapping[str, Any]] = ()) -> None:
        """`wanted` are the places that must be filled before anything is served: `RELEASE`, and `RANK_RELEASE`.

        `warm_up`: rows of a log of requests, which are asked first of all; those that do not fit are left out.
        """
        self._warm_up = tuple(warm_up)
        self.current: Served | None = None
        self._limits, self._wanted = limits, tuple(wanted)
        self._loaded: dict[str, Loaded] = {}
        self._lock = threading.Lock()

    def put(self, releases: Mapping[str, Fetched]) -> Served | None:
        """Load releases by place, let each answer its own rows, and serve them; return what is live then.

        None as long as a place is empty.

        Raises:
            ValueError: one is damaged, does not answer as it was measured, or does not go with the others; what was
                served stays so.
        """
        with self._lock:
            fresh = {place: _load(release) for place, release in releases.items()}
            for place, loaded in fresh.items():
                if place == RANK_RELEASE and not isinstance(loaded.service, Scorer):
                    raise ValueError(
                        f"{loaded.release.tag} is a retrieval release, and --rank-release takes a ranking one"
                    )
            candidates = {**self._loaded, **fresh}
            if not set(self._wanted) <= candidates.keys():
                self._loaded = candidates
                return None
            served = _served([*candidates.values()], self._limits)
            self._warm(served)
            is_first = self.current is None
            self._loaded, self.current = candidates, served
        if is_first:
            # Libraries and their like stay: left out of the collector's rounds, which hold up requests.
            gc.collect()
            gc.freeze()
        return served

    def holds(self, place: str, release: Fetched) -> bool:
        """Whether a release has its place already."""
        loaded = self._loaded.get(place)
        return loaded is not None and loaded.release == release

    def _warm(self, served: Served) -> None:
        for endpoint in served.endpoints.values():
            for number in _WARM_UP_REQUESTS:
                endpoint.answers([endpoint.shape.example] * number)
        for row in self._warm_up:
            endpoint, request = served.endpoints.get(row["path"]), orjson.loads(row["request"])
            if endpoint is not None and endpoint.fits(request):
                with contextlib.suppress(ValueError):  # the features refuse it, as they would then
                    endpoint.answers([request])


def _load(release: Fetched) -> Loaded:
    try:
        service = serving.load(release.folder)
        service.check_kept(release.folder)
        kept = pq.read_table(release.folder / (QUERIES if isinstance(service, Recommender) else EXAMPLES))
    except (OSError, ValueError) as error:
        raise ValueError(f"{release.tag}: {error}") from None
    return Loaded(release, service, plain_rows(kept.slice(0, 1))[0])


def plain_rows(table: pa.Table) -> list[dict[str, Any]]:
    """Return the rows of a table as a client would send them: times as texts, maps as objects, NaN as null."""
    maps = [field.name for field in table.schema if pa.types.is_map(field.type)]
    rows = table.to_pylist()
    for row in rows:
        row |= {name: dict(row[name]) for name in maps if row[name] is not None}
    return orjson.loads(orjson.dumps(rows, default=_as_json))


def _served(loaded: Sequence[Loaded], limits: Limits) -> Served:
    retrieval = next((one for one in loaded if isinstance(one.service, Recommender)), None)
    ranking = next((one for one in loaded if isinstance(one.service, Scorer)), None)
    tag = " ".join(one.release.tag for one in (retrieval, ranking) if one is not None)
    made: dict[str, tuple[shapes.Shape, operations.Operation, str]] = {}
    if retrieval is not None:
        service = retrieval.service
        assert isinstance(service, Recommender)
        kinds, name = shapes.user_kinds(service.engine), retrieval.release.tag
        user = {column: retrieval.row.get(column) for column in kinds}
        made[RECOMMEND] = shapes.recommend(service, limits, kinds, user), operations.recommend(service), name
        made[EMBED] = shapes.embed(service, user), operations.embed(service), name
        if ranking is not None:
            scorer = ranking.service
            assert isinstance(scorer, Scorer)
            both = _together(kinds, shapes.user_kinds(scorer.engine))
            user = {column: ranking.row.get(column) for column in both} | user
            shape = shapes.recommend(service, limits, both, user, ranks=True)
            made[BOTH] = shape, operations.recommend_and_rank(service, scorer), tag
    if ranking is not None:
        scorer = ranking.service
        assert isinstance(scorer, Scorer)
        user, item = (
            {column: ranking.row.get(column) for column in kinds}
            for kinds in (shapes.user_kinds(scorer.engine), shapes.item_kinds(scorer.engine))
        )
        made[RANK] = shapes.rank(scorer, limits, user, item), operations.rank(scorer), ranking.release.tag
    endpoints = {path: Endpoint(shape, _written(answer, name), name) for path, (shape, answer, name) in made.items()}
    return Served(retrieval, ranking, endpoints, tag)


def _together(retrieval: Kinds, ranking: Kinds) -> Kinds:
    """Return the user's columns that either release reads; a number that one of them takes whole is a whole one.

    Raises:
        ValueError: both read a column, as types of which no value fits both.
    """
    found = {**retrieval, **ranking}
    for name in retrieval.keys() & ranking.keys():
        kinds = {retrieval[name], ranking[name]} - {None}
        if len(kinds) > 1 and not kinds <= _NUMBERS.keys():
            a, b = sorted(str(kind) for kind in kinds)
            raise ValueError(f"column {name!r} is {a} for one of the two releases and {b} for the other")
        found[name] = min(kinds, key=lambda kind: _NUMBERS.get(kind or "", 0), default=None)
    return found


def _written(answer: operations.Operation, tag: str) -> Answers:
    """Return what gives answers as JSON, each with the release that it is of."""

    def write(requests: Sequence[operations.Request]) -> list[bytes]:
        return [_json({"version": tag, **one}) for one in answer(requests)]

    return write


def _json(answer: Mapping[str, Any]) -> bytes:
    return orjson.dumps(answer, default=_as_json, option=orjson.OPT_SERIALIZE_NUMPY)


def _as_json(value: Any) -> Any:
    """Return what orjson does not know itself: arrays of texts."""
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(type(value).__name__)
