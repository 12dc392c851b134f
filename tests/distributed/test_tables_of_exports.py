"""Any table through an exported tower to any table: in order, in parts that outlive a kill, whole or not at all."""

import json
import signal

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest
import torch
from pyarrow import orc

from recsys_core import readers
from recsys_core.artifacts import TableRows
from recsys_core.exported import tables
from recsys_core.exported.inputs import tower_inputs
from recsys_core.exported.parts import Parts
from recsys_core.features import Engine
from recsys_core.progress import silent
from recsys_core.readers import Distinct, memory

COMMON = {"config_hash": "c" * 32, "code_version": "tests"}


@pytest.fixture
def asked(exported, day, tmp_path):
    """Ask for vectors of the day's examples, in batches of 100, so in 8 parts of 300 rows at most."""

    def make(**fields) -> tables.Request:
        given = {"side": "query", "source": str(day.examples), "batch_size": 100, "model": exported}
        given |= {"table": str(tmp_path / "out"), "reserved_columns": ("user_id", "timestamp")}
        work = {"output": tmp_path / ".out.work" / "embed", "stage": "embed"}
        return tables.Request(**COMMON, **(work | given | fields))

    return make


@pytest.fixture
def wanted(exported, day):
    """The vectors of the day's examples, [rows, D], all at once."""
    engine, rows = Engine.load(exported.engine), pq.read_table(day.examples)
    with torch.no_grad():
        return torch.jit.load(str(exported.query / "model.pt"))(tower_inputs(engine.transform(rows, "query"))).numpy()


def _vectors(table: pa.Table, name: str = "embedding") -> np.ndarray:
    return np.stack(table[name].to_numpy())


def test_each_row_gets_its_vector_in_the_order_of_the_table(asked, day, wanted, tmp_path):
    events = []
    made = tables.run(asked(), events.append)
    assert (made.num_rows, made.table) == (2_011, str(tmp_path / "out"))
    found = pq.read_table(tmp_path / "out")
    assert found.select(["user_id", "timestamp"]).equals(pq.read_table(day.examples).select(["user_id", "timestamp"]))
    assert found.schema.field("embedding").type == pa.list_(pa.float32(), 16)
    np.testing.assert_allclose(_vectors(found), wanted, atol=1e-6)
    assert {event.done for event in events} >= {100, 300, 400, 2_011}
    group = pq.ParquetFile(tmp_path / "out" / "part-00000.parquet").metadata.row_group(0)
    stored = {group.column(n).path_in_schema: group.column(n).has_dictionary_page for n in range(group.num_columns)}
    assert stored == {"user_id": True, "timestamp": True, "embedding.list.element": False}
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["_manifest.json", *(f"part-{number:05d}.parquet" for number in range(7))]
    said = json.loads((tmp_path / "out" / "_manifest.json").read_text())
    assert (said["num_rows"], said["parts"]["part-00006.parquet"]) == (2_011, 211)
    assert readers.opened(tmp_path / "out").num_rows == 2_011


def test_outputs_are_chosen_renamed_and_replaced(asked, wanted, tmp_path):
    tables.run(asked(), silent)
    again = asked(reserved_columns=("user_id",), output_columns={"embedding": "user_tower_emb"}, batch_size=2_048)
    tables.run(again, silent)
    found = pq.read_table(tmp_path / "out")
    assert found.column_names == ["user_id", "user_tower_emb"]
    np.testing.assert_allclose(_vectors(found, "user_tower_emb"), wanted, atol=1e-6)
    assert [path.name for path in (tmp_path / "out").glob("part*")] == ["part-00000.parquet"]


def test_a_killed_try_is_gone_on_with_and_ends_as_an_undisturbed_one(asked, tmp_path, monkeypatch):
    tables.run(asked(table=str(tmp_path / "undisturbed")), silent)
    finish, made = Parts.finish, []

    def dies(self, part):
        if len(made) == 3:
            raise KeyboardInterrupt
        made.append(part.number)
        finish(self, part)

    with monkeypatch.context() as patched:
        patched.setattr(Parts, "finish", dies)
        with pytest.raises(KeyboardInterrupt):
            tables.run(asked(), silent)
    assert not (tmp_path / "out").exists()
    events = []
    # Half of a part that another process was writing counts for nothing.
    assert (tmp_path / ".out.work" / "rows" / ".00003.partial").is_dir()
    tables.run(asked(), events.append)
    assert events[0].done == 1_000, "three parts of 300 rows were there"
    left, right = pq.read_table(tmp_path / "undisturbed"), pq.read_table(tmp_path / "out")
    assert left.equals(right)


