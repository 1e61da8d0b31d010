"""A service of one's own for as long as a `with` block lasts: start, wait until ready, stop, look at how it ended."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx

from screening_client import Client

STOP_SECONDS = 90  # the service drains for at most 65 s, then stops its engine
LOG_LINES = 25


class ServiceFailed(Exception):
    """The service did not start or did not end as it should; the message has the end of its log."""


@contextmanager
def running(
    options: Sequence[str], *, repository: Path, start_seconds: float, on_wait: Callable[[float], object]
) -> Iterator[str]:
    """Run `python -m service` with these options on a free port; gives its URL once it is ready.

    Args:
        on_wait: told the seconds waited, several times a second.

    Raises:
        ServiceFailed: it ended before it was ready, was not ready within `start_seconds`, or ended with an error.
    """
    port = _free_port()
    # Settings of another service in the caller's environment must not reach this one.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SCREENING_")}
    command = [sys.executable, "-m", "service", "--port", str(port), *options]
    with tempfile.TemporaryFile() as log:
        process = None
        try:
            with _signals_held():
                # A session of its own, so that Ctrl-C reaches this program only, which then stops the service in order.
                process = subprocess.Popen(  # noqa: S603 - our own service with our own options
                    command, cwd=repository, env=environment, stdout=log, stderr=log, start_new_session=True
                )
            url = f"http://127.0.0.1:{port}"
            _wait(process, url, start_seconds, on_wait, log.fileno())
            yield url
        finally:
            code = _stop(process) if process is not None else 0
        if code != 0:
            raise ServiceFailed(f"The service ended with exit code {code}.{_tail(log.fileno())}")


def _wait(
    process: subprocess.Popen[bytes], url: str, limit: float, on_wait: Callable[[float], object], log: int
) -> None:
    started = time.monotonic()
    with local_client(url) as client:
        while not client.ready():
            waited = time.monotonic() - started
            if process.poll() is not None:
                message = f"The service ended with exit code {process.returncode} before it was ready."
                raise ServiceFailed(message + _tail(log))
            if waited > limit:
                raise ServiceFailed(f"The service was not ready within {limit:.0f} s.{_tail(log)}")
            on_wait(waited)
            time.sleep(0.2)


def local_client(url: str) -> Client:
    """A client that sends no key of another service, and does not go through a proxy to this machine."""
    return Client(base_url=url, api_key="", http_client=httpx.Client(trust_env=False))


def _stop(process: subprocess.Popen[bytes]) -> int:
    """Ask it to drain and end; if it does not, end it and all that it started."""
    process.terminate()
    try:
        return process.wait(STOP_SECONDS)
    except (subprocess.TimeoutExpired, KeyboardInterrupt):  # the second Ctrl-C means now
        os.killpg(process.pid, signal.SIGKILL)
        return process.wait()


@contextmanager
def _signals_held() -> Iterator[None]:
    """Deliver Ctrl-C and SIGTERM after the block: one in the middle of it would leave a service that nobody stops."""
    held: list[int] = []
    numbers = (signal.SIGINT, signal.SIGTERM)
    previous = [signal.signal(number, lambda number, _frame: held.append(number)) for number in numbers]
    try:
        yield
    finally:
        for each, handler in zip(numbers, previous, strict=True):
            signal.signal(each, handler)
    for number in held:
        signal.raise_signal(number)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _tail(log: int) -> str:
    size = os.fstat(log).st_size
    text = os.pread(log, 20_000, max(0, size - 20_000)).decode(errors="replace")
    lines = text.splitlines()[-LOG_LINES:]
    return "\nThe end of its log:\n" + "\n".join(f"  {line}" for line in lines) if lines else " Its log is empty."
