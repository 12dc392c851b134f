"""Tables that start from a file: which row gets which numbers, and what is refused."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.orc as paorc
import pyarrow.parquet as pq
import pytest
import torch
import xxhash
from torch import nn
from torchrec import EmbeddingBagCollection, EmbeddingBagConfig
from torchrec.types import DataType

from recsys_core import distributed, sharding
from recsys_core.distributed import World
from recsys_core.features import Config, Engine
from recsys_core.loading import embedding_files
from recsys_core.sharding import pretrained

DIM, ROWS = 4, 10
DTYPES = {"float32": DataType.FP32, "float16": DataType.FP16}
IDS = [3, 5, 8]
# Of each id all numbers are a tenth of it, so that a row shows its id.
VECTORS = [[0.3] * DIM, [0.5] * DIM, [0.8] * DIM]


class Model(nn.Module):
    def __init__(self, engine: Engine) -> None:
        super().__init__()
        tables = [
            EmbeddingBagConfig(
                name=table.name,
                num_embeddings=table.num_embeddings,
                embedding_dim=table.embedding_dim,
                feature_names=[table.name],
                data_type=DTYPES[table.dtype],
            )
            for table in engine.tables
        ]
        self.tables = EmbeddingBagCollection(device=torch.device("meta"), tables=tables)


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with distributed.world("cpu") as world:
        yield world


def built(
    path: Path | str, seen: list[Any] | None = None, *, table: dict[str, Any] | None = None, **keys: Any
) -> Engine:
    """A table `x` that starts from `path`; `seen` are what its vocabulary is fitted on."""
    initializer = {"kind": "file", "path": str(path)} | keys.pop("initializer", {})
    section = {
        "embedding_dim": DIM,
        "query": [{"kind": "id", "name": "x"} | ({"num_embeddings": ROWS} if "dynamic" not in keys else {}) | keys],
        "item": [],
        "tables": [{"name": "x", "initializer": initializer} | (table or {})],
    }
    engine = Engine.build(Config.model_validate(section))
    engine.fit([pa.table({"x": seen or []})], [])
    return engine


@pytest.fixture
def started(world: World) -> Callable[..., tuple[torch.Tensor, torch.Tensor, list[str]]]:
    """The table's rows as drawn, as filled, and the messages."""

    def start(engine: Engine, **more: Any) -> tuple[torch.Tensor, torch.Tensor, list[str]]:
        weights = sharding.shard(Model(engine), ["x"], sharding.Config(device="cpu"), world, 0).state_dict()
        (weight,) = (w.local_shards()[0].tensor for w in weights.values())
        drawn = weight.float().clone()
        messages = pretrained.fill(weights, engine, world, **({"known": {}} | more))
        return drawn, weight.float(), messages

    return start


def written(path: Path, named: Any = IDS, vectors: Any = VECTORS, **names: str) -> Path:
    table = pa.table({names.get("id", "id"): named, names.get("embedding", "embedding"): vectors})
    pq.write_table(table, path, row_group_size=2)
    return path


def test_identity_rows_are_the_ids_and_the_others_are_drawn(started, tmp_path: Path) -> None:
    drawn, found, messages = started(built(written(tmp_path / "x.parquet"), encoding="identity"))
    assert [round(float(found[row, 0]), 4) for row in IDS] == [0.3, 0.5, 0.8]
    rest = [row for row in range(ROWS) if row not in IDS]
    assert torch.equal(found[rest], drawn[rest])
    assert messages == [f"table x starts from {tmp_path / 'x.parquet'}: 3 of 3 ids"]


@pytest.mark.parametrize("num_oov", [1, 3])
def test_a_vocabulary_s_ids_get_theirs_and_unknown_ones_none(started, tmp_path: Path, num_oov: int) -> None:
    # By count: 5 has the first row behind those of unknown ids, 3 the next; 8 was never seen.
    engine = built(written(tmp_path / "x.parquet"), [5, 3, 5], num_oov=num_oov)
    drawn, found, messages = started(engine)
    assert torch.allclose(found[num_oov : num_oov + 2, 0], torch.tensor([0.5, 0.3]))
    assert torch.equal(found[:num_oov], drawn[:num_oov])
    assert torch.equal(found[num_oov + 2 :], drawn[num_oov + 2 :])
    assert messages[0].endswith("2 of 3 ids")


