"""What large logs take: rows per second and peak memory, as the rows grow. Flat memory and linear time are the goal.

    python benchmarks/scale.py [--cases criteo ...] [--rows N ...] [--work DIR] [--json FILE] [--plot FILE.png]

    preprocess  a log of ten days, with a user for each 20 rows and an item for each 100, becomes the examples of a cold
                start with histories of up to 50 items, the item table, the ground truth and fitted features; the
                reference is the same by the whole log in memory

    criteo      the text of Criteo's logs becomes encoded rows in splits, by `dayline data import criteo`; the reference
                is Arrow's CSV reader, which reads the same text into columns and throws them away

Each size is made first, and then worked on in a process of its own. Ratios of memory are to that of the smallest size.
"""

import argparse
import datetime
import json
import multiprocessing
import resource
import shutil
import tempfile
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv

from recsys_core import ingest
from recsys_core.datasets import base, daily
from recsys_core.datasets.labelled import _criteo_made, criteo
from recsys_core.features import Config as Features
from recsys_core.progress import silent
from recsys_core.retrieval import preprocess
from recsys_core.retrieval.preprocess import by_day

Work = Callable[[Path], None]


class Case(NamedTuple):
    """How rows are made, and what works on them: `ours` and the `reference`, each called with their folder."""

    make: Callable[[Path, int], None]
    ours: Work
    reference: Work


def make_criteo(folder: Path, num_rows: int) -> None:
    """Write the text of `num_rows` rows."""
    _criteo_made.write(_criteo_made.Config(num_rows=num_rows), folder, silent)


def import_criteo(folder: Path) -> None:
    """Encode the text, and write it in splits."""
    config = criteo.Config(source=str(folder))
    out = folder.with_name(f"{folder.name}-imported")
    ingest.write_whole(out, lambda root: criteo.write(config, root, silent), overwrite=True)
    shutil.rmtree(out)


def scan_criteo(folder: Path) -> None:
    """Read every field as text or a number, and throw it away."""
    options = pacsv.ReadOptions(autogenerate_column_names=True, block_size=32 << 20)
    for _ in pacsv.open_csv(folder / "train.txt", options, pacsv.ParseOptions(delimiter="\t")):
        pass


_FIRST_DAY, _NUM_DAYS = datetime.date(2024, 1, 1), 10
_ROWS_PER_USER, _ROWS_PER_ITEM = 20, 100


