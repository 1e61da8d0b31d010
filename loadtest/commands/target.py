"""The service that an open-loop run is aimed at: one that runs already, or one started for the run."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from loadtest import console
from loadtest.commands import options


@dataclass(frozen=True, slots=True)
class Target:
    """Where requests go."""

    url: str
    pid: int | None
    """Of a service that was started here; its processes can be looked at."""

    @property
    def api_key(self) -> str | None:
        """Nobody's key goes to a service of our own; None leaves the choice to SCREENING_API_KEY."""
        return None if self.pid is None else ""


def add_target(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--base-url", metavar="URL", help="a running service; SCREENING_API_KEY is its key (default: start one)"
    )
    parser.add_argument(
        "--engine", choices=("vllm", "scripted"), default="vllm", help="of the started service (default: vllm)"
    )
    options.add_service(parser)


@contextmanager
def target(args: argparse.Namespace, service_options: list[str], log: Path) -> Iterator[Target]:
    """
    Args:
        service_options: for the started service, which checkpoint for example.

    Raises:
        ServiceFailed: it could not be started.
    """
    if args.base_url:
        yield Target(args.base_url, None)
        return
    console.say("Starting the service …")
    with options.own_service(args, [*service_options, *options.service_options(args)], log) as service:
        yield Target(service.url, service.process.pid)


def plain_options(args: argparse.Namespace) -> list[str]:
    """For a service that serves one checkpoint, or is scripted."""
    return ["--engine", args.engine, *(["--checkpoint", str(args.checkpoint)] if args.engine == "vllm" else [])]
