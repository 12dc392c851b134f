import pytest

from recsys_core.odps.path import TablePath, parse, require_keys

DAY = (("ds", "2024-01-01"), ("hh", "00"))


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("odps://p/tables/t", [TablePath("p", None, "t")]),
        ("odps://p/tables/s.t/", [TablePath("p", "s", "t")]),
        ("odps://p/schemas/s/tables/t/ds=2024-01-01/hh=00", [TablePath("p", "s", "t", (DAY,))]),
        (
            "odps://p/tables/t/ds=2024-01-01/hh=00&ds=2024-01-02",
            [TablePath("p", None, "t", (DAY, (("ds", "2024-01-02"),)))],
        ),
        # The same name in two projects or schemas is two tables; a comma inside a value separates nothing.
        ("odps://p/tables/t, odps://q/tables/t", [TablePath("p", None, "t"), TablePath("q", None, "t")]),
        ("odps://p/tables/a.t,odps://p/tables/b.t", [TablePath("p", "a", "t"), TablePath("p", "b", "t")]),
        ("odps://p/tables/t/k='a,b'", [TablePath("p", None, "t", ((("k", "a,b"),),))]),
        ("odps://p/tables/t/k=a%20b", [TablePath("p", None, "t", ((("k", "a b"),),))]),
    ],
)
def test_paths_are_read_and_written(source: str, expected: list[TablePath]) -> None:
    assert parse(source) == expected
    assert parse(",".join(map(str, expected))) == expected


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("odps://p/tables/t,", "empty piece"),
        ("hdfs://p/tables/t", "does not open with odps://"),
        ("odps://p/table/t", "'table' stands where 'tables' should"),
        ("odps:///tables/t", "the project is ''"),
        ("odps://p/tables/", "the table is ''"),
        ("odps://p/tables/t-1", "the table is 't-1'"),
        ("odps://p/schemas/s/tables/r.t", "names a schema twice"),
        ("odps://p/tables/t/ds", "'ds' is not key=value"),
        ("odps://p/tables/t/ds=", "'ds=' is not key=value"),
        ("odps://p/tables/t/ds=a'b", "has a quote"),
        ("odps://p/tables/t/ds=1&ds=1", "a partition stands there twice"),
        ("odps://p/tables/t/ds=1,odps://p/tables/t/ds=2", "stands there twice; put &"),
    ],
)
def test_the_bad_piece_is_named(source: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        parse(source)


@pytest.mark.parametrize(
    ("source", "keys", "said"),
    [
        ("odps://p/tables/t/ds=1", (), "is not partitioned; leave out 'ds=1'"),
        ("odps://p/tables/t/hh=1", ("ds", "hh"), r"names the keys \['hh'\] where the table is partitioned by \['ds'"),
        ("odps://p/tables/t/hh=1/ds=1", ("ds", "hh"), "in this order"),
    ],
)
def test_keys_are_those_of_the_table(source: str, keys: tuple[str, ...], said: str) -> None:
    require_keys(parse("odps://p/tables/t/ds=1")[0], ("ds", "hh"))
    with pytest.raises(ValueError, match=said):
        require_keys(parse(source)[0], keys)
