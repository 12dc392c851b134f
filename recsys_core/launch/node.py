"""`python -m recsys_core.launch.node FOLDER`: what a scheduler's job runs on each of its nodes.

It starts torchrun with the node's ranks, or the only rank, as the launcher does on its own machine, and ends them when
the launcher has asked for it or is dead, or the scheduler says so by a signal. The first node writes down where it is,
on an address that the others reach, and they meet there: no scheduler's names need to resolve.

Of the environment the ranks get what `processes.environment` lets through, so no credentials that they have no use for.
"""

import argparse
import os
import signal
import socket
import sys
import time
from pathlib import Path
from types import FrameType

from recsys_core.artifacts import write_text
from recsys_core.launch import processes
from recsys_core.launch.config import Config
from recsys_core.launch.meeting import TOUCH_SECONDS, Meeting, Order, Pulse

# What schedulers set for torchrun and for ranks: here torchrun gets its options, and ranks their variables from it.
_OTHERS = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
# USR2 is submitit's for Slurm: the time is nearly over, or the job is preempted.
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2)


def main(arguments: list[str] | None = None) -> int:
    """Run this node's ranks to their end; return their exit code."""
    parser = argparse.ArgumentParser(prog="python -m recsys_core.launch.node", description=__doc__)
    parser.add_argument("folder", type=Path, help="what the launcher has written, on storage that both see")
    folder = parser.parse_args(arguments).folder
    if not folder.is_dir():
        sys.stderr.write(
            f"error: {folder} is not here: mount the storage of the run directory at the same path as where the run "
            "was started\n"
        )
        return 2
    return run(Meeting(folder))


def run(meeting: Meeting) -> int:
    """Run this node's ranks to their end, and leave their exit code behind; return it."""
    order = meeting.order()
    node = _number(order) if order.num_nodes > 1 else 0
    os.chdir(order.directory)
    asked: list[int] = []

    def ask(number: int, _frame: FrameType | None) -> None:
        asked.append(number)

    before = {number: signal.signal(number, ask) for number in _SIGNALS}
    exit_code = 1
    try:
        exit_code = _ranks(meeting, order, node, asked)
    finally:
        meeting.leave(node, exit_code)
        for number, handler in before.items():
            signal.signal(number, handler)
    return exit_code


def _number(order: Order) -> int:
    if (number := os.environ.get(order.rank_variable)) is None:
        raise ValueError(f"{order.rank_variable} is not set, which would say which of {order.num_nodes} nodes this is")
    return int(number)


def _ranks(meeting: Meeting, order: Order, node: int, asked: list[int]) -> int:
    host, address = socket.gethostname(), _address()
    write_text(meeting.alive(node), f"{host} {address} {_free_port(address)}")
    lease, touched = meeting.lease(), time.monotonic()
    config = Config(
        kind="node",
        num_ranks=order.num_ranks,
        num_nodes=order.num_nodes,
        threads_per_rank=order.threads_per_rank,
        max_restarts=order.max_restarts,
        stop_grace_seconds=order.stop_grace_seconds,
    )
    starter = processes.starter(config, _meet(meeting, order, node, address, lease) if order.num_nodes > 1 else ())
    arguments = processes.stage_arguments(order.stage, order.request, order.events, order.module)
    for name in [name for name in os.environ if name in _OTHERS or name.startswith("PET_")]:
        del os.environ[name]
    os.environ.update(order.environment)
    log = meeting.log(node)
    sys.stdout.write(f"{order.stage}: node {node} of {order.num_nodes} on {host}; its output goes to {log}\n")
    sys.stdout.flush()
    with log.open("a") as output:
        environment = processes.environment(config, order.reads)
        ranks = processes.Ranks([*starter, *arguments, "--watch-stdin"], environment, output.fileno())
        try:
            while ranks.poll() is None and not asked and not lease.is_gone():
                ranks.wait(processes.POLL_SECONDS)
                if time.monotonic() - touched >= TOUCH_SECONDS:
                    meeting.alive(node).touch()
                    touched = time.monotonic()
        finally:
            ranks.stop(order.stop_grace_seconds)
    exit_code = ranks.poll()
    assert exit_code is not None, "it was stopped"
    return exit_code


def _meet(meeting: Meeting, order: Order, node: int, address: str, lease: Pulse) -> list[str]:
    """Return torchrun's options by which the nodes find the first one."""
    while (place := meeting.place(0)) is None:
        if lease.is_gone():
            raise TimeoutError(f"{order.stage}: the first node did not begin before the launcher ended")
        time.sleep(processes.POLL_SECONDS)
    _, first, port = place.split()
    return [
        f"--rdzv-id={order.key}",
        f"--rdzv-endpoint={first}:{port}",
        f"--rdzv-conf=is_host={'true' if node == 0 else 'false'}",
        f"--local-addr={address}",
    ]


def _address() -> str:
    """Return the address at which other nodes reach this one."""
    address = socket.gethostbyname(socket.gethostname())
    if not address.startswith("127."):
        return address
    # Distributions that name a machine by its loopback address. Nothing is sent: this asks which way packets would go.
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("10.255.255.255", 9))
        except OSError:
            return address
        return str(probe.getsockname()[0])


def _free_port(address: str) -> int:
    with socket.create_server((address, 0)) as free:
        return int(free.getsockname()[1])


if __name__ == "__main__":
    sys.exit(main())
