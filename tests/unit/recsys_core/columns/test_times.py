"""Times of every form, and what is no time."""

import datetime
import decimal
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys_core.columns import RowError, seconds

AT = 1_704_164_645  # 2024-01-02T03:04:05Z


@pytest.mark.parametrize(
    "text",
    [
        "2024-01-02T03:04:05Z",
        "2024-01-02t03:04:05z",
        "2024-01-02 03:04:05",
        "2024-01-02 03:04:05 UTC",
        "2024-01-02T11:04:05+08:00",
        "2024-01-02 11:04:05 +0800",
        "2024-01-01T22:34:05-0430",
        "2024-01-02T05:04:05+02",
        "2024-01-02T03:04:05.000000000Z",
        "20240102030405",
        "20240102T030405Z",
        "  2024-01-02T03:04:05  ",
        "1704164645",
        "1704164645.0",
        "1704164645000",
    ],
)
@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.string_view(), pa.binary()])
def test_texts_of_one_moment(text: str, kind: pa.DataType) -> None:
    column = pa.array([None, text.encode() if kind == pa.binary() else text], kind)
    assert seconds(column).seconds.to_pylist() == [None, AT]
    assert seconds(column.dictionary_encode() if kind != pa.string_view() else column).num_cut == 0


@given(st.datetimes(datetime.datetime(2, 1, 1), timezones=st.timezones()))  # noqa: DTZ001 - hypothesis adds a zone
def test_texts_are_read_as_python_reads_them(moment: datetime.datetime) -> None:
    moment = moment.replace(fold=0)
    offset = moment.utcoffset()
    if offset is None or offset.total_seconds() % 60 or abs(offset) > datetime.timedelta(hours=14):
        return
    found = seconds(pa.array([moment.isoformat(), moment.isoformat(" ")]))
    assert found.seconds.to_pylist() == [int(moment.timestamp() // 1)] * 2
    assert found.num_cut == (2 if moment.microsecond else 0)


@pytest.mark.parametrize(
    ("column", "unit"),
    [
        (pa.array([AT], pa.int32()), "seconds"),
        (pa.array([AT], pa.uint64()), "seconds"),
        (pa.array([AT], pa.float64()), "seconds"),
        (pa.array([decimal.Decimal(AT)], pa.decimal128(38, 18)), "seconds"),
        (pa.array([AT * 1_000]), "milliseconds"),
        (pa.array([AT * 1_000], pa.float64()), "milliseconds"),
        (pa.array([AT * 1_000_000]), "microseconds"),
        (pa.array([AT * 1_000_000_000]), "nanoseconds"),
        (pa.array([AT], pa.timestamp("s")), "timestamp[s]"),
        (pa.array([AT * 1_000], pa.timestamp("ms")), "timestamp[ms]"),
        (pa.array([AT * 1_000_000], pa.timestamp("us", "Asia/Shanghai")), "timestamp[us, tz=Asia/Shanghai]"),
        (pa.array([AT * 1_000_000_000], pa.timestamp("ns", "+08:00")), "timestamp[ns, tz=+08:00]"),
    ],
)
def test_numbers_and_timestamps_of_one_moment(column: pa.Array, unit: str) -> None:
    assert seconds(column) == (pa.array([AT]), unit, 0)
    nothing = pa.nulls(1, column.type)
    assert seconds(pa.concat_arrays([nothing, column])).seconds.to_pylist() == [None, AT]


@pytest.mark.parametrize(
    "column",
    [
        pa.array([f"2024-01-02T03:04:05{fraction}" for fraction in (".5", ".999999999", ".0")]),
        pa.array([AT * 1_000 + 500, AT * 1_000 + 999, AT * 1_000]),
        pa.array([AT + 0.5, AT + 0.999, AT]),
        pa.array([AT * 1_000 + 500, AT * 1_000 + 999, AT * 1_000], pa.timestamp("ms")),
        pa.array([decimal.Decimal(f"{AT}.5"), decimal.Decimal(f"{AT}.9"), decimal.Decimal(AT)]),
    ],
)
def test_a_fraction_is_left_out_and_counted(column: pa.Array) -> None:
    assert seconds(column)[::2] == (pa.array([AT] * 3), 2)


def test_before_1970_a_time_is_the_second_in_which_it_lies() -> None:
    assert seconds(pa.array([-0.5])).seconds.to_pylist() == [-1]
    assert seconds(pa.array(["1969-12-31T23:59:59.5Z"])).seconds.to_pylist() == [-1]
    assert seconds(pa.array([-1], pa.timestamp("ns"))).seconds.to_pylist() == [-1]


def test_dates_are_their_midnights_and_the_calendar_has_two_ends() -> None:
    for column in (pa.array(["2024-01-02"]), pa.array(["20240102"]), pa.array([datetime.date(2024, 1, 2)])):
        assert seconds(column).seconds.to_pylist() == [1_704_153_600]
    ends = seconds(pa.array(["0001-01-01T00:00:00Z", "9999-12-31T23:59:59Z"])).seconds
    assert ends == pa.array([-62_135_596_800, 253_402_300_799])
    assert seconds(ends).seconds == ends


@pytest.mark.parametrize(
    ("values", "kind", "said"),
    [
        ([AT, -(10**12)], None, "row 1: -1000000000000 is no time: neither Unix seconds of the years 1 to 9999"),
        ([AT, 10**15], None, "row 1: 1000000000000000 counts microseconds, and rows before it seconds; write one unit"),
        ([20_240_102_030_405], None, "row 0: 20240102030405 is no time"),
        ([2**64 - 1], pa.uint64(), "row 0: 18446744073709551615 is no time"),
        ([0.0, float("inf")], None, "row 1: inf is no time"),
        ([10**15], pa.timestamp("s"), r"row 0: 1000000000000000 in timestamp\[s\] lies outside of the years 1 to 9999"),
        (["2024-01-02", "yesterday"], None, "row 1: 'yesterday' is no time; write ISO 8601"),
        (["2024-01-02", "2024-02-30"], None, "row 1: '2024-02-30 00:00' is no time"),
        (["2024-01-02T24:00:00"], None, "row 0: '2024-01-02 24:00:00' is no time"),
        (["02/01/2024 03:04"], None, "row 0: '02/01/2024 03:04' is no time"),
        (["2024-01-02T03:04:05+15:00"], None, "row 0: .* is no time"),
        (["10000-01-01"], None, "row 0: '10000-01-01' is no time"),
        (["0001-01-01T00:00:00+01:00"], None, "row 0: .* lies outside of the years 1 to 9999"),
        ([""], None, "row 0: '' is no time"),
        ([str(AT), "2024-01-02"], None, "row 1: '2024-01-02' is of another form than '1704164645'"),
    ],
)
def test_what_is_no_time_is_refused_with_its_row(values: list[Any], kind: pa.DataType | None, said: str) -> None:
    with pytest.raises(RowError, match=said):
        seconds(pa.array(values, kind))


@pytest.mark.parametrize("column", [pa.array([True]), pa.array([[1]]), pa.array([1], pa.time32("s"))])
def test_types_that_hold_no_times_are_named(column: pa.Array) -> None:
    with pytest.raises(ValueError, match="its type .* cannot hold times"):
        seconds(column)
