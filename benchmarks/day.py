"""Where each second of a day goes: a warm day of the demo's shop, the same day again, and a backfill of several.

    python benchmarks/day.py [WORK] [--days N] [--movielens-days N] [--scale F] [--first-day] [--json FILE]

Each case is one `dayline` command, run as a person runs it, after what it needs has been made: the release that a warm
day continues, and a Prefect database. While it runs, each of its Python processes notes what its main thread is doing,
and every moment of the command is put down to one thing:

    start     an interpreter boots, or the command line is read
    import    a module is being imported, in the command's process or in the stage's that it waits for
    work      Dayline's own code and what it calls: the stages, the gate, the report
    MLflow    MLflow's code, the database's included
    Prefect   Prefect's code, or its server is waited for
    exit      after the result was printed

`total` stands beside the work: a ratio of 1 is a day without overhead. `overhead` is everything but work on the warm
day; for its share of a day of 10 million examples, the work is no more than their training at the measured rate. On a
machine that does something else besides, all of it takes longer, and `CPU` says more. Noting costs a few percent.

MovieLens 100K is read from `ml-100k` below RECSYS_DATA or ../shared/data, and left out where that is missing. WORK
keeps what was made, and must be empty.
"""

import argparse
import bisect
import datetime
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import yaml

_ROOT = Path(__file__).parent.parent
_DATA = Path(os.environ.get("RECSYS_DATA", "../shared/data"))
_SHOP = {"num_users": 8_000, "num_items": 3_000, "interactions_per_day": 20_000}
_KINDS = ("start", "import", "work", "MLflow", "Prefect", "exit")
# What a process is put down to while the command's own waits for it: the busiest comes first.
_FIRST = ("work", "import", "MLflow", "start")
_STEP_SECONDS = 0.005
_MANY_EXAMPLES = 10_000_000
_A_DAY = datetime.timedelta(days=1)


class Timed(NamedTuple):
    """One command: seconds by kind, CPU seconds of all its processes, and the days that it printed."""

    seconds: dict[str, float]
    cpu_seconds: float
    days: list[dict[str, Any]]

    @property
    def total(self) -> float:
        """Seconds from the start to the exit."""
        return sum(self.seconds.values())

    @property
    def overhead(self) -> float:
        """Seconds of everything but work."""
        return self.total - self.seconds["work"]


class Samples:
    """What one process was doing, by time."""

    def __init__(self, path: Path) -> None:
        """Read what `sampling/sitecustomize.py` wrote; a last line that was cut off is none."""
        self.command, *lines = path.read_text().rpartition("\n")[0].split("\n")
        changes = [line.split(" ") for line in lines]
        self.times = [float(at) for at, _ in changes]
        self._whats = [what for _, what in changes]

    def at(self, moment: float) -> str | None:
        """Return what it was doing, None before it was sampled."""
        place = bisect.bisect_right(self.times, moment) - 1
        return self._whats[place] if place >= 0 else None


class Bench(NamedTuple):
    """Where things are made."""

    work: Path

    def run(self, *arguments: str) -> Timed:
        """Run `dayline ARGUMENTS --json`, sampled."""
        self.work.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=self.work) as samples:
            environment = os.environ | {
                "PYTHONPATH": str(_ROOT / "benchmarks" / "sampling"),
                "DAYLINE_SAMPLES": samples,
                "PREFECT_HOME": str((self.work / "prefect").absolute()),
            }
            before, started = _cpu_seconds(), time.time()
            dayline = Path(sys.executable).with_name("dayline")
            process = subprocess.Popen([dayline, *arguments, "--json"], stdout=subprocess.PIPE, env=environment)
            assert process.stdout is not None
            printed = process.stdout.read1()
            written = time.time()
            printed += process.stdout.read()
            if process.wait():
                raise SystemExit(f"dayline {' '.join(arguments)}: exit code {process.returncode}")
            ended = time.time()
            files = {path.name: Samples(path) for path in Path(samples).iterdir()}
            own = files.pop(str(process.pid))
            others = [file for file in files.values() if "flows.server" not in file.command]
        days = json.loads(printed)
        seconds = _seconds(own, others, started, written, ended)
        return Timed(seconds, _cpu_seconds() - before, days if isinstance(days, list) else [days])


def _cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _seconds(own: Samples, others: list[Samples], started: float, written: float, ended: float) -> dict[str, float]:
    """Put every moment up to the printed result down to what the command did, or the process that it waited for."""
    seconds = dict.fromkeys(_KINDS, 0.0)
    for step in range(int((written - started) / _STEP_SECONDS)):
        moment = started + step * _STEP_SECONDS
        what = own.at(moment) or "start"
        if what == "wait":
            busy = {other.at(moment) for other in others}
            what = next((kind for kind in _FIRST if kind in busy), "start")
        seconds[what] += _STEP_SECONDS
    seconds["exit"] = ended - written
    return seconds


