"""The same raw rows by every way that they are answered: as they were measured, together, alone, and by the service.

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

from recsys_core import serving
from recsys_core.artifacts import Frozen
from recsys_core.artifacts.release import EXAMPLES, QUERIES, SCORES
from recsys_core.serving import Recommender, Scorer
from recsys_core.serving.service import live, shapes
from recsys_core.serving.service.sources import Fetched

_MEASURED, _TOGETHER, _ALONE, _SERVICE = "measured", "together", "alone", "service"


class Way(Frozen):
    """How one way of answering compares with the release asked for one row at a time; `identical` counts rows."""

    identical: int
    max_difference: float


class Report(Frozen):
    """What was compared: `vectors` of retrieval, or a score's name of ranking, by way."""

    release: str
    num_rows: int
    ways: dict[str, dict[str, Way]]

    @property
    def is_same(self) -> bool:
        """Whether every way gives the same bits."""
        return all(way.identical == self.num_rows for ways in self.ways.values() for way in ways.values())


def check(release: Fetched, url: str | None, token: bytes | None) -> Report:
    """Compare the ways; without a `url` no service is asked.

    Raises:
        ValueError: the service serves another release, or does not answer.
    """
    loaded = serving.load(release.folder)
    if isinstance(loaded, Recommender):
        rows = pq.read_table(release.folder / QUERIES)
        made = _of_towers(loaded, rows.drop_columns("embedding"))
        made[_MEASURED] = {"vectors": np.stack(rows["embedding"].to_numpy(zero_copy_only=False))}
        asked = [{"user": row} for row in _plain(rows, shapes.user_kinds(loaded.engine))]
        path, tag_of = live.EMBED, lambda answer: {"vectors": [answer["embedding"]]}
    else:
        assert isinstance(loaded, Scorer)
        rows, scores = pq.read_table(release.folder / EXAMPLES), pq.read_table(release.folder / SCORES)
        made = _of_ranker(loaded, rows, scores.column_names)
        made[_MEASURED] = {name: scores[name].to_numpy() for name in scores.column_names}
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
    ways = {
        name: {way: _compared(values[name], wanted) for way, values in made.items()} for name, wanted in alone.items()
    }
    return Report(release=release.tag, num_rows=rows.num_rows, ways=ways)


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


def _compared(found: np.ndarray, wanted: np.ndarray) -> Way:
    same = found.astype(wanted.dtype).view(np.uint8).reshape(len(wanted), -1) == wanted.view(np.uint8).reshape(
        len(wanted), -1
    )
    return Way(identical=int(same.all(axis=1).sum()), max_difference=float(np.abs(found - wanted).max()))
