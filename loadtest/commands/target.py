"""The target of an open-loop run: a running service, or one that is started for the run."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from loadtest import console
from loadtest.commands import options
from loadtest.targets.local_service import ServiceFailed
from screening_client import Client, ScreeningClientError

READY_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Target:
    """The service that receives the requests."""

    url: str
    pid: int | None
    """Process id of a service that was started here, so that its processes can be measured."""

    @property
    def api_key(self) -> str | None:
        """API key: empty for a started service, which needs none; None means SCREENING_API_KEY."""
        return None if self.pid is None else ""


def add_target(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--base-url",
        metavar="URL",
        help="address of a running service, with its key in SCREENING_API_KEY (default: start a service)",
    )
    parser.add_argument(
        "--engine", choices=("vllm", "scripted"), default="vllm", help="engine of the started service (default: vllm)"
    )
    options.add_service(parser)


@contextmanager
def target(args: argparse.Namespace, service_options: list[str], log: Path) -> Iterator[Target]:
    """
    Args:
        service_options: options of the started service, for example its checkpoint.

    Raises:
        ServiceFailed: the service could not be started, or the running one is not ready.
    """
    if args.base_url:
        require_ready(args.base_url)
        yield Target(args.base_url, None)
        return
    console.say("Starting the service …")
    with options.own_service(args, [*service_options, *options.service_options(args)], log) as service:
        yield Target(service.url, service.process.pid)


def require_ready(url: str) -> None:
    """
    Raises:
        ServiceFailed: no service is ready at this address within a few seconds, so a load would only count errors.
    """
    try:
        with Client(base_url=url) as client:
            client.wait_until_ready(READY_SECONDS)
    except ScreeningClientError as error:
        raise ServiceFailed(str(error)) from error


def plain_options(args: argparse.Namespace) -> list[str]:
    """Options of a service that serves one checkpoint, or has the scripted engine."""
    return ["--engine", args.engine, *(["--checkpoint", str(args.checkpoint)] if args.engine == "vllm" else [])]
