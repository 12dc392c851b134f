"""What is found before any work starts: limits, keys that a product does not read, files, devices, memory."""

import ast
import json
import re
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from pydantic import BaseModel

from recsys_core import config as configs
from recsys_core import lookup
from recsys_core.config import RankingConfig, RunConfig, building, preflight, products

CONFIGS = Path(__file__).parents[4] / "configs"
CODE = [*(Path(configs.__file__).parents[1]).rglob("*.py"), *(Path(configs.__file__).parents[2] / "tasks").glob("*.py")]
DEMO, FRAPPE = CONFIGS / "demo.yaml", CONFIGS / "dlrm_frappe.yaml"


def checked(file: Path, *changes: str) -> None:
    loaded = configs.load(file, changes)
    preflight.check(loaded)
    building.check(loaded)


def refused(file: Path, *changes: str) -> str:
    """Return the one line that a config with these changes is refused with."""
    with pytest.raises(ValueError, match=".") as error:
        checked(file, *changes)
    (line,) = str(error.value).splitlines()
    return line


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ("gate.k=7", "gate.k: 7 is none of hitrate.ks [10, 50, 100]"),
        (
            "features.item[name=item_id].num_embeddings=1000000000000000",
            "features.item[name=item_id].num_embeddings: 1,000,000,000,000,000 is beyond 1,099,511,627,776",
        ),
        (
            "features.item[name=item_id].num_embeddings=100000000000",
            "features: table 'item_id', 100,000,000,000 rows of 32, takes 11.6 TiB",
        ),
        ("features.embedding_dim=100000000", "features.embedding_dim: 100,000,000 is beyond 16,384 (numbers of one"),
        ("model.query_hidden=[64,1000000000]", "model.query_hidden[1]: 1,000,000,000 is beyond 65,536"),
        ("model.query_hidden=[60000,60000,60000,60000]", "take at least"),
        ("launch.num_ranks=1000000", "launch.num_ranks: 1,000,000 is beyond 1,024 (processes on one machine)"),
        ("launch.num_ranks=1000", "launch.num_ranks: 1000 ranks take at least"),
        ("launch.threads_per_rank=1000000", "launch.threads_per_rank: 1,000,000 is beyond"),
        (
            "train.batch_size=1000000000000",
            "train.batch_size: 1,000,000,000,000 is beyond 16,777,216 (the rows of a step",
        ),
        ("hitrate.ks=[50,1000000000]", "hitrate.ks[1]: 1,000,000,000 is beyond 100,000"),
        ("sampler.num_negatives=1000000000", "sampler.num_negatives: 1,000,000,000 is beyond"),
        (
            "preprocess.window_days=1000000000000",
            "preprocess.window_days: 1,000,000,000,000 is beyond 36,525 (a hundred",
        ),
        ("launch.stage_timeout_seconds=1.0e+300", "launch.stage_timeout_seconds: 1e+300 is beyond 31,557,600 (a year)"),
        ("seed=100000000000", "seed: 100,000,000,000 is beyond 2,147,483,647"),
        ("hitrate.sweep=[1,2]", None),
        (
            "embed.items_output=out/{next_day}",
            "embed.items_output: '{next_day}' in 'out/{next_day}' is no placeholder; {day}",
        ),
        ("embed.queries_output='out/{Day}'", "embed.queries_output: '{Day}'"),
        ("embed.queries_output='out/{'", "embed.queries_output: '{'"),
        ("embed.queries_output='out/{day'", "embed.queries_output: '{day'"),
        ("embed.queries_output='out/day}'", "embed.queries_output: '}'"),
        ("embed.queries_output='out/{day}'", None),
        ("embed.items_output=/etc/passwd", "embed.items_output: /etc/passwd: a file is there"),
        ("embed.items_output=/etc/passwd/items", "embed.items_output /etc/passwd/items: /etc/passwd is no folder"),
        ("embed.items_output=s3://bucket/items", "embed.items_output: s3://bucket/items: tables are written to local"),
        ("embed.items_output='odps://x'", "embed.items_output: 'odps://x'"),
        ("run_root=/etc/passwd", "run_root /etc/passwd: /etc/passwd is no folder"),
        (
            "run_root=~nobody_of_that_name/runs",
            "run_root: ~nobody_of_that_name/runs: no home folder is known for its `~`",
        ),
        ("run_root=" + "a" * 300, "cannot be looked for (File name too long); name another place"),
        (
            "index={kind: flat, nprobe: 3}",
            "index: nprobe: has no effect with kind flat, only with factory or ivf_flat or ivf_pq; remove",
        ),
        ("index={kind: flat, nlist: 3}", "index: nlist: has no effect with kind flat, only with ivf_flat or ivf_pq"),
        (
            "index={kind: ivf_flat, ef_search: 3}",
            "index: ef_search: has no effect with kind ivf_flat, only with factory or hnsw",
        ),
        ("index={kind: hnsw, hnsw_m: 8, ef_construction: 9, ef_search: 3}", None),
        ("launch.num_nodes=2", "launch: rendezvous_endpoint: missing; with launch.num_nodes > 1"),
        ("launch={num_nodes: 2, rendezvous_endpoint: here}", "launch.rendezvous_endpoint: string should match"),
        ("launch.rendezvous_endpoint=here:29400", "launch: rendezvous_endpoint: one node meets no other; remove it"),
        ("launch={num_nodes: 2, rendezvous_endpoint: 'here:29400'}", None),
        ("contract.file=/nowhere", "contract.file: /nowhere: no such contract"),
        ("train.fine_tune_from.path=/nowhere", "train.fine_tune_from.path: /nowhere: no checkpoint there"),
        ("train.sharding.plan=/nowhere", "train.sharding.plan: /nowhere is neither a plan nor a folder"),
        (
            "features.query[name=city]={kind: id, name: city, vocabulary_file: /nowhere}",
            "features: query[name=city]: vocabulary_file /nowhere: no such file",
        ),
        (
            "features.tables=[{name: city, initializer: {kind: file, path: /nowhere}}]",
            "features.tables[name=city].initializer: /nowhere: no such file",
        ),
    ],
)
def test_it_is_found_before_the_work(change: str, expected: str | None) -> None:
    if expected is None:
        checked(DEMO, change)
        return
    assert expected in refused(DEMO, change)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ("train.sparse_optimizer={kind: lamb}", "lamb has no fused kernel for CPUs"),
        ("train.sharding.compute_kernels=[fused_uvm]", "fused_uvm is for GPUs"),
        ("features.tables=[{name: city, dtype: bfloat16}]", "'city': kernels for CPUs have no bfloat16"),
        ("train.sharding.device=cuda", "train.sharding.device: cuda, and torch sees no GPU here"),
    ],
)
def test_what_the_device_lacks_is_found_under_auto_too(change: str, expected: str) -> None:
    configs.load(DEMO, [change])
    assert expected in refused(DEMO, change)


