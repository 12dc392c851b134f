"""What goes through the connection between a fork server and a client that asks it for a process."""

import contextlib
import json
import os
import select
import socket
import struct
from typing import Any

from recsys_core.artifacts import Frozen

PACKET_BYTES = 1 << 20
STOP = b"{}"
_CREDENTIALS = struct.Struct("3i")  # process, user and group of a socket's other end


class Asked(Frozen):
    """What a forked process is to be: its command line, environment, working directory and niceness."""

    arguments: list[str]
    variables: dict[str, str]
    directory: str
    niceness: int


def peer(connection: socket.socket) -> tuple[int, int]:
    """Return the process and the user at the other end."""
    found = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    process, user, _ = _CREDENTIALS.unpack(found)
    return process, user


def is_ours(connection: socket.socket) -> bool:
    """Whether the process at the other end is this user's."""
    return peer(connection)[1] == os.geteuid()


def is_readable(connection: socket.socket, seconds: float | None) -> bool:
    """Wait so long for a packet, or the other end's end; None: until it comes."""
    return bool(select.select([connection], [], [], seconds)[0])


def say(connection: socket.socket, said: dict[str, Any]) -> None:
    """Send a packet."""
    # A client that is gone needs no answer.
    with contextlib.suppress(OSError):
        connection.send(json.dumps(said).encode())


def received(connection: socket.socket) -> dict[str, Any] | None:
    """Return what the fork server says; None at its end."""
    try:
        packet = connection.recv(PACKET_BYTES)
    except ConnectionError:
        return None
    return json.loads(packet) if packet else None
