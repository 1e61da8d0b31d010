"""`python -m loadtest bench`: throughput and latency at several numbers of callers in a closed loop.

Each caller sends its next question when the last one is answered. This shows capacity, and not the latency at a given
arrival rate (see sweep), because waiting callers send less. With --baselines, the same questions also go to vLLM's own
API server and to transformers' `generate` in a loop, on the same checkpoint and one after the other, and the ratios are
printed.
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
from loadtest.commands.target import plain_options, require_ready
from loadtest.load import rendered
from loadtest.load.levels import Ask, Level, measure_level, table, through
from loadtest.results.summary import as_json
from loadtest.targets import baselines, generate_loop
from loadtest.targets.local_service import started
from screening.runtime.argument_types import positive
from screening.runtime.atomic_write import write_atomically
from screening_client import AsyncClient

WARM_UP = 8
"""Number of questions before the measurement starts."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--base-url", metavar="URL", help="address of a running service (default: start a service)")
    parser.add_argument(
        "--engine", choices=("vllm", "scripted"), default="vllm", help="engine of the started service (default: vllm)"
    )
    options.add_service(parser, concurrent="the largest of --clients")
    parser.add_argument(
        "--clients",
        type=positive,
        nargs="+",
        default=[1, 8, 32],
        metavar="N",
        help="numbers of concurrent callers, measured in turn (default: 1 8 32)",
    )
    parser.add_argument(
        "--requests",
        type=positive,
        default=160,
        metavar="N",
        help="number of requests for each number of callers (default: 160)",
    )
    rendered.add_arguments(parser)
    parser.add_argument(
        "--baselines",
        action="store_true",
        help="also measure vLLM's API server and transformers' generate, and print the ratios",
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="also write the figures as JSON (default: none)")


def run(args: argparse.Namespace) -> int:
    """Measure a running service or a started one, and print the figures."""
    if args.baselines and (args.base_url or args.engine != "vllm"):
        raise baselines.BaselineFailed("--baselines needs vLLM on this machine; remove --base-url and --engine.")
    if args.base_url:
        require_ready(args.base_url)  # before minutes of rendering
    concurrent = args.max_concurrent or max(args.clients)
    asked = WARM_UP + args.requests * len(args.clients)
    directory = rendered.rendered(args, max(asked, generate_loop.NEEDED) if args.baselines else asked)
    if args.base_url:
        levels = {"service": asyncio.run(_service(args.base_url, directory, args))}
    else:
        service_options = [*plain_options(args), "--max-concurrent", str(concurrent), *args.service]
        console.say("Starting the service …")
        with started(service_options, start_seconds=args.start_seconds, on_wait=console.waiting()) as service:
            levels = {"service": asyncio.run(_service(service.url, directory, args))}
    print(table(levels["service"]))
    if args.baselines:
        levels |= _baselines(directory, args, concurrent)
        print(*baselines.ratios(levels), sep="\n")
    if args.out:
        # Without baselines, the file holds only the list of levels of the service.
        figures = levels if args.baselines else levels["service"]
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
    """Measure each number of callers after a warm-up. All measured services get the same questions."""
    questions = rendered.questions(directory)
    await measure_level(ask, list(islice(questions, WARM_UP)), min(args.clients), "warm-up")
    return [
        await measure_level(ask, list(islice(questions, args.requests)), clients, f"{clients} clients")
        for clients in args.clients
    ]


def _baselines(directory: Path, args: argparse.Namespace, concurrent: int) -> dict[str, list[Level]]:
    # On a GPU, the service's engine has the same settings as a documented one.
    servers = [*baselines.DOCUMENTED, *([baselines.OUR_ENGINE] if baselines.on_cpu() else [])]
    levels = {}
    for name in servers:
        console.say(f"Starting vLLM's own {name} …")
        with baselines.api_server(name, args.checkpoint, concurrent, args.start_seconds) as (url, settings):
            print(f"\nvLLM's {name}: {settings}")
            levels[name] = asyncio.run(_direct(url, directory, args))
        print(table(levels[name]))
    console.say("transformers' generate in a loop …")
    loop, settings = baselines.generate_loop(args.checkpoint, directory)
    print(f"\ntransformers' generate: {settings}", table([loop]), sep="\n")
    return {**levels, "generate": [loop]}


async def _direct(url: str, directory: Path, args: argparse.Namespace) -> list[Level]:
    async with baselines.direct_client(url, args.checkpoint) as ask:
        return await _levels(ask, directory, args)
