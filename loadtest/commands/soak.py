"""`python -m loadtest soak`: a steady rate with occasional swaps for a long time, to find growth.

It fails if a request or a swap fails, and reports the growth of memory, open files and threads per hour.
"""

from __future__ import annotations

import argparse
import asyncio
from dataclasses import dataclass, field
from typing import Any

import httpx

from loadtest.commands import options
from loadtest.commands.report import report
from loadtest.commands.target import Target, add_target, plain_options, target
from loadtest.load.arrivals import KINDS, arrivals
from loadtest.load.asking import open_asker
from loadtest.load.loops import Stop, open_loop, stoppable
from loadtest.results.record import Event, RunRecorder
from loadtest.results.summary import Load, load_figures, none_of, reported, slope
from loadtest.targets.canary_checkpoints import canary_pair
from loadtest.targets.swapping import Operator
from loadtest.targets.versions import Finding, examine_all
from loadtest.targets.watching import look, looking, progress
from screening.runtime.argument_types import above_zero

SETTLED = 1 / 3
"""Share of the run before growth is measured, because caches fill first."""
_MEBI = 2**20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--minutes", type=above_zero, default=30, help="duration of the load in minutes (default: 30)")
    parser.add_argument(
        "--rate",
        type=above_zero,
        default=2,
        help="requests per second, which should be below saturation (default: 2)",
    )
    parser.add_argument(
        "--arrivals",
        choices=KINDS,
        default="poisson",
        help="arrival times: independent callers (poisson) or equal gaps (constant) (default: poisson)",
    )
    parser.add_argument(
        "--every",
        type=float,
        default=60,
        metavar="SECONDS",
        help="time between two swaps in seconds, 0 for none (default: 60; none with --base-url or the scripted engine)",
    )
    parser.add_argument(
        "--timeout",
        type=above_zero,
        default=90,
        metavar="SECONDS",
        help="maximum time of one request in seconds (default: 90)",
    )
    add_target(parser)
    options.add_canary_store(parser)
    options.add_run(parser, "soak")


@dataclass(slots=True)
class Measured:
    """Results of a run that are not in the recorder."""

    load: Load
    began: float
    findings: dict[Finding, list[Any]] = field(default_factory=dict)


def run(args: argparse.Namespace) -> int:
    swaps = args.every > 0 and not args.base_url and args.engine == "vllm"
    with RunRecorder(args.out) as recorder:
        operator = Operator(canary_pair(args.checkpoint, args.store), recorder) if swaps else None
        service_options = operator.service_options if operator else plain_options(args)
        with target(args, service_options, recorder.directory / "service.log") as aim:
            measured = asyncio.run(measure(aim, operator, recorder, args))
        return _report(measured, operator, recorder, args)


async def measure(aim: Target, operator: Operator | None, recorder: RunRecorder, args: argparse.Namespace) -> Measured:
    questions = options.questions(args)
    seconds, over = 60 * args.minutes, Stop()
    async with (
        stoppable() as stop,
        httpx.AsyncClient(base_url=aim.url, trust_env=False) as http,
        open_asker(aim.url, questions, recorder, api_key=aim.api_key, seconds=args.timeout) as asker,
    ):
        began = recorder.now
        swapping = asyncio.create_task(operator.keep_swapping(http, args.every, over, "load")) if operator else None
        moments = arrivals(args.arrivals, args.rate, seconds, args.seed)
        async with looking(recorder, aim.pid), progress(recorder, "soak", seconds):
            given_up = await open_loop(moments, asker.ask, now=lambda: recorder.now, began=began, stop=stop)
        sending = min(seconds, recorder.now - began)
        over.set()
        if swapping:
            await swapping
        if aim.pid is not None:
            await look(recorder, aim.pid, "end")
    load = load_figures(recorder.exchanges, limit_ms=args.limit_ms, sending=sending, given_up=given_up)
    findings = examine_all(recorder.exchanges, operator.served, operator.alphabets) if operator else {}
    return Measured(load, began, findings)


def _report(measured: Measured, operator: Operator | None, recorder: RunRecorder, args: argparse.Namespace) -> int:
    swaps = recorder.of("swap")
    verdicts = [
        none_of("requests that failed", sum(measured.load.failed.values())),
        *(none_of(f"answers: {finding}", len(found)) for finding, found in measured.findings.items()),
    ]
    if operator:
        verdicts.append(none_of(f"swaps that failed, of {len(swaps)}", sum(e.facts["status"] != 200 for e in swaps)))
    growth = growths(recorder.of("footprint"))
    verdicts += [reported(f"growth per hour: {name}", f"{value:+.1f}") for name, value in growth.items()]
    return report(
        "soak",
        args,
        recorder,
        measured.load,
        verdicts,
        exchanges=recorder.exchanges,
        began=measured.began,
        marks=[(event.at - measured.began, "swap") for event in swaps],
        findings=measured.findings,
        alphabets=list(operator.alphabets) if operator else [],
        growth_per_hour=growth,
    )


def growths(looks: list[Event]) -> dict[str, float]:
    """Least-squares growth per hour of memory, open files and threads after the warm-up; {} without measurements."""
    if not looks:
        return {}
    first, last = looks[0].at, looks[-1].at
    settled = [event for event in looks if event.at >= first + SETTLED * (last - first)]
    shown = {"memory, MiB": ("memory_bytes", _MEBI), "open files": ("open_files", 1), "threads": ("threads", 1)}
    return {
        name: 3600 * slope([(event.at, event.facts[fact] / scale) for event in settled])
        for name, (fact, scale) in shown.items()
    }
