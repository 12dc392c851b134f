"""Every program in `benchmarks/` measures something small, and writes down what it measured as all of them do."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

ROOT = Path(__file__).parents[2]
KEYS = {"case", "figure", "value", "unit", "reference", "ratio"}
OTHER_KEYS = {"quality": {"seed", "protocol"}}
# As little as each of them takes, and a case that it measures then.
PROGRAMS: dict[str, tuple[str, str]] = {
    "day": ("--first-day --scale 0.1", "first day"),
    "embedding": ("--rows 2000 --batch-size 500", "query tower"),
    "features": ("--rows 9000", "criteo, 2 thread(s)"),
    "freshness": ("--shop-days 1 --movielens-days 0 --scale 0.1", "generated shop, all"),
    "maxcompute": ("--rows 2000", "read, none"),
    "memory": ("--cases dynamic --ids 20000 --virtual-gb 0.01", "dynamic, rank 1"),
    "peer": ("--rows 8192 --eval-rows 1000 --cold", "Criteo's shape"),
    "profiling": ("--rows 4000", "profile"),
    "quality": (
        "recis_deepctr --set data.num_files=1 data.rows_per_file=300 train.num_steps=2 train.batch_size=64",
        "recis_deepctr",
    ),
    "reading": ("--rows 4096 --files 1 --batch-size 512", "lists, shuffled"),
    "retrieval": ("--items 500 --queries 50 --dim 8", "item_item_cosine"),
    "scale": ("--rows 2000 3000", "criteo, 2,000 rows"),
    "serving": (
        "--cases embed hit_rate details replay --items 500 --requests 200 --replayed 40",
        "replay of 40, the same release",
    ),
    "tasks": ("--rows-per-day 300 --days 2 --epochs 1 --agreements 0 --seeds 0", "mmoe, agreement 0"),
    "training": ("DATA --cases dlrm two_tower --ranks 1 --precision float32 --steps 1", "two_tower, 1 rank(s)"),
    "warm_start": ("--cases city --scale 0.05", "feature removed: city, carried"),
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four batches of what `training.py` reads."""
    folder, rng = tmp_path_factory.mktemp("peer"), np.random.default_rng(0)
    labelled = {"label": rng.integers(0, 2, 32_768)}
    labelled |= {f"int_{n}": rng.random(32_768, np.float32) for n in range(13)}
    labelled |= {f"cat_{n}": rng.integers(0, 100, 32_768) for n in range(26)}
    ids = ("user_id", "u_age", "u_city", "u_seg", "item_id", "i_cate", "i_brand")
    pairs = {name: rng.integers(0, 10, 32_768) for name in ids} | {"u_act": rng.random(32_768, np.float32)}
    pairs |= {"i_price": rng.random(32_768, np.float32)}
    for name, columns in (("criteo", labelled), ("dssm", pairs)):
        for part, num_rows in (("train", 32_768), ("eval", 1_000)):
            (folder / f"{name}_{part}").mkdir()
            table = pa.table(columns).slice(0, num_rows)
            pq.write_table(table, folder / f"{name}_{part}" / "0.parquet", row_group_size=8_192)
    return folder


def test_every_program_is_tried() -> None:
    assert sorted(path.stem for path in (ROOT / "benchmarks").glob("*.py")) == sorted(PROGRAMS)


@pytest.mark.usefixtures("prefect_home")
@pytest.mark.parametrize("program", PROGRAMS)
def test_a_program_measures_and_writes_rows(program: str, data: Path, tmp_path: Path) -> None:
    arguments, case = PROGRAMS[program]
    rows = tmp_path / "rows.json"
    words = [str(data) if word == "DATA" else word for word in arguments.split()]
    # It is not what is measured, and is faster without.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("COV")}
    command = [sys.executable, f"benchmarks/{program}.py", *words, "--json", str(rows)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(rows.read_text())
    assert case in {row["case"] for row in found}
    for row in found:
        assert row.keys() == KEYS | OTHER_KEYS.get(program, set())
        assert isinstance(row["value"], (int, float)), row