def make_log(folder: Path, num_rows: int) -> None:
    """Write a log, most interactions with some of the users and items."""
    rng, per_day = np.random.default_rng(0), num_rows // _NUM_DAYS
    num_users, num_items = max(num_rows // _ROWS_PER_USER, 1), max(num_rows // _ROWS_PER_ITEM, 1)

    def write(table: str, day: datetime.date, columns: dict[str, np.ndarray]) -> None:
        base.write_parquet(folder / table / base.partition(day) / "part-00000.parquet", [pa.table(columns)])

    write("users", _FIRST_DAY, {"user_id": np.arange(num_users), "city": np.arange(num_users) % 50})
    write("items", _FIRST_DAY, {"item_id": np.arange(num_items), "category": np.arange(num_items) % 200})
    for number in range(_NUM_DAYS):
        day = _FIRST_DAY + datetime.timedelta(days=number)
        columns = {
            "user_id": (num_users * rng.random(per_day) ** 1.5).astype(np.int64),
            "item_id": (num_items * rng.random(per_day) ** 2).astype(np.int64),
            "timestamp": np.sort(rng.integers(0, base.DAY_SECONDS, per_day)) + base.day_number(day) * base.DAY_SECONDS,
        }
        write("interactions", day, columns)


def preprocess_log(folder: Path) -> None:
    """Check the log, and make the training data of its last day but one."""
    day, config = _FIRST_DAY + datetime.timedelta(days=_NUM_DAYS - 2), daily.Config(source=str(folder))
    out = folder.with_name(f"{folder.name}-preprocessed")
    common: dict[str, Any] = {"config_hash": "benchmark", "code_version": "benchmark"}
    imported = ingest.Request(
        output=out / "ingest", config=config, day=day, import_root=out, fingerprint=ingest.fingerprint(config, day),
        **common,
    )  # fmt: skip
    features = {
        "embedding_dim": 16,
        "query": [
            {"kind": "id", "name": "city", "num_embeddings": 64},
            {"kind": "sequence", "name": "history__item_id", "table": "item_id"},
        ],
        "item": [
            {"kind": "id", "name": "item_id", "num_embeddings": 10_000_000},
            {"kind": "id", "name": "category", "num_embeddings": 256},
        ],
    }
    asked = preprocess.Request(
        output=out / "preprocess", dataset=ingest.run(imported, silent), day=day, config=preprocess.Config(),
        features=Features.model_validate(features), **common,
    )  # fmt: skip
    preprocess.run(asked, silent)
    shutil.rmtree(out)


def preprocess_whole(folder: Path) -> None:
    """Do the same with all days in memory."""
    by_day.serves = lambda *_: False
    preprocess_log(folder)


CASES = {
    "criteo": Case(make_criteo, import_criteo, scan_criteo),
    "preprocess": Case(make_log, preprocess_log, preprocess_whole),
}


def measured(work: Work, folder: Path) -> tuple[float, int]:
    """Return the seconds that `work` takes in a process of its own, and that process's peak memory in bytes."""
    context = multiprocessing.get_context("spawn")
    ours, there = context.Pipe()
    process = context.Process(target=_work, args=(work, folder, there))
    process.start()
    there.close()
    try:
        found: tuple[float, int] = ours.recv()
    except EOFError:
        raise SystemExit(f"{folder}: the process that works on it has ended before it was done") from None
    process.join()
    return found


def _work(work: Work, folder: Path, connection: Connection) -> None:
    start = time.perf_counter()
    work(folder)
    seconds = time.perf_counter() - start
    connection.send((seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024))


def measure(name: str, sizes: list[int], work: Path) -> list[dict[str, Any]]:
    """Measure one case at each size, and print its lines."""
    rows: list[dict[str, Any]] = []
    smallest: int | None = None
    for num_rows in sizes:
        folder = work / f"{name}-{num_rows}"
        CASES[name].make(folder, num_rows)
        seconds, peak = measured(CASES[name].ours, folder)
        reference, _ = measured(CASES[name].reference, folder)
        shutil.rmtree(folder)
        smallest = smallest or peak
        case = f"{name}, {num_rows:,} rows"
        rows.append(_row(case, "rows per second", num_rows / seconds, "1/s", num_rows / reference))
        rows.append(_row(case, "peak memory", peak, "bytes", smallest))
        print(
            f"{case:<28} {num_rows / seconds:>12,.0f} {num_rows / reference:>12,.0f} {reference / seconds:>6.2f} ",
            end="",
        )
        print(f"{peak / 1e9:>8.2f} GB {peak / smallest:>6.2f}", flush=True)
    return rows


def _row(case: str, figure: str, value: float, unit: str, reference: float) -> dict[str, Any]:
    return {
        "case": case,
        "figure": figure,
        "value": value,
        "unit": unit,
        "reference": reference,
        "ratio": value / reference,
    }


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    """Draw speed and memory over the rows."""
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(9, 3.5))
    for axis, name, scale, label in (
        (axes[0], "rows per second", 1, "rows per second"),
        (axes[1], "peak memory", 1e9, "peak memory, GB"),
    ):
        for case in dict.fromkeys(row["case"].split(",")[0] for row in rows):
            own = [row for row in rows if row["figure"] == name and row["case"].startswith(f"{case},")]
            sizes = [int(row["case"].split(", ", 1)[1].split()[0].replace(",", "")) for row in own]
            axis.plot(sizes, [row["value"] / scale for row in own], marker="o", label=case)
        axis.set(xscale="log", xlabel="rows", ylabel=label, ylim=(0, None))
        axis.legend()
    figure.tight_layout()
    figure.savefig(path)


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", choices=[*CASES], default=[*CASES])
    parser.add_argument("--rows", type=int, nargs="+", default=[1_000_000, 10_000_000])
    parser.add_argument("--work", type=Path, metavar="DIR", help="where rows are made; by default a temporary folder")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there too")
    parser.add_argument("--plot", type=Path, metavar="FILE.png", help="draw speed and memory over the rows")
    arguments = parser.parse_args()
    print(f"{'case':<28} {'rows/s':>12} {'reference':>12} {'ratio':>6} {'memory':>11} {'ratio':>6}")
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(dir=arguments.work) as folder:
        for name in arguments.cases:
            rows += measure(name, sorted(arguments.rows), Path(folder))
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=2) + "\n")
    if arguments.plot:
        plot(rows, arguments.plot)


if __name__ == "__main__":
    main()
