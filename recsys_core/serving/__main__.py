"""`python -m recsys_core.serving BUNDLE`: load a bundle and serve its own queries; exit code 1 if it is unfit."""

import sys
import threading
from pathlib import Path

import pyarrow.parquet as pq

from recsys_core import launch
from recsys_core.serving import QUERIES, Bundle

_K = 10


def main(arguments: list[str]) -> int:
    """Check the bundle whose folder is the first argument; `--watch-stdin` ends it when standard input closes."""
    if arguments[1:] not in ([], ["--watch-stdin"]) or not arguments:
        sys.stderr.write("usage: python -m recsys_core.serving BUNDLE [--watch-stdin]\n")
        return 2
    if arguments[1:]:
        threading.Thread(target=launch.exit_with_starter, daemon=True, name="watch-stdin").start()
    directory = Path(arguments[0])
    try:
        report = Bundle.load(directory).check(pq.read_table(directory / QUERIES), _K)
    except (ValueError, OSError) as error:
        sys.stderr.write(f"{directory}: {error}\n")
        return 1
    sys.stdout.write(
        f"{report.num_queries} queries served; their vectors differ from the measured ones by at most "
        f"{report.max_abs_difference:.2g}, {report.overlap:.0%} of the items are the same\n"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
