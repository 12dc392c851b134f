"""Forks ranks for the tests: importing torch and TorchRec takes each process that does it many seconds.

A line on standard input asks for ranks, as JSON: `arguments` (what would follow `python`), `num_ranks`, and `log`, the
file that gets what they say. A line with their process ids answers it, and one with their exit codes when all of them
have ended. As torchrun does, it ends the others when one has failed.
"""

import importlib
import json
import os
import runpy
import signal
import socket
import sys
import time
import traceback

_GRACE_SECONDS = 20.0
_STAGES = (
    "retrieval.train",
    "retrieval.evaluate",
    "retrieval.export",
    "retrieval.embed",
    "ranking.train",
    "ranking.evaluate",
)


def main() -> None:
    """Serve until standard input ends."""
    for module in ("__main__", *_STAGES):
        importlib.import_module(f"recsys_core.{module}")
    # What the first optimizer and the first sharded model would import in every rank anew.
    importlib.import_module("fbgemm_gpu.split_table_batched_embeddings_ops_training")
    importlib.import_module("torch._dynamo")
    for line in sys.stdin:
        asked = json.loads(line)
        pids = start(**asked)
        emit(pids)
        emit(ended(pids))


def emit(answer: list[int]) -> None:
    """Answer one line."""
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


def start(arguments: list[str], num_ranks: int, log: str) -> list[int]:
    """Fork the ranks and return their process ids."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    pids = []
    for rank in range(num_ranks):
        if not (pid := os.fork()):
            names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": num_ranks, "LOCAL_WORLD_SIZE": num_ranks}
            os.environ |= {name: str(value) for name, value in names.items()}
            os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
            be_rank(arguments, log)
        pids.append(pid)
    return pids


def be_rank(arguments: list[str], log: str) -> None:
    """Do what `python ARGUMENTS` does, and end the process."""
    output = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    for descriptor in (1, 2):
        os.dup2(output, descriptor)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    code = 1
    try:
        if arguments[0] == "-m":
            sys.argv = arguments[1:]
            runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
        else:
            sys.argv = arguments
            runpy.run_path(arguments[0], run_name="__main__")
        code = 0
    except SystemExit as done:
        code = int(done.code or 0)
    except BaseException:  # noqa: BLE001 - as an interpreter does
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def ended(pids: list[int]) -> list[int]:
    """Wait for all ranks and return their exit codes; negative ones are signals."""
    codes: dict[int, int] = {}
    deadline = float("inf")
    while left := [pid for pid in pids if pid not in codes]:
        for pid in left:
            found, status = os.waitpid(pid, os.WNOHANG)
            if found:
                codes[pid] = os.waitstatus_to_exitcode(status)
            elif time.monotonic() > deadline:
                os.kill(pid, signal.SIGKILL)
        if any(codes.values()):
            deadline = min(deadline, time.monotonic() + _GRACE_SECONDS)
        time.sleep(0.01)
    return [codes[pid] for pid in pids]


if __name__ == "__main__":
    main()