@pytest.mark.parametrize(
    ("file", "key", "value", "remedy"),
    [
        (FRAPPE, "warm_start", "true", "remove it, or start from train.fine_tune_from"),
        (FRAPPE, "warm_start", "false", "remove it"),
        (FRAPPE, "num_warm_epochs", "1", "remove it"),
        (FRAPPE, "restore_optimizer", "false", "remove it"),
        (DEMO, "evaluate_every_steps", "5", "a retrieval model is measured after its training"),
        (DEMO, "evaluate_every_epochs", "1", "set num_epochs or num_steps to say how long to train"),
        (DEMO, "keep_best", "1", "remove it"),
        (DEMO, "early_stopping_patience", "3", "remove it"),
        (DEMO, "best_metric", "auc", "remove it"),
    ],
)
def test_a_key_that_a_product_does_not_read_is_refused_and_not_shown(
    file: Path, key: str, value: str, remedy: str, tmp_path: Path
) -> None:
    line = refused(file, f"train.{key}={value}")
    assert line.startswith(f"--set train.{key}={value}: train.{key}: ")
    assert remedy in line
    shown = tmp_path / "shown.yaml"
    shown.write_text(configs.show(configs.load(file)))
    assert f"\n  {key}:" not in shown.read_text()
    assert configs.load(shown) == configs.load(file)
    # That of ranking is also one of models that are retrained daily, which read it.
    assert (key in configs.schema(ranking=file == FRAPPE)["properties"]["train"]["properties"]) == (file == FRAPPE)


def test_a_sampler_s_weights_are_read_before_the_work(tmp_path: Path) -> None:
    given = tmp_path / "items.txt"
    given.write_text("id:string\tweight:float\na\t1\nb\t0\n")
    assert f"sampler.weights: {given}, row 3: the weight of item 'b' is 0.0" in refused(
        DEMO, f"sampler.weights={given}"
    )
    given.unlink()
    assert f"sampler.weights: {given}: no such file" in refused(DEMO, f"sampler.weights={given}")


def test_sequences_that_are_attended_together_are_of_one_group() -> None:
    din, clicked = CONFIGS / "din_taobao.yaml", "features.query[name=clicked_cate_id]"
    expected = "model.attention[0].sequences: 'clicked_item_id' and 'clicked_cate_id' stand entry by entry for the same"
    for change in (f"{clicked}.group=null", f"{clicked}.group=others", "features.query[pooling=none].group=null"):
        assert expected in refused(din, change)
    alone = [{"sequences": [f"clicked_{name}"], "targets": [name]} for name in ("item_id", "cate_id")]
    configs.load(din, ["features.query[pooling=none].group=null", f"model.attention={json.dumps(alone)}"])


