"""Ports for programs that are told where to listen."""

from __future__ import annotations

import itertools
import os
import socket
from contextlib import suppress

# Each of several test processes has 1000 ports, and begins at another one in every run.
_worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
_ports = itertools.count(20_000 + 1000 * (_worker % 12) + os.getpid() % 500)


def free_port() -> int:
    """A port that no program uses and that no other test of this run gets.

    The kernel gives out higher ports, so no connection takes this one before the program listens.
    """
    while True:
        port = next(_ports)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
