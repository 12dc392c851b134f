"""Where each second of a day goes: a warm day of the demo's shop, the same day again, and a backfill of several.

    python benchmarks/day.py [WORK] [--days N] [--movielens-days N] [--scale F] [--first-day] [--json FILE]

Each case is one `dayline` command, run as a person runs it, after what it needs has been made: the release that a warm
day continues, and a Prefect database. What a command keeps running for the next one, until `dayline stop`, counts: a
warm day and the same day again are run with nothing kept, then as the first commands that keep something, and another
warm day after them. `kept` is the memory of what runs on after the command. While it runs, each of its Python processes
notes what its main thread is doing, and every moment of the command is put down to one thing:

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
import contextlib
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

import psutil
import yaml

_ROOT = Path(__file__).parent.parent
_DATA = Path(os.environ.get("RECSYS_DATA", "../shared/data"))
_SHOP = {"num_users": 8_000, "num_items": 3_000, "interactions_per_day": 20_000}
_KINDS = ("start", "import", "work", "MLflow", "Prefect", "exit")
# What a process is put down to while the command's own waits for it: the busiest comes first.
_FIRST = ("work", "import", "MLflow", "Prefect", "start")
_DAYLINE = Path(sys.executable).with_name("dayline")
_STEP_SECONDS = 0.005
_MANY_EXAMPLES = 10_000_000
_A_DAY = datetime.timedelta(days=1)


class Timed(NamedTuple):
    """One command: seconds by kind, CPU seconds of all its processes, the days that it printed, and what it keeps."""

    seconds: dict[str, float]
    cpu_seconds: float
    kept_bytes: int
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


class Bench:
    """Where things are made, and what is kept between commands."""

    def __init__(self, work: Path) -> None:
        """Make the folder."""
        self.work = work
        self._samples = work / "samples"
        self._samples.mkdir(parents=True, exist_ok=True)
        self._environment = os.environ | {
            "PYTHONPATH": str(_ROOT / "benchmarks" / "sampling"),
            "DAYLINE_SAMPLES": str(self._samples),
            "PREFECT_HOME": str(work / "prefect"),
            "XDG_CACHE_HOME": str(work / "cache"),
        }

    def run(self, *arguments: str, keep: bool = False) -> Timed:
        """Run `dayline ARGUMENTS --json`, sampled; `keep`: processes for the next command, and use what there is."""
        for path in self._samples.iterdir():
            # What one was doing when it ended would else count for as long as it is read.
            if not psutil.pid_exists(int(path.name)):
                path.unlink()
        before, started = _cpu_seconds() + self._kept_cpu_seconds(), time.time()
        command = [_DAYLINE, *arguments, "--json"]
        environment = self._environment | {"DAYLINE_KEEP_SECONDS": "600" if keep else "0"}
        process = subprocess.Popen(command, stdout=subprocess.PIPE, env=environment)
        assert process.stdout is not None
        printed = process.stdout.read1()
        written = time.time()
        printed += process.stdout.read()
        if process.wait():
            raise SystemExit(f"dayline {' '.join(arguments)}: exit code {process.returncode}")
        ended = time.time()
        files = {path.name: Samples(path) for path in self._samples.iterdir()}
        own = files.pop(str(process.pid))
        flows = [file for file in files.values() if "flows.kept" in file.command]
        others = [file for file in files.values() if "flows." not in file.command]
        days = json.loads(printed)
        return Timed(
            _seconds([own, *flows], others, started, written, ended),
            _cpu_seconds() + self._kept_cpu_seconds() - before,
            sum(process.memory_full_info().pss for process in self._kept()),
            days if isinstance(days, list) else [days],
        )

    def stop(self) -> None:
        """End what is kept."""
        subprocess.run([_DAYLINE, "stop"], env=self._environment, check=True)

    def _kept(self) -> list[psutil.Process]:
        found = []
        for process in psutil.process_iter():
            # Those of others cannot be looked at.
            with contextlib.suppress(psutil.Error):
                if process.environ().get("DAYLINE_SAMPLES") == str(self._samples):
                    found.append(process)
        return found

    def _kept_cpu_seconds(self) -> float:
        times = [process.cpu_times() for process in self._kept()]
        return sum(one.user + one.system + one.children_user + one.children_system for one in times)


def _cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _seconds(
    own: list[Samples], others: list[Samples], started: float, written: float, ended: float
) -> dict[str, float]:
    """Put every moment up to the printed result down to what the command did, or the process that it waited for.

    `own` are the command's process, and those that it hands its work to, in this order.
    """
    seconds = dict.fromkeys(_KINDS, 0.0)
    for step in range(int((written - started) / _STEP_SECONDS)):
        moment = started + step * _STEP_SECONDS
        what = own[0].at(moment) or "start"
        if what == "wait":
            what = next((did for one in own[1:] if (did := one.at(moment)) not in (None, "wait")), "wait")
        if what == "wait":
            busy = {other.at(moment) for other in others}
            what = next((kind for kind in _FIRST if kind in busy), "start")
        seconds[what] += _STEP_SECONDS
    seconds["exit"] = ended - written
    return seconds


def _rows(case: str, timed: Timed) -> list[dict[str, Any]]:
    """Return the rows of a case, and print them."""
    rows: list[dict[str, Any]] = []

    def emit(figure: str, value: float, reference: float | None, unit: str = "s") -> None:
        ratio = value / reference if reference else None
        rows.append(
            {"case": case, "figure": figure, "value": value, "unit": unit, "reference": reference, "ratio": ratio}
        )
        compared = f"of {reference:>9.2f} {ratio or 0:>7.3f}" if reference is not None else ""
        print(f"{case:<28} {figure:<24} {value:>9.2f} {unit:<3} {compared}", flush=True)

    emit("total", timed.total, timed.seconds["work"])
    for kind in _KINDS:
        emit(kind, timed.seconds[kind], timed.total)
    emit("CPU", timed.cpu_seconds, timed.total)
    emit("kept", timed.kept_bytes / 1e6, None, "MB")
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
    """Measure the demo's shop: warm days, the same again, and a backfill of `num_days` warm days; or its first day."""
    bench, log, config = Bench(work), work / "log", str(_ROOT / "configs" / "demo.yaml")
    _generate(log, num_days + 6, scale)
    from recsys_core.datasets import daily

    last = daily.last_day(log)
    changes = ["--set", f"data.source={log}", "--set", f"run_root={work / 'runs'}"]
    first = last - (num_days + 3) * _A_DAY

    def run(number: int, *, keep: bool) -> Timed:
        return bench.run("run", config, "--day", str(first + number * _A_DAY), *changes, keep=keep)

    cold = run(0, keep=False)
    if first_day:
        return _rows("first day", cold)
    rows = _rows("warm day, nothing kept", run(1, keep=False))
    rows += _rows("again, nothing kept", run(1, keep=False))
    try:
        rows += _rows("warm day, first command", run(2, keep=True))
        rows += _rows("the same day again", run(2, keep=True))
        rows += _rows("warm day, next command", run(3, keep=True))
    finally:
        bench.stop()
    if num_days:
        span = ["--from", str(first + 4 * _A_DAY), "--to", str(last)]
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
