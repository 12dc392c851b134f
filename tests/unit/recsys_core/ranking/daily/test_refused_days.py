"""Days that are refused or warned of, found by name, copied once, and held against those before."""

import datetime
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest
from daily_rows import (
    COMMON,
    DAYS,
    FIFTH,
    FIRST,
    FOURTH,
    ROWS,
    SECOND,
    SIXTH,
    THIRD,
    Line,
    all_rows,
    rows_of,
    table_of,
    write_day,
)

from recsys_core import contract
from recsys_core.artifacts import NextDay, Rows, Tail
from recsys_core.contract import tables
from recsys_core.datasets.base import day_number
from recsys_core.progress import silent
from recsys_core.ranking import ingest


@pytest.mark.parametrize(
    ("holdout", "table", "message"),
    [
        (
            Tail(hours=0.001),
            lambda rows: rows,
            "of the 120 rows of 2024-01-02 none lies in its newest 0.001 hours, on which the run is measured; raise",
        ),
        (
            Tail(hours=6),
            lambda rows: rows.slice(110, 10),
            "all 10 rows of 2024-01-02 are held out, so that none is left to learn from; lower holdout.hours",
        ),
        (
            Rows(share=0.000001, by="user"),
            lambda rows: rows,
            "none is of the share of 'user' on which the run is measured; raise holdout.share",
        ),
        (Rows(share=0.5, by="usr"), lambda rows: rows, "part-0.parquet: no column 'usr', which holdout.by names"),
        (
            NextDay(),
            lambda rows: rows.set_column(1, "label", pa.array([0] * ROWS)),
            "0 of the 120 rows up to 2024-01-02 are positive; a model learns from rows of both labels",
        ),
    ],
)
def test_a_holdout_that_leaves_nothing_is_refused(tmp_path, holdout, table, message):
    write_day(tmp_path / "log", SECOND, table(table_of(SECOND)))
    write_day(tmp_path / "log", THIRD)
    with pytest.raises(ValueError, match=r".") as refused:
        Line(tmp_path / "log", tmp_path, holdout).prepare(SECOND)
    assert message in str(refused.value)
    assert not (tmp_path / f"{SECOND}" / "prepare").exists()


def test_labels_of_one_kind_are_warned_of_where_they_can_be_lived_with(tmp_path):
    """Measured, they define no AUC; learned from, they stand beside what the base knows."""
    for day in (FIRST, SECOND, THIRD):
        rows = table_of(day)
        write_day(tmp_path / "log", day, rows if day == FIRST else rows.set_column(1, "label", pa.array([0] * ROWS)))
    line = Line(tmp_path / "log", tmp_path)
    first = line.prepare(FIRST)
    assert first.splits[1].num_positives == 0
    message = "warning: 0 of the 120 rows that are measured on are positive; no AUC is defined over them"
    assert message in [event.message for event in line.events]
    line.prepare(SECOND, first)
    assert "warning: 0 of the 120 rows up to 2024-01-02 are positive" in "".join(
        event.message for event in line.events if event.message
    )


def _without(name):
    return lambda rows: rows.drop_columns(name)


def _with(name, values):
    return lambda rows: rows.set_column(rows.column_names.index(name), name, pa.array(values))


@pytest.mark.parametrize(
    ("day", "table", "message"),
    [
        (SECOND, _without("label"), r"ds=2024-01-02/part-0\.parquet: no column 'label', which ranking\.label names"),
        (SECOND, _without("at"), r"ds=2024-01-02/part-0\.parquet: no column 'at', which data\.time_column names"),
        (
            THIRD,
            _with("label", [0] * 100 + [2] * 20),
            r"ds=2024-01-03/part-0\.parquet: column 'label' holds 2 in row 100 of rows 0 to 120; a label is 0 or 1",
        ),
        (
            SECOND,
            _with("label", [None] + [0] * 119),
            r"column 'label' holds None in row 0 of rows 0 to 120; a label is",
        ),
        (
            SECOND,
            _with("at", [0] * 120),
            r"part-0\.parquet: row 0: column 'at' is 1970-01-01 00:00:00 in UTC, which is",
        ),
        (
            SECOND,
            lambda rows: rows.slice(0, 0),
            r"2024-01-02 \(the day itself\) has no rows; write its partition again",
        ),
        (
            THIRD,
            lambda rows: rows.slice(0, 0),
            r"2024-01-03 \(on which the run of 2024-01-02 is measured\) has no rows",
        ),
    ],
)
def test_days_that_are_not_what_they_should_be_are_refused(tmp_path, day, table, message):
    for at in (FIRST, SECOND, THIRD):
        write_day(tmp_path / "log", at, table(table_of(at)) if at == day else None)
    with pytest.raises(ValueError, match=message):
        Line(tmp_path / "log", tmp_path).ingest(SECOND)
    assert not (tmp_path / f"{SECOND}" / "ingest").exists()


