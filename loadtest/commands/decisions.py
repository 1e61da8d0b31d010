"""`python -m loadtest decisions`: what the decision store costs, as ratios of a service with it to one without.

Two services run, one with a decision store on SQLite and one without. They get the same questions from the same number
of callers, one service after the other, and the order changes from round to round. The engine is scripted: it takes a
fixed time and no CPU, so that the figures show the service itself. The engine's time decides how busy the CPUs are:
change it with `-- --scripted-latency-ms 100`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import httpx
import numpy as np
from tqdm import trange

from loadtest.commands import options
from loadtest.console import say
from loadtest.load.levels import Level, measure_level, through
from loadtest.load.pictures import Pictures, Question
from loadtest.results.summary import Verdict, as_json, at_least, at_most, exit_code, none_of, reported
from loadtest.targets.local_service import LocalService
from loadtest.targets.processes import cpu_seconds
from screening.runtime.argument_types import above_zero, positive
from screening.runtime.atomic_write import write_atomically
from screening_client import AsyncClient

ENGINE = ("--engine", "scripted", "--scripted-latency-ms", "300")
_RESAMPLES = 10_000


@dataclass(frozen=True, slots=True)
class Turn:
    """The figures of one service in one round."""

    level: Level
    storing_seconds: float
    """Time from the last answer until no decision waited to be stored."""
    cpu_ms: float
    """CPU time of the service for each request in milliseconds, storing included."""


@dataclass(frozen=True, slots=True)
class Round:
    """The figures of one round, in which both services get the same questions."""

    off: Turn
    on: Turn


@dataclass(frozen=True, slots=True)
class Ratio:
    """Geometric mean of on / off over the rounds, and its 95 % interval by bootstrap of rounds."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:.4f} (95 %: {self.low:.4f} to {self.high:.4f})"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rounds", type=positive, default=20, metavar="N", help="number of rounds (default: 20)")
    parser.add_argument(
        "--requests", type=positive, default=200, metavar="N", help="requests to each service in a round (default: 200)"
    )
    parser.add_argument(
        "--clients", type=positive, default=16, metavar="N", help="number of concurrent callers (default: 16)"
    )
    parser.add_argument(
        "--picture-sizes", type=options.sizes, default=((800, 800),), metavar="WxH,…",
        help="sizes of the pictures in pixels, one per product (default: 800x800)",
    )  # fmt: skip
    parser.add_argument("--seed", type=int, default=0, help="seed of the pictures (default: 0)")
    parser.add_argument(
        "--limit-percent", type=above_zero, default=2.0, metavar="PERCENT",
        help="maximum loss of throughput and growth of p99 in percent (default: 2)",
    )  # fmt: skip
    parser.add_argument("--out", type=Path, metavar="FILE", help="also write the figures as JSON (default: none)")
    parser.set_defaults(start_seconds=120.0)
    options.add_further(parser)


def run(args: argparse.Namespace) -> int:
    """Measure both services and print the ratios."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        stores = ("--decisions", f"sqlite:///{folder}/decisions.db", "--pictures", str(folder / "pictures"))
        say("Starting two services …")
        off, on = (
            stack.enter_context(options.own_service(args, [*ENGINE, *further, *args.service], folder / f"{name}.log"))
            for name, further in (("off", ()), ("on", stores))
        )
        rounds = asyncio.run(_measure(args, off, on))
        stored = _metric(on, 'screening_decisions_total{result="stored"}')
    unstored = args.clients + args.rounds * args.requests - round(stored)
    verdicts = _verdicts(rounds, args, unstored)
    print(_table(rounds), *verdicts, sep="\n")
    if args.out:
        write_atomically(args.out, json.dumps(as_json({"rounds": rounds, "verdicts": verdicts}), indent=1) + "\n")
    return exit_code(verdicts)


async def _measure(args: argparse.Namespace, off: LocalService, on: LocalService) -> list[Round]:
    questions = Pictures(seed=args.seed, sizes=args.picture_sizes).questions()
    warm_up = list(islice(questions, args.clients))
    for service in (off, on):
        await _turn(service, warm_up, args)
    rounds: list[Round] = []
    for number in trange(args.rounds, desc="rounds", unit="round"):
        asked = list(islice(questions, args.requests))
        order = (off, on) if number % 2 == 0 else (on, off)
        turns = [await _turn(service, asked, args) for service in order]
        rounds.append(Round(*(turns if order[0] is off else turns[::-1])))
    return rounds


async def _turn(service: LocalService, questions: list[Question], args: argparse.Namespace) -> Turn:
    cpu = cpu_seconds(service.process.pid)
    async with AsyncClient(base_url=service.url, api_key="", max_retries=0, timeout=300) as client:
        level = await measure_level(through(client), questions, args.clients, "requests")
    storing = await asyncio.to_thread(_wait_until_stored, service)
    return Turn(level, storing, 1000 * (cpu_seconds(service.process.pid) - cpu) / len(questions))


def _wait_until_stored(service: LocalService) -> float:
    """Wait until no decision waits to be stored; returns the seconds that this took."""
    began = time.perf_counter()
    while _metric(service, "screening_decision_queue_bytes"):
        time.sleep(0.05)
    return time.perf_counter() - began


def _metric(service: LocalService, name: str) -> float:
    """Value of a metric, which is 0 if the service does not have it."""
    lines = httpx.get(f"{service.url}/metrics", trust_env=False).text.splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(f"{name} "))


def ratio(pairs: Sequence[tuple[float, float]], seed: int) -> Ratio:
    """The ratio of the second to the first number of each pair."""
    logs = np.log([on / off for off, on in pairs])
    resampled = np.random.default_rng(seed).choice(logs, (_RESAMPLES, len(logs))).mean(axis=1)
    low, high = np.percentile(resampled, (2.5, 97.5))
    return Ratio(*(float(np.exp(value)) for value in (logs.mean(), low, high)))


def _verdicts(rounds: Sequence[Round], args: argparse.Namespace, unstored: int) -> list[Verdict]:
    def of(figure: Callable[[Turn], float]) -> Ratio:
        return ratio([(figure(one.off), figure(one.on)) for one in rounds], args.seed)

    throughput, p99 = of(lambda turn: turn.level.per_second), of(lambda turn: turn.level.p99)
    share = args.limit_percent / 100
    return [
        none_of("answers that were not stored", unstored),
        at_least("throughput, on / off", 1 - share, throughput.mean),
        at_most("p99, on / off", 1 + share, p99.mean),
        reported("throughput with its interval", str(throughput)),
        reported("p99 with its interval", str(p99)),
        reported("p50 with its interval", str(of(lambda turn: turn.level.p50))),
        reported("CPU time per request with its interval", str(of(lambda turn: turn.cpu_ms))),
        reported("longest wait for a round's last decisions", f"{max(one.on.storing_seconds for one in rounds):.2f} s"),
    ]


def _table(rounds: Sequence[Round]) -> str:
    lines = ["round   requests/s off      on   p50 ms off      on   p99 ms off      on   CPU ms off      on"]
    for number, one in enumerate(rounds, 1):
        off, on = one.off.level, one.on.level
        lines.append(
            f"{number:>5}   {off.per_second:>14.2f}  {on.per_second:>6.2f}   {off.p50:>10.0f}  {on.p50:>6.0f}"
            f"   {off.p99:>10.0f}  {on.p99:>6.0f}   {one.off.cpu_ms:>10.1f}  {one.on.cpu_ms:>6.1f}"
        )
    return "\n".join(lines)
