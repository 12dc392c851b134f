"""The log day by day, beside the whole log in memory: the same files, byte for byte."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from small_log import click, item_row, make_log, make_request, user_row

from recsys_core.artifacts import Dataset, Holdout, NextDay, Tail
from recsys_core.artifacts import Rows as ByKey
from recsys_core.progress import silent
from recsys_core.retrieval import preprocess
from recsys_core.retrieval.preprocess import by_day


@pytest.fixture
def log(tmp_path: Path) -> Dataset:
    """Users who come and go and change, seconds that several interactions share, and a day without any."""
    rng = np.random.default_rng(1)
    clicks = [
        click(day, int(second), int(rng.integers(1, 30)), "abcdefgh"[rng.integers(0, 8)])
        for day in (0, 1, 3, 4)
        for second in rng.integers(0, 86_400, 90) // 3_600 * 3_600
    ]
    users = [user_row(0, number, "x") for number in range(1, 30)]
    users += [user_row(day, number, "yz"[day % 2]) for day in (1, 3) for number in (2, 7, 11)]
    return make_log(tmp_path / "log", clicks, users, [item_row(0, item) for item in "abcdefgh"])


def files(root: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in root.rglob("*")
        if path.is_file() and path.name != "manifest.json"
    }


@pytest.mark.parametrize("mode", ["before", "preceding"])
@pytest.mark.parametrize("held_out", [NextDay(), Tail(hours=6), ByKey(share=0.5, by="user_id")], ids=lambda k: k.kind)
@pytest.mark.parametrize(("window", "popular"), [(None, None), (2, 1)])
def test_files_are_those_of_the_whole_log(
    log: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str, held_out: Holdout,
    window: int | None, popular: int | None,
) -> None:  # fmt: skip
    """Chunks end within days and lie across them."""
    monkeypatch.setattr(preprocess, "CHUNK_ROWS", 7)
    history = {"mode": mode, "max_length": 4}
    config = preprocess.Config.model_validate(
        {"history": history, "window_days": window, "popularity_days": popular, "catalogue": "all"}
    )
    own, other = (make_request(log, 3, tmp_path / name, holdout=held_out, config=config) for name in ("own", "whole"))
    assert by_day.takes_less(29, 4, 90)
    made = preprocess.run(own, silent)
    monkeypatch.setattr(by_day, "serves", lambda *_: False)
    whole = preprocess.run(other, silent)
    assert made.num_rows > 20
    assert files(made.path) == files(whole.path)
    assert made.first_day == whole.first_day


def test_what_is_carried_is_held_only_where_it_takes_less_than_the_log() -> None:
    # 1,000 users of 50 items, 4 bytes each, are 200,000 bytes, and so are 2,000 interactions of 100 bytes.
    assert by_day.takes_less(1_000, 50, 2_000)
    assert not by_day.takes_less(1_000, 50, 1_999)
    assert not by_day.takes_less(1_000, 2_000, 10_000)


def test_distinct_numbers_of_parts_are_those_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(by_day.Distinct, "_FEWEST", 10)
    rng, found, every = np.random.default_rng(0), by_day.Distinct(), list[int]()
    assert found.values().tolist() == []
    for _ in range(20):
        part = rng.integers(0, 60, 7)
        every += part.tolist()
        found.add(part)
    assert found.values().tolist() == sorted(set(every))


@pytest.mark.parametrize(
    "known", [[5, 3, 4], [-2, 9_000_000_000, 7], ["b", "a", "c"]], ids=["close together", "far apart", "texts"]
)
def test_codes_are_the_places_of_the_ids(known: list) -> None:
    codes = by_day._Codes(pa.array(known), "users")
    asked = [known[2], known[0], known[0], known[1]]
    assert codes.of(pa.chunked_array([asked])).tolist() == [2, 0, 0, 1]
    assert codes.of(pa.chunked_array([pa.array([], pa.array(known).type)])).tolist() == []
    for stranger in ("z",) if isinstance(known[0], str) else (6, 2, 1 << 40):
        with pytest.raises(ValueError, match=f"an interaction is with {stranger}, which is not in the log's users"):
            codes.of(pa.chunked_array([[known[0], stranger]]))
