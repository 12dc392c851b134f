"""Labelled tables that must be refused, and what is reported of those that are not."""

import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest
from labelled_rows import DAY, prepared, table_of

from recsys_core.artifacts import LabelledData
from recsys_core.datasets.labelled import splits
from recsys_core.features import Engine
from recsys_core.ranking import opened


@pytest.mark.parametrize(
    ("ranking", "message"),
    [
        ({"label": "lable"}, "no column 'lable', which ranking.label names"),
        ({"label": "half"}, "column 'half' holds 0.5 in row 0 of rows 0 to 60; a label is 0 or 1"),
        ({"label": "user"}, "one of them reads 'user', the label, and a model must not see that"),
        ({"label": "always"}, "400 of 400 rows are positive; a model learns from rows of both labels"),
        ({"sample_weight": "user"}, "column 'user' is string; a weight is a number from 0 on"),
        ({"group": "usr"}, "no column 'usr', which ranking.group names"),
    ],
)
def test_columns_that_are_not_what_they_should_be_are_refused(source, tmp_path, ranking, message):
    with pytest.raises(ValueError, match=message):
        prepared(source, tmp_path / "prepare", **ranking)
    assert not (tmp_path / "prepare").exists()


def test_a_column_that_a_feature_needs_is_named(source, tmp_path):
    with pytest.raises(ValueError, match="no column 'price', which features names"):
        prepared(source, tmp_path / "prepare", item=[{"kind": "raw", "name": "price"}])


def test_tables_without_a_train_split_are_refused(tmp_path):
    with pytest.raises(ValueError, match="has no folder train"):
        prepared(tmp_path, tmp_path / "prepare")


def test_what_the_features_learnt_is_reported(source, tmp_path):
    figures = []
    dropping = {"encoding": "hash", "num_embeddings": 3, "input": "encoded", "out_of_range": "drop"}
    item = [{"kind": "id", "name": "cell", "column": "item"} | dropping]
    prepared(source, tmp_path / "prepare", item, sink=lambda event: figures.append(event.metrics))
    assert figures[-1]["known/user"] == 8
    assert figures[-1]["out_of_range/cell"] == (pq.read_table(source / "train")["item"].to_numpy() >= 3).sum()


def _splits(root, suffix="parquet", **tables):
    for split, table in tables.items():
        (root / split).mkdir(parents=True)
        if suffix == "parquet":
            pq.write_table(table, root / split / "part-0.parquet")
        else:
            pacsv.write_csv(table, root / split / "part-0.csv")
    return root


def test_splits_need_to_agree_in_the_columns_that_are_used(tmp_path):
    train, test = table_of(60, 0), table_of(20, 1)
    test = test.select(["age", "user", "label", "item"])
    test = test.append_column("ds", pa.array(["2024-01-01"] * 20))
    test = test.set_column(3, "item", test["item"].cast(pa.int32()))
    test = test.set_column(1, "user", test["user"].dictionary_encode())
    made = prepared(_splits(tmp_path / "data", train=train, test=test), tmp_path / "prepare")
    assert [(split.name, split.num_rows) for split in made.splits] == [("train", 60), ("test", 20)]
    assert opened(made, "test").schema.names == test.column_names


@pytest.mark.parametrize(
    ("column", "values", "said"),
    [
        ("item", ["x"] * 20, "data/test: column 'item' is string, and int64 in .*data/train; write both alike"),
        ("user", [1] * 20, "data/test: column 'user' is int64, and string in .*data/train; write both alike"),
        ("item", [1.0] * 19 + [1.5], r"test/part-0\.parquet: column 'item', row 19: id 1\.5 is no whole number"),
        ("item", [[1.0]] * 19 + [[1.0, 2.0**53]], r"test: column 'item' is list<.*double>, and int64 in"),
        ("label", [0.0] * 19 + [0.5], r"test/part-0\.parquet: column 'label' holds 0\.5 in row 19 of rows 0 to 20"),
    ],
)
def test_a_split_whose_columns_mean_something_else_is_refused(tmp_path, column, values, said):
    train, test = table_of(60, 0), table_of(20, 1)
    test = test.set_column(test.column_names.index(column), column, pa.array(values))
    with pytest.raises(ValueError, match=said):
        prepared(_splits(tmp_path / "data", train=train, test=test), tmp_path / "prepare")


def test_whole_numbers_in_double_columns_are_ids_with_a_message(tmp_path):
    tables = {}
    for split, rows, seed in (("train", 60, 0), ("test", 20, 1)):
        table = table_of(rows, seed)
        kind = pa.float64() if split == "train" else pa.decimal128(38, 18)
        tables[split] = table.set_column(2, "item", table["item"].cast(kind))
    events = []
    made = prepared(_splits(tmp_path / "data", **tables), tmp_path / "prepare", sink=events.append)
    messages = [event.message for event in events if event.message]
    assert messages == ["warning: item is double; its whole numbers are read as ids"]
    encoded = Engine.load(made.engine).transform(tables["test"], "item").sparse["item"].values
    integers = _splits(tmp_path / "integers", train=table_of(60, 0), test=table_of(20, 1))
    other = prepared(integers, tmp_path / "other")
    assert (
        encoded.tolist() == Engine.load(other.engine).transform(table_of(20, 1), "item").sparse["item"].values.tolist()
    )


def test_columns_that_are_there_twice_are_refused_with_their_file(tmp_path):
    train = table_of(60, 0)
    root = _splits(tmp_path / "data", train=train.append_column("item", train["item"]))
    with pytest.raises(ValueError, match=r"train/part-0\.parquet: the column 'item' is there more than once"):
        prepared(root, tmp_path / "prepare")


def test_splits_of_csv_have_one_type_for_a_column(tmp_path):
    """An id that is text in one split is text in all, in this stage and in those that read the rows again."""
    train, test = (table_of(rows, seed).drop_columns("user") for rows, seed in ((60, 0), (20, 1)))
    train = train.append_column("user", pa.array([7] * 60))
    test = test.append_column("user", pa.array(["7"] * 19 + ["007"]))
    made = prepared(_splits(tmp_path / "data", "csv", train=train, test=test), tmp_path / "prepare")
    assert made.columns["user"] == "string"
    assert opened(made, "train").schema.field("user").type == pa.string()
    assert opened(made, "test").schema.field("item").type == pa.int64()
    assert Engine.load(made.engine).schema("query")["user"] == {"type": "string"}
    assert LabelledData.load(made.path).csv == made.csv
    said = splits.Config.model_validate(
        {"source": str(tmp_path / "data"), "day": DAY, "csv": {"types": {"item": "string"}}}
    )
    typed = prepared(None, tmp_path / "typed", data=said)
    assert typed.columns["item"] == "string"
    assert typed.digest != made.digest


def test_csv_keys_of_splits_that_are_no_csv_are_refused(source, tmp_path):
    data = splits.Config.model_validate({"source": str(source), "day": DAY, "csv": {"delimiter": ";"}})
    with pytest.raises(ValueError, match=r"data\.csv: none of .* is CSV, so nothing reads this"):
        prepared(None, tmp_path / "prepare", data=data)


def test_what_was_prepared_is_reported(data):
    assert [(split.name, split.num_rows) for split in data.splits] == [("train", 400), ("valid", 100), ("test", 101)]
    assert data.num_rows == 400
    assert data.columns["item"] == "int64"