def _rows(case: str, timed: Timed) -> list[dict[str, Any]]:
    """Return the rows of a case, and print them."""
    rows: list[dict[str, Any]] = []

    def emit(figure: str, value: float, reference: float, unit: str = "s") -> None:
        ratio = value / reference if reference else float("inf")
        rows.append(
            {"case": case, "figure": figure, "value": value, "unit": unit, "reference": reference, "ratio": ratio}
        )
        print(f"{case:<28} {figure:<24} {value:>9.2f} {unit:<3} of {reference:>9.2f} {ratio:>7.3f}", flush=True)

    emit("total", timed.total, timed.seconds["work"])
    for kind in _KINDS:
        emit(kind, timed.seconds[kind], timed.total)
    emit("CPU", timed.cpu_seconds, timed.total)
    stages = [stage for day in timed.days for stage in day["stages"].items()]
    for name in dict.fromkeys(name for name, _ in stages):
        emit(f"stage {name}", sum(stage["seconds"] for other, stage in stages if other == name), timed.total)
    if len(timed.days) > 1:
        emit("a day", timed.total / len(timed.days), timed.total)
    elif not all(stage["cached"] for _, stage in stages):
        metrics = timed.days[0]["metrics"]
        training = _MANY_EXAMPLES * _num_epochs() / metrics["examples_per_second"]
        emit("overhead", timed.overhead, timed.total)
        emit("overhead of 10 million", timed.overhead, timed.overhead + training)
    return rows


def _num_epochs() -> int:
    return yaml.safe_load((_ROOT / "configs" / "demo.yaml").read_text())["train"]["num_warm_epochs"]


def shop(work: Path, num_days: int, scale: float, *, first_day: bool) -> list[dict[str, Any]]:
    """Measure the demo's shop: a warm day, that day again, and a backfill of `num_days` warm days; or its first day."""
    bench, log, config = Bench(work), work / "log", str(_ROOT / "configs" / "demo.yaml")
    _generate(log, num_days + 4, scale)
    from recsys_core.datasets import daily

    last = daily.last_day(log)
    changes = ["--set", f"data.source={log}", "--set", f"run_root={work / 'runs'}"]
    first = last - (num_days + 1) * _A_DAY
    cold = bench.run("run", config, "--day", str(first), *changes)
    if first_day:
        return _rows("first day", cold)
    asked = ["run", config, "--day", str(first + _A_DAY), *changes]
    rows = _rows("warm day", bench.run(*asked)) + _rows("the same day again", bench.run(*asked))
    if num_days:
        span = ["--from", str(first + 2 * _A_DAY), "--to", str(last)]
        rows += _rows(f"backfill of {num_days} days", bench.run("backfill", config, *span, *changes))
    return rows


def _generate(log: Path, num_days: int, scale: float) -> None:
    from recsys_core import ingest
    from recsys_core.datasets import synthetic
    from recsys_core.progress import silent

    if not log.exists():
        settings = {name: round(number * scale) for name, number in _SHOP.items()} | {"num_days": num_days}
        ingest.import_log(synthetic.Config.model_validate(settings), log, silent)


def movielens(work: Path, num_days: int) -> list[dict[str, Any]]:
    """Measure a backfill of MovieLens 100K, after one day that the first of them continues."""
    bench, config = Bench(work), str(_ROOT / "configs" / "movielens_two_tower.yaml")
    last = datetime.date(1998, 4, 14)
    changes = ["--set", f"data.source={_DATA / 'ml-100k'}", "--set", f"run_root={work / 'runs'}"]
    bench.run("run", config, "--day", str(last - num_days * _A_DAY), *changes)
    span = ["--from", str(last - (num_days - 1) * _A_DAY), "--to", str(last)]
    return _rows(f"MovieLens, {num_days} days", bench.run("backfill", config, *span, *changes))


def main() -> None:
    """Measure all cases and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path, nargs="?", help="folder to keep things in; by default they are deleted")
    parser.add_argument("--days", type=int, default=3, help="days of the shop's backfill; 0: none")
    parser.add_argument("--movielens-days", type=int, default=14, help="days of MovieLens's backfill; 0: none")
    parser.add_argument("--scale", type=float, default=1.0, help="of the shop; 1: 8,000 users")
    parser.add_argument("--first-day", action="store_true", help="measure the shop's first day, and nothing else")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there too")
    arguments = parser.parse_args()
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as elsewhere:
        work = (arguments.work or Path(elsewhere)).absolute()
        rows += shop(work / "shop", arguments.days, arguments.scale, first_day=arguments.first_day)
        if arguments.movielens_days and not arguments.first_day and (_DATA / "ml-100k").is_dir():
            rows += movielens(work / "movielens", arguments.movielens_days)
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
