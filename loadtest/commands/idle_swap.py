"""`python -m loadtest idle-swap`: what a swap and a restart take, part by part, for any two checkpoints.

Without load, so that nothing but the checkpoint counts. For the true sizes without a trained model:

    python -m trainer untrained internvl3-2b --seed 0 --max-tokens 8 --out runs/2b/seed-0     (and once more, seed 1)
    python -m trainer publish --checkpoint runs/2b/seed-0 --store runs/2b-store --tracking-uri none     (and seed 1)
    python -m loadtest idle-swap --checkpoints runs/2b-store/*
"""

from __future__ import annotations

import argparse
import asyncio
import time
from pathlib import Path
from statistics import median

import httpx

from loadtest import console
from loadtest.commands import options
from loadtest.results.record import Book, Event
from loadtest.results.summary import Verdict, as_json, at_least, exit_code, none_of, reported
from loadtest.targets.canary_checkpoints import Oracle
from loadtest.targets.local_service import LocalService
from loadtest.targets.swapping import Operator
from loadtest.targets.watching import look
from screening.checkpoint.manifest import verify
from screening.errors import CheckpointError

PARTS = {
    "prepare_ms": "copy and verify, answering meanwhile",
    "drain_ms": "drain of what was in flight",
    "closed_ms": "nobody admitted",
    "load_ms": "  of it the weights",
    "proof_ms": "  of it the probes",
}
SECONDS = 1800.0
"""For the service's own limits: they are not what is measured."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--checkpoints", type=Path, nargs=2, required=True, metavar="DIR", help="two published ones of one store"
    )
    parser.add_argument("--swaps", type=console.count, default=6, help="from one to the other (default: 6)")
    parser.add_argument(
        "--ratio", type=console.positive, help="how many times faster than a restart a swap must be (default: any)"
    )
    parser.add_argument(
        "--start-seconds",
        type=console.positive,
        default=SECONDS,
        metavar="SECONDS",
        help=f"for the started service to be ready (default: {SECONDS:g})",
    )
    options.add_out(parser, "idle-swap")
    options.add_further(parser)


def run(args: argparse.Namespace) -> int:
    first, second = (Oracle(path.resolve(), verify(path).digest, "") for path in args.checkpoints)
    if first.directory.parent != second.directory.parent or first.digest == second.digest:
        raise CheckpointError("Two different checkpoints of one store are needed.")
    with Book(args.out) as book:
        operator = Operator((first, second), book)
        limits = {"swap-reload-seconds": SECONDS, "engine-hang-seconds": SECONDS, "deadline-seconds": SECONDS}
        words = [word for name, value in limits.items() for word in (f"--{name}", str(value))]
        words = [*operator.service_options, *words, *args.service]
        console.say("Starting the service …")
        with options.own_service(args, words, book.directory / "service.log") as service:
            asyncio.run(_swap(service, operator, book, args.swaps))
            stopping = time.perf_counter()
        console.say("Stopping and starting it again, for comparison …")
        with options.own_service(args, words, book.directory / "restarted.log") as service:
            book.note("restart", seconds=time.perf_counter() - stopping, start_seconds=service.start_seconds)
        verdicts = _verdicts(first.directory, book, args)
        book.summarise(as_json({"command": "idle-swap", "verdicts": verdicts, "passed": not exit_code(verdicts)}))
    print(*verdicts, f"raw data and summary: {book.directory}", sep="\n")
    return exit_code(verdicts)


async def _swap(service: LocalService, operator: Operator, book: Book, swaps: int) -> None:
    async with httpx.AsyncClient(base_url=service.url, trust_env=False) as http:
        await look(book, service.process.pid, "start")
        for number in range(swaps):
            event = await operator.swap(http, "idle")
            took = event.facts["answered"] - event.at
            console.say(f"  swap {number + 1} of {swaps}: {took:.1f} s, {event.facts.get('how') or event.facts}")
            await look(book, service.process.pid, "swap")


def _verdicts(checkpoint: Path, book: Book, args: argparse.Namespace) -> list[Verdict]:
    swaps = book.of("swap")
    done = [event for event in swaps if event.facts["status"] == 200 and event.facts["how"] == "in place"]
    (restart,) = book.of("restart")
    seconds = restart.facts["seconds"]
    weights = sum(path.stat().st_size for path in checkpoint.glob("*.safetensors"))
    memory = [event.facts["memory_bytes"] / 2**20 for event in book.of("footprint")]
    verdicts = [
        reported("weights", f"{weights / 2**20:.0f} MiB"),
        none_of("swaps that failed or were not in place", len(swaps) - len(done)),
        *(reported(f"{text}: median, longest", _row(done, part)) for part, text in PARTS.items()),
        reported("a restart: told to stop until ready; of it the start", f"{seconds:.1f}; {_start(restart):.1f} s"),
        reported("memory at the start; after the first swap; at the end", "; ".join(_mib(memory))),
    ]
    if done:
        ratio = 1000 * seconds / median(event.facts["drain_ms"] + event.facts["closed_ms"] for event in done)
        criterion = "restart / swap, nobody admitted"
        verdicts.append(at_least(criterion, args.ratio, ratio) if args.ratio else reported(criterion, f"{ratio:.0f}"))
    return verdicts


def _row(swaps: list[Event], part: str) -> str:
    values = [event.facts[part] for event in swaps] or [float("nan")]
    return f"{median(values):.0f}, {max(values):.0f} ms"


def _start(restart: Event) -> float:
    return float(restart.facts["start_seconds"])


def _mib(memory: list[float]) -> list[str]:
    return [f"{memory[place]:.0f}" for place in (0, min(1, len(memory) - 1), -1)]
