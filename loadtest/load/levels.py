"""Closed-loop measurement with a fixed number of callers, for any target.

It shows capacity, and not the latency at a given arrival rate (see sweep), because waiting callers send less.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from math import nan

from tqdm import tqdm

from loadtest.load.pictures import Question
from loadtest.results.summary import percentile
from screening_client import AsyncClient, Timings

Ask = Callable[[Question], Awaitable[Timings | None]]
"""Asks one question; returns the service's own timings if there are any, and raises if there is no answer."""


@dataclass(frozen=True, slots=True)
class Level:
    """Figures for one number of callers; latencies in milliseconds."""

    clients: int
    requests: int
    per_second: float
    p50: float
    p95: float
    engine_p50: float = nan
    decode_p50: float = nan
    p99: float = nan


async def measure_level(ask: Ask, questions: Sequence[Question], clients: int, name: str) -> Level:
    """
    Args:
        questions: questions in memory, each of which is asked once.
        name: label of the progress bar.
    """
    left = list(questions)
    latencies: list[float] = []
    timings: list[Timings] = []

    async def caller(bar: tqdm[None]) -> None:
        while left:
            question = left.pop()
            began = time.perf_counter()
            found = await ask(question)
            latencies.append(1000 * (time.perf_counter() - began))
            timings.extend([found] if found else [])
            bar.update()

    began = time.perf_counter()
    with tqdm(total=len(questions), desc=name, unit="request", leave=False) as bar:
        await asyncio.gather(*(caller(bar) for _ in range(clients)))
    return level_of(latencies, time.perf_counter() - began, clients, timings)


def level_of(latencies: Sequence[float], seconds: float, clients: int = 1, timings: Sequence[Timings] = ()) -> Level:
    """
    Args:
        latencies: latency of each question in milliseconds.
        seconds: time from the first question to the last answer.
    """
    return Level(
        clients,
        len(latencies),
        len(latencies) / seconds,
        statistics.median(latencies),
        percentile(latencies, 95),
        statistics.median(each.engine_ms for each in timings) if timings else nan,
        statistics.median(each.decode_ms for each in timings) if timings else nan,
        percentile(latencies, 99),
    )


def through(client: AsyncClient) -> Ask:
    """Ask the screening service through its SDK."""

    async def ask(question: Question) -> Timings:
        screening = await client.screen(original=question.original, generated=question.generated)
        return screening.timings

    return ask


def table(levels: Sequence[Level]) -> str:
    """A table of the figures; `ratio` is the throughput relative to the first row."""
    lines = ["clients  requests/s  ratio   p50 ms   p95 ms  engine p50  decode p50"]
    lines += [
        f"{level.clients:>7}  {level.per_second:>10.2f}  {level.per_second / levels[0].per_second:>5.2f}  "
        f"{level.p50:>7.0f}  {level.p95:>7.0f}  {level.engine_p50:>10.0f}  {level.decode_p50:>10.1f}"
        for level in levels
    ]
    return "\n".join(lines).replace("nan", "  -")
