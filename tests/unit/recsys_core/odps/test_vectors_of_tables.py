"""A MaxCompute table through an exported tower to another one, and on after the store was lost."""

import datetime
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from recsys_core.exported import tables
from recsys_core.exported.inputs import tower_inputs
from recsys_core.features import Engine
from recsys_core.output import write as output_write
from recsys_core.progress import silent
from recsys_core.readers import read_all


def test_items_of_one_table_become_vectors_in_a_partition_of_another(
    write: Callable, opened: Callable, made_day: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = made_day(tmp_path / "run", datetime.date(2024, 1, 1), 1)
    items = pq.read_table(made["data"].items)
    write("odps://shop/tables/items", items)
    request = tables.Request(
        output=tmp_path / "work" / "embed",
        stage="embed",
        model=made["model"],
        side="item",
        source="odps://shop/tables/items",
        table="odps://shop/tables/vectors/ds=2024-01-01",
        reserved_columns=("item_id",),
        batch_size=10,
        config_hash="c",
        code_version="v",
    )

    def lost(*_: object) -> None:
        raise OSError("the connection was lost")

    with monkeypatch.context() as patched:
        patched.setattr(tables.output, "write", lost)
        with pytest.raises(OSError, match="was lost"):
            tables.run(request, silent)
    events = []
    assert tables.output.write is output_write
    written = tables.run(request, events.append)
    # All parts were whole, so that nothing was computed again.
    assert not [event for event in events if event.done]
    assert (written.num_rows, written.columns["embedding"]) == (60, "fixed_size_list<item: float>[8]")
    found = read_all(opened(request.table))
    assert found["item_id"].to_pylist() == items["item_id"].to_pylist()
    engine = Engine.load(made["model"].engine)
    tower = torch.jit.load(str(made["model"].item / "model.pt"))
    wanted = tower(tower_inputs(engine.transform(items, "item"))).detach().numpy()
    np.testing.assert_allclose(np.stack(found["embedding"].to_numpy()), wanted, atol=1e-6)
    assert found.schema.field("embedding").type == pa.list_(pa.float32())