def test_parts_of_other_rows_or_of_another_question_are_not_gone_on_with(tmp_path):
    first = Parts(tmp_path / "rows", "one", 10, batch_size=1, suffix=".csv")
    first.begin()
    for part in first.parts[:2]:
        aside = first.aside(part)
        aside.parent.mkdir()
        aside.write_text("x")
        first.finish(part)
    assert [part.number for part in first.left(0, 1)] == [2, 3, 4]
    assert [[part.number for part in first.left(rank, 2)] for rank in range(2)] == [[2, 4], [3]]
    assert Parts(tmp_path / "rows", "one", 10, batch_size=1, suffix=".csv").begin() == 4
    assert Parts(tmp_path / "rows", "two", 10, batch_size=1, suffix=".csv").begin() == 0
    with pytest.raises(ValueError, match=r"part-00000\.csv: 0 rows where 2 were read"):
        first.counted(lambda file: 1)


def test_two_ranks_write_what_one_writes_and_survive_the_kill_of_one(asked, ranks, signalled, tmp_path):
    tables.run(asked(table=str(tmp_path / "one")), silent)
    request = asked()
    # A part is whole, and another begun.
    codes = signalled("embed_table", request, 2, done=400, victim=0, number=signal.SIGKILL)
    assert codes[0] == -signal.SIGKILL
    assert list((tmp_path / ".out.work" / "rows").glob("part-*"))
    assert not (tmp_path / "out").exists()
    codes, log = ranks.stage("embed_table", request, 2)
    assert not any(codes), log
    assert TableRows.load(request.output).num_rows == 2_011
    one, two = pq.read_table(tmp_path / "one"), pq.read_table(tmp_path / "out")
    assert one.drop_columns(["embedding"]).equals(two.drop_columns(["embedding"]))
    np.testing.assert_allclose(_vectors(one), _vectors(two), atol=1e-6)


@pytest.mark.parametrize("keep", ["first", "last"])
def test_one_row_of_each_value_is_embedded(asked, day, wanted, tmp_path, keep):
    tables.run(asked(distinct_by="user_id", keep=keep), silent)
    users = pq.read_table(day.examples)["user_id"].to_pylist()
    rows = {user: row for row, user in (enumerate(users) if keep == "last" else reversed([*enumerate(users)]))}
    found = pq.read_table(tmp_path / "out")
    assert found["timestamp"].to_pylist() == sorted(rows.values())
    np.testing.assert_allclose(_vectors(found), wanted[sorted(rows.values())], atol=1e-6)


def test_distinct_rows_are_found_over_blocks_and_located_where_they_are():
    table = pa.table({"key": ["a", None, "b", "a", None, "c"], "row": range(6)})
    whole = memory.Reader(table)
    assert readers.read_all(Distinct(whole, "key"))["row"].to_pylist() == [0, 1, 2, 5]
    last = Distinct(whole, "key", "last")
    assert readers.read_all(last)["row"].to_pylist() == [2, 3, 4, 5]
    assert last.locate(1).first_row == 3
    with pytest.raises(ValueError, match="distinct by 'kee': there is no such column, only key, row"):
        Distinct(whole, "kee")
    with pytest.raises(ValueError, match="name a column of plain values"):
        Distinct(memory.Reader(pa.table({"key": [[1]]})), "key")


