"""Ready-made examples, by hand: two days of training rows, evaluation rows of the day after, items and negatives."""

import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from recsys_core import readers
from recsys_core.artifacts import ExampleLog, Learned, TrainingData
from recsys_core.datasets import examples
from recsys_core.features import Config as Features
from recsys_core.features import Engine
from recsys_core.gate import Values
from recsys_core.progress import Event, silent
from recsys_core.retrieval import ingest
from recsys_core.retrieval.preprocess import Config
from recsys_core.retrieval.preprocess import examples as preprocess

DAYS = [datetime.date(2024, 1, day) for day in (1, 2, 3)]
FEATURES = Features.model_validate(
    {
        "embedding_dim": 4,
        "query": [
            {"kind": "id", "name": "city", "num_embeddings": 8},
            {"kind": "sequence", "name": "clicked", "table": "item_id", "separator": "\x02", "integers": True},
        ],
        "item": [
            {"kind": "id", "name": "item_id", "num_embeddings": 32},
            {"kind": "raw", "name": "price"},
        ],
    }
)
LEARNED, EVALUATED = f"train/ds={DAYS[1]}/part.parquet", f"evaluation/ds={DAYS[2]}/part.parquet"
HEADER = "id:int64\tweight:float\tattrs:string\n"
TRAIN = {
    0: {"user_id": [1, 2], "city": ["a", "b"], "clicked": ["7\x0212", ""], "item_id": [3, 7]},
    1: {"user_id": [1, 3, 1], "city": ["a", None, "a"], "clicked": ["3", "12", "7"], "item_id": [12, 7, 7]},
}
# Two rows of one request; 99 is in no item table; what a list has twice is one item.
EVALUATION = {
    "user_id": ["r1", "r2", "r1"],
    "city": ["a", "c", "a"],
    "clicked": ["7\x0212", "3", "7\x0212"],
    "gt_items": ["3,99", "7,7", "12"],
    "seen_items": ["7", "", "12,7"],
}
ITEMS = {"item_id": [3, 7, 12], "price": [1.0, 2.0, None], "brand": ["x", None, "y"]}


