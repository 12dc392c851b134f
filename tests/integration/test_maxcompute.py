"""A day from MaxCompute's tables to MaxCompute's tables, in processes that find the service by their environment."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

ROOT = Path(__file__).parents[2]
_COMMAND = [sys.executable, "-c", "from flows.cli import main; main()"]
SOURCES = {name: f"odps://shop/tables/{name}" for name in ("interactions", "users", "items")}


@pytest.fixture
def service(shop: Path, tmp_path: Path) -> Iterator[tuple[Path, dict[str, str]]]:
    """An emulator in a process of its own that serves the shop's log; its folder, and how to get in."""
    folder = tmp_path / "odps"
    shutil.copytree(shop, folder / "shop")
    command = [*_COMMAND, "odps-emulator", str(folder), "--port", "0"]
    commit = json.dumps({"kind": "lost", "operation": "commit"})
    cut = json.dumps({"kind": "short", "operation": "read", "skip": 2})
    with subprocess.Popen([*command, "--fault", commit, "--fault", cut], cwd=ROOT, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            variables = [
                process.stdout.readline().decode().removeprefix("export ").strip().split("=", 1) for _ in range(5)
            ]
            yield folder, dict(variables)
        finally:
            process.terminate()


def test_a_day_in_and_out_of_maxcompute(
    service: tuple[Path, dict[str, str]], write_config: Callable[[Path], Path], prefect_server: str, tmp_path: Path
) -> None:
    folder, variables = service
    # As the tutorial of another tool has it: one file, which odpscmd reads, too.
    settings = tmp_path / "odps_conf.ini"
    settings.write_text(
        f"project_name = shop\naccess_id = {variables['ODPS_ACCESS_ID']}\naccess_key = {variables['ODPS_ACCESS_KEY']}\n"
        f"end_point = {variables['ODPS_ENDPOINT']}\n"
    )
    config = write_config(tmp_path)
    text = config.read_text()
    config.write_text(text[: text.index("data:")] + f"data: {{kind: tables, source: {json.dumps(SOURCES)}}}\n")
    changes = [
        "embed.items_output=odps://shop/tables/item_vectors/ds={day}",
        "embed.queries_output=odps://shop/tables/query_vectors/ds={day}",
        "train.num_epochs=1",
        "launch.num_ranks=2",
    ]
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("ODPS_", "ALIBABA_"))}
    environment |= {"ODPS_CONFIG_FILE_PATH": str(settings)}
    run = subprocess.run(
        [*_COMMAND, "run", str(config), "--json", *(part for change in changes for part in ("--set", change))],
        cwd=ROOT,
        env=environment | {"PREFECT_API_URL": prefect_server, "NO_PROXY": "127.0.0.1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=1_800,
    )
    assert run.returncode == 0, run.stderr
    day = json.loads(run.stdout)["day"]
    for table, kept in (("item_vectors", {"item_id"}), ("query_vectors", {"user_id", "gt_items", "seen_items"})):
        written = pq.read_table(folder / "shop" / table / f"ds={day}", partitioning=None)
        own = next(tmp_path.glob(f"runs/tiny/{day}/*/embed/{'items' if table[0] == 'i' else 'queries'}"))
        expected = pq.read_table(own, partitioning=None)
        assert set(written.column_names) == kept | {"embedding"}
        key = "item_id" if "item_id" in kept else "user_id"
        assert written.sort_by(key).to_pylist() == expected.sort_by(key).to_pylist()
    secret = variables["ODPS_ACCESS_KEY"]
    assert secret not in run.stderr
    assert not any(secret in path.read_text(errors="replace") for path in tmp_path.glob("runs/**/*") if path.is_file())


RANKING = {
    "name": "pairs",
    "data": {
        "kind": "tables",
        "source": {"train": "odps://shop/tables/rows/ds={day}", "test": "odps://shop/tables/held_out/ds={day}"},
        "day": "2024-01-02",
    },
    "features": {
        "embedding_dim": 4,
        "query": [{"kind": "id", "name": "user", "num_embeddings": 32}],
        "item": [{"kind": "id", "name": "item", "num_embeddings": 64}],
    },
    "ranking": {"group": "user"},
    "model": {"kind": "dlrm", "bottom_hidden": [4], "top_hidden": [8], "concat_pooled": True},
    "train": {"batch_size": 100},
    "predict": {
        "source": "odps://shop/tables/held_out/ds={day}",
        "output": "odps://shop/tables/scores/ds={day}",
        "reserved_columns": ["request", "label"],
        "batch_size": 64,
    },
    "launch": {"num_ranks": 2},
    "tracking": {"system_metrics": False},
}


def _labelled(folder: Path, num_rows: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    user, item = rng.integers(0, 20, num_rows), rng.integers(0, 30, num_rows)
    columns = {
        "request": [f"r{n}" for n in range(num_rows)],
        "label": (user % 2 == item % 2).astype(np.int64),
        "user": [f"u{n}" for n in user],
        "item": item,
    }
    folder.mkdir(parents=True)
    pq.write_table(pa.table(columns), folder / "a.parquet", row_group_size=90)


def test_scores_of_a_table_go_back_to_a_table(
    service: tuple[Path, dict[str, str]], prefect_server: str, tmp_path: Path
) -> None:
    folder, variables = service
    for day, num_rows in (("2024-01-01", 50), ("2024-01-02", 700)):
        _labelled(folder / "shop" / "rows" / f"ds={day}", num_rows, 1)
        _labelled(folder / "shop" / "held_out" / f"ds={day}", num_rows // 2, 2)
    config = tmp_path / "pairs.yaml"
    config.write_text(yaml.safe_dump(RANKING | {"run_root": str(tmp_path / "runs")}))
    # As the tutorial of another tool has it where there is no file: the cloud's chain, and the endpoint.
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("ODPS_", "ALIBABA_"))}
    environment |= {
        "ALIBABA_CLOUD_ACCESS_KEY_ID": variables["ODPS_ACCESS_ID"],
        "ALIBABA_CLOUD_ACCESS_KEY_SECRET": variables["ODPS_ACCESS_KEY"],
        "ALIBABA_CLOUD_ECS_METADATA_DISABLED": "true",
        "ODPS_ENDPOINT": variables["ODPS_ENDPOINT"],
        "NO_PROXY": "127.0.0.1",
        "PREFECT_API_URL": prefect_server,
    }

    def command(*arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, *arguments],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=1_800,
        )
        assert done.returncode == 0, done.stderr
        assert variables["ODPS_ACCESS_KEY"] not in done.stderr
        return done.stdout

    result = json.loads(command("-c", "from flows.cli import main; main()", "run", str(config), "--json"))
    written = folder / "shop" / "scores" / "ds=2024-01-02"
    scores = pq.read_table(written, partitioning=None).sort_by("request")
    kinds = {"request": pa.string(), "label": pa.int64(), "score": pa.float32(), "probability": pa.float32()}
    assert scores.schema.equals(pa.schema(kinds.items()))
    assert scores.equals(pq.read_table(result["predictions"], partitioning=None).sort_by("request"))
    assert scores["request"].to_pylist() == sorted(f"r{n}" for n in range(350))
    # The stage alone, on one rank where there were two: what it writes replaces what was there.
    request = Path(result["artifacts"]["predict"]).with_suffix(".request.json")
    command("-m", "recsys_core", "rank_predict", "--request", str(request))
    again = pq.read_table(written, partitioning=None).sort_by("request")
    assert again.select(["request", "label"]).equals(scores.select(["request", "label"]))
    # Other batches round elsewhere.
    np.testing.assert_allclose(again["score"].to_numpy(), scores["score"].to_numpy(), rtol=1e-4, atol=1e-5)
