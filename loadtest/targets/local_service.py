"""A service of one's own for as long as a `with` block lasts: start, wait until ready, stop, look at how it ended."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import httpx

from screening.errors import UserError
from screening_client import Client

STOP_SECONDS = 90  # the service drains for at most 65 s, then stops its engine
LOG_LINES = 25


PROGRAM = (sys.executable, "-m", "service")


class ServiceFailed(UserError):
    """The service did not start or did not end as it should; the message has the end of its log."""

    exit_status = 1


@dataclass(slots=True)
class LocalService:
    """A service that is ready."""

    url: str
    process: subprocess.Popen[bytes]
    start_seconds: float
    """From the start of its process until it was ready."""
    killed: bool = False

    def kill(self) -> None:
        """kill -9 of this one process, not of those that it started; its end is no failure then."""
        self.killed = True
        self.process.kill()
        self.process.wait()


@contextmanager
def running(
    options: Sequence[str], *, repository: Path, start_seconds: float, on_wait: Callable[[float], object]
) -> Iterator[str]:
    """As `started`; gives the service's URL."""
    with started(options, repository=repository, start_seconds=start_seconds, on_wait=on_wait) as service:
        yield service.url


@contextmanager
def started(
    options: Sequence[str],
    *,
    repository: Path,
    start_seconds: float,
    on_wait: Callable[[float], object],
    program: Sequence[str] = PROGRAM,
    log: Path | None = None,
    ready: Callable[[str], bool] | None = None,
    environment: Mapping[str, str] | None = None,
) -> Iterator[LocalService]:
    """Run `python -m service` with these options on a free port; gives it once it is ready.

    Args:
        on_wait: told the seconds waited, several times a second.
        program: what is run in place of `python -m service`; it takes `--port` and these options.
        log: where its log is kept; None: nowhere, the end of it is in the error.
        ready: told its URL, says whether it takes requests; None: its `/readyz` says so.
        environment: variables besides our own.

    Raises:
        ServiceFailed: it ended before it was ready, was not ready within `start_seconds`, or ended with an error.
    """
    port = _free_port()
    # Settings of another service in the caller's environment must not reach this one.
    variables = {name: value for name, value in os.environ.items() if not name.startswith("SCREENING_")}
    variables |= environment or {}
    command = [*program, "--port", str(port), *options]
    with log.open("w+b") if log else tempfile.TemporaryFile() as output:
        process: subprocess.Popen[bytes] | None = None
        service: LocalService | None = None
        try:
            with _signals_held():
                # A session of its own, so that Ctrl-C reaches this program only, which then stops the service in order.
                process = subprocess.Popen(  # noqa: S603 - our own service with our own options
                    command, cwd=repository, env=variables, stdout=output, stderr=output, start_new_session=True
                )
            url = f"http://127.0.0.1:{port}"
            with local_client(url) as client:
                asked = client.ready if ready is None else partial(ready, url)
                waited = _wait(process, asked, start_seconds, on_wait, output.fileno())
            service = LocalService(url, process, waited)
            yield service
        finally:
            code = _stop(process) if process is not None else 0
        if code != 0 and not (service and service.killed):
            raise ServiceFailed(f"The service ended with exit code {code}.{_tail(output.fileno())}")


def _wait(
    process: subprocess.Popen[bytes],
    ready: Callable[[], bool],
    limit: float,
    on_wait: Callable[[float], object],
    log: int,
) -> float:
    """Seconds until it was ready."""
    began = time.monotonic()
    while not ready():
        waited = time.monotonic() - began
        if process.poll() is not None:
            message = f"The service ended with exit code {process.returncode} before it was ready."
            raise ServiceFailed(message + _tail(log))
        if waited > limit:
            raise ServiceFailed(f"The service was not ready within {limit:.0f} s.{_tail(log)}")
        on_wait(waited)
        time.sleep(0.2)
    return time.monotonic() - began


@contextmanager
def local_client(url: str) -> Iterator[Client]:
    """A client that sends no key of another service, and does not go through a proxy to this machine."""
    with httpx.Client(trust_env=False) as http, Client(base_url=url, api_key="", http_client=http) as client:
        yield client


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