def test_ids_of_one_bucket_share_the_mean(started, tmp_path: Path) -> None:
    named = [f"item {n}" for n in range(40)]
    vectors = (np.arange(40 * DIM).reshape(40, DIM) / 64).astype(np.float32)
    expected: dict[int, list[np.ndarray]] = {}
    for text, vector in zip(named, vectors, strict=True):
        expected.setdefault(xxhash.xxh3_64_intdigest(text.encode()) % ROWS, []).append(vector)
    assert len(expected) < 40
    _, found, _ = started(built(written(tmp_path / "x.parquet", named, vectors.tolist()), encoding="hash"))
    for row, held in expected.items():
        np.testing.assert_allclose(found[row].numpy(), np.mean(held, axis=0), rtol=1e-6)


def test_a_piece_takes_its_rows_and_columns() -> None:
    # Rows 4 to 6 and columns 1 and 2 of a table: row 5 is named by one id, row 6 by two in two blocks.
    piece, counts = torch.full((3, 2), 9.0), torch.zeros(3)
    rows, vectors = torch.tensor([5, 2, 6]), torch.arange(12.0).reshape(3, 4)
    pretrained._take(piece, [4, 1], counts, rows, vectors)
    pretrained._take(piece, [4, 1], counts, torch.tensor([6, 7]), torch.full((2, 4), 1.0))
    assert piece.tolist() == [[9, 9], [1, 2], [(9 + 1) / 2, (10 + 1) / 2]]
    assert counts.tolist() == [0, 1, 2]


def test_dynamic_ids_and_narrow_tables_start_so_too(started, tmp_path: Path) -> None:
    path = written(tmp_path / "x.parquet")
    engine = built(path, [8, 8, 9], dynamic={"max_rows": ROWS}, table={"dtype": "float16", "trainable": False})
    drawn, found, _ = started(engine)
    assert found[1].tolist() == [float(np.float16(0.8))] * DIM
    assert torch.equal(found[2:], drawn[2:])
    # A training that continues one takes nothing, but for tables whose rows may be new ids'.
    assert torch.equal(*started(engine, continuing=["y"])[:2])
    assert started(engine, continuing=["x"])[2]
    none = built(path, [1], dynamic={"max_rows": ROWS})
    assert started(none, continuing=["x"])[2][0].endswith("0 of 3 ids")


@pytest.mark.parametrize("name", ["x.parquet", "x.orc", "x.csv", "x.tsv"])
def test_every_format_and_texts_of_numbers(started, tmp_path: Path, name: str) -> None:
    path, texts = tmp_path / name, [" ".join(map(str, vector)) for vector in VECTORS]
    if name == "x.orc":
        paorc.write_table(pa.table({"item": IDS, "vector": VECTORS}), path)
    elif name == "x.parquet":
        written(path, vectors=texts, id="item", embedding="vector")
    else:
        # As Dayline writes lists to CSV.
        texts = texts if name == "x.csv" else [f"[{text.replace(' ', ', ')}]" for text in texts]
        options = pacsv.WriteOptions(delimiter="\t" if name == "x.tsv" else ",")
        pacsv.write_csv(pa.table({"item": IDS, "vector": texts}), path, options)
    names = {"id_column": "item", "embedding_column": "vector"}
    initializer = names if name in ("x.orc", "x.tsv") else names | {"separator": " "}
    _, found, _ = started(built(path, encoding="identity", initializer=initializer))
    assert [round(float(found[row, 3]), 4) for row in IDS] == [0.3, 0.5, 0.8]


NAN = float("nan")


