"""`python -m loadtest kill`: kill the engine's processes under load, and finally the service itself.

The worker and the engine core are killed in turn with kill -9, while clients screen through the SDK with its default
retries. The test checks that no caller sees an error, measures the time until the service is ready again, and looks for
leaked processes and shared memory. On a CPU, the service runs its worker in a separate process for this test.
"""

from __future__ import annotations

import argparse
import asyncio
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import cycle

import httpx
import psutil

from loadtest import console
from loadtest.commands import options
from loadtest.commands.report import report
from loadtest.load.asking import SDK_RETRIES, open_asker
from loadtest.load.loops import Stop, closed_loop, stoppable
from loadtest.results.record import RunRecorder
from loadtest.results.summary import (
    Load,
    Verdict,
    at_least,
    at_most,
    load_figures,
    none_of,
    reported,
)
from loadtest.targets.local_service import LocalService
from loadtest.targets.processes import (
    ENGINE_CORE,
    WORKER,
    alive,
    engine_processes,
    held_by,
    kill,
    tree,
    wait_gone,
    wait_not_leaked,
)
from loadtest.targets.watching import looking, progress
from screening.errors import UserError
from screening.runtime.argument_types import above_zero, positive

GONE_SECONDS = 60.0
"""Maximum time in seconds for processes and shared memory to disappear after the service was killed."""
_POLL_SECONDS = 0.2
_READY_SECONDS = 5.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--clients", type=positive, default=16, help="number of clients in a closed loop (default: 16)")
    parser.add_argument(
        "--kills", type=positive, default=5, help="number of kills, of worker and engine core in turn (default: 5)"
    )
    parser.add_argument(
        "--pause",
        type=above_zero,
        default=10,
        metavar="SECONDS",
        help="duration of the load before each kill, in seconds (default: 10)",
    )
    parser.add_argument(
        "--restart-seconds",
        type=above_zero,
        default=180,
        metavar="SECONDS",
        help="maximum time for the service to become ready again, in seconds; a longer time fails (default: 180)",
    )
    options.add_service(parser)
    options.add_run(parser, "kill")


@dataclass(slots=True)
class Measured:
    """Results of a run that are not in the recorder."""

    load: Load
    began: float
    orphans: list[int] = field(default_factory=list)
    """Processes of killed engines that still ran alongside the new engine."""
    leaked: list[str] = field(default_factory=list)
    """Leaked shared memory of killed engines."""
    left_by_service: list[int] = field(default_factory=list)
    """Processes that outlived the killed service."""
    leaked_by_service: list[str] = field(default_factory=list)


def run(args: argparse.Namespace) -> int:
    with RunRecorder(args.out) as recorder:
        console.say("Starting the service …")
        words = ["--checkpoint", str(args.checkpoint), "--cpu-worker", "apart", *options.service_options(args)]
        with options.own_service(args, words, recorder.directory / "service.log") as service:
            engines = Engines(service.process.pid)
            measured = asyncio.run(_measure(service, engines, recorder, args))
            _kill_the_service(service, engines, measured, recorder)
        return _report(measured, recorder, args)


async def _measure(
    service: LocalService, engines: Engines, recorder: RunRecorder, args: argparse.Namespace
) -> Measured:
    questions = options.questions(args)
    async with (
        stoppable() as stop,
        httpx.AsyncClient(base_url=service.url, trust_env=False) as http,
        open_asker(service.url, questions, recorder, api_key="", retries=SDK_RETRIES) as asker,
    ):
        began = recorder.now
        killing = _kill_in_turn(engines, http, recorder, args, stop)
        async with looking(recorder, service.process.pid), progress(recorder, "kills", args.kills * (args.pause + 30)):
            given_up = await closed_loop(args.clients, asker.ask, until=killing, stop=stop)
    load = load_figures(recorder.exchanges, limit_ms=args.limit_ms, sending=recorder.now - began, given_up=given_up)
    orphans = wait_gone(engines.of_the_past(), GONE_SECONDS)
    return Measured(load, began, [each.pid for each in orphans], wait_not_leaked(engines.segments, GONE_SECONDS))


class NothingToKill(UserError):
    """The service has no process that can be killed."""

    exit_status = 1


