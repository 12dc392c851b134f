"""What is exported of a checkpoint: without data, in either format, in fewer bytes, and the same bytes each time."""

import json
import resource
import shutil
import signal
from pathlib import Path

import faiss
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from torch import nn

import recsys_core
from recsys_core.artifacts import ExportedModel
from recsys_core.exported import modules, quantized
from recsys_core.exported.inputs import tower_inputs
from recsys_core.exported.lookups import PooledLookup
from recsys_core.exported.quantized import GatheredLookup, Int4Table, Int8Table, pooled_lookup, tables_of
from recsys_core.features import Engine, SparseFeature
from recsys_core.progress import silent
from recsys_core.registry import named
from recsys_core.retrieval import evaluate, export
from recsys_core.serving import Recommender
from recsys_core.serving.service import eager
from recsys_core.training import restored

COMMON = {"config_hash": "c" * 32, "code_version": "tests"}


@pytest.fixture
def exporting(trained, sections, tmp_path):
    """Export the checkpoint, without data unless they are given."""

    def make(name="export", *, config=None, **fields) -> export.Request:
        given = {"config": {"parity_rows": 100} | (config or {}), "checkpoint": trained, "model": sections["model"]}
        return export.Request(output=tmp_path / name, **COMMON, **(given | fields))

    return make


def _digests(folder: Path) -> dict[str, str]:
    fields = json.loads((folder / "manifest.json").read_text())
    return {file["path"]: file["digest"] for file in fields["files"]}


def test_a_copied_checkpoint_is_exported_without_data_and_gives_the_same_bytes(trained, exporting, tmp_path):
    one = export.run(exporting("one"), silent)
    shutil.copytree(trained.path, tmp_path / "copied")
    found = named.find(folder=tmp_path / "copied").trained()
    assert found.product == "retrieval"
    again = exporting("two", checkpoint=found.checkpoint, model=found.model, engine=found.features)
    two = export.run(again, silent)
    assert _digests(one.path) == _digests(two.path)
    assert one.digest == two.digest
    assert one.num_rows == 200, "those that the training kept of both sides"
    # Nothing of it says where it was made.
    here = str(Path(recsys_core.__file__).parent).encode()
    assert not any(here in file.read_bytes() for file in two.path.rglob("*") if file.is_file())


@pytest.mark.parametrize("form", ["torchscript", "pt2"])
def test_a_killed_export_leaves_nothing_and_another_process_makes_the_same_bytes(
    exporting, ranks, signalled, tmp_path, form
):
    request = exporting("killed", config={"format": form})
    # One of both towers is written.
    assert signalled("export", request, 1, done=1, victim=0, number=signal.SIGKILL) == [-signal.SIGKILL]
    assert (tmp_path / ".killed.partial" / "query" / "signature.json").exists()
    with pytest.raises(ValueError, match=r"no manifest\.json, so no finished ExportedModel"):
        ExportedModel.load(request.output)
    codes, log = ranks.stage("export", request, 1)
    assert codes == [0], log
    here = export.run(exporting("here", config={"format": form}), silent)
    assert _digests(request.output) == _digests(here.path)


@pytest.mark.parametrize("table_dtype", ["trained", "int8"])
def test_large_tables_stay_in_files_and_come_to_the_same(exporting, day, table_dtype, tmp_path, monkeypatch):
    asked = {"config": {"table_dtype": table_dtype}} | ({} if table_dtype == "trained" else {"data": day})
    plain = export.run(exporting("plain", **asked), silent)
    in_memory = modules.load(plain.query)
    monkeypatch.setattr(restored, "MAPPED_BYTES", 0)
    monkeypatch.setattr(modules, "MAPPED_BYTES", 0)
    monkeypatch.setattr(modules, "_TABLE_BYTES", 1_000)
    made = export.run(exporting("mapped", **asked), silent)
    assert _digests(made.path) == _digests(plain.path)
    assert sorted(file.name for file in made.path.iterdir()) == ["features", "item", "manifest.json", "query"]
    mapped = modules.load(made.query)
    inputs = tower_inputs(Engine.load(made.engine).transform(pq.read_table(day.ground_truth), "query"))
    torch.testing.assert_close(mapped(inputs), in_memory(inputs), rtol=0, atol=0)
    # Every table is where the file is, and none was copied.
    tables = [one for one in mapped.state_dict().values() if one.untyped_storage().nbytes() > 1_000]
    lines = [line.split() for line in Path("/proc/self/maps").read_text().splitlines() if str(made.query) in line]
    ranges = [tuple(int(end, 16) for end in line[0].split("-")) for line in lines]
    assert len(tables) >= 3
    for table in tables:
        assert any(first <= table.data_ptr() < last for first, last in ranges)


