"""A day from MaxCompute's tables to MaxCompute's tables, in processes that find the service by their environment."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest

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
            told = [process.stdout.readline().decode().removeprefix("export ").strip().split("=", 1) for _ in range(4)]
            yield folder, dict(told)
        finally:
            process.terminate()


def test_a_day_in_and_out_of_maxcompute(
    service: tuple[Path, dict[str, str]], write_config: Callable[[Path], Path], tmp_path: Path
) -> None:
    folder, told = service
    # As the tutorial of another tool has it: one file, which odpscmd reads, too.
    settings = tmp_path / "odps_conf.ini"
    settings.write_text(
        f"project_name = shop\naccess_id = {told['ODPS_ACCESS_ID']}\naccess_key = {told['ODPS_ACCESS_KEY']}\n"
        f"end_point = {told['ODPS_ENDPOINT']}\n"
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
    environment |= {"ODPS_CONFIG_FILE_PATH": str(settings), "PREFECT_HOME": str(tmp_path / "prefect")}
    run = subprocess.run(
        [*_COMMAND, "run", str(config), "--json", *(part for change in changes for part in ("--set", change))],
        cwd=ROOT,
        env=environment | {"PREFECT_API_URL": "", "NO_PROXY": "127.0.0.1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=500,
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
    secret = told["ODPS_ACCESS_KEY"]
    assert secret not in run.stderr
    assert not any(secret in path.read_text(errors="replace") for path in tmp_path.glob("runs/**/*") if path.is_file())
