import pyarrow as pa
import pytest
from odps.models import TableSchema
from odps.tunnel.io.types import odps_schema_to_arrow_schema
from odps.types import Column

from recsys_core.odps import types

TEXTS = [
    *("tinyint", "smallint", "int", "bigint", "float", "double", "string", "binary", "boolean", "date", "datetime"),
    *(
        "timestamp",
        "decimal(10,2)",
        "decimal(38,18)",
        "varchar(4)",
        "char(3)",
        "array<array<bigint>>",
        "map<string,float>",
    ),
    "array<struct<a:bigint,b:map<int,array<string>>>>",
]


@pytest.mark.parametrize("text", TEXTS)
def test_types_are_those_of_the_real_client(text: str) -> None:
    theirs = odps_schema_to_arrow_schema(TableSchema(columns=[Column("c", text)])).field("c").type
    assert types.to_arrow(text) == theirs
    assert types.to_arrow(types.from_arrow(theirs)) == theirs


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (pa.list_(pa.float32(), 8), "array<float>"),
        (pa.large_list(pa.uint8()), "array<smallint>"),
        (pa.dictionary(pa.int32(), pa.large_string()), "string"),
        (pa.timestamp("us", "UTC"), "timestamp"),
        (pa.struct([("a", pa.date64())]), "struct<a:date>"),
        (pa.map_(pa.uint16(), pa.large_binary()), "map<int,binary>"),
    ],
)
def test_other_types_of_arrow_become_the_next_that_holds_them(kind: pa.DataType, text: str) -> None:
    assert types.from_arrow(kind) == text


@pytest.mark.parametrize(
    "text", ["", "number", "array<int", "array<>", "map<int>", "int>", "int(3)", "struct<a>", "a-b"]
)
def test_what_is_no_type_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a MaxCompute type"):
        types.to_arrow(text)


@pytest.mark.parametrize(
    "kind",
    [
        pa.uint64(),
        pa.time32("s"),
        pa.null(),
        pa.struct([("aB", pa.int8())]),
        pa.dense_union([pa.field("a", pa.int8())]),
        pa.list_(pa.duration("s")),
    ],
)
def test_what_no_table_can_hold_is_refused(kind: pa.DataType) -> None:
    with pytest.raises(ValueError, match="MaxCompute (has no type|does not keep)|has capitals"):
        types.from_arrow(kind)
