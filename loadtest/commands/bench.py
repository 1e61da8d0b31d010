"""`python -m loadtest bench`: throughput and latency at several numbers of callers, each asking again at once.

It shows capacity, not what users wait under a given arrival rate (see sweep): callers that wait send less. With
--peers the same questions go to vLLM's own API server and to transformers' `generate` in a loop, on the same checkpoint
and one after the other, and the ratios are printed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
from dataclasses import asdict
from itertools import islice
from pathlib import Path

from loadtest import console
from loadtest.commands import options
from loadtest.commands.target import plain_options
from loadtest.load import rendered
from loadtest.load.levels import Ask, Level, measure_level, table, through
from loadtest.results.summary import as_json
from loadtest.targets import baselines as peers
from loadtest.targets import generate_loop
from loadtest.targets.local_service import running
from screening.runtime.atomic_write import write_atomically
from screening_client import AsyncClient

WARM_UP = 8
"""Questions before the clock starts."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--base-url", help="a running service (default: start one, and stop it at the end)")
    parser.add_argument(
        "--engine", choices=("vllm", "scripted"), default="vllm", help="for the started service (default: vllm)"
    )
    options.add_service(parser, concurrent="the largest of --clients")
    parser.add_argument(
        "--clients", type=console.count, nargs="+", default=[1, 8, 32], help="concurrent callers (default: 1 8 32)"
    )
    parser.add_argument(
        "--requests", type=console.count, default=160, help="requests per number of callers (default: 160)"
    )
    rendered.add_arguments(parser)
    parser.add_argument("--peers", action="store_true", help="measure the two peers as well, and print the ratios")
    parser.add_argument("--out", type=Path, help="write the figures as JSON")


def run(args: argparse.Namespace) -> int:
    """Start a service unless one is named, measure, print."""
    if args.peers and (args.base_url or args.engine != "vllm"):
        raise peers.PeerFailed("--peers compares services on this machine's vLLM: without --base-url and --engine.")
    concurrent = args.max_concurrent or max(args.clients)
    asked = WARM_UP + args.requests * len(args.clients)
    directory = rendered.rendered(args, max(asked, generate_loop.NEEDED) if args.peers else asked)
    if args.base_url:
        levels = {"service": asyncio.run(_service(args.base_url, directory, args))}
    else:
        service_options = [*plain_options(args), "--max-concurrent", str(concurrent), *args.service]
        console.say("Starting the service …")
        with running(
            service_options,
            repository=console.REPOSITORY,
            start_seconds=args.start_seconds,
            on_wait=console.waiting(),
        ) as url:
            levels = {"service": asyncio.run(_service(url, directory, args))}
    print(table(levels["service"]))
    if args.peers:
        levels |= _peers(directory, args, concurrent)
        print(*peers.ratios(levels), sep="\n")
    if args.out:
        # Without peers the list of levels alone, as ever.
        figures = levels if args.peers else levels["service"]
        write_atomically(args.out, json.dumps(as_json(_plain(figures)), indent=1) + "\n")
    return 0


def _plain(figures: dict[str, list[Level]] | list[Level]) -> object:
    if isinstance(figures, dict):
        return {name: [asdict(level) for level in levels] for name, levels in figures.items()}
    return [asdict(level) for level in figures]


async def _service(base_url: str, directory: Path, args: argparse.Namespace) -> list[Level]:
    async with AsyncClient(base_url=base_url, max_retries=0, timeout=300) as client:
        return await _levels(through(client), directory, args)


async def _levels(ask: Ask, directory: Path, args: argparse.Namespace) -> list[Level]:
    """Every number of callers after a warm-up, with questions that are the same for everybody who is measured."""
    questions = rendered.questions(directory)
    await measure_level(ask, list(islice(questions, WARM_UP)), min(args.clients), "warm-up")
    return [
        await measure_level(ask, list(islice(questions, args.requests)), clients, f"{clients} clients")
        for clients in args.clients
    ]


def _peers(directory: Path, args: argparse.Namespace, concurrent: int) -> dict[str, list[Level]]:
    # On a GPU the service's engine differs from a documented one in nothing.
    servers = [*peers.DOCUMENTED, *([peers.OUR_ENGINE] if peers.on_cpu() else [])]
    levels = {}
    for name in servers:
        console.say(f"Starting vLLM's own {name} …")
        with peers.api_server(name, args.checkpoint, concurrent, args.start_seconds) as (url, settings):
            print(f"\nvLLM's {name}: {settings}")
            levels[name] = asyncio.run(_direct(url, directory, args))
        print(table(levels[name]))
    console.say("transformers' generate in a loop …")
    loop, settings = peers.generate_loop(args.checkpoint, directory)
    print(f"\ntransformers' generate: {settings}", table([loop]), sep="\n")
    return {**levels, "generate": [loop]}


async def _direct(url: str, directory: Path, args: argparse.Namespace) -> list[Level]:
    async with peers.direct_client(url, args.checkpoint) as ask:
        return await _levels(ask, directory, args)
