"""`python -m loadtest bench`: a fixed number of callers, each sending its next request when the last is answered.

It shows capacity, not what users wait under a given arrival rate (see sweep): callers that wait send less.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from tqdm import tqdm

from loadtest import options
from loadtest.local_service import running
from loadtest.pictures import Pictures, Question
from loadtest.summary import percentile
from loadtest.target import plain_options
from screening_client import AsyncClient, Screening


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--base-url", help="a running service (default: start one, and stop it at the end)")
    parser.add_argument("--engine", choices=("vllm", "scripted"), default="vllm", help="for the started service")
    options.add_service(parser)
    parser.add_argument(
        "--clients", type=options.count, nargs="+", default=[1, 8, 32], help="concurrent callers (default: 1 8 32)"
    )
    parser.add_argument(
        "--requests", type=options.count, default=96, help="requests per number of callers (default: 96)"
    )
    parser.add_argument(
        "--picture-size", type=options.count, default=800, help="side of the JPEGs in pixels (default: 800)"
    )
    parser.add_argument("--out", type=Path, help="write the figures as JSON")


def run(args: argparse.Namespace) -> int:
    """Start a service unless one is named, measure, print."""
    if args.base_url:
        asyncio.run(measure(args.base_url, args))
        return 0
    concurrent = args.max_concurrent or max(args.clients)
    service_options = [*plain_options(args), "--max-concurrent", str(concurrent)]
    options.say("Starting the service …")
    with running(
        service_options,
        repository=options.REPOSITORY,
        start_seconds=options.START_SECONDS,
        on_wait=options.waiting(),
    ) as url:
        asyncio.run(measure(url, args))
    return 0


@dataclass(frozen=True, slots=True)
class Level:
    """Figures at one number of callers; milliseconds."""

    clients: int
    requests: int
    per_second: float
    p50: float
    p95: float
    engine_p50: float
    decode_p50: float


async def measure(base_url: str, args: argparse.Namespace) -> None:
    """Run all levels after a warm-up, print a table with ratios to the first level."""
    side = args.picture_size
    pictures = Pictures(products=10, sizes=[(side, side)]).questions()
    async with AsyncClient(base_url=base_url, max_retries=0, timeout=300) as client:
        await _run(client, pictures, min(args.clients), 8, "warm-up")
        levels = [await _run(client, pictures, n, args.requests, f"{n} clients") for n in args.clients]
    print(table(levels))
    if args.out:
        args.out.write_text(json.dumps([asdict(level) for level in levels], indent=1) + "\n")


async def _run(client: AsyncClient, pictures: Iterator[Question], clients: int, requests: int, name: str) -> Level:
    questions = [next(pictures) for _ in range(requests)]  # put together before the clock starts
    latencies: list[float] = []
    answers: list[Screening] = []

    async def caller(bar: tqdm[None]) -> None:
        while questions:
            question = questions.pop()
            began = time.perf_counter()
            answers.append(await client.screen(original=question.original, generated=question.generated))
            latencies.append(1000 * (time.perf_counter() - began))
            bar.update()

    began = time.perf_counter()
    with tqdm(total=requests, desc=name, unit="request", leave=False) as bar:
        await asyncio.gather(*(caller(bar) for _ in range(clients)))
    seconds = time.perf_counter() - began
    return Level(
        clients,
        requests,
        requests / seconds,
        statistics.median(latencies),
        percentile(latencies, 95),
        statistics.median(answer.timings.engine_ms for answer in answers),
        statistics.median(answer.timings.decode_ms for answer in answers),
    )


def table(levels: list[Level]) -> str:
    """The figures, and throughput as a multiple of the first row's."""
    lines = ["clients  requests/s  ratio   p50 ms   p95 ms  engine p50  decode p50"]
    lines += [
        f"{level.clients:>7}  {level.per_second:>10.2f}  {level.per_second / levels[0].per_second:>5.2f}  "
        f"{level.p50:>7.0f}  {level.p95:>7.0f}  {level.engine_p50:>10.0f}  {level.decode_p50:>10.1f}"
        for level in levels
    ]
    return "\n".join(lines)
