from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from recsys_core import distributed, output
from recsys_core.distributed import World


def test_a_table_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    first, second = pa.table({"a": [1, 2]}), pa.table({"a": [3]})
    pq.write_table(first, tmp_path / "part.parquet", row_group_size=1)
    out = tmp_path / "out"
    with distributed.world("cpu") as world:
        assert output.write(str(out), output.groups(tmp_path / "part.parquet"), world) == 2
        assert pq.read_table(out).equals(first)
        assert output.write(str(out), output.Rows(second.schema, iter([second])), world) == 1

        def breaking():
            yield first
            raise ValueError("no more")

        with pytest.raises(ValueError, match="rank 0: no more"):
            output.write(str(out), output.Rows(first.schema, breaking()), world)
        with pytest.raises(ValueError, match="can replace them whole"):
            output.write("memory://out", output.Rows(first.schema, iter([])), world)
    assert pq.read_table(out).equals(second)
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_a_rank_s_failure_fails_all_ranks(tmp_path: Path) -> None:
    class Second(World):
        def gather(self, value):
            return [value, (None, "its disk is full")]

        def share(self, make):
            return make()

    world = Second(0, 2, 2, torch.device("cpu"))
    rows = pa.table({"a": [1]})
    with pytest.raises(ValueError, match="rank 1: its disk is full"):
        output.write(str(tmp_path / "out"), output.Rows(rows.schema, iter([rows])), world)
    assert list(tmp_path.iterdir()) == []