class Source:
    """The tables below a folder, and what a run of `DAYS[1]` makes of them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for number, rows in TRAIN.items():
            self.write(f"train/ds={DAYS[number]}/part.parquet", rows)
        self.write(EVALUATED, EVALUATION)
        self.write("items.parquet", ITEMS)

    def write(self, path: str, rows: dict[str, Any]) -> Path:
        (self.root / path).parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table(rows), self.root / path)
        return self.root / path

    def text(self, path: str, content: str) -> None:
        (self.root / path).parent.mkdir(parents=True, exist_ok=True)
        (self.root / path).write_bytes(content.encode())

    def config(self, **fields: Any) -> examples.Config:
        source = {"train": "train/ds={day}", "evaluation": "evaluation/ds={day}", "items": "items.parquet"}
        source |= fields.pop("source", {})
        given = {name: f"{self.root}/{path}" for name, path in source.items() if path is not None}
        return examples.Config.model_validate({"source": given, "separator": ","} | fields)

    def ingest(self, config: examples.Config | None = None, **base: Any) -> ExampleLog:
        data = config or self.config()
        needed = ingest.needed(data, DAYS[1], base_learned=base.get("base_learned"), window_days=None)
        request = ingest.Request(
            output=self.root / "run" / "ingest",
            config_hash="c",
            code_version="v",
            data=data,
            day=DAYS[1],
            first_day=needed.first_day,
            import_root=self.root / "imports",
            fingerprint=needed.fingerprint,
        )
        return ingest.run(request, silent)

    def preprocess(self, log: ExampleLog, **fields: Any) -> TrainingData:
        given = {"config": Config(), "features": FEATURES, "log": log, "day": DAYS[1], **fields}
        output = self.root / "run" / "preprocess"
        return preprocess.run(preprocess.Request(output=output, config_hash="c", code_version="v", **given), silent)


@pytest.fixture
def source(tmp_path: Path) -> Source:
    return Source(tmp_path)


def rows(folder: Path) -> list[dict[str, Any]]:
    return readers.read_all(readers.opened(folder)).to_pylist()


def test_by_hand(source: Source):
    log = source.ingest()
    assert [(day.day, day.num_rows, day.folder) for day in log.days] == [
        (DAYS[0], 2, source.root / f"train/ds={DAYS[0]}"),
        (DAYS[1], 3, source.root / f"train/ds={DAYS[1]}"),
    ]
    assert (log.num_rows, log.num_items, log.num_evaluation_rows) == (5, 3, 3)
    assert ExampleLog.load(log.path) == log

    data = source.preprocess(log)
    assert rows(data.examples) == [
        {"user_id": user, "item_id": item, "city": city, "clicked": clicked}
        for day in TRAIN.values()
        for user, item, city, clicked in zip(day["user_id"], day["item_id"], day["city"], day["clicked"], strict=True)
    ]
    assert rows(data.items) == [
        {"item_id": 3, "price": 1.0, "brand": "x", "num_interactions": 1, "sampling_weight": 2.0},
        {"item_id": 7, "price": 2.0, "brand": None, "num_interactions": 3, "sampling_weight": 3**0.75 + 1},
        {"item_id": 12, "price": None, "brand": "y", "num_interactions": 1, "sampling_weight": 2.0},
    ]
    queries = rows(data.ground_truth)
    assert [{**query, **{name: set(query[name]) for name in ("gt_items", "seen_items")}} for query in queries] == [
        {"user_id": "r1", "city": "a", "clicked": "7\x0212", "gt_items": {3, 99, 12}, "seen_items": {7, 12}},
        {"user_id": "r2", "city": "c", "clicked": "3", "gt_items": {7}, "seen_items": set()},
    ]
    assert [len(query["gt_items"]) for query in queries] == [3, 1]
    assert (data.num_rows, data.num_items, data.num_queries, data.num_ground_truth) == (5, 3, 2, 4)
    assert (data.first_day, data.day, data.ground_truth_day) == (DAYS[0], DAYS[1], DAYS[2])
    assert data.learned == Learned(first_day=DAYS[0], last_day=DAYS[1])
    assert Engine.load(data.engine).digest == data.engine_digest


def test_a_warm_start_takes_the_days_since_the_base(source: Source):
    cold = source.preprocess(source.ingest())
    base = Learned(first_day=DAYS[0], last_day=DAYS[0])
    log = source.ingest(base_learned=base)
    assert [day.day for day in log.days] == [DAYS[1]]
    warm = source.preprocess(log, base_learned=base, base_engine=cold.engine, base_engine_digest=cold.engine_digest)
    assert warm.num_rows == 3
    assert warm.learned == Learned(first_day=DAYS[0], last_day=DAYS[1])


def test_whole_tables_are_those_of_every_day_and_training_rows_those_of_one(source: Source):
    source.write("whole/part.parquet", TRAIN[1])
    source.write("evaluation.parquet", EVALUATION)
    config = source.config(source={"train": "whole", "evaluation": "evaluation.parquet"}, day=DAYS[1])
    assert ingest.last_day(config) == DAYS[1]
    data = source.preprocess(source.ingest(config))
    assert (data.num_rows, data.first_day, data.day, data.ground_truth_day) == (3, DAYS[1], DAYS[1], DAYS[2])
    with pytest.raises(ValueError, match="has no partition of 2024-01-01 .*rows of 2024-01-02 alone"):
        ingest.needed(config, DAYS[0], base_learned=None, window_days=None)


def test_days_of_csv_are_copied_once_and_columns_renamed(source: Source):
    for number, table in TRAIN.items():
        folder = source.root / f"csv/ds={DAYS[number]}"
        folder.mkdir(parents=True)
        renamed = pa.table(table).rename_columns(["uid", "city", "clicked", "item"])
        pa.csv.write_csv(renamed, folder / "part.csv")
    config = source.config(
        source={"train": "csv/ds={day}"},
        columns={"uid": "user_id", "item": "item_id"},
        csv={"types": {"clicked": "string"}, "null_values": ["NULL"]},
    )
    log = source.ingest(config)
    assert all(day.folder.is_relative_to(source.root / "imports") for day in log.days)
    assert "item" in log.columns
    data = source.preprocess(log)
    assert [row["item_id"] for row in rows(data.examples)] == [3, 7, 12, 7, 7]
    copied = [day.folder / "part-00000.parquet" for day in log.days]
    before = [path.stat().st_mtime_ns for path in copied]
    source.ingest(config)
    assert [path.stat().st_mtime_ns for path in copied] == before


def test_a_whole_copy_is_made_anew_when_its_source_has_changed(source: Source):
    source.text("train.csv", "item_id,city,clicked\n7,a,x\n")
    config = source.config(
        source={"train": "train.csv"}, day=DAYS[1], csv={"types": {"city": "string", "clicked": "string"}}
    )
    assert source.ingest(config).num_rows == 1
    source.text("train.csv", "item_id,city,clicked\n7,a,x\n3,b,x\n")
    assert source.ingest(config).num_rows == 2


@pytest.mark.parametrize("separator", [":", "\x02"])
def test_negatives_as_text_have_the_items_and_their_columns_too(source: Source, separator: str):
    lines = [
        f"{item}\t{weight}\t{price}{separator}{brand}\n"
        for item, weight, price, brand in ((7, 2.5, 2.0, ""), (12, 1, "", "y"), (3, 0.5, 1.0, "x"))
    ]
    source.text(f"negatives/ds={DAYS[1]}.txt", HEADER + "".join(lines))
    given = {"items": None, "negatives": "negatives/ds={day}.txt"}
    attributes = {"price": "double", "brand": "string"}
    config = source.config(source=given, attributes=attributes, attribute_separator=separator)
    data = source.preprocess(source.ingest(config))
    assert rows(data.items) == [
        {"item_id": 7, "price": 2.0, "brand": None, "num_interactions": 3, "sampling_weight": 2.5},
        {"item_id": 12, "price": None, "brand": "y", "num_interactions": 1, "sampling_weight": 1.0},
        {"item_id": 3, "price": 1.0, "brand": "x", "num_interactions": 1, "sampling_weight": 0.5},
    ]


def test_negatives_as_a_table_beside_items_or_in_their_place(source: Source):
    table = {"id": [12, 3, 7], "weight": [3, 1, 2], "price": [None, 1.0, 2.0]}
    source.write("negatives.parquet", table)
    weights = {3: 1.0, 7: 2.0, 12: 3.0}
    for given in ({"negatives": "negatives.parquet"}, {"negatives": "negatives.parquet", "items": None}):
        data = source.preprocess(source.ingest(source.config(source=given, columns={"id": "item_id"})))
        assert {row["item_id"]: row["sampling_weight"] for row in rows(data.items)} == weights
    # As MaxCompute's table of nodes has them.
    source.write("nodes.parquet", {"id": [12, 3, 7], "weight": [3, 1, 2], "attrs": [":y", "1.0:x", "2.0:"]})
    given = {"negatives": "nodes.parquet", "items": None}
    attributes = {"price": "double", "brand": "string"}
    data = source.preprocess(
        source.ingest(source.config(source=given, columns={"id": "item_id"}, attributes=attributes))
    )
    assert {row["item_id"]: row["price"] for row in rows(data.items)} == {3: 1.0, 7: 2.0, 12: None}


def test_one_item_a_row_and_lists_and_texts_say_the_same(source: Source):
    given = {name: EVALUATION[name] for name in ("user_id", "city", "clicked")}
    lists = source.write("lists.parquet", {**given, "gt_items": [[3, 99], [7], [12]]})
    single = {name: [values[row] for row in (0, 0, 1, 2)] for name, values in given.items()}
    rows_of_one = source.write("single.parquet", {**single, "item_id": [3, 99, 7, 12], "price": [1.0, 2.0, 3.0, 4.0]})
    found = []
    for path in (lists, rows_of_one):
        config = source.config(source={"evaluation": path.name}, separator=None)
        found.append(rows(source.preprocess(source.ingest(config)).ground_truth))
    assert found[0] == found[1]
    assert [sorted(row["gt_items"]) for row in found[0]] == [[3, 12, 99], [7]]
    assert [row["seen_items"] for row in found[0]] == [[], []]


def test_ids_that_are_texts_stay_texts(source: Source):
    source.write("items.parquet", {"item_id": ["03", "7", "a"], "price": [1.0, 2.0, 3.0]})
    for number, table in TRAIN.items():
        texts = {"item_id": ["03", "7", "a"][: len(table["city"])]}
        source.write(f"train/ds={DAYS[number]}/part.parquet", table | texts)
    source.write(EVALUATED, EVALUATION | {"gt_items": ["03", "3", "a"], "seen_items": ["", "", "7"]})
    data = source.preprocess(source.ingest())
    assert [sorted(row["gt_items"]) for row in rows(data.ground_truth)] == [["03", "a"], ["3"]]
    assert [row["num_interactions"] for row in rows(data.items)] == [2, 2, 1]


def test_what_the_live_release_and_slices_read_stays(source: Source):
    source.write(
        EVALUATED,
        EVALUATION | {"age": [1, 2, 1], "device": ["w", "w", "w"], "x": [1, 2, 3]},
    )
    log = source.ingest()
    sliced = {"web": Values("device", "text"), "brand": Values("brand", "text")}
    data = source.preprocess(log, live_columns=("age", "gone"), sliced_by=sliced)
    assert list(rows(data.ground_truth)[0]) == ["user_id", "city", "clicked", "age", "device", "gt_items", "seen_items"]


@pytest.mark.parametrize(
    ("path", "table", "message"),
    [
        (LEARNED, TRAIN[1] | {"item_id": [12, 8, 7]},
         rf"train/ds={DAYS[1]}/part.parquet: column 'item_id', row 1: item 8 is not in the item table"),
        (LEARNED, TRAIN[1] | {"item_id": [12, 7, None]}, "row 2: item None is not in the"),
        ("items.parquet", ITEMS | {"item_id": [3, 7.5, 12]}, "'item_id', row 1: id 7.5 is no whole"),
        (LEARNED, TRAIN[1] | {"item_id": ["12", "7", "7"]}, "part.parquet.*(alike|differ)"),
        (LEARNED, {"city": ["a"]}, "no column 'item_id'"),
        (LEARNED, {name: values[:0] for name, values in TRAIN[1].items()}, "the day itself"),
        ("items.parquet", ITEMS | {"item_id": [3, 7, 3]}, r"items.parquet: column 'item_id', row 2: item 3 is there a"),
        ("items.parquet", ITEMS | {"item_id": [3, None, 12]}, "row 1: there is no id"),
        ("items.parquet", {"item": [3]}, r"no column 'item_id' \(there are: item\); did you mean 'item'"),
        ("items.parquet", {"item_id": pa.array([], pa.int64())}, "no rows; the item table"),
        ("items.parquet", ITEMS | {"num_interactions": [1, 2, 3]}, "'num_interactions', which preprocess computes"),
        ("items.parquet", {"item_id": [3, 7, 12]}, "features.item: .*price"),
        ("items.parquet", ITEMS | {"price": ["1", "x", "2"]}, "column 'price': its type string is no number"),
        (EVALUATED, {"user_id": [1]}, "neither a column 'gt_items' nor 'item_id'"),
        (EVALUATED, {"gt_items": ["7"]}, "no column 'user_id'"),
        (EVALUATED, EVALUATION | {"gt_items": ["3", "x", "7"]},
         r"column 'gt_items', row 1: 'x' is no id of type int64"),
        (EVALUATED, EVALUATION | {"gt_items": ["3", "", "7"]},
         "row 1: user_id 'r2' has no relevant item"),
        (EVALUATED, EVALUATION | {"gt_items": ["", "", ""]}, "no row has a relevant item"),
        (EVALUATED, EVALUATION | {"gt_items": [[3], [None], [7]]}, "row 1: a null stands"),
        (EVALUATED, EVALUATION | {"city": ["a", "c", "b"]},
         "column 'city', row 2: differs from row 0, of the same user_id 'r1'"),
        (EVALUATED, EVALUATION | {"city": [1, 2, 1]}, "'city' is int64, and string in"),
        (EVALUATED, {name: EVALUATION[name] for name in ("user_id", "gt_items", "city")},
         "no column 'clicked', which features.query reads of the training rows"),
        (EVALUATED, {name: [] for name in EVALUATION}, "no rows, on which the run"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(source: Source, path: str, table: dict[str, Any], message: str):
    source.write(path, table)
    with pytest.raises(ValueError, match=message) as caught:
        source.preprocess(source.ingest())
    assert "\n" not in str(caught.value)
    assert not (source.root / "run/preprocess").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (HEADER + "7\t1\t1:x\n3\t1\t1\n12\t1\t1:y\n", "row 3: '1' has 1 attributes, split at ':', where .* names 2"),
        (HEADER + "7\t1\t1:x\n3\t1\tz:x\n12\t1\t1:y\n", "row 3: attribute 'price': 'z' is no double"),
        (HEADER + "7\t1\t1:x\n3\t0\t1:x\n12\t1\t1:y\n", "row 3: the weight of item 3 is 0.0"),
        ("id:int64\tweight:float\n7\t1\n", "has no column 'attrs'"),
    ],
)
def test_wrong_attributes_are_named(source: Source, content: str, message: str):
    source.text("negatives.txt", content)
    attributes = {"price": "double", "brand": "string"}
    config = source.config(source={"items": None, "negatives": "negatives.txt"}, attributes=attributes)
    with pytest.raises(ValueError, match=rf"negatives\.txt.*{message}"):
        source.ingest(config)


def test_negatives_are_the_items(source: Source):
    source.text("negatives.txt", HEADER + "7\t1\tx\n3\t1\ty\n")
    with pytest.raises(ValueError, match="item 12 of the item table has no row"):
        source.ingest(source.config(source={"negatives": "negatives.txt"}))
    with pytest.raises(ValueError, match="what its attributes are is not known"):
        source.ingest(source.config(source={"negatives": "negatives.txt", "items": None}))


def test_days_that_are_not_there_are_named(source: Source):
    assert ingest.last_day(source.config()) == DAYS[1]
    with pytest.raises(
        ValueError, match=r"train/ds=\{day\}: has no partition of 2024-01-03 .the day itself., but the 2"
    ):
        ingest.needed(source.config(), DAYS[2], base_learned=None, window_days=None)
    with pytest.raises(ValueError, match="evaluation.*no partition of 2024-01-02 .on which the run of 2024-01-01"):
        ingest.needed(source.config(), DAYS[0], base_learned=None, window_days=None)
    (source.root / EVALUATED).unlink()
    (source.root / f"evaluation/ds={DAYS[2]}").rmdir()
    with pytest.raises(ValueError, match="no day of it can be run"):
        ingest.last_day(source.config())
    with pytest.raises(ValueError, match=r"holds partitions ds=….*write .*train/ds=\{day\}"):
        ingest.needed(
            source.config(source={"train": "train"}, day=DAYS[1]), DAYS[1], base_learned=None, window_days=None
        )


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"columns": {"itm_id": "item"}}, "data.columns: no table has a column 'itm_id'; did you mean 'item_id'"),
        ({"csv": {"delimiter": ";"}}, "data.csv: no table is CSV"),
        ({"separator": None}, "column 'gt_items' is text; say in data.separator"),
    ],
)
def test_keys_that_nothing_reads_or_that_are_missing_are_named(source: Source, fields: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        source.ingest(source.config(**fields))


def test_rows_that_change_meanwhile_are_refused(source: Source):
    log = source.ingest()
    source.write(LEARNED, TRAIN[0])
    with pytest.raises(ValueError, match="4 training rows where ingest counted 5"):
        source.preprocess(log)


@pytest.mark.parametrize(
    ("source", "fields", "message"),
    [
        ({"train": "t/{day}"}, {}, "names no evaluation"),
        ({"train": "t/{day}", "evaluation": "e"}, {}, "neither items nor negatives"),
        ({"train": "t/{day}", "evaluation": "e", "itmes": "i"}, {}, "names itmes; did you mean 'items'"),
        ({"train": "t", "evaluation": "e", "items": "i"}, {}, "day: needed"),
        ({"train": "t/{day}", "evaluation": "e", "items": "i"}, {"day": "2024-01-01"}, "nothing reads it"),
        ({"train": "t/{day}/{day}", "evaluation": "e", "items": "i"}, {}, "more than once"),
        ({"train": "t/{day}", "evaluation": "e", "items": "i"}, {"attributes": {"a": "int64"}}, "not given; remove"),
        (
            {"train": "t/{day}", "evaluation": "e", "items": "i", "negatives": "n"},
            {"attributes": {"a": "int64"}},
            "remove attributes, or items",
        ),
        (
            {"train": "t/{day}", "evaluation": "e", "negatives": "n"},
            {"attributes": {"a": "number"}},
            "no type 'number'",
        ),
    ],
)
def test_configs_that_cannot_be(source: dict[str, str], fields: dict[str, Any], message: str):
    with pytest.raises(ValidationError, match=message):
        examples.Config.model_validate({"source": source} | fields)


def test_it_says_how_far_it_is(source: Source):
    log, events = source.ingest(), list[Event]()
    output = source.root / "run" / "preprocess"
    request = preprocess.Request(
        output=output, config_hash="c", code_version="v", config=Config(), features=FEATURES, log=log, day=DAYS[1]
    )
    preprocess.run(request, events.append)
    assert (events[-1].done, events[-1].total) == (5, 5)
    assert np.isfinite(list(events[-1].metrics.values())).all()


def test_a_value_that_a_feature_cannot_take_is_named_with_its_row(source: Source):
    number = {"kind": "id", "num_embeddings": 8, "integers": True}
    item_id = {"kind": "id", "name": "item_id", "num_embeddings": 8}
    source.write(LEARNED, TRAIN[1] | {"city": ["1", "x", "2"]})
    source.write(f"train/ds={DAYS[0]}/part.parquet", TRAIN[0] | {"city": ["1", "2"]})
    log = source.ingest()
    for features, message in (
        ({"query": [number | {"name": "city"}], "item": [item_id]}, rf"{LEARNED}: row 1: .*'x'"),
        (
            {"query": [item_id | {"name": "clicked"}], "item": [number | {"name": "brand"}, item_id]},
            "item table: row 0",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            source.preprocess(log, features=Features.model_validate({"embedding_dim": 4} | features))
