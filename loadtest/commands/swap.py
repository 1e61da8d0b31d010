"""`python -m loadtest swap`: swap checkpoints under load, and examine every answer.

The test starts the real engine on one of two canary checkpoints (see `canary_checkpoints`), lets clients screen without
pause, and orders the other checkpoint every few seconds. Afterwards it times swaps and a restart without load.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from statistics import median
from typing import Any

import httpx

from loadtest import console
from loadtest.commands import options
from loadtest.commands.report import report
from loadtest.load.asking import open_asker
from loadtest.load.loops import Stop, closed_loop, stoppable
from loadtest.results.record import Event, Exchange, RunRecorder
from loadtest.results.summary import (
    Load,
    Verdict,
    at_least,
    at_most,
    load_figures,
    none_of,
    reported,
)
from loadtest.targets.canary_checkpoints import Canary, canary_pair
from loadtest.targets.local_service import LocalService
from loadtest.targets.swapping import CanaryError, Operator
from loadtest.targets.versions import Finding, examine, examine_all
from loadtest.targets.watching import look, looking, progress
from screening.runtime.argument_types import above_zero, positive

CHECKED = 3
"""Number of questions to each canary before the load, to check that their answers can be distinguished."""
IDLE_SWAPS = 6
REQUEST_SECONDS = 300.0
"""Time limit of a request in seconds; longer than any deadline of the service, so that the service answers first."""

PAUSE_MS = 150.0
"""Maximum median pause of a swap, without the time to drain the requests in flight."""
MEMORY_GROWTH = 1.05
SPEED_UP = 100.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--clients", type=positive, default=32, help="number of clients in a closed loop (default: 32)")
    parser.add_argument(
        "--seconds",
        type=above_zero,
        default=120,
        help="duration of the load with swaps, in seconds (default: 120)",
    )
    parser.add_argument("--every", type=above_zero, default=3, help="time between two swaps in seconds (default: 3)")
    parser.add_argument(
        "--warm-up",
        type=float,
        default=30,
        metavar="SECONDS",
        help="duration of the load before the measurement, in seconds; memory reaches its working size (default: 30)",
    )
    parser.add_argument(
        "--least-swaps",
        type=positive,
        default=20,
        metavar="N",
        help="minimum number of swaps; a run with fewer fails (default: 20)",
    )
    parser.add_argument("--no-restart", action="store_true", help="do not time a restart at the end")
    options.add_service(parser)
    options.add_oracles(parser)
    options.add_run(parser, "swap")


@dataclass(slots=True)
class Measured:
    """Results of a run that are not in the recorder."""

    load: Load
    began: float
    """Start of the load with swaps, in seconds since the run began."""
    restart_seconds: float | None = None


def run(args: argparse.Namespace) -> int:
    with RunRecorder(args.out) as recorder:
        console.say(f"The canary checkpoints are kept in {args.store}; making them takes two engine starts.")
        return run_with(canary_pair(args.checkpoint, args.store), recorder, args)


def run_with(pair: tuple[Canary, Canary], recorder: RunRecorder, args: argparse.Namespace) -> int:
    """Run the test on two checkpoints of one store."""
    operator = Operator(pair, recorder)

    words = [*operator.service_options, *options.service_options(args)]
    console.say("Starting the service …")
    with options.own_service(args, words, recorder.directory / "service.log") as service:
        measured, stopped = asyncio.run(_measure(service, operator, recorder, args))
        stopping = time.perf_counter()
    if not args.no_restart and not stopped:
        console.say("Restarting the service for comparison …")
        with options.own_service(args, words, recorder.directory / "restarted.log"):
            measured.restart_seconds = time.perf_counter() - stopping
            recorder.note("restart", seconds=measured.restart_seconds)
    return _report(measured, operator, recorder, args)


async def _measure(
    service: LocalService, operator: Operator, recorder: RunRecorder, args: argparse.Namespace
) -> tuple[Measured, bool]:
    questions = options.questions(args)
    pid, over = service.process.pid, Stop()
    await look(recorder, pid, "start")
    async with (
        stoppable() as stop,
        httpx.AsyncClient(base_url=service.url, trust_env=False) as http,
        open_asker(service.url, questions, recorder, api_key="", seconds=REQUEST_SECONDS) as asker,
    ):
        asker.stage = "check"
        await _check(asker.ask, operator, http)
        asker.stage = "warm-up"
        async with progress(recorder, "warm-up", args.warm_up):
            await closed_loop(args.clients, asker.ask, until=stop.sleep(args.warm_up), stop=stop)
        asker.stage, began = "load", recorder.now
        swapping = asyncio.create_task(operator.keep_swapping(http, args.every, over, "load"))
        async with looking(recorder, pid), progress(recorder, "load", args.seconds):
            given_up = await closed_loop(args.clients, asker.ask, until=stop.sleep(args.seconds), stop=stop)
        sending = min(args.seconds, recorder.now - began)
        over.set()
        await swapping
        await look(recorder, pid, "end")
        for _ in range(0 if stop.asked else IDLE_SWAPS):
            await operator.swap(http, "idle")
    load = load_figures(_loaded(recorder), limit_ms=args.limit_ms, sending=sending, given_up=given_up)
    return Measured(load, began), stop.asked


def _loaded(recorder: RunRecorder) -> list[Exchange]:
    return [each for each in recorder.exchanges if each.stage == "load"]


async def _check(ask: Callable[[None], Awaitable[Exchange]], operator: Operator, http: httpx.AsyncClient) -> None:
    """Check that both canaries can be recognised by their letters, since the run would prove nothing otherwise.

    Raises:
        CanaryError: an answer does not have the letters of the checkpoint that it names, or a request or swap failed.
    """
    for _ in operator.pair:
        for _ in range(CHECKED):
            exchange = await ask(None)
            if not exchange.answered:
                raise CanaryError(f"A question before the load was not answered: {exchange.detail}")
            if finding := examine(exchange, operator.served, operator.alphabets):
                raise CanaryError(f"An answer before the load is {finding}: {exchange.reasoning!r}")
        if (swap := await operator.swap(http, "check")).facts["status"] != 200:
            raise CanaryError(f"A swap before the load failed: {swap.facts.get('detail')}")


def _report(measured: Measured, operator: Operator, recorder: RunRecorder, args: argparse.Namespace) -> int:
    exchanges = _loaded(recorder)
    findings = examine_all(exchanges, operator.served, operator.alphabets)
    swaps = [event for event in recorder.of("swap") if event.facts["stage"] == "load"]
    verdicts = _verdicts(measured, findings, swaps, recorder, args)
    return report(
        "swap",
        args,
        recorder,
        measured.load,
        verdicts,
        exchanges=exchanges,
        began=measured.began,
        marks=[(event.at - measured.began, "swap") for event in swaps],
        findings=findings,
        alphabets=list(operator.alphabets),
    )


def _verdicts(
    measured: Measured,
    findings: dict[Finding, list[Exchange]],
    swaps: list[Event],
    recorder: RunRecorder,
    args: argparse.Namespace,
) -> list[Verdict]:
    done = [event for event in swaps if event.facts["status"] == 200 and event.facts["how"] != "unchanged"]
    idle = [e for e in recorder.of("swap") if e.facts["stage"] == "idle" and e.facts["status"] == 200]
    start, first, end = _memory(recorder, done)
    verdicts = [
        none_of("requests that failed", sum(measured.load.failed.values())),
        none_of("answers of mixed weights", len(findings[Finding.MIXED])),
        none_of("answers of a wrong version", len(findings[Finding.WRONG_VERSION])),
        none_of("answers that neither checkpoint would write", len(findings[Finding.UNRECOGNISED])),
        at_least("swaps under load", args.least_swaps, len(done)),
        none_of("swaps that failed", len(swaps) - len(done)),
        at_most("pause beyond the drain, median", PAUSE_MS, _median(e.facts["pause_ms"] for e in done), " ms"),
        reported("  longest", f"{max((e.facts['pause_ms'] for e in done), default=0):.0f} ms"),
        reported("  weights; probes, median", _parts(done)),
        reported("drain of requests in flight, median", f"{_median(e.facts['drain_ms'] for e in done):.0f} ms"),
        at_most("memory at the end / after the first swap", MEMORY_GROWTH, end / first),
        reported("  at the start; after the first swap; at the end", f"{start:.0f}; {first:.0f}; {end:.0f} MiB"),
    ]
    if idle:
        pause = _median(e.facts["drain_ms"] + e.facts["pause_ms"] for e in idle)
        whole = _median(1000 * (e.facts["answered"] - e.at) for e in idle)
        verdicts.append(reported("a swap without load: pause; order to answer", f"{pause:.0f} ms; {whole:.0f} ms"))
        if measured.restart_seconds is not None:
            ratio = 1000 * measured.restart_seconds / pause
            verdicts += [
                reported("restart: stop request until ready again", f"{measured.restart_seconds:.1f} s"),
                at_least("restart time / swap pause", SPEED_UP, ratio),
            ]
    return verdicts


def _memory(recorder: RunRecorder, swaps: list[Event]) -> tuple[float, float, float]:
    """MiB when the service was ready, after the first swap under load, and at the end; NaN if not measured."""
    looks = [(event.at, event.facts["memory_bytes"] / 2**20) for event in recorder.of("footprint")]
    after = [memory for at, memory in looks if swaps and at >= swaps[0].facts["answered"]]
    nothing = float("nan")
    return looks[0][1] if looks else nothing, *((after[0], after[-1]) if len(after) > 1 else (nothing, nothing))


def _parts(swaps: list[Event]) -> str:
    return "; ".join(f"{_median(event.facts[part] for event in swaps):.0f} ms" for part in ("load_ms", "verify_ms"))


def _median(values: Any) -> float:
    found = list(values)
    return median(found) if found else float("nan")