def test_a_table_for_which_there_is_no_room_is_refused(exporting, tmp_path, monkeypatch):
    monkeypatch.setattr(restored, "MAPPED_BYTES", 0)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4_096, before[1]))
    try:
        with pytest.raises(ValueError, match=r"no room for a table of \d+,\d+ bytes \(.*File too large"):
            export.run(exporting(), silent)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [path.name for path in tmp_path.iterdir()] == []


def test_the_signature_has_types_and_a_row_that_can_be_sent(exported, exporting, day):
    made = export.run(exporting(), silent)
    for folder in (made.query, exported.query):
        said = json.loads((folder / "signature.json").read_text())
        assert said["columns"] == ["user_id", "segment", "activity", "history__item_id"]
        assert said["types"]["history__item_id"] == "list<int64>"
        assert said["example"].keys() == {*said["columns"]}
    rows = pq.read_table(day.examples).slice(0, 1).to_pylist()[0]
    said = json.loads((made.query / "signature.json").read_text())
    assert said["example"]["segment"] == rows["segment"]
    assert said["example"]["history__item_id"] == rows["history__item_id"]


def test_a_program_of_torch_export_gives_what_the_script_gives(exporting, exported, day, tmp_path):
    made = export.run(exporting(config={"format": "pt2"}), silent)
    assert made.format == "pt2"
    assert made.parity_max_abs_difference <= 1e-5
    assert not (made.query / "model.pt").exists()
    engine = Engine.load(made.engine)
    for side, rows in (("query", pq.read_table(day.ground_truth)), ("item", pq.read_table(day.items))):
        program, script = (modules.load(model.path / side) for model in (made, exported))
        for count in (1, 2, rows.num_rows):
            inputs = tower_inputs(engine.transform(rows.slice(0, count), side))
            with torch.no_grad():
                torch.testing.assert_close(program(inputs), script(inputs), rtol=0, atol=1e-6)
    again = export.run(exporting("again", config={"format": "pt2"}), silent)
    assert _digests(again.path) == _digests(made.path)
    # A bundle with it answers as one with the script does.
    answers = []
    for model in (made, exported):
        bundle = model.path if model is made else shutil.copytree(model.path, tmp_path / "scripted")
        items = pq.read_table(day.items)
        index = faiss.IndexFlatIP(16)
        with torch.no_grad():
            index.add(modules.load(model.item)(tower_inputs(engine.transform(items, "item"))).numpy())
        (bundle / "index").mkdir()
        faiss.write_index(index, str(bundle / "index" / "index.faiss"))
        pq.write_table(items.select(["item_id"]), bundle / "index" / "id_map.parquet")
        loaded = Recommender.load(bundle)
        rows = pq.read_table(day.ground_truth).slice(0, 3).to_pylist()
        table = loaded.table({name: [row[name] for row in rows] for name in engine.columns("query")})
        answers.append(loaded.recommend(table, 5)["item_ids"].to_pylist())
    assert answers[0] == answers[1]


@pytest.mark.parametrize(("dtype", "form"), [("float16", "torchscript"), ("int8", "torchscript"), ("int4", "pt2")])
def test_tables_of_fewer_bytes_are_measured(exporting, exported, day, dtype, form):
    made = export.run(exporting(config={"table_dtype": dtype, "format": form}, data=day), silent)
    assert made.cost is not None
    assert (made.cost.metric, made.cost.num_rows) == ("hit_rate@50", day.num_queries)
    assert 0.5 < made.cost.trained <= 1
    assert abs(made.cost.exported - made.cost.trained) < 0.05
    sizes = [
        sum(tensor.nbytes for tensor in modules.load(model.item).state_dict().values()) for model in (made, exported)
    ]
    assert sizes[0] < sizes[1]
    with pytest.raises(ValueError, match=rf"export\.table_dtype: {dtype}, and no data to measure what it costs"):
        export.run(exporting("alone", config={"table_dtype": dtype}), silent)


def test_a_training_of_before_it_kept_rows_needs_data(exporting, trained, day):
    older = trained.model_copy(update={"path": day.path})
    with pytest.raises(ValueError, match="no rows are kept there, .* name the data that it was trained on"):
        export.run(exporting(checkpoint=older, engine=day.engine), silent)


def test_an_exported_model_is_evaluated_as_its_checkpoint(exported, trained, day, sections, tmp_path):
    given = {"config": evaluate.Config(batch_size=32, ks=(1, 10)), "sharding": {}, "num_ranks": 1, "seed": 3}
    common = {**COMMON, **sections, **given, "data": day}
    of_checkpoint = evaluate.Request(output=tmp_path / "one", checkpoint=trained, **common)
    of_export = evaluate.Request(output=tmp_path / "two", exported=exported, **common)
    one, two = (evaluate.run(request, silent) for request in (of_checkpoint, of_export))
    assert two.loss == pytest.approx(one.loss, abs=1e-4)
    assert two.sampled_recall == pytest.approx(one.sampled_recall, abs=0.02)


