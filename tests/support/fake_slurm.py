"""A Slurm of one machine: sbatch runs the batch file in the background, srun one process for each of its nodes.

`install` puts its commands on a PATH. `FAKE_SLURM` is its spool; a file `hold` there keeps jobs in the queue, a file
`lose` lets sbatch run nothing and calls the job lost, `refuse` lets sbatch refuse, as for a wrong partition.
"""

import contextlib
import itertools
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

COMMANDS = ("sbatch", "srun", "sacct", "scancel")


def install(folder: Path) -> str:
    """Write the commands into `folder`; return a PATH with them first."""
    folder.mkdir()
    for name in COMMANDS:
        command = folder / name
        command.write_text(f'#!/bin/sh\nexec {sys.executable} {__file__} {name} "$@"\n')
        command.chmod(0o755)
    return f"{folder}{os.pathsep}{os.environ['PATH']}"


def main(name: str, arguments: list[str]) -> int:
    spool = Path(os.environ["FAKE_SLURM"])
    if name == "sbatch":
        return _sbatch(spool, Path(arguments[0]))
    if name == "srun":
        return _srun(arguments)
    if name == "sacct":
        return _sacct(spool, [number for before, number in itertools.pairwise(arguments) if before == "-j"])
    return _scancel(spool, arguments[0])


def _sbatch(spool: Path, batch: Path) -> int:
    if (spool / "refuse").exists():
        sys.stderr.write("sbatch: error: invalid partition specified: nowhere\n")
        return 1
    number = os.getpid()  # as submitit remembers how a job of that number has ended
    text = batch.read_text()
    (spool / f"{number}.batch").write_text(text)
    sys.stdout.write(f"Submitted batch job {number}\n")
    if any((spool / word).exists() for word in ("hold", "lose")):
        return 0
    nodes = re.search(r"--nodes=(\d+)", text)
    environment = {
        "SLURM_JOB_ID": str(number),
        "SLURM_JOBID": str(number),
        "SLURM_JOB_NUM_NODES": nodes[1] if nodes else "1",
    }
    process = subprocess.Popen(
        ["bash", str(batch)], env=os.environ | environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    (spool / f"{number}.pid").write_text(str(process.pid))
    return 0


def _srun(arguments: list[str]) -> int:
    output = arguments[arguments.index("--output") + 1].replace("%j", os.environ["SLURM_JOB_ID"])
    command = arguments[arguments.index("--output") + 2 :]
    tasks = []
    for node in range(int(os.environ["SLURM_JOB_NUM_NODES"])):
        with Path(output.replace("%t", str(node))).open("w") as log:
            environment = os.environ | {"SLURM_PROCID": str(node), "SLURM_NODEID": str(node), "SLURM_LOCALID": "0"}
            tasks.append(subprocess.Popen(command, env=environment, stdout=log, stderr=log))
    return max(abs(task.wait()) for task in tasks)


def _sacct(spool: Path, numbers: list[str]) -> int:
    known = [number for number in numbers if (spool / f"{number}.batch").exists()]
    lines = ["JobID|State|NodeList", *(f"{number}|{_state(spool, number)}|here" for number in known)]
    sys.stdout.write("\n".join(lines) + "\n")
    return 0


def _state(spool: Path, number: str) -> str:
    if (spool / "lose").exists():
        return "NODE_FAIL"
    if (spool / "hold").exists():
        return "PENDING"
    if (spool / f"{number}.cancelled").exists():
        return "CANCELLED by 0"
    running = Path(f"/proc/{(spool / f'{number}.pid').read_text()}").exists()
    return "RUNNING" if running else "COMPLETED"


def _scancel(spool: Path, number: str) -> int:
    (spool / f"{number}.cancelled").touch()
    pid = spool / f"{number}.pid"
    if pid.exists():
        with contextlib.suppress(ProcessLookupError):
            os.killpg(int(pid.read_text()), signal.SIGTERM)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
