"""Distances and every check with figures by hand; a log of a few days from its files to the record."""

import datetime
import math
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recsys_core import artifacts, contract, ingest, profile
from recsys_core.artifacts import DataCheck
from recsys_core.contract import checks, report, tables
from recsys_core.contract.distances import jensen_shannon, population_stability_index
from recsys_core.contract.statistics import PartitionStatistics, compute
from recsys_core.datasets import daily
from recsys_core.datasets.base import partition
from recsys_core.progress import silent

FIRST = datetime.date(2024, 1, 1)
DAYS = [FIRST + datetime.timedelta(days=number) for number in range(6)]


def test_distances_by_hand():
    # With half a count in each bin the shares are 1/4 and 3/4, and the other way round.
    expected, actual = np.array([0, 1]), np.array([1, 0])
    assert population_stability_index(expected, actual) == pytest.approx(2 * 0.5 * math.log(3))
    bits = 0.75 * math.log2(0.75 / 0.5) + 0.25 * math.log2(0.25 / 0.5)
    assert jensen_shannon(expected, actual) == pytest.approx(bits)
    assert population_stability_index(expected, expected) == jensen_shannon(actual, actual) == 0


def statistics(tmp_path: Path, **columns: object) -> PartitionStatistics:
    path = tmp_path / "users" / "ds=2024-01-01" / "part.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path)
    return compute(tmp_path, "users", [path], ["user_id"])


def breaches(
    found: PartitionStatistics,
    before: list[PartitionStatistics],
    agreed: dict[str, tables.Column] | None = None,
    **limits: object,
) -> list[tuple[str, str | None, float | None]]:
    config = checks.Limits.model_validate({"minimum_days": 1, "minimum_rows": 2} | limits)
    tags = {"user_id": ("user", "id"), "label": ("label",)}
    days = list(zip(DAYS, before, strict=False))
    subject = checks.Subject(DAYS[len(days)], "interactions", found, days, agreed, tags)
    measured = list(checks.measure(config, subject))
    return [(m.check, m.column, None if m.figure is None else round(m.figure, 4)) for m in measured if not m.held]


def test_each_check_by_hand(tmp_path: Path):
    ten = list(range(10))
    past = [statistics(tmp_path, user_id=ten, label=[0, 1] * 5, price=[1.0] * 5 + [3.0] * 5, city=["a"] * 10)] * 2
    assert breaches(past[0], past) == []
    few = statistics(tmp_path, user_id=[0, 1, 20, 21], label=[0, 1] * 2, price=[1.0, 3.0] * 2, city=["a"] * 4)
    # Two of four users were known; four rows are 0.4 times the median.
    overlap = {"minimum_known_users": 0.6}
    assert breaches(few, past, id_overlap=overlap) == [("row_count", None, 0.4), ("id_overlap", "user_id", 0.5)]
    many = statistics(tmp_path, user_id=ten * 3, label=[0, 1] * 15, price=[1.0, 3.0] * 15, city=["a"] * 30)
    assert breaches(many, past) == [("row_count", None, 3.0)]
    moved = statistics(tmp_path, user_id=ten, label=[1] * 9 + [0], price=[1.0, 3.0] * 5, city=["a"] * 10)
    # 0.9 is 80 % above 0.5.
    assert breaches(moved, past, drift={"maximum_psi": None}) == [("label_rate", "label", 0.8)]
    odd = statistics(
        tmp_path, user_id=ten, label=[0, 1] * 5, price=[math.nan, 1.0, 9.0] + [3.0] * 7, city=[None] * 2 + ["a"] * 8
    )
    # 9 lies 6 beyond 3, and the last days' prices 2 apart; a tenth is NaN; a fifth of the cities is null.
    assert breaches(odd, past, drift={"maximum_psi": None}) == [
        ("finite", "price", 0.1),
        ("range", "price", 3.0),
        ("null_rate", "city", 0.2),
    ]
    other = statistics(tmp_path, user_id=ten, label=[0, 1] * 5, price=[1.0, 3.0] * 5, city=["b"] * 10)
    # Bins a, others, null: 20, 0, 0 counts before, 0, 10, 0 now, each with a half more.
    p, q = np.array([0.5, 10.5, 0.5]) / 11.5, np.array([20.5, 0.5, 0.5]) / 21.5
    psi = float(np.sum((p - q) * np.log(p / q)))
    assert breaches(other, past) == [("drift", "city", round(psi, 4))]
    limits = {"maximum_psi": None, "maximum_jensen_shannon": 0.5}
    assert [name for name, *_ in breaches(other, past, drift=limits)] == ["drift"]
    assert breaches(PartitionStatistics(rows=0, columns={}), past) == [("empty", None, 0)]
    # One day before is too few to compare with, and so are ten rows.
    assert breaches(many, past, minimum_days=3) == breaches(many, past, minimum_rows=100) == []