@pytest.mark.parametrize("kind", ["bst", "dien", "dmin", "sim"])
def test_a_sequence_is_no_longer_than_the_model_s_places(kind: str) -> None:
    din, sequences = CONFIGS / "din_taobao.yaml", "features.query[pooling=none]"
    behaviours = {"sequences": ["clicked_item_id", "clicked_cate_id"], "targets": ["item_id", "cate_id"]}
    model = f"model={json.dumps({'kind': kind, 'behaviours': behaviours, 'max_length': 50})}"
    message = "model.behaviours.sequences: 'clicked_item_id' has up to {} elements, and model.max_length is 50"
    assert message.format("any number of") in refused(din, model)
    assert message.format(51) in refused(din, model, f"{sequences}.max_length=51")
    configs.load(din, [model, f"{sequences}.max_length=50"])
    assert "'clicked_cate_id' stand entry by entry for the same" in refused(
        din, model, f"{sequences}.max_length=50", f"{sequences}.group=null"
    )


@pytest.mark.parametrize(
    ("file", "change", "table"),
    [(FRAPPE, "features.embedding_dim", "user"), (DEMO, "features.item[name=brand].embedding_dim", "brand")],
)
def test_a_table_is_of_a_width_that_is_trained(file: Path, change: str, table: str) -> None:
    message = f"table '{table}' has embedding_dim 10, and the kernels that train tables take multiples of 4; make it 12"
    assert message in refused(file, f"{change}=10")


def test_what_is_shown_of_an_index_without_its_keys_is_read_back(tmp_path: Path) -> None:
    loaded = configs.load(DEMO, ["index={kind: flat}"])
    (tmp_path / "shown.yaml").write_text(configs.show(loaded))
    assert configs.load(tmp_path / "shown.yaml") == loaded


def test_a_run_root_is_found_at_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert configs.load(DEMO, ["run_root=~/runs"]).run_root == tmp_path / "runs"


def test_use_step_needs_evaluations() -> None:
    changes = ["train.evaluate_every_steps=null", "train.early_stopping_patience=null"]
    assert "use_step: 5 is one of the states that evaluations keep" in refused(FRAPPE, *changes, "use_step=5")


def test_null_clears_what_the_file_says() -> None:
    changes = ["train.num_epochs=null", "train.num_warm_epochs=null", "train.num_steps=100"]
    assert configs.load(DEMO, changes).train.num_steps == 100
    cleared = configs.load(DEMO, ["gate.minimum_lift=null"])
    assert isinstance(cleared, RunConfig)
    assert cleared.gate.minimum_lift is None


def test_data_that_are_not_there_are_found_by_name(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=re.escape(str(tmp_path))):
        preflight.check_data(configs.load(DEMO, [f"data.source={tmp_path}"]), None)
    (tmp_path / "train").mkdir()
    splits = f"data={{kind: splits, day: 2024-01-15, source: {tmp_path}}}"
    with pytest.raises(ValueError, match=r"has no folder test, which evaluate\.split needs"):
        preflight.check_data(configs.load(FRAPPE, [splits]), None)
    with pytest.raises(ValueError, match=r"has no folder valid, which train\.evaluate_every_steps"):
        preflight.check_data(configs.load(FRAPPE, [splits, "evaluate.split=train"]), None)


def _sections(record: type[BaseModel], seen: set[type[BaseModel]]) -> Iterator[type[BaseModel]]:
    """Yield every section that a config may hold: fields' types, and all components of their catalogues."""
    if record in seen:
        return
    seen.add(record)
    yield record
    for field in record.model_fields.values():
        for one in (part for part in field.metadata if isinstance(part, lookup.OneOf)):
            for kind in lookup.kinds(one.catalogue):
                yield from _sections(lookup.component(one.catalogue, kind).Config, seen)
        waiting: list[Any] = [field.annotation]
        while waiting:
            found = waiting.pop()
            if isinstance(found, type) and issubclass(found, BaseModel):
                yield from _sections(found, seen)
            waiting += [
                part.catalogue and _union(part) if isinstance(part, lookup.OneOf) else part for part in get_args(found)
            ]


def _union(one: lookup.OneOf) -> Any:
    kinds = tuple(lookup.component(one.catalogue, kind).Config for kind in lookup.kinds(one.catalogue))
    return dict[kinds]  # type: ignore[valid-type] - only its arguments are looked at


def _read() -> set[str]:
    """Return every name that code reads of an object, or by its text, outside of what declares it."""
    names: set[str] = set()
    for file in CODE:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
                names.add(node.attr)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.isidentifier():
                names.add(node.value)
    return names


@pytest.mark.parametrize(("record", "unread_of_train"), [(RunConfig, products.RETRIEVAL.remedies), (RankingConfig, ())])
def test_every_key_is_read_somewhere(record: type[BaseModel], unread_of_train: Collection[str]) -> None:
    read = _read()
    sections = list(_sections(record, set()))
    assert len(sections) > 40
    unread = [
        f"{section.__module__}.{section.__qualname__}.{name}"
        for section in sections
        for name in section.model_fields
        if name not in read and not (section is configs.Train and name in unread_of_train)
    ]
    assert unread == []
