"""`python -m loadtest observe`: a service under load in a real Prometheus, as its dashboards and alerts see it.

It starts Prometheus and Alertmanager with the rules and alerts of k8s/monitoring, and a service unless --base-url names
one. It prints their addresses, sends requests, and every --every seconds prints what each query of the dashboards
returns, until Ctrl-C. A started service stores its decisions, and is also sent bad, repeated and too many requests. A
service of your own is only sent questions. Queries about a cluster, a retraining or an event that has not happened have
no data. Grafana is not started: import the files of k8s/monitoring/dashboards into yours, with the printed address of
Prometheus as the data source.
"""

from __future__ import annotations

import argparse
import asyncio
import math
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit

import httpx

from loadtest import console
from loadtest.commands.options import questions
from loadtest.commands.target import Target, add_target, plain_options, target
from loadtest.load.loops import Stop, stoppable
from loadtest.load.pictures import SIZES, Question
from loadtest.results.dashboards import alerts, ask, asking, queries, table
from loadtest.results.record import new_directory
from loadtest.targets.monitoring import SCRAPE_SECONDS, Monitoring, monitoring
from screening.runtime.argument_types import above_zero, positive
from screening_client import AsyncClient, ScreeningClientError

CONCURRENT, QUEUE = 4, 12
"""Limits of a started service, low so that a short burst is refused."""
RATE_INTERVAL = f"{10 * SCRAPE_SECONDS}s"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--callers", type=positive, default=2, help="number of callers at a time (default: 2)")
    parser.add_argument(
        "--every", type=above_zero, default=60, metavar="SECONDS", help="seconds between two tables (default: 60)"
    )
    parser.add_argument(
        "--tables", type=positive, metavar="N", help="number of tables after which it ends (default: until Ctrl-C)"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the pictures (default: 0)")
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("runs") / "loadtest" / f"observe-{datetime.now(UTC):%Y%m%d-%H%M%S}",
        metavar="DIR",
        help="new directory for configuration, data and logs (default: runs/loadtest/observe-TIME)",
    )
    add_target(parser)
    parser.set_defaults(repeated_originals=0.3, picture_sizes=SIZES)


def run(args: argparse.Namespace) -> int:
    """Observe until Ctrl-C; returns the exit status."""
    folder = new_directory(args.out).resolve()
    own = [
        *plain_options(args),
        *("--max-concurrent", str(CONCURRENT), "--max-queue", str(QUEUE)),
        *("--decisions", f"sqlite:///{folder / 'decisions.db'}", "--pictures", str(folder / "pictures")),
    ]
    with target(args, own, folder / "service.log") as service:
        address = urlsplit(service.url).netloc
        with monitoring(folder / "monitoring", {"screening-0": address}) as running:
            console.say(f"Service       {service.url}\nPrometheus    {running.prometheus}")
            console.say(f"Alertmanager  {running.alertmanager}\nCtrl-C ends all of them.")
            asyncio.run(_observe(args, service, running))
    return 0


async def _observe(args: argparse.Namespace, service: Target, running: Monitoring) -> None:
    pictures = questions(args)
    async with stoppable() as stop, AsyncClient(base_url=service.url, api_key=service.api_key, max_retries=0) as client:
        load = [asyncio.create_task(_call(client, pictures, stop)) for _ in range(args.callers)]
        if service.pid is not None:
            load.append(asyncio.create_task(_trouble(service.url, client, pictures, stop)))
        try:
            for _ in iter(int, 1) if args.tables is None else range(args.tables):
                if await stop.sleep(args.every):
                    break
                print(await asyncio.to_thread(_report, running), flush=True)
        finally:
            stop.set()
            await asyncio.gather(*load)


def _report(running: Monitoring) -> str:
    with asking(running.prometheus) as prometheus:
        answers = [ask(prometheus, query) for query in queries(rate_interval=RATE_INTERVAL)]
        firing = ", ".join(alerts(prometheus)) or "none"
    found = sum(bool(answer.values) for answer in answers)
    return f"{table(answers)}\n\n{found} of {len(answers)} queries have data. Alerts: {firing}\n"


async def _call(client: AsyncClient, pictures: Iterator[Question], stop: Stop) -> None:
    """Ask one question after another, each third of them twice."""
    number = 0
    while not stop.asked:
        question = next(pictures)
        for _ in range(2 if number % 3 == 0 else 1):
            with suppress(ScreeningClientError):
                await client.screen(original=question.original, generated=question.generated)
        number += 1


async def _trouble(url: str, client: AsyncClient, pictures: Iterator[Question], stop: Stop) -> None:
    """Do every ten seconds what callers should not: too many requests at once, an empty one, and hanging up."""
    async with httpx.AsyncClient(base_url=url, trust_env=False) as http:
        while not await stop.sleep(10):
            crowd = [next(pictures) for _ in range(math.ceil(1.5 * (CONCURRENT + QUEUE)))]
            await asyncio.gather(
                *(client.screen(original=one.original, generated=one.generated) for one in crowd),
                return_exceptions=True,
            )
            with suppress(httpx.HTTPError):
                await http.post("/screen", json={})
            one = next(pictures)
            files = [("original", one.original), *(("generated", picture) for picture in one.generated)]
            with suppress(httpx.TimeoutException):
                await http.post("/screen", files=files, timeout=0.05)