def test_columns_beside_the_contract_and_the_day_before(tmp_path: Path):
    found = statistics(tmp_path, a=[1, 2, None, 3], b=["x"] * 4)
    agreed = {
        "a": tables.Column(type="int64", maximum_null_rate=0.2, minimum=2, maximum=2.5),
        "b": tables.Column(type="int64"),
        "c": tables.Column(type="int64"),
    }
    assert breaches(found, [], agreed) == [
        *(("columns", "c", None), ("columns", "b", None)),
        *(("null_rate", "a", 0.25), ("range", "a", 1.0), ("range", "a", 3.0)),
    ]
    assert breaches(found, [], {"a": agreed["a"].model_copy(update={"maximum": 9, "minimum": 0})})[0][1] == "b"
    loose = {"a": tables.Column(type="int64")}
    assert breaches(found, [], loose, columns={"allow_extra": True}) == []
    other = statistics(tmp_path, a=["1"], b=["x"])
    subject = checks.Subject(DAYS[1], "users", other, [(DAYS[0], found)], None, {})
    (message,) = [m.message for m in checks.measure(checks.Limits(), subject) if not m.held]
    assert message == "2024-01-02 users.a is string on 2024-01-02 and was int64 on 2024-01-01; write both alike"


def test_many_values_are_binned_by_the_references_deciles(tmp_path: Path):
    past = statistics(tmp_path, x=np.arange(10_000.0))
    expected, actual = checks.bins([past.columns["x"]], past.columns["x"])
    assert expected.tolist() == actual.tolist()
    assert expected[:10] == pytest.approx(1_000, abs=60)
    shifted = statistics(tmp_path, x=np.arange(10_000.0) + 5_000).columns["x"]
    assert checks.bins([past.columns["x"]], shifted)[1][:5] == pytest.approx(0, abs=60)


def test_sampled_ids_estimate_the_overlap(tmp_path: Path):
    before = statistics(tmp_path, user_id=np.arange(40_000)).columns["user_id"]
    now = statistics(tmp_path, user_id=np.arange(30_000, 50_000)).columns["user_id"]
    assert len(before.ids.values()) == 8_192
    assert checks.known_share(now, [before]) == pytest.approx(0.5, abs=0.03)
    assert checks.known_share(now, [now]) == 1.0
    assert checks.known_share(now, []) == 0.0


