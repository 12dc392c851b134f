"""`python -m recsys_core.serving BUNDLE`: load a bundle and serve its own rows; exit code 1 if it is unfit."""

import sys
import threading
from pathlib import Path

from recsys_core import launch, serving


def main(arguments: list[str]) -> int:
    """Check the bundle whose folder is the first argument; `--watch-stdin` ends it when standard input closes."""
    if arguments[1:] not in ([], ["--watch-stdin"]) or not arguments:
        sys.stderr.write("usage: python -m recsys_core.serving BUNDLE [--watch-stdin]\n")
        return 2
    if arguments[1:]:
        threading.Thread(target=launch.exit_with_starter, daemon=True, name="watch-stdin").start()
    directory = Path(arguments[0])
    try:
        outcome = serving.load(directory).check_kept(directory)
    except (ValueError, OSError) as error:
        sys.stderr.write(f"{directory}: {error}\n")
        return 1
    sys.stdout.write(f"{outcome}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
