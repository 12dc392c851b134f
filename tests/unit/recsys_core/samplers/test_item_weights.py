"""A user's own weights of items: both forms are read alike, and what is wrong is named with file and row."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recsys_core.samplers import _weights

ITEMS = pa.array([7, 3, 12])
HEADER = "id:int64\tweight:float\tattrs:string\n"


def _text(tmp_path, content, name="items.txt"):
    path = tmp_path / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def _parquet(tmp_path, **columns):
    path = tmp_path / "items.parquet"
    pq.write_table(pa.table(columns), path)
    return path


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_each_item_gets_the_weight_of_its_id_whatever_the_order(tmp_path, end):
    lines = ["id:int64\tweight:float\tattrs:string", "12\t2.5\tshoes:19.9", "7\t1\tbags\x025.0", "3\t1e-3\t:"]
    assert _weights.of_items(_text(tmp_path, end.join([*lines, ""])), ITEMS).tolist() == [1.0, 0.001, 2.5]
    without = end.join(["id:int64\tweight:float", "12\t2.5", "7\t1", "3\t0.5"])
    assert _weights.of_items(_text(tmp_path, without), ITEMS).tolist() == [1.0, 0.5, 2.5]


def test_parquet_and_ids_that_are_texts(tmp_path):
    path = _parquet(tmp_path, weight=pa.array([1, 2, 3], pa.int32()), item_id=pa.array([3, 7, 12], pa.int32()))
    assert _weights.of_items(path, ITEMS).tolist() == [2.0, 1.0, 3.0]
    path = _parquet(tmp_path, item_id=pa.array(["a", "b"]).dictionary_encode(), weight=[0.5, 1.5])
    assert _weights.of_items(path, pa.array(["b", "a"])).tolist() == [1.5, 0.5]
    path = _text(tmp_path, "id:string\tweight:float\n01\t2\n1\t3\n")
    assert _weights.of_items(path, pa.array(["1", "01"])).tolist() == [3.0, 2.0]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("", r"row 1: '' where 'id:int64.tweight:float.tattrs:string' is needed"),
        ("id,weight\n7,1\n", r"row 1: 'id,weight' where 'id:int64"),
        (HEADER, "no rows; give every item"),
        (HEADER + "7\t1\ta\n3\t0\tb\n12\t1\tc\n", r"row 3: the weight of item 3 is 0\.0; give a number above 0"),
        (HEADER + "7\t-1\ta\n3\t1\tb\n12\t1\tc\n", r"row 2: the weight of item 7 is -1\.0"),
        (HEADER + "7\tnan\ta\n3\t1\tb\n12\t1\tc\n", "row 2: the weight of item 7 is nan"),
        (HEADER + "7\tinf\ta\n3\t1\tb\n12\t1\tc\n", "row 2: the weight of item 7 is inf"),
        (HEADER + "7\t\ta\n3\t1\tb\n12\t1\tc\n", "row 2: the weight of item 7 is nan"),
        (HEADER + "7\tmuch\ta\n3\t1\tb\n12\t1\tc\n", "row 2: the weight of item 7 is nan"),
        (HEADER + "7\t1\ta\n3\t1\tb\n12\t1\tc\n7\t2\td\n", "row 5: item 7 is there a second time; drop one"),
        (HEADER + "7\t1\ta\n3\t1\tb\n12\t1\tc\n9\t1\td\n", r"row 5: item 9 is not in the item table \(1 of 4 rows"),
        (
            HEADER + "7\t1\ta\n",
            r"item 3 of the item table has no row \(2 of 3 items like it\); give every item a weight",
        ),
        (HEADER + "7\t1\ta\n3\t1\n", "row 3: 2 fields where the first line has 3"),
        (HEADER + "x7\t1\ta\n", "row 2: id 'x7' is no int64"),
        (HEADER + "9223372036854775808\t1\ta\n", "row 2: id '9223372036854775808' is no int64"),
        (HEADER + "\t1\ta\n", "row 2: id '' is no int64"),
        (HEADER + "7\t1\ta\n\n3\t1\ta\n", "row 3: 1 fields where the first line has 3"),
        ("id:string\tweight:float\na\t1\n\t1\n", "row 3: the id is empty"),
        ("id:string\tweight:float\n7\t1\n", "ids of type string where the item table's are int64; make them one type"),
        (HEADER.encode() + b"7\t1\t\xff\n", "no UTF-8"),
    ],
)
def test_what_is_wrong_is_named_with_file_and_row(tmp_path, content, expected):
    with pytest.raises(ValueError, match=rf"items\.txt.*{expected}") as caught:
        _weights.of_items(_text(tmp_path, content), ITEMS)
    assert "\n" not in str(caught.value)


def test_what_is_wrong_in_parquet_is_named_too(tmp_path):
    for columns, expected in [
        ({"item_id": [7, 3, 12], "weights": [1.0, 1, 1]}, "no column 'weight'; there are item_id, weights"),
        ({"item_id": [7, None, 12], "weight": [1.0, 1, 1]}, "row 1: item_id is null"),
        ({"item_id": [7, 3, 12], "weight": [1.0, None, 1]}, "row 1: the weight of item 3 is nan"),
        ({"item_id": [7, 3, 12, 3], "weight": [1.0, 1, 1, 1]}, "row 3: item 3 is there a second time"),
        ({"item_id": [7, 3, 12], "weight": ["1", "1", "1"]}, "column weight is string; give numbers"),
    ]:
        with pytest.raises(ValueError, match=rf"items\.parquet.*{expected}"):
            _weights.of_items(_parquet(tmp_path, **columns), ITEMS)
    with pytest.raises(ValueError, match=r"items\.parquet: not a readable Parquet file"):
        _weights.read(_text(tmp_path, "PAR1", "items.parquet"))
    with pytest.raises(ValueError, match=r"none\.txt: no such file"):
        _weights.read(tmp_path / "none.txt")


def test_many_items_are_distinguished(tmp_path):
    ids = np.random.default_rng(1).permutation(50_000)
    content = "".join([HEADER, *(f"{one}\t{one + 1}\ta\n" for one in ids.tolist())])
    assert _weights.of_items(_text(tmp_path, content), pa.array(np.arange(50_000))).tolist() == [*range(1, 50_001)]