def test_a_contract_is_written_read_and_refused(tmp_path: Path):
    path = tmp_path / "contract.yaml"
    pq.write_table(pa.table({"user_id": [1], "no: colon": [[1.0]], "on": ["x"]}), tmp_path / "users.parquet")
    found = profile.run(str(tmp_path / "users.parquet"), silent)
    tables.write(path, "users", found)
    tables.write(path, "more", found)
    read = tables.read(path).tables
    assert list(read) == ["users", "more"]
    assert read["users"]["user_id"] == tables.Column(type="int64", tags=("user", "id"))
    assert list(read["more"]) == ["user_id", "no: colon", "on"]
    with pytest.raises(ValueError, match=r"none\.yaml: no such contract; write it with `dayline data profile"):
        tables.read(tmp_path / "none.yaml")
    path.write_text("tables: {users: {a: {type: int64, tags: [person]}}}")
    with pytest.raises(ValueError, match=r"contract\.yaml: tables\.users\.a\.tags\.0: "):
        tables.read(path)
    path.write_text("tables: [")
    with pytest.raises(ValueError, match=r"contract\.yaml:1: not YAML"):
        tables.read(path)


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six days of 50 interactions; on the fifth the items cost a hundredfold, and one day is missing."""
    root = tmp_path_factory.mktemp("log")
    for number, day in enumerate(DAYS):
        seconds = (day - datetime.date(1970, 1, 1)).days * 86_400
        if number != 2:
            clicks = {"user_id": list(range(50)), "item_id": [n % 10 for n in range(50)], "timestamp": [seconds] * 50}
            _write(root / "interactions" / partition(day), clicks | {"paid": [100.0 if number == 4 else 1.0] * 50})
    _write(root / "users" / partition(FIRST), {"user_id": list(range(50))})
    _write(root / "items" / partition(FIRST), {"item_id": list(range(10))})
    return root


def _write(folder: Path, columns: dict) -> None:
    folder.mkdir(parents=True)
    pq.write_table(pa.table(columns), folder / "part.parquet")


def check(
    log: Path,
    root: Path,
    agreed: tables.Tables | None = None,
    first_day: datetime.date = DAYS[1],
    **limits: object,
) -> DataCheck:
    common = {"config_hash": "c", "code_version": "v"}
    config = daily.Config(source=str(log))
    asked = ingest.Request(
        output=root / "ingest", config=config, day=DAYS[4], import_root=root, fingerprint="f", **common
    )
    limits = {"minimum_rows": 10, "minimum_days": 2} | limits
    request = contract.Request(
        output=root / "check",
        config=checks.Limits.model_validate(limits),
        agreed=agreed,
        dataset=ingest.run(asked, silent),
        first_day=first_day,
        day=DAYS[4],
        memory=root / "memory",
        **common,
    )
    return contract.run(request, silent)


def test_files_of_one_partition_may_hold_a_column_in_several_types(tmp_path: Path):
    folder = tmp_path / "users" / "ds=2024-01-01"
    ages, lists = pa.array([20, 30], pa.int16()), pa.array([["a"], ["b", "c"]])
    folder.mkdir(parents=True)
    pq.write_table(pa.table({"user_id": [1, 2], "age": ages, "tags": pa.nulls(2)}), folder / "a.parquet")
    pq.write_table(pa.table({"tags": lists, "age": [40, None], "user_id": [3, 4]}), folder / "b.parquet")
    found = compute(tmp_path, "users", sorted(folder.iterdir()), ["user_id"])
    assert found.rows == 4
    age, tags = found.columns["age"], found.columns["tags"]
    assert (age.type, age.values, age.nulls, age.minimum, age.maximum) == ("int16", 3, 1, 20, 40)
    assert (tags.type, tags.texts, tags.nulls) == ("list<element: string>", {"a": 1, "b": 1, "c": 1}, 2)


def test_days_before_the_first_interaction_are_no_gaps(log: Path, tmp_path: Path):
    shutil.copytree(log, tmp_path / "log")
    _write(tmp_path / "log" / "users" / "ds=1970-01-01", {"user_id": [7]})
    found = check(tmp_path / "log", tmp_path, first_day=datetime.date.min)
    assert [(breach.day, breach.table) for breach in found.breaches if breach.check == "empty"] == [
        (DAYS[2], "interactions")
    ]


def test_a_log_is_checked_and_its_partitions_are_read_once(log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    found = check(log, tmp_path, drift={"on_breach": "stop"})
    assert [(breach.day, breach.check, breach.column) for breach in found.breaches] == [
        *((DAYS[4], "range", "paid"), (DAYS[4], "drift", "paid"), (DAYS[2], "empty", None)),
    ]
    with pytest.raises(ValueError, match=r"(?s)2024-01-05 interactions\.paid has drifted .*limit 0\.25.*report\.md"):
        contract.enforce(found)
    assert found.num_rows == pq.read_metadata(found.measurements).num_rows
    assert "**stop**: 2024-01-05 interactions.paid has drifted" in found.report.read_text()
    assert len(report.sentences(found)) == 3
    assert len(report.figure(found).axes) == 2
    remembered = {path.name for path in (tmp_path / "memory").iterdir()}
    monkeypatch.setattr(daily, "opened", lambda path: pytest.fail(f"{path} is read again"))
    with monkeypatch.context() as patch:
        patch.setattr(ingest, "run", lambda request, sink: artifacts.Dataset.load(tmp_path / "ingest"))
        again = check(log, tmp_path)
    assert {path.name for path in (tmp_path / "memory").iterdir()} == remembered
    contract.enforce(again)
    assert len(report.figure(again).axes) == 2


def test_a_table_that_the_log_has_not(log: Path, tmp_path: Path):
    with pytest.raises(ValueError, match="contract: the log has no table 'user', only interactions, users, items"):
        check(log, tmp_path, tables.Tables(tables={"user": {}}))


def test_the_days_to_check_are_those_that_the_run_learns_from():
    config = contract.Config()
    assert contract.first_day(config, DAYS[5], DAYS[2], None) == DAYS[3]
    assert contract.first_day(config, DAYS[5], None, 2) == DAYS[4]
    assert contract.first_day(config, DAYS[5], None, None) == datetime.date.min
    assert contract.first_day(contract.Config(num_days=1), DAYS[5], DAYS[2], None) == DAYS[5]
    assert contract.agreed(config) is None
