"""What the models of `../training.py` read: their features, and data made of the tables once."""

import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

DAY = datetime.date(2024, 1, 1)
COMMON = {"config_hash": "benchmark", "code_version": "benchmark"}
# The tables of a case, and the label among their columns.
TABLES = {"dlrm": ("criteo", "label"), "din": ("din", "clk"), "dien": ("din", "clk")}
_NUM_SEQUENCES = 16_384
_CLICKS = "click_seq__item_id"


def _id(name: str, num_embeddings: int) -> dict[str, Any]:
    return {"kind": "id", "name": name, "encoding": "identity", "num_embeddings": num_embeddings}


_QUERY = [_id("user_id", 200_000), _id("u_age", 10), _id("u_city", 400), _id("u_seg", 100)]
_QUERY += [{"kind": "raw", "name": "u_act"}]
_ITEM = [_id("item_id", 100_000), _id("i_cate", 1_000), _id("i_brand", 10_000), {"kind": "raw", "name": "i_price"}]
_SEQUENCES = [
    {"kind": "sequence", "name": f"click_seq__{table}", "table": table, "pooling": "none"}
    for table in ("item_id", "i_cate")
]
FEATURES: dict[str, dict[str, Any]] = {
    "dlrm": {
        "query": [{"kind": "raw", "name": f"int_{n}"} for n in range(13)]
        + [_id(f"cat_{n}", 100_000) for n in range(26)],
        "item": [],
    },
    "two_tower": {"query": _QUERY, "item": _ITEM},
    "two_tower_in_batch": {"query": _QUERY, "item": _ITEM},
    "din": {"query": _QUERY + _SEQUENCES, "item": _ITEM},
    "dien": {"query": _QUERY + _SEQUENCES, "item": _ITEM},
    "sasrec": {
        "embedding_dim": 64,
        "query": [_SEQUENCES[0] | {"column": _CLICKS, "max_length": 50}],
        "item": [_ITEM[0]],
    },
}


def ranking_data(case: str, data: Path, work: Path) -> Any:
    """Return a ranker's prepared rows, made in `work` the first time."""
    from recsys_core import artifacts, features
    from recsys_core.datasets.labelled import splits
    from recsys_core.progress import silent
    from recsys_core.ranking import Config, prepare

    if (work / "prepare").exists():
        return artifacts.LabelledData.load(work / "prepare")
    table, label = TABLES[case]
    (work / "log" / "train").mkdir(parents=True)
    # DIEN takes some twenty times as long for a row.
    for file in sorted((data / f"{table}_train").absolute().glob("*.parquet"))[: 1 if case == "dien" else None]:
        (work / "log" / "train" / file.name).symlink_to(file)
    request = prepare.Request(
        output=work / "prepare",
        config=Config(label=label),
        data=splits.Config(source=str(work / "log"), day=DAY),
        features=features.Config.model_validate({"embedding_dim": 16} | FEATURES[case]),
        import_root=work,
        fingerprint="benchmark",
        **COMMON,
    )
    return prepare.run(request, silent)


def _clicks(table: Path) -> pa.ListArray:
    clicks = pq.read_table(table, columns=[_CLICKS])[_CLICKS].combine_chunks()
    return clicks.filter(pc.greater(pc.list_value_length(clicks), 1))[:_NUM_SEQUENCES]


def last_clicks(data: Path) -> pa.Table:
    """Return each last click as a positive, and those before it."""
    before, last = [], []
    for *known, clicked in _clicks(data / "din_eval").to_pylist():
        before.append(known)
        last.append(clicked)
    return pa.table({_CLICKS: before, "item_id": last})


def _sequences(data: Path) -> tuple[pa.Table, pa.Table]:
    """Return clicks in their order as examples, each but the first a target of those before it, and the items."""
    from recsys_core.artifacts import KNOWN, TARGETS

    clicks = _clicks(data / "din_train")
    lengths = pc.list_value_length(clicks).to_numpy() - 1
    offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32))
    ids = clicks.flatten().to_numpy()
    starts = np.concatenate([[0], np.cumsum(lengths + 1)[:-1]])
    is_first = np.zeros(len(ids), bool)
    is_first[starts] = True
    columns = {
        _CLICKS: ids[~np.roll(is_first, -1)],
        TARGETS: ids[~is_first],
        KNOWN: np.concatenate([np.arange(1, length + 1) for length in lengths]),
    }
    examples = {name: pa.ListArray.from_arrays(offsets, pa.array(values)) for name, values in columns.items()}
    items, counts = np.unique(ids, return_counts=True)
    return pa.table(examples), pa.table({"item_id": items, "num_interactions": counts})


def _pairs(data: Path) -> tuple[pa.Table, pa.Table]:
    """Return the positives as examples, and the items."""
    examples = pq.read_table(data / "dssm_train")
    columns = [feature["name"] for feature in _ITEM]
    items = examples.group_by("item_id").aggregate([*((name, "min") for name in columns[1:]), ("item_id", "count")])
    return examples, items.rename_columns(["item_id", *columns[1:], "num_interactions"])


def retrieval_data(case: str, data: Path, work: Path) -> Any:
    """Return the examples and items of a retrieval model, made in `work` the first time."""
    from recsys_core import artifacts, features

    if (work / "preprocess").exists():
        return artifacts.TrainingData.load(work / "preprocess")
    examples, items = _sequences(data) if case == "sasrec" else _pairs(data)
    weights = items["num_interactions"].to_numpy() ** 0.75
    engine = features.Engine.build(features.Config.model_validate({"embedding_dim": 16} | FEATURES[case]))
    with artifacts.pending(work / "preprocess") as aside:
        (aside.path / "items").mkdir()
        pq.write_table(items.append_column("sampling_weight", pa.array(weights)), aside.path / "items" / "0.parquet")
        (aside.path / "examples").mkdir()
        pq.write_table(examples, aside.path / "examples" / "0.parquet")
        engine.save(aside.path / "features")
        return aside.commit(
            artifacts.TrainingData,
            artifacts.Request(output=work / "preprocess", **COMMON),
            num_rows=examples.num_rows,
            **_targets(examples),
            day=DAY,
            first_day=DAY,
            ground_truth_day=DAY,
            num_items=items.num_rows,
            num_queries=0,
            num_ground_truth=0,
            engine_digest=engine.digest,
        )


def _targets(examples: pa.Table) -> dict[str, int]:
    from recsys_core.artifacts import TARGETS

    if TARGETS not in examples.column_names:
        return {}
    lengths = pc.list_value_length(examples[TARGETS])
    return {"num_targets": pc.sum(lengths).as_py(), "most_targets": pc.max(lengths).as_py()}
