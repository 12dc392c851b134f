"""Names of columns' types, and columns made of what a client sends."""

import datetime

import pandas as pd
import pyarrow as pa
import pytest

from recsys_core.features.columns import types


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (pa.int8(), "int64"),
        (pa.uint32(), "int64"),
        (pa.float32(), "float32"),
        (pa.float64(), "float64"),
        (pa.decimal128(9, 2), "float64"),
        (pa.large_string(), "string"),
        (pa.binary(), "string"),
        (pa.dictionary(pa.int8(), pa.string()), "string"),
        (pa.bool_(), "bool"),
        (pa.date64(), "date32"),
        (pa.timestamp("ms"), "timestamp[ms]"),
        (pa.timestamp("us", "Asia/Shanghai"), "timestamp[us,Asia/Shanghai]"),
        (pa.list_(pa.list_(pa.int16())), "list<list<int64>>"),
        (pa.list_(pa.float32(), 3), "list<float32>"),
        (pa.map_(pa.string(), pa.map_(pa.int32(), pa.float32())), "map<string,map<int64,float32>>"),
    ],
)
def test_a_type_keeps_what_a_feature_can_distinguish(kind: pa.DataType, name: str) -> None:
    assert types.name_of(kind) == name
    assert types.name_of(types.parse(name)) == name


def test_loose_values_by_type() -> None:
    def made(values: object, name: str) -> list:
        return types.column(values, types.parse(name)).to_pylist()  # pyright: ignore[reportArgumentType]

    assert made([0.7, None, float("nan")], "float32") == [pytest.approx(0.7, rel=1e-7), None, None]
    assert types.column([0.7], pa.float32())[0].as_py() < 0.7
    assert made(pd.Series([1, None]), "int64") == [1, None]
    assert made([f"{(1 << 60) + 1}", None], "int64") == [(1 << 60) + 1, None]
    assert made([{"a": 1.5}, None, {}], "map<string,float64>") == [[("a", 1.5)], None, []]
    noon = datetime.datetime.fromisoformat("2024-02-29T12:00")
    assert made(["2024-02-29T12:00:00.000000", None, noon], "timestamp[ms]") == [noon, None, noon]
    utc = made(["2024-02-29T20:00:00+08:00"], "timestamp[s,UTC]")[0]
    assert utc.replace(tzinfo=None) == noon
    assert made(["2024-02-29"], "date32") == [datetime.date(2024, 2, 29)]


def test_what_does_not_fit_is_refused() -> None:
    for values, name, message in (
        (["x"], "int64", "parse"),
        (["xy"], "list<string>", "a text, and no list"),
        ([["x"], None, [["y"], "xy"]], "list<list<string>>", "a text, and no list"),
        ([1.5], "int64", "truncated"),
        (pd.Series([(1 << 60) + 1, None]), "int64", "last digits are lost"),
        (["noon"], "timestamp[ms]", "Invalid isoformat string: 'noon'"),
        ([7], "map<string,float64>", "convert"),
    ):
        with pytest.raises(ValueError, match=message):
            types.column(values, types.parse(name))
    assert types.column(pd.Series([(1 << 60) + 1, 2]), pa.int64())[0].as_py() == (1 << 60) + 1