class Engines:
    """The engine processes below a service: current ones, killed ones, and the shared memory that they held."""

    def __init__(self, service: int) -> None:
        self._service = service
        self._seen: set[psutil.Process] = set()
        self._past: set[psutil.Process] = set()
        self.segments: set[str] = set()
        """All shared memory that the service or a process below it has held."""

    def kill(self, title: str) -> psutil.Process:
        """Kill a process with this title; all processes of its engine then count as killed.

        Raises:
            NothingToKill: the service has no such process.
        """
        self.look()
        found = engine_processes(self._service)
        victims = [process for process in alive(found[title]) if process not in self._past]
        if not victims:
            raise NothingToKill(
                f"Process {self._service} has no child process {title}. This test needs the engine `vllm`."
            )
        self._past.update(*found.values())
        kill(victims[0])
        return victims[0]

    def restarted(self) -> bool:
        """Whether a new engine has started its core and its worker."""
        self.look()
        return all(set(alive(members)) - self._past for members in engine_processes(self._service).values())

    def of_the_past(self) -> set[psutil.Process]:
        """Running processes of killed engines, of which there should be none."""
        return self._past | (self._seen - set(self.look()))

    def look(self) -> list[psutil.Process]:
        """All current processes below the service; remembers them and their shared memory."""
        below = tree(self._service)[1:]
        self._seen.update(below)
        self.segments |= held_by((self._service, *(process.pid for process in below)))
        return below


async def _kill_in_turn(
    engines: Engines, http: httpx.AsyncClient, recorder: RunRecorder, args: argparse.Namespace, stop: Stop
) -> None:
    for _, title in zip(range(args.kills), cycle((WORKER, ENGINE_CORE)), strict=False):
        if await stop.sleep(args.pause):
            return
        victim = engines.kill(title)
        killed = recorder.note("kill", title=title, pid=victim.pid)
        console.say(f"  killed {title} ({victim.pid})")
        while not (engines.restarted() and await _ready(http)):
            if recorder.now - killed.at > args.restart_seconds:
                recorder.note("not ready", title=title, seconds=recorder.now - killed.at)
                return
            if await stop.sleep(_POLL_SECONDS):
                return
        ready = recorder.note("ready", title=title, seconds=recorder.now - killed.at)
        console.say(f"  ready again after {ready.facts['seconds']:.1f} s")
    await stop.sleep(args.pause)


async def _ready(http: httpx.AsyncClient) -> bool:
    try:
        return (await http.get("/readyz", timeout=_READY_SECONDS)).status_code == 200
    except httpx.HTTPError:
        return False


def _kill_the_service(service: LocalService, engines: Engines, measured: Measured, recorder: RunRecorder) -> None:
    """Kill the FastAPI process with kill -9; the other processes must end although nothing stops them."""
    below = engines.look()
    recorder.note("service killed", pid=service.process.pid, processes=len(below))
    console.say(f"  killed the service ({service.process.pid}); {len(below)} processes below it")
    service.kill()
    left = wait_gone(below, GONE_SECONDS)
    measured.left_by_service = [each.pid for each in left]
    measured.leaked_by_service = wait_not_leaked(engines.segments - set(measured.leaked), GONE_SECONDS)
    for each in left:  # reported as leaked; this test started them, so it removes them
        with suppress(psutil.NoSuchProcess):
            kill(each)


def _report(measured: Measured, recorder: RunRecorder, args: argparse.Namespace) -> int:
    verdicts = _verdicts(measured, recorder, args)
    return report(
        "kill",
        args,
        recorder,
        measured.load,
        verdicts,
        exchanges=recorder.exchanges,
        began=measured.began,
        marks=[(event.at - measured.began, event.kind) for event in recorder.events if event.kind in ("kill", "ready")],
        ready_seconds=[event.facts for event in recorder.of("ready")],
    )


def _verdicts(measured: Measured, recorder: RunRecorder, args: argparse.Namespace) -> list[Verdict]:
    ready = [event.facts["seconds"] for event in recorder.of("ready")]
    times = ", ".join(f"{e.facts['title'].partition('::')[2]} {e.facts['seconds']:.1f} s" for e in recorder.of("ready"))
    return [
        none_of("errors that a caller saw", sum(measured.load.failed.values())),
        at_least("kills", args.kills, len(recorder.of("kill"))),
        at_most("longest time until ready again", args.restart_seconds, max(ready, default=float("nan")), " s"),
        none_of("kills without a recovery in time", len(recorder.of("kill")) - len(ready)),
        reported("times until ready again", times or "never"),
        none_of("processes left by killed engines", len(measured.orphans)),
        none_of("shared memory left by killed engines", len(measured.leaked)),
        none_of("processes left by the killed service", len(measured.left_by_service)),
        none_of("shared memory left by the killed service", len(measured.leaked_by_service)),
    ]