@pytest.mark.parametrize(
    ("named", "vectors", "keys", "message"),
    [
        ([3, 5, 3], VECTORS, {}, r"initializer: id 3 is there twice, in rows 0 and 2; name each id once"),
        (["a", "a"], VECTORS[:2], {"encoding": "hash"}, r"id 'a' is there twice, in rows 0 and 1"),
        (IDS, [*VECTORS[:2], [0.0]], {}, r"row 2, id 8: 'embedding' has 1 numbers, .* table 'x' is 4 wide"),
        (IDS, [VECTORS[0], None, VECTORS[0]], {}, r"row 1, id 5: 'embedding' has 0 numbers, without nulls"),
        (IDS, [*VECTORS[:2], [0.0, NAN, 0.0, 0.0]], {}, r"row 2, id 8: .* is not all finite numbers of float32"),
        (IDS, [VECTORS[0], [1e39] * 4, VECTORS[0]], {}, r"row 1, id 5: .* not all finite numbers of float32"),
        ([7e4, 1e5, 1e4], None, {"table": {"dtype": "float16"}}, r"id 3: .* not all finite numbers of float16"),
        ([3, None, 8], VECTORS, {}, r"row 1: 'id' is null; leave the row out"),
        ([1, 2, 30], VECTORS, {"encoding": "identity"}, r"column 'id': row 0: id 30 is not in 0\.\.9"),
        ([11, 12, 13], VECTORS, {}, r"none of its 3 ids has a row of table 'x' \(.*vocabulary.*write the ids as"),
        (["3", "5", "8"], VECTORS, {}, r"column 'id': holds string where the vocabulary was fitted on int64"),
        (IDS, ["1,2,3,x"] * 3, {}, r"'embedding' in rows 0 to 2: .*'x'.*; write numbers, split by ','"),
    ],
)
def test_rows_that_do_not_serve_are_refused(started, tmp_path: Path, named, vectors, keys, message) -> None:
    if vectors is None:
        named, vectors = IDS, [[one] * DIM for one in named]
    path = written(tmp_path / "x.parquet", named, vectors)
    with pytest.raises(
        ValueError,
        match=rf"features\.tables\[name=x\]\.initializer: .*{message.partition('initializer: ')[2] or message}",
    ):
        started(built(path, IDS, **keys))


@pytest.mark.parametrize(
    ("kinds", "keys", "message"),
    [
        ((pa.int64(), pa.list_(pa.float32(), 5)), {}, r"has 5 numbers, and table 'x' is 4 wide; set embedding_dim: 5"),
        ((pa.int64(), pa.int64()), {}, r"embedding_column 'embedding' holds int64; it has to hold lists of numbers"),
        ((pa.date32(), pa.list_(pa.float32())), {}, r"id_column 'id': its type date32\[day\] cannot hold ids"),
        (
            (pa.int64(), pa.list_(pa.float32())),
            {"initializer": {"id_column": "item_id"}},
            r"there is no column 'item_id' \(there are: id, embedding\).*; say which in id_column",
        ),
        (
            (pa.int64(), pa.list_(pa.float32())),
            {"encoding": "multi_hash", "num_embeddings": None, "num_buckets": [3, 5]},
            r"the rows of table 'x' are not those of ids \(.*multi_hash",
        ),
    ],
)
def test_what_the_schema_shows_is_refused_with_the_config(tmp_path: Path, kinds, keys, message) -> None:
    path = tmp_path / "x.parquet"
    pq.write_table(pa.schema([("id", kinds[0]), ("embedding", kinds[1])]).empty_table(), path)
    engine = built(path, IDS, **keys)
    with pytest.raises(ValueError, match=rf"features\.tables\[name=x\]\.initializer: .*{message}"):
        embedding_files.check(engine)


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"features\.tables\[name=x\]\.initializer: .*absent\.parquet: no such file"):
        embedding_files.check(built(tmp_path / "absent.parquet", IDS))


def test_a_file_that_changes_changes_the_fingerprint_and_is_not_read(started, tmp_path: Path) -> None:
    engine = built(written(tmp_path / "x.parquet"), IDS)
    before = embedding_files.fingerprints(engine)
    assert list(before) == ["x"]
    started(engine, known=before)
    written(tmp_path / "x.parquet", [*IDS, 9], [*VECTORS, VECTORS[0]])
    assert embedding_files.fingerprints(engine) != before
    with pytest.raises(ValueError, match="its file has changed since the run began; start the run again"):
        started(engine, known=before)