def test_days_are_looked_for_by_name(source, tmp_path):
    line = Line(source, tmp_path)
    assert ingest.last_day(line.data, NextDay()) == FIFTH
    assert ingest.last_day(line.data, Tail(hours=1)) == SIXTH
    with pytest.raises(
        ValueError, match=r"has no partition of 2024-01-07 \(on which the run of 2024-01-06 is measured"
    ):
        line.ingest(SIXTH)
    with pytest.raises(
        ValueError, match=r"no partition of 2023-12-31 \(the day itself\), but the 6 days from 2024-01-0"
    ):
        line.ingest(datetime.date(2023, 12, 31))
    (tmp_path / "log" / "ds=2024-1-5").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"'2024-1-5' stands in the place of a day; write days as YYYY-MM-DD or"):
        Line(tmp_path / "log", tmp_path).ingest(FIRST)
    (tmp_path / "log" / "ds=2024-1-5").rename(tmp_path / "log" / "notes")
    with pytest.raises(ValueError, match=r"notes: not a day's partition; name it ds=YYYY-MM-DD or move it out"):
        Line(tmp_path / "log", tmp_path).ingest(FIRST)
    with pytest.raises(ValueError, match="gone: no folder; it holds a folder ds=YYYY-MM-DD for each day"):
        Line(tmp_path / "gone", tmp_path).ingest(FIRST)


def test_a_day_is_looked_at_once_and_again_when_it_has_changed(tmp_path):
    for day in (FIRST, SECOND, THIRD):
        write_day(tmp_path / "log", day)
    line = Line(tmp_path / "log", tmp_path)
    before = line.ingest(SECOND)
    (mark,) = tmp_path.glob(f"imports/*/.checked/*/{FIRST}.json")
    looked_at = mark.stat().st_mtime_ns
    assert line.ingest(SECOND).digest == before.digest
    assert mark.stat().st_mtime_ns == looked_at
    write_day(tmp_path / "log", FIRST, table_of(FIRST, 50))
    after = line.ingest(SECOND)
    assert [day.num_rows for day in after.days] == [50, ROWS, ROWS]
    assert after.digest != before.digest
    write_day(tmp_path / "log", FIRST, table_of(FIRST, 40))
    with pytest.raises(ValueError, match="log: a day that is needed has changed since this run began; run it again"):
        ingest.look(line.request, silent)
    write_day(tmp_path / "log", FIRST, table_of(FIRST, 50))
    after = line.ingest(SECOND)
    mark.write_text("{")
    assert line.ingest(SECOND).digest == after.digest
    assert any("the day is looked at again" in (event.message or "") for event in line.events)


@pytest.mark.parametrize("kind", ["csv", "template", "compact"])
def test_days_that_are_not_read_in_place_are_copied_once(tmp_path, kind):
    root = tmp_path / "log"
    for day in (FIRST, SECOND, THIRD):
        folder = root / {"csv": f"ds={day}", "template": f"{day}", "compact": f"dt={day:%Y%m%d}"}[kind]
        folder.mkdir(parents=True)
        if kind == "csv":
            pacsv.write_csv(table_of(day), folder / "part-0.csv")
        else:
            pq.write_table(table_of(day), folder / "part-0.parquet")
    (root / ".tmp").mkdir()
    source = {"csv": root, "template": f"{root}/{{day}}", "compact": f"{root}/dt={{day}}/*.parquet"}[kind]
    line = Line(source, tmp_path)
    data = line.prepare(SECOND)
    assert rows_of(data, "train") == all_rows(FIRST, SECOND)
    assert all((tmp_path / "imports") in folder.parents for folder in data.folders("train"))
    (copy,) = tmp_path.glob(f"imports/*/ds={FIRST}")
    # A copy that is gone is made again, for what refers to it too.
    shutil.rmtree(copy)
    ingest.look(line.request, silent)
    assert rows_of(data, "train") == all_rows(FIRST, SECOND)
    if kind == "template":
        (root / "notes").mkdir()
        with pytest.raises(
            ValueError, match="'notes' stands in the place of a day; write days as YYYY-MM-DD or YYYYMM"
        ):
            line.ingest(SECOND)
    elif kind == "csv":
        line = Line(source, tmp_path, csv={"types": {"itm": "string"}})
        with pytest.raises(ValueError, match=r"data\.csv\.types: there is no column 'itm'; did you mean 'item'"):
            line.ingest(SECOND)


