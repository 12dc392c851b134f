"""`python -m recsys_core.serving BUNDLE`: load a bundle and serve its own rows; exit code 1 if it is unfit."""

import sys
from pathlib import Path

from recsys_core import serving


def main(arguments: list[str]) -> int:
    """Check the bundle whose folder is the only argument."""
    if len(arguments) != 1:
        sys.stderr.write("usage: python -m recsys_core.serving BUNDLE\n")
        return 2
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