def test_csv_in_and_csv_or_orc_out(asked, day, wanted, tmp_path):
    rows = pq.read_table(day.items)
    (tmp_path / "in").mkdir()
    pacsv.write_csv(rows.select(["item_id", "category", "price"]), tmp_path / "in" / "items.csv")
    asking = {"side": "item", "source": str(tmp_path / "in"), "reserved_columns": ("item_id",)}
    tables.run(asked(**asking, format="csv"), silent)
    text = pacsv.read_csv(tmp_path / "out" / "part-00000.csv")
    vectors = np.array([json.loads(vector) for vector in text["embedding"].to_pylist()])
    tables.run(asked(**asking, format="orc"), silent)
    stored = orc.read_table(tmp_path / "out" / "part-00000.orc")
    assert stored["item_id"].to_pylist() == rows["item_id"].to_pylist()[:100]
    np.testing.assert_allclose(_vectors(stored), vectors[:100], atol=1e-6)
    assert not (tmp_path / "out" / "part-00000.csv").exists()


def test_an_object_store_gets_the_parts_and_then_the_manifest(asked, wanted, object_store):
    request = asked(table="memory://shop/vectors")
    tables.run(request, silent)
    names = sorted(name.rpartition("/")[2] for name in object_store.find("/shop/vectors"))
    assert names == ["_manifest.json", *(f"part-{number:05d}.parquet" for number in range(7))]
    reader = readers.build(readers.infer("memory://shop/vectors"))
    np.testing.assert_allclose(_vectors(readers.read_all(reader)), wanted, atol=1e-6)
    # As a kill leaves it that comes before the manifest: ours, and replaced.
    object_store.rm("/shop/vectors/_manifest.json")
    object_store.pipe_file("/shop/vectors/_partial.json", b"{}")
    with pytest.raises(ValueError, match=r"holds _partial\.json, so its writer has not ended, or was killed"):
        readers.infer("memory://shop/vectors")
    tables.run(asked(table="memory://shop/vectors", batch_size=2_048), silent)
    names = sorted(name.rpartition("/")[2] for name in object_store.find("/shop/vectors"))
    assert names == ["_manifest.json", "part-00000.parquet"]
    object_store.pipe_file("/shop/other/x.parquet", b"")
    with pytest.raises(ValueError, match=r"memory://shop/other: exists, and no command of Dayline wrote it"):
        tables.run(asked(table="memory://shop/other"), silent)


def test_what_does_not_fit_is_refused_and_named(asked, day, tmp_path):
    for fields, message in (
        ({"reserved_columns": ("user",)}, r"no column user, which the model's features or --reserved-columns need"),
        ({"output_columns": {"vector": "v"}}, r"the model has no output 'vector', only embedding"),
        ({"output_columns": {"embedding": "user_id"}}, r"already has a column 'user_id'; name the others in"),
        ({"source": str(day.items)}, r"no column user_id, segment, activity, history__item_id"),
        ({"distinct_by": "user"}, r"distinct by 'user': there is no such column"),
    ):
        with pytest.raises(ValueError, match=message):
            tables.run(asked(**fields), silent)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.parquet").write_bytes(b"")
    with pytest.raises(ValueError, match=r"out: exists, and no command of Dayline wrote it"):
        tables.run(asked(), silent)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine.parquet"]


def test_a_row_that_a_feature_refuses_is_named_by_its_file(asked, day, tmp_path):
    rows = pq.read_table(day.examples)
    activity = rows["activity"].to_pylist()
    activity[1_234] = float("inf")
    changed = rows.set_column(rows.column_names.index("activity"), "activity", pa.array(activity, pa.float32()))
    (tmp_path / "in").mkdir()
    pq.write_table(changed.slice(0, 1_000), tmp_path / "in" / "a.parquet")
    pq.write_table(changed.slice(1_000), tmp_path / "in" / "b.parquet")
    with pytest.raises(ValueError, match=r"b\.parquet: of 100 rows from row 200 on: feature 'activity'"):
        tables.run(asked(source=str(tmp_path / "in")), silent)
    assert not (tmp_path / "out").exists()


def test_a_table_without_rows_gives_one_without_rows(asked, day, tmp_path):
    (tmp_path / "in").mkdir()
    pq.write_table(pq.read_table(day.examples).slice(0, 0), tmp_path / "in" / "none.parquet")
    assert tables.run(asked(source=str(tmp_path / "in")), silent).num_rows == 0
    assert pq.read_table(tmp_path / "out").column_names == ["user_id", "timestamp", "embedding"]
