"""A released two-tower model at work: vectors in bulk, hit rates, the HTTP service under load, swaps while it answers.

    python benchmarks/serving.py [--cases embed hit_rate …] [--items N] [--requests N] [--rate R] [--json FILE]
    python benchmarks/serving.py --cases swap --seconds 600            10 minutes, 20 swaps and 2 rollbacks

The release is made up: towers of random weights over features as a shop has them, and an IVF index of random vectors.

- `embed`: rows of raw columns to vectors, against the scripted tower on tensors that lie in memory.
- `hit_rate`: what `dayline hit-rate` does, from tables to figures, against FAISS's flat search of vectors in memory; of
  5,000 requests first, and then of all. How far it is stands on stderr.
- `details`: the lists of requests, written to a table.
- `serve`: `dayline serve` in a process of its own, asked by this one at a fixed rate; a request's time counts from when
  it was due. Against a loop of the scripted tower and `search` of bare FAISS over the same rows, without HTTP and raw
  features.
- `swap`: a registry of two versions, whose alias moves while requests are answered, the last times by a rollback; every
  answer is compared with what the version that it names has to answer.
- `replay`: requests as `dayline serve --log` keeps them, which `dayline replay` asks the same release and another for.
"""

import argparse
import json
import tempfile
from pathlib import Path

from cases import search, service

CASES = {
    "embed": service.embed,
    "hit_rate": search.hit_rate,
    "details": search.details,
    "serve": service.serve,
    "swap": service.swap,
    "replay": service.replay,
}
_OF_A_RELEASE = {"embed", "serve", "swap", "replay"}


def main() -> None:
    """Measure the cases and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=[*CASES])
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--requests", type=int, default=100_000, help="of hit_rate and details")
    parser.add_argument("--rate", type=float, default=200, help="requests per second")
    parser.add_argument("--seconds", type=float, default=20, help="of each load")
    parser.add_argument("--swaps", type=int, default=20)
    parser.add_argument("--rollbacks", type=int, default=2)
    parser.add_argument("--replayed", type=int, default=10_000, help="requests of replay")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="where the release is made, or was made before")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there too")
    arguments = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as aside:
        folder = (arguments.keep or Path(aside)) / "shop"
        if _OF_A_RELEASE & {*arguments.cases} and not folder.is_dir():
            service.release(folder, arguments.items, 0)
        for name in arguments.cases:
            for one in CASES[name](folder, arguments):
                rows.append(one)
                beside = "" if one["ratio"] is None else f"{one['reference']:>12,.2f} {one['ratio']:>8.2f}"
                print(
                    f"{one['case']:<36} {one['figure']:<44} {one['value']:>12,.2f} {one['unit']:<16} {beside}",
                    flush=True,
                )
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
