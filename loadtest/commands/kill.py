"""`python -m loadtest kill`: the engine's processes are killed under load, and at last the service itself.

Worker and engine core in turn, kill -9, while clients screen through the SDK with its default retries. Does a caller
see it; how long until the service is ready again; is anything left behind? On a CPU the service runs its worker apart
for this, so that there are two to kill.
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
from loadtest.results.record import Book
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

GONE_SECONDS = 60.0
"""For processes and shared memory to vanish after the service was killed."""
_POLL_SECONDS = 0.2
_READY_SECONDS = 5.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--clients", type=console.count, default=16, help="each asks again at once (default: 16)")
    parser.add_argument(
        "--kills", type=console.count, default=5, help="of worker and engine core in turn, worker first (default: 5)"
    )
    parser.add_argument(
        "--pause", type=console.positive, default=10, metavar="SECONDS", help="of load before each kill (default: 10)"
    )
    parser.add_argument(
        "--rebuild-seconds",
        type=console.positive,
        default=180,
        metavar="SECONDS",
        help="for the service to be ready again; later fails (default: 180)",
    )
    options.add_service(parser)
    options.add_run(parser, "kill")


@dataclass(slots=True)
class Measured:
    """What a run found, besides the book."""

    load: Load
    began: float
    orphans: list[int] = field(default_factory=list)
    """Processes of dead engines that still ran beside the new one."""
    leaked: list[str] = field(default_factory=list)
    """Shared memory of dead engines."""
    left_by_service: list[int] = field(default_factory=list)
    """Processes that outlived the killed service."""
    leaked_by_service: list[str] = field(default_factory=list)


def run(args: argparse.Namespace) -> int:
    with Book(args.out) as book:
        console.say("Starting the service …")
        words = ["--checkpoint", str(args.checkpoint), "--cpu-worker", "apart", *options.service_options(args)]
        with options.own_service(args, words, book.directory / "service.log") as service:
            engines = Engines(service.process.pid)
            measured = asyncio.run(_measure(service, engines, book, args))
            _kill_the_service(service, engines, measured, book)
        return _report(measured, book, args)


async def _measure(service: LocalService, engines: Engines, book: Book, args: argparse.Namespace) -> Measured:
    questions = options.questions(args)
    async with (
        stoppable() as stop,
        httpx.AsyncClient(base_url=service.url, trust_env=False) as http,
        open_asker(service.url, questions, book, api_key="", retries=SDK_RETRIES) as asker,
    ):
        began = book.now
        killing = _kill_in_turn(engines, http, book, args, stop)
        async with looking(book, service.process.pid), progress(book, "kills", args.kills * (args.pause + 30)):
            given_up = await closed_loop(args.clients, asker.ask, until=killing, stop=stop)
    load = load_figures(book.exchanges, limit_ms=args.limit_ms, sending=book.now - began, given_up=given_up)
    orphans = wait_gone(engines.of_the_past(), GONE_SECONDS)
    return Measured(load, began, [each.pid for each in orphans], wait_not_leaked(engines.segments, GONE_SECONDS))


class NothingToKill(UserError):
    """The service has no such process."""

    exit_status = 1


class Engines:
    """The engine processes below a service, those of now and those that should be gone, and what they held."""

    def __init__(self, service: int) -> None:
        self._service = service
        self._seen: set[psutil.Process] = set()
        self._past: set[psutil.Process] = set()
        self.segments: set[str] = set()
        """Shared memory that the service or a process below it held at some time."""

    def kill(self, title: str) -> psutil.Process:
        """Kill one of this title; from now on every process of that engine is of the past.

        Raises:
            NothingToKill: there is none.
        """
        self.look()
        found = engine_processes(self._service)
        victims = [process for process in alive(found[title]) if process not in self._past]
        if not victims:
            raise NothingToKill(f"There is no process {title} below {self._service}. Is this the real engine?")
        self._past.update(*found.values())
        kill(victims[0])
        return victims[0]

    def rebuilt(self) -> bool:
        """Whether there is a core and a worker of another engine than those that were killed."""
        self.look()
        return all(set(alive(members)) - self._past for members in engine_processes(self._service).values())

    def of_the_past(self) -> set[psutil.Process]:
        """Of engines that were killed, or no longer below the service: none of them should run."""
        return self._past | (self._seen - set(self.look()))

    def look(self) -> list[psutil.Process]:
        """All below the service now; remembers them and their shared memory."""
        below = tree(self._service)[1:]
        self._seen.update(below)
        self.segments |= held_by((self._service, *(process.pid for process in below)))
        return below


async def _kill_in_turn(
    engines: Engines, http: httpx.AsyncClient, book: Book, args: argparse.Namespace, stop: Stop
) -> None:
    for _, title in zip(range(args.kills), cycle((WORKER, ENGINE_CORE)), strict=False):
        if await stop.sleep(args.pause):
            return
        victim = engines.kill(title)
        killed = book.note("kill", title=title, pid=victim.pid)
        console.say(f"  killed {title} ({victim.pid})")
        while not (engines.rebuilt() and await _ready(http)):
            if book.now - killed.at > args.rebuild_seconds:
                book.note("not ready", title=title, seconds=book.now - killed.at)
                return
            if await stop.sleep(_POLL_SECONDS):
                return
        ready = book.note("ready", title=title, seconds=book.now - killed.at)
        console.say(f"  ready again after {ready.facts['seconds']:.1f} s")
    await stop.sleep(args.pause)


async def _ready(http: httpx.AsyncClient) -> bool:
    try:
        return (await http.get("/readyz", timeout=_READY_SECONDS)).status_code == 200
    except httpx.HTTPError:
        return False


def _kill_the_service(service: LocalService, engines: Engines, measured: Measured, book: Book) -> None:
    """kill -9 of the FastAPI process: nobody is left to tell the others, and they must go all the same."""
    below = engines.look()
    book.note("service killed", pid=service.process.pid, processes=len(below))
    console.say(f"  killed the service ({service.process.pid}); {len(below)} processes below it")
    service.kill()
    left = wait_gone(below, GONE_SECONDS)
    measured.left_by_service = [each.pid for each in left]
    measured.leaked_by_service = wait_not_leaked(engines.segments - set(measured.leaked), GONE_SECONDS)
    for each in left:  # found wanting; they are ours, so we clean up
        with suppress(psutil.NoSuchProcess):
            kill(each)


def _report(measured: Measured, book: Book, args: argparse.Namespace) -> int:
    verdicts = _verdicts(measured, book, args)
    return report(
        "kill",
        args,
        book,
        measured.load,
        verdicts,
        exchanges=book.exchanges,
        began=measured.began,
        marks=[(event.at - measured.began, event.kind) for event in book.events if event.kind in ("kill", "ready")],
        ready_seconds=[event.facts for event in book.of("ready")],
    )


def _verdicts(measured: Measured, book: Book, args: argparse.Namespace) -> list[Verdict]:
    ready = [event.facts["seconds"] for event in book.of("ready")]
    times = ", ".join(f"{e.facts['title'].partition('::')[2]} {e.facts['seconds']:.1f} s" for e in book.of("ready"))
    return [
        none_of("failures that a caller saw", sum(measured.load.failed.values())),
        at_least("kills", args.kills, len(book.of("kill"))),
        at_most("longest until ready again", args.rebuild_seconds, max(ready, default=float("nan")), " s"),
        none_of("kills after which it was not ready in time", len(book.of("kill")) - len(ready)),
        reported("ready again after", times or "never"),
        none_of("processes left by killed engines", len(measured.orphans)),
        none_of("shared memory left by killed engines", len(measured.leaked)),
        none_of("processes left by the killed service", len(measured.left_by_service)),
        none_of("shared memory left by the killed service", len(measured.leaked_by_service)),
    ]