def test_the_model_before_its_export_gives_a_served_rows_vector(exported, trained, day, sections):
    rows = pq.read_table(day.ground_truth)
    of_training = named.Trained(trained, "retrieval", sections["model"].model_dump(mode="json"), trained.engine)
    engine, tower = Engine.load(exported.engine), modules.load(exported.query)
    for some in (rows, rows.slice(3, 2)):
        found = eager.vectors(of_training, some)
        with torch.no_grad():
            wanted = tower(tower_inputs(engine.transform(some, "query"))).numpy()
        assert found.shape == wanted.shape == (some.num_rows, exported.embedding_dim)
        np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-6)
    # Of a row the same, whatever it is asked with.
    assert found.tobytes() == eager.vectors(of_training, rows)[3:5].tobytes()


def test_int8_keeps_a_rows_extremes_and_rounds_to_the_nearest_of_256():
    weight = torch.tensor([[0.0, 255.0, 100.4, 100.6], [-1.0, -1.0, -1.0, -1.0], [-2.0, 0.55, 0.0, -1.0]])
    found = Int8Table(weight)(torch.tensor([0, 1, 2, 0]))
    assert found[0].tolist() == [0.0, 255.0, 100.0, 101.0]
    assert found[1].tolist() == [-1.0] * 4
    torch.testing.assert_close(found[2], weight[2], rtol=0, atol=0.006)
    assert torch.equal(found[3], found[0])


def test_int4_rounds_to_the_nearest_of_16_and_packs_two_in_a_byte(monkeypatch):
    weight = torch.tensor([[0.0, 15.0, 6.4, 6.6, 3.0], [-1.0, -1.0, -1.0, -1.0, -1.0], [-2.0, 5.5, 0.1, -1.0, 5.4]])
    table = Int4Table(weight)
    assert table.stored.shape == (3, 3)
    assert table.stored[0].tolist() == [0 + 16 * 15, 6 + 16 * 7, 3]
    found = torch.jit.script(table)(torch.tensor([0, 1, 2, 0]))
    assert found[0].tolist() == [0.0, 15.0, 6.0, 7.0, 3.0]
    assert found[1].tolist() == [-1.0] * 5
    # Steps of a half.
    assert found[2].tolist() == [-2.0, 5.5, 0.0, -1.0, 5.5]
    assert torch.equal(found[3], found[0])
    # A table is rounded some rows at a time, and comes out the same.
    many = torch.randn(7, 5, generator=torch.Generator().manual_seed(0))
    for kind in (Int4Table, Int8Table):
        whole = kind(many).state_dict()
        monkeypatch.setattr(quantized, "_ROWS_AT_ONCE", 2)
        for name, stored in kind(many).state_dict().items():
            assert torch.equal(stored, whole[name])
        monkeypatch.undo()


@pytest.mark.parametrize("pooling", ["mean", "sum", "max", "tile"])
@pytest.mark.parametrize("weighted", [False, True])
def test_gathered_rows_pool_as_those_of_a_plain_table(pooling, weighted):
    rng = np.random.default_rng(1)
    feature = SparseFeature("clicks", "clicks", pooling, 2 if pooling == "tile" else 0, weighted)
    # Numbers that half precision holds exactly.
    weight = torch.from_numpy(rng.integers(-8, 8, (9, 4)).astype(np.float32) / 4)
    plain, half = (tables_of({"clicks": weight}, dtype)["clicks"] for dtype in ("trained", "float16"))
    assert isinstance(plain, nn.Embedding)
    inputs = {
        "clicks.values": torch.tensor([1, 2, 3, 8, 0]),
        "clicks.lengths": torch.tensor([2, 0, 3]),
        "clicks.weights": torch.tensor([1.0, 0.5, 2.0, 0.0, 1.0]),
    }
    looked = pooled_lookup(feature, half)
    assert isinstance(looked, GatheredLookup)
    torch.testing.assert_close(looked(inputs), PooledLookup(feature, plain)(inputs))


def test_what_is_no_module_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"model\.pt: missing, so .* is no exported module"):
        modules.load(tmp_path)
    (tmp_path / "model.pt").write_bytes(b"PK")
    with pytest.raises(ValueError, match=r"model\.pt: damaged"):
        modules.load(tmp_path)
    (tmp_path / "model.pt2").write_bytes(b"PK")
    with pytest.raises(ValueError, match=r"model\.pt2: damaged"):
        modules.load(tmp_path)
