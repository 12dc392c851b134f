"""Fail unless the tests took enough of each package's branches: after a measured run.

    branch_coverage.py PERCENT PACKAGE...

Coverage's own total counts lines and branches together, over all packages. Silent when all is well.
"""

import json
import subprocess
import sys
from collections import Counter


def main(least_percent: float, packages: list[str]) -> str | None:
    """Return what is missing, or None."""
    command = [sys.executable, "-m", "coverage", "json", "-q", "-o", "-"]
    report = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    total: Counter[str] = Counter()
    covered: Counter[str] = Counter()
    for file, found in report["files"].items():
        package = file.partition("/")[0]
        total[package] += found["summary"]["num_branches"]
        covered[package] += found["summary"]["covered_branches"]
    missing = [
        f"{package}: {covered[package]} of {total[package]} branches covered, less than {least_percent:g} %"
        for package in packages
        if covered[package] * 100 < least_percent * max(1, total[package])
    ]
    return "\n".join(missing) or None


if __name__ == "__main__":
    sys.exit(main(float(sys.argv[1]), sys.argv[2:]))
