"""The same raw rows by every way that they are answered, from the training's own code to the running service.

The rows are those that a release keeps, with what batch prediction made of them when the day was measured.
"""

import http.client
import json
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field

from recsys_core import integrity, serving
from recsys_core.artifacts import Frozen
from recsys_core.artifacts.release import EXAMPLES, EXPORTED_MODEL, QUERIES, SCORES
from recsys_core.registry.named import Trained
from recsys_core.serving import Recommender, Scorer
from recsys_core.serving.service import eager, live, shapes
from recsys_core.serving.service.sources import Fetched

# TorchRec pools the rows of a table in another order than what is exported, and rounds otherwise.
_EAGER_TOLERANCE = 1e-5  # of the largest number
_EAGER, _MEASURED, _TOGETHER, _ALONE, _SERVICE = "eager", "measured", "together", "alone", "service"


class Way(Frozen):
    """How one way of answering compares with the release asked for one row at a time; `identical` counts rows.

    The others may differ by `tolerance`; None: by anything.
    """

    identical: int
    max_difference: float
    tolerance: float | None = 0.0


class Report(Frozen):
    """What was compared: `vectors` of retrieval, or a score's name of ranking, by way; and why others were not."""

    release: str
    num_rows: int
    ways: dict[str, dict[str, Way]]
    left_out: dict[str, str] = Field(default={})

    @property
    def is_same(self) -> bool:
        """Whether every way that was taken gives the same bits, or those that it may give."""
        ways = [way for ways in self.ways.values() for way in ways.values()]
        return all(
            way.identical == self.num_rows or way.tolerance is None or way.max_difference <= way.tolerance
            for way in ways
        )


def check(release: Fetched, url: str | None, token: bytes | None, trained: Trained | str) -> Report:
    """Compare the ways; without a `url` no service is asked. `trained` is what was exported, or why it is not at hand.

    Raises:
        ValueError: the service serves another release, or does not answer.
    """
    loaded = serving.load(release.folder)
    if isinstance(loaded, Recommender):
        rows = pq.read_table(release.folder / QUERIES)
        made = _of_towers(loaded, rows.drop_columns("embedding"))
        made[_MEASURED] = {"vectors": np.stack(rows["embedding"].to_numpy(zero_copy_only=False))}
        if isinstance(trained, Trained):
            made[_EAGER] = {"vectors": eager.vectors(trained, rows)}
        asked = [{"user": row} for row in _plain(rows, shapes.user_kinds(loaded.engine))]
        path, tag_of = live.EMBED, lambda answer: {"vectors": [answer["embedding"]]}
    else:
        assert isinstance(loaded, Scorer)
        rows, scores = pq.read_table(release.folder / EXAMPLES), pq.read_table(release.folder / SCORES)
        made = _of_ranker(loaded, rows, scores.column_names)
        made[_MEASURED] = {name: scores[name].to_numpy() for name in scores.column_names}
        if isinstance(trained, Trained):
            made[_EAGER] = eager.scores(trained, loaded.columns, loaded.predicted, rows)
        users, items = (_plain(rows, kinds(loaded.engine)) for kinds in (shapes.user_kinds, shapes.item_kinds))
        asked = [{"user": user, "items": [item]} for user, item in zip(users, items, strict=True)]
        path, tag_of = live.RANK, lambda answer: {name: answer[name] for name in scores.column_names}
    if url is not None:
        answers = [tag_of(one) for one in _ask(url, path, asked, release, token)]
        made[_SERVICE] = {
            name: np.concatenate([np.asarray(one[name], made[_ALONE][name].dtype) for one in answers])
            for name in made[_ALONE]
        }
    alone = made.pop(_ALONE)
    order = [way for way in (_EAGER, _MEASURED, _TOGETHER, _SERVICE) if way in made]
    ways = {
        name: {way: _compared(made[way][name], wanted, _tolerance(way, wanted, release)) for way in order}
        for name, wanted in alone.items()
    }
    left_out = {_EAGER: trained} if isinstance(trained, str) else {}
    left_out |= {_SERVICE: "no --url"} if url is None else {}
    return Report(release=release.tag, num_rows=rows.num_rows, ways=ways, left_out=left_out)


def _of_towers(loaded: Recommender, rows: pa.Table) -> dict[str, dict[str, np.ndarray]]:
    alone = np.concatenate([loaded.embed(rows.slice(row, 1)) for row in range(rows.num_rows)])
    return {_TOGETHER: {"vectors": loaded.embed(rows)}, _ALONE: {"vectors": alone}}


def _of_ranker(loaded: Scorer, rows: pa.Table, names: Sequence[str]) -> dict[str, dict[str, np.ndarray]]:
    alone = pa.concat_tables([loaded.score(rows.slice(row, 1)) for row in range(rows.num_rows)])
    together = loaded.score(rows)
    return {
        way: {name: table[name].to_numpy() for name in names} for way, table in ((_TOGETHER, together), (_ALONE, alone))
    }


def _plain(rows: pa.Table, kinds: Mapping[str, str | None]) -> list[dict[str, Any]]:
    return live.plain_rows(rows.select([name for name in kinds if name in rows.column_names]))


def _ask(
    url: str, path: str, asked: Sequence[Mapping[str, Any]], release: Fetched, token: bytes | None
) -> list[dict[str, Any]]:
    parts = urlsplit(url)
    kind = {"http": http.client.HTTPConnection, "https": http.client.HTTPSConnection}.get(parts.scheme)
    if kind is None or parts.hostname is None:
        raise ValueError(f"--url {url}: give http://HOST:PORT")
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {token.decode()}"} if token else {})
    connection, found = kind(parts.hostname, parts.port, timeout=30), []
    for request in asked:
        connection.request("POST", f"{parts.path.rstrip('/')}{path}", json.dumps(request), headers)
        response = connection.getresponse()
        answer = json.loads(response.read() or b"{}")
        if response.status != 200:
            detail = (answer.get("detail") or [{}])[0]
            raise ValueError(f"{url}{path}: status {response.status}: {detail.get('msg', 'no reason')}")
        if answer["version"] != release.tag:
            raise ValueError(f"{url} serves {answer['version']} and not {release.tag}")
        found.append(answer)
    connection.close()
    return found


def _tolerance(way: str, wanted: np.ndarray, release: Fetched) -> float | None:
    if way != _EAGER:
        return 0.0
    path = release.folder / EXPORTED_MODEL
    said = integrity.read_json(path) if path.is_file() else {}
    if isinstance(said, dict) and said.get("table_dtype", "trained") != "trained":
        return None  # what its tables have lost was measured when they were exported
    return _EAGER_TOLERANCE * max(1.0, float(np.abs(wanted).max()))


def _compared(found: np.ndarray, wanted: np.ndarray, tolerance: float | None) -> Way:
    rows = len(wanted)
    same = found.astype(wanted.dtype).view(np.uint8).reshape(rows, -1) == wanted.view(np.uint8).reshape(rows, -1)
    difference = float(np.abs(found - wanted).max())
    return Way(identical=int(same.all(axis=1).sum()), max_difference=difference, tolerance=tolerance)