def test_keys_of_csv_are_refused_where_nothing_is_csv(source, tmp_path):
    with pytest.raises(ValueError, match=r"data\.csv: none of .* is CSV, so nothing reads this; leave it out"):
        Line(source, tmp_path, csv={"delimiter": ";"}).ingest(SECOND)


def test_days_of_which_a_column_is_another_are_refused(tmp_path):
    write_day(tmp_path / "log", FIRST)
    table = table_of(SECOND)
    write_day(tmp_path / "log", SECOND, table.set_column(3, "item", table["item"].cast(pa.string())))
    write_day(tmp_path / "log", THIRD)
    with pytest.raises(
        ValueError, match=r"ds=2024-01-02/part-0\.parquet: its schema differs .*: item is string there and"
    ):
        Line(tmp_path / "log", tmp_path).prepare(SECOND)
    with pytest.raises(
        ValueError, match=r"what is held out: column 'item' is string, and int64 in .*; write both alike"
    ):
        Line(tmp_path / "log", tmp_path).prepare(FIRST)


def test_labelled_days_are_held_against_those_before(tmp_path):
    """The share of positives, and how the values of each column are distributed; ids of numbers count as names."""
    rng = np.random.default_rng(0)
    for day in DAYS:
        odd = day == FIFTH
        table = pa.table(
            {
                "label": rng.random(2_000) < (0.6 if odd else 0.2),
                "at": pa.array(np.full(2_000, day_number(day) * 86_400)),
                "item": rng.integers(0, 4, 2_000) * 1_000 if odd else rng.permutation(2_000) % 40,
                "age": rng.random(2_000) + (0.5 if odd else 0),
                "city": pa.array(["a", None if odd else "b"] * 1_000),
            }
        )
        write_day(tmp_path / "log", day, table)
    line = Line(tmp_path / "log", tmp_path)

    def check(day, first_day, **changes):
        request = {
            "output": tmp_path / "check",
            "config": contract.checks.Limits(),
            "agreed": None,
            "log": line.ingest(FIFTH),
            "labels": ("label",),
            "time_column": "at",
            "categories": ("item",),
            "first_day": first_day,
            "day": day,
            "memory": tmp_path / "memory",
        }
        return contract.run_labelled(contract.LabelledRequest(**request | changes, **COMMON), silent)

    assert check(FOURTH, FIRST).breaches == ()
    found = check(FIFTH, FIFTH)
    assert {(breach.check, breach.column) for breach in found.breaches} == {
        ("label_rate", "label"),
        ("drift", "label"),
        ("drift", "item"),
        ("drift", "age"),
        ("null_rate", "city"),
        ("drift", "city"),
    }
    (label,) = [breach for breach in found.breaches if breach.check == "label_rate"]
    assert label.message.startswith("2024-01-05 rows.label is 0.6")
    assert len(list((tmp_path / "memory").iterdir())) == 5
    shutil.rmtree(tmp_path / "log" / f"ds={FOURTH}")
    assert [(b.check, b.day) for b in check(FIFTH, FOURTH).breaches if b.day == FOURTH] == [("empty", FOURTH)]
    unknown = tables.Tables.model_validate({"tables": {"interactions": {}}})
    with pytest.raises(ValueError, match="contract: the log has no table 'interactions', only rows; rename it"):
        check(FIFTH, FIFTH, agreed=unknown)
