"""The tutorial on the MaxCompute page, as printed: its tables, its config and its command, against the emulator."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from odps import ODPS

from recsys_core import features
from recsys_core.odps.credentials import Keys
from recsys_core.odps.emulator import Emulator
from recsys_core.odps.types import to_arrow
from recsys_core.writers import odps as writer

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "maxcompute.md").read_text()
KEYS = Keys("ak", "a secret")
TABLES = {"taobao_data_train": 900, "taobao_data_test": 300}


def _printed(language: str, first: str) -> str:
    return next(text for text in re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL) if text.startswith(first))


def _rows(columns: list[tuple[str, str]], num_rows: int, seed: int) -> pa.Table:
    """Ids as the tutorial's types have them: whole numbers in doubles, some unknown, and texts of ids."""
    rng = np.random.default_rng(seed)
    brand = rng.integers(1, 40, num_rows)
    num_clicks = rng.integers(0, 6, num_rows)
    made: dict[str, Any] = {}
    for name, kind in columns:
        if name.startswith("click_50_seq__"):
            # Brands as a program writes them that has read them as floating numbers.
            end = ".0" if name == "click_50_seq__brand" else ""
            made[name] = [";".join(f"{one}{end}" for one in rng.integers(1, 40, count)) for count in num_clicks]
        elif name == "brand":
            made[name] = [float(one) if one > 2 else None for one in brand]
        elif name in ("clk", "buy"):
            made[name] = ((brand % 2 == 0) if name == "clk" else np.zeros(num_rows)).astype(int).tolist()
        elif kind == "STRING":
            made[name] = [f"{name}{n % 2}" for n in range(num_rows)]
        else:
            made[name] = rng.integers(0, 7, num_rows).tolist()
    return pa.table(made, schema=pa.schema([(name, to_arrow(kind.lower())) for name, kind in columns]))


def test_clicked_ids_have_the_rows_of_the_candidates():
    section = yaml.safe_load(_printed("yaml", "name: din_maxcompute"))["features"]
    engine = features.Engine.build(features.Config.model_validate(section))
    columns = re.findall(r"^    (\w+) (\w+),?$", _printed("sql", "CREATE TABLE"), re.MULTILINE)[:22]
    rows = _rows(columns, 40, 3)
    ids = pa.array(range(1, 41))
    for name in ("adgroup_id", "cate_id", "brand"):
        rows = rows.set_column(rows.schema.get_field_index(name), name, ids.cast(rows.schema.field(name).type))
        texts = pa.array([f"{one}.0" if name == "brand" else str(one) for one in ids.to_pylist()])
        column = f"click_50_seq__{name}"
        rows = rows.set_column(rows.schema.get_field_index(column), column, texts)
    engine.fit([rows], [rows])
    clicked, candidates = engine.transform(rows, "query").sparse, engine.transform(rows, "item").sparse
    for name in ("adgroup_id", "cate_id", "brand"):
        assert clicked[f"click_50_seq__{name}"].values.tolist() == candidates[name].values.tolist()
        assert len({*candidates[name].values.tolist()}) > 35, "but for a few of the same hash each has a row"


def _write(table: str, rows: pa.Table) -> None:
    target = writer.Table(writer.Config(path=f"odps://rec_template/tables/{table}"))
    state = target.begin(rows.schema)
    with target.part(state, 0) as part:
        part.write(rows)
    target.commit(state, [part.close()])


def test_the_page_s_tables_train_and_are_scored(prefect_server: str, tmp_path: Path, monkeypatch: Any) -> None:
    folder = tmp_path / "odps"
    (folder / "rec_template").mkdir(parents=True)
    with Emulator(folder, [KEYS]) as running:
        environment = {
            "ODPS_ACCESS_ID": KEYS.access_id,
            "ODPS_ACCESS_KEY": KEYS.secret,
            "ODPS_ENDPOINT": running.endpoint,
            "NO_PROXY": "127.0.0.1",
        }
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        client = ODPS(KEYS.access_id, KEYS.secret, project="rec_template", endpoint=running.endpoint)
        statements = [text for text in _printed("sql", "CREATE TABLE").split(";\n") if text.strip()]
        assert len(statements) == 2
        for seed, statement in enumerate(statements):
            client.execute_sql(f"{statement};\n")
            (table,) = re.findall(r"TABLE (\w+)", statement)
            columns = re.findall(r"^    (\w+) (\w+),?$", statement, re.MULTILINE)
            assert len(columns) == 22 + (table == "taobao_data_test")
            _write(table, _rows(columns, TABLES[table], seed))
        config = tmp_path / "din.yaml"
        settings = yaml.safe_load(_printed("yaml", "name: din_maxcompute"))
        config.write_text(yaml.safe_dump(settings | {"run_root": str(tmp_path / "runs")}))
        changes = [f"--set={key}" for key in ("train.batch_size=64", "train.num_epochs=4")]
        run = subprocess.run(
            [sys.executable, "-c", "from flows.cli import main; main()", "run", str(config), "--json", *changes],
            cwd=ROOT,
            env=os.environ | environment | {"PREFECT_API_URL": prefect_server},
            capture_output=True,
            text=True,
            check=False,
            timeout=1_800,
        )
        assert run.returncode == 0, run.stderr
    result = json.loads(run.stdout)
    assert result["metrics"]["num_rows"] == TABLES["taobao_data_test"]
    assert result["metrics"]["auc"] > 0.7, "clicks follow from the brand, a DOUBLE"
    written = pq.read_table(folder / "rec_template" / "taobao_data_test_output")
    assert written.num_rows == TABLES["taobao_data_test"]
    assert written.column_names == ["user_id", "adgroup_id", "clk", "score", "probability"]
