"""Run a service for the time of a `with` block: start it, wait until it is ready, stop it, check its exit."""

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

from loadtest.load.loops import stop_signals
from screening.errors import UserError
from screening_client import Client

STOP_SECONDS = 90  # the service drains for at most 65 s, then stops its engine
LOG_LINES = 25


PROGRAM = (sys.executable, "-m", "service")


class ServiceFailed(UserError):
    """The service did not start, or ended with an error; the message has the end of its log."""

    exit_status = 1


@dataclass(slots=True)
class LocalService:
    """A running service that is ready."""

    url: str
    process: subprocess.Popen[bytes]
    start_seconds: float
    """Time in seconds from the start of the process until the service was ready."""
    killed: bool = False

    def kill(self) -> None:
        """Kill only this process with kill -9, not its children. Its exit then does not count as a failure."""
        self.killed = True
        self.process.kill()
        self.process.wait()


@contextmanager
def running(
    options: Sequence[str], *, repository: Path, start_seconds: float, on_wait: Callable[[float], object]
) -> Iterator[str]:
    """Like `started`, but gives only the URL of the service."""
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
    port: int | None = None,
) -> Iterator[LocalService]:
    """Run `python -m service` with these options, and enter the block when it is ready.

    Args:
        on_wait: called several times a second with the seconds waited so far.
        program: command to run instead of `python -m service`; it takes `--port` and these options.
        log: file for its log; None keeps only the end for the error message.
        ready: takes the URL and returns whether the service accepts requests; None asks `/readyz`.
        environment: environment variables in addition to our own.
        port: port to listen on; None selects a free one.

    Raises:
        ServiceFailed: the port cannot be used, or the service ended early, was not ready within `start_seconds`, or
            ended with an error.
    """
    if port is None:
        port = _free_port()
    else:
        _check_free(port)
    # Settings for another service in the caller's environment must not affect this one.
    variables = {name: value for name, value in os.environ.items() if not name.startswith("SCREENING_")}
    variables |= environment or {}
    command = [*program, "--port", str(port), *options]
    with log.open("w+b") if log else tempfile.TemporaryFile() as output:
        process: subprocess.Popen[bytes] | None = None
        service: LocalService | None = None
        try:
            with _signals_held():
                # A separate session, so that Ctrl-C reaches only this program, which then stops the service gracefully.
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
    """Wait until the service is ready; returns the seconds that this took."""
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
    """A client for a service on this machine, without an API key and without a proxy."""
    with httpx.Client(trust_env=False) as http, Client(base_url=url, api_key="", http_client=http) as client:
        yield client


def _stop(process: subprocess.Popen[bytes]) -> int:
    """Ask the service to drain and stop; if it does not, kill it and its child processes."""
    process.terminate()
    try:
        return process.wait(STOP_SECONDS)
    except (subprocess.TimeoutExpired, KeyboardInterrupt):  # a second Ctrl-C stops immediately
        os.killpg(process.pid, signal.SIGKILL)
        return process.wait()


@contextmanager
def _signals_held() -> Iterator[None]:
    """Delay the signals that end a run until after the block: inside it, one would leave the service running."""
    held: list[int] = []
    numbers = stop_signals()
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


def _check_free(port: int) -> None:
    """Refuse a port in use: its service would answer in the place of ours, which needs seconds until it fails."""
    try:
        socket.create_server(("127.0.0.1", port)).close()
        return
    except OSError as error:
        reason = os.strerror(error.errno or 0)
    except OverflowError:
        reason = "it is not between 0 and 65535"
    raise ServiceFailed(f"Cannot listen on port {port}: {reason}. Choose another one with --port N (make: PORT=N).")


def _tail(log: int) -> str:
    size = os.fstat(log).st_size
    text = os.pread(log, 20_000, max(0, size - 20_000)).decode(errors="replace")
    lines = text.splitlines()[-LOG_LINES:]
    return "\nThe end of its log:\n" + "\n".join(f"  {line}" for line in lines) if lines else " Its log is empty."
